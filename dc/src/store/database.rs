//! The database: its schema, and one commit for many writes.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use ntm_protocol::addr::{NodeId, Vip};
use ntm_protocol::coordinator::store::{GeneralRecord, NodeRecord, Write, WriteOutcome};
use ntm_protocol::wire::NodeKind;
use rusqlite::types::Type;
use rusqlite::{
    Connection, ErrorCode, OptionalExtension, Row, Savepoint, Transaction, TransactionBehavior, params,
};

use super::{OpenError, Snapshot};

/// Marks the file as ours: "NTDC".
const APPLICATION: i64 = 0x4e54_4443;
/// The version of the schema.
const FORMAT: i64 = 1;

/// Sequence numbers are 64 bits without a sign; SQLite's integers have one. As eight bytes, big-endian, they keep their order.
/// `addresses` holds addresses and ports, parted by spaces.
const SCHEMA: &str = "
    CREATE TABLE boots (count INTEGER NOT NULL);
    INSERT INTO boots VALUES (0);
    CREATE TABLE node (
        id        BLOB PRIMARY KEY CHECK (length(id) = 16),
        fqdn      TEXT NOT NULL,
        kind      TEXT NOT NULL CHECK (kind IN ('terminal', 'relay', 'coordinator')),
        floor     BLOB NOT NULL CHECK (length(floor) = 8),
        addresses TEXT NOT NULL,
        seen      TEXT NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE vip (
        vip  TEXT PRIMARY KEY,
        node BLOB UNIQUE REFERENCES node (id),
        rip  TEXT UNIQUE,
        CHECK ((node IS NULL) <> (rip IS NULL))
    ) STRICT, WITHOUT ROWID;
";

#[derive(Debug)]
pub(super) struct Database {
    connection: Connection,
}

/// Who holds a VIP.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Holder {
    Node(NodeId),
    General(IpAddr),
}

/// Why one write is undone.
enum Undo {
    Taken { vip: Vip, by: Holder },
    Sql(rusqlite::Error),
}

impl Database {
    /// Opens or makes the file, counts a boot, and reads everything.
    pub(super) fn open(path: &Path) -> Result<(Self, Snapshot), OpenError> {
        let explain = |error: rusqlite::Error| {
            let path = path.to_owned();
            match error.sqlite_error_code() {
                Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => OpenError::InUse { path },
                Some(ErrorCode::NotADatabase) => OpenError::Foreign { path },
                Some(ErrorCode::CannotOpen | ErrorCode::PermissionDenied | ErrorCode::ReadOnly) => {
                    OpenError::Unusable { path, why: error.to_string() }
                }
                Some(ErrorCode::DiskFull | ErrorCode::SystemIoFailure) => {
                    OpenError::Unusable { path, why: error.to_string() }
                }
                _ => OpenError::Damaged { path, why: error.to_string() },
            }
        };
        let mut connection = Connection::open(path).map_err(explain)?;
        lock(&connection).map_err(explain)?;
        // Looked at before anything is written: a file that is not ours stays as it is.
        let format = pragma(&connection, "user_version").map_err(explain)?;
        let is_new = match pragma(&connection, "application_id").map_err(explain)? {
            APPLICATION if format > FORMAT => {
                return Err(OpenError::Newer { path: path.to_owned(), found: format, known: FORMAT });
            }
            APPLICATION => false,
            0 if is_empty(&connection).map_err(explain)? => true,
            _ => return Err(OpenError::foreign(path)),
        };
        if !is_new {
            let check: String =
                connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0)).map_err(explain)?;
            if check != "ok" {
                return Err(OpenError::Damaged { path: path.to_owned(), why: check });
            }
        }
        make_durable(&connection).map_err(explain)?;
        let transaction =
            connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(explain)?;
        if is_new {
            create(&transaction).map_err(explain)?;
        }
        transaction.execute("UPDATE boots SET count = count + 1", []).map_err(explain)?;
        let snapshot = read(&transaction).map_err(explain)?;
        transaction.commit().map_err(explain)?;
        Ok((Self { connection }, snapshot))
    }

    /// Does `writes` in their order and in one commit; one outcome for each. A write that fails is undone alone.
    pub(super) fn apply(&mut self, writes: &[Write]) -> Vec<WriteOutcome> {
        self.commit(writes).unwrap_or_else(|error| {
            tracing::error!("the store lost {} writes: {error}", writes.len());
            vec![WriteOutcome::Failed; writes.len()]
        })
    }

    /// The journal mode, and how it waits for the disk.
    #[cfg(test)]
    pub(super) fn durability(&self) -> (String, i64) {
        let get = |name| self.connection.pragma_query_value(None, name, |row| row.get(0));
        let journal = self.connection.pragma_query_value(None, "journal_mode", |row| row.get(0));
        (journal.expect("a mode"), get("synchronous").expect("a mode"))
    }

    /// From now on every write fails, as on a disk that is full.
    #[cfg(test)]
    pub(super) fn refuse_to_write(&self) {
        self.connection.pragma_update(None, "query_only", true).expect("a mode");
    }

    fn commit(&mut self, writes: &[Write]) -> rusqlite::Result<Vec<WriteOutcome>> {
        let mut transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let mut outcomes = Vec::with_capacity(writes.len());
        for write in writes {
            // Rolled back when it is dropped without a commit.
            let savepoint = transaction.savepoint()?;
            outcomes.push(match apply(&savepoint, write) {
                Ok(()) => {
                    savepoint.commit()?;
                    WriteOutcome::Stored
                }
                Err(Undo::Taken { vip, by }) => {
                    tracing::info!("{write:?} is refused: {by} holds {vip}");
                    WriteOutcome::Taken
                }
                Err(Undo::Sql(error)) => {
                    tracing::error!("the store cannot do {write:?}: {error}");
                    WriteOutcome::Failed
                }
            });
        }
        transaction.commit()?;
        Ok(outcomes)
    }
}

fn apply(savepoint: &Savepoint<'_>, write: &Write) -> Result<(), Undo> {
    match write {
        Write::Node(NodeRecord { node, fqdn, kind, vip, floor, addresses, seen }) => {
            let addresses: Vec<_> = addresses.iter().map(SocketAddr::to_string).collect();
            savepoint
                .prepare_cached(
                    "INSERT INTO node VALUES (?1, ?2, ?3, ?4, ?5, ?6) ON CONFLICT (id) DO UPDATE SET
                     fqdn = excluded.fqdn, kind = excluded.kind, floor = max(floor, excluded.floor),
                     addresses = excluded.addresses, seen = excluded.seen",
                )?
                .execute(params![
                    node.0,
                    fqdn.as_str(),
                    kind_text(*kind),
                    floor.to_be_bytes(),
                    addresses.join(" "),
                    seen.to_string()
                ])?;
            hold(savepoint, Holder::Node(*node), *vip)
        }
        Write::General(GeneralRecord { real, vip }) => hold(savepoint, Holder::General(*real), Some(*vip)),
    }
}

/// Makes `vip` the one VIP of `holder`.
fn hold(savepoint: &Savepoint<'_>, holder: Holder, vip: Option<Vip>) -> Result<(), Undo> {
    let (node, rip) = match holder {
        Holder::Node(id) => (Some(id.0), None),
        Holder::General(rip) => (None, Some(rip.to_string())),
    };
    if let Some(vip) = vip {
        let now = savepoint
            .prepare_cached("SELECT node, rip FROM vip WHERE vip = ?1")?
            .query_row([vip.to_string()], holder_of)
            .optional()?;
        match now {
            Some(now) if now == holder => return Ok(()),
            Some(by) => return Err(Undo::Taken { vip, by }),
            None => {}
        }
    }
    // One column is NULL, which equals nothing; each has an index of its own.
    savepoint.prepare_cached("DELETE FROM vip WHERE node = ?1")?.execute([node])?;
    savepoint.prepare_cached("DELETE FROM vip WHERE rip = ?1")?.execute([&rip])?;
    if let Some(vip) = vip {
        savepoint.prepare_cached("INSERT INTO vip VALUES (?1, ?2, ?3)")?.execute(params![
            vip.to_string(),
            node,
            rip
        ])?;
    }
    Ok(())
}

/// One process at a time: who comes second is told at once.
fn lock(connection: &Connection) -> rusqlite::Result<()> {
    connection.busy_timeout(Duration::ZERO)?;
    connection.pragma_update(None, "locking_mode", "EXCLUSIVE")
}

/// Nothing is acknowledged before it is on the disk.
fn make_durable(connection: &Connection) -> rusqlite::Result<()> {
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "foreign_keys", true)
}

fn pragma(connection: &Connection, name: &str) -> rusqlite::Result<i64> {
    connection.pragma_query_value(None, name, |row| row.get(0))
}

fn is_empty(connection: &Connection) -> rusqlite::Result<bool> {
    connection.query_row("SELECT count(*) = 0 FROM sqlite_schema", [], |row| row.get(0))
}

fn create(transaction: &Transaction<'_>) -> rusqlite::Result<()> {
    transaction.execute_batch(SCHEMA)?;
    transaction.pragma_update(None, "application_id", APPLICATION)?;
    transaction.pragma_update(None, "user_version", FORMAT)
}

fn read(transaction: &Transaction<'_>) -> rusqlite::Result<Snapshot> {
    let boots: i64 = transaction.query_row("SELECT count FROM boots", [], |row| row.get(0))?;
    let nodes = transaction
        .prepare(
            "SELECT id, fqdn, kind, vip, floor, addresses, seen
             FROM node LEFT JOIN vip ON vip.node = node.id ORDER BY id",
        )?
        .query_map([], node_of)?
        .collect::<rusqlite::Result<_>>()?;
    let mut generals: Vec<GeneralRecord> = transaction
        .prepare("SELECT rip, vip FROM vip WHERE rip IS NOT NULL")?
        .query_map([], |row| Ok(GeneralRecord { real: parsed(row, 0)?, vip: Vip(parsed(row, 1)?) }))?
        .collect::<rusqlite::Result<_>>()?;
    generals.sort();
    Ok(Snapshot { boots: u64::try_from(boots).unwrap_or(0), nodes, generals })
}

fn node_of(row: &Row<'_>) -> rusqlite::Result<NodeRecord> {
    let vip: Option<String> = row.get(3)?;
    Ok(NodeRecord {
        node: NodeId(row.get(0)?),
        fqdn: parsed(row, 1)?,
        kind: kind_of(row, 2)?,
        vip: vip.map(|_| parsed(row, 3)).transpose()?.map(Vip),
        floor: u64::from_be_bytes(row.get(4)?),
        addresses: row
            .get_ref(5)?
            .as_str()?
            .split_whitespace()
            .map(|text| parse(text, 5))
            .collect::<rusqlite::Result<_>>()?,
        seen: parsed(row, 6)?,
    })
}

fn holder_of(row: &Row<'_>) -> rusqlite::Result<Holder> {
    match row.get::<_, Option<[u8; 16]>>(0)? {
        Some(id) => Ok(Holder::Node(NodeId(id))),
        None => parsed::<IpAddr>(row, 1).map(Holder::General),
    }
}

const KINDS: [(NodeKind, &str); 3] =
    [(NodeKind::Terminal, "terminal"), (NodeKind::Relay, "relay"), (NodeKind::Coordinator, "coordinator")];

fn kind_text(kind: NodeKind) -> &'static str {
    KINDS.iter().find(|(known, _)| *known == kind).map_or("", |(_, text)| text)
}

fn kind_of(row: &Row<'_>, column: usize) -> rusqlite::Result<NodeKind> {
    let text = row.get_ref(column)?.as_str()?;
    let known = KINDS.iter().find(|(_, known)| *known == text).map(|(kind, _)| *kind);
    known.ok_or_else(|| {
        let error = format!("there is no kind of node called '{text}'").into();
        rusqlite::Error::FromSqlConversionFailure(column, Type::Text, error)
    })
}

/// The text of a column as a `T`.
fn parsed<T>(row: &Row<'_>, column: usize) -> rusqlite::Result<T>
where
    T: FromStr<Err: std::error::Error + Send + Sync + 'static>,
{
    parse(row.get_ref(column)?.as_str()?, column)
}

/// `text`, found in `column`, as a `T`.
fn parse<T>(text: &str, column: usize) -> rusqlite::Result<T>
where
    T: FromStr<Err: std::error::Error + Send + Sync + 'static>,
{
    text.parse()
        .map_err(|error| rusqlite::Error::FromSqlConversionFailure(column, Type::Text, Box::new(error)))
}

impl From<rusqlite::Error> for Undo {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sql(error)
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Holder::Node(id) => write!(f, "node {id}"),
            Holder::General(real) => write!(f, "general node {real}"),
        }
    }
}
