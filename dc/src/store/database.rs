//! The database: its schema, and one commit for many writes.

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use ntm_protocol::addr::{Fqdn, NodeId, Vip};
use rusqlite::{
    Connection, ErrorCode, OptionalExtension, Row, Savepoint, Transaction, TransactionBehavior, params,
};

use super::{GeneralRecord, Holder, NodeKind, NodeRecord, OpenError, Snapshot, Write, WriteError};

/// Marks the file as ours: "NTDC".
const APPLICATION: i64 = 0x4e54_4443;
/// The version of the schema.
const FORMAT: i64 = 1;

/// Sequence numbers are 64 bits without a sign; SQLite's integers have one. As eight bytes, big-endian, they keep their order.
const SCHEMA: &str = "
    CREATE TABLE boots (count INTEGER NOT NULL);
    INSERT INTO boots VALUES (0);
    CREATE TABLE node (
        id           BLOB    PRIMARY KEY CHECK (length(id) = 16),
        fqdn         TEXT    NOT NULL,
        kind         TEXT    NOT NULL CHECK (kind IN ('terminal', 'relay')),
        floor        BLOB    NOT NULL CHECK (length(floor) = 8),
        registration TEXT    NOT NULL,
        updated_at   INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE vip (
        vip  TEXT PRIMARY KEY,
        node BLOB UNIQUE REFERENCES node (id) ON DELETE CASCADE,
        rip  TEXT UNIQUE,
        CHECK ((node IS NULL) <> (rip IS NULL))
    ) STRICT, WITHOUT ROWID;
";

#[derive(Debug)]
pub(super) struct Database {
    connection: Connection,
}

/// Why one write is undone.
enum Undo {
    Refused(WriteError),
    Sql(rusqlite::Error),
}

impl From<rusqlite::Error> for Undo {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sql(error)
    }
}

impl From<Undo> for WriteError {
    fn from(undo: Undo) -> Self {
        match undo {
            Undo::Refused(error) => error,
            Undo::Sql(error) => Self::Failed(error.to_string()),
        }
    }
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

    /// Does `writes` in their order and in one commit; one result for each. A write that is refused is undone alone.
    pub(super) fn apply(&mut self, writes: &[Write]) -> Vec<Result<(), WriteError>> {
        match self.commit(writes) {
            Ok(results) => results,
            Err(error) => {
                tracing::error!("the store lost {} writes: {error}", writes.len());
                vec![Err(WriteError::Failed(error.to_string())); writes.len()]
            }
        }
    }

    /// The journal mode, and how it waits for the disk.
    #[cfg(test)]
    pub(super) fn durability(&self) -> (String, i64) {
        let get = |name| self.connection.pragma_query_value(None, name, |row| row.get(0));
        let journal = self.connection.pragma_query_value(None, "journal_mode", |row| row.get(0));
        (journal.expect("a mode"), get("synchronous").expect("a mode"))
    }

    fn commit(&mut self, writes: &[Write]) -> rusqlite::Result<Vec<Result<(), WriteError>>> {
        let mut transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let mut results = Vec::with_capacity(writes.len());
        for write in writes {
            // Rolled back when it is dropped without a commit.
            let savepoint = transaction.savepoint()?;
            results.push(match apply(&savepoint, write) {
                Ok(()) => savepoint.commit().map(Ok)?,
                Err(undo) => Err(undo.into()),
            });
        }
        transaction.commit()?;
        Ok(results)
    }
}

fn apply(savepoint: &Savepoint<'_>, write: &Write) -> Result<(), Undo> {
    match write {
        Write::PutNode(node) => {
            let floor: Option<[u8; 8]> = savepoint
                .prepare_cached("SELECT floor FROM node WHERE id = ?1")?
                .query_row([node.id.0], |row| row.get(0))
                .optional()?;
            if let Some(floor) = floor.map(u64::from_be_bytes).filter(|&floor| floor > node.floor) {
                return Err(Undo::Refused(WriteError::Stale { floor }));
            }
            savepoint
                .prepare_cached(
                    "INSERT INTO node VALUES (?1, ?2, ?3, ?4, ?5, ?6) ON CONFLICT (id) DO UPDATE SET
                     fqdn = excluded.fqdn, kind = excluded.kind, floor = excluded.floor,
                     registration = excluded.registration, updated_at = excluded.updated_at",
                )?
                .execute(params![
                    node.id.0,
                    node.fqdn.as_str(),
                    kind_text(node.kind),
                    node.floor.to_be_bytes(),
                    node.registration,
                    // Microseconds reach the sign bit in the year 294247.
                    i64::try_from(node.updated_at).unwrap_or(i64::MAX),
                ])?;
            hold(savepoint, Holder::Node(node.id), node.vip)
        }
        Write::PutGeneral(general) => hold(savepoint, Holder::General(general.rip), Some(general.vip)),
        Write::Forget(holder) => {
            hold(savepoint, *holder, None)?;
            if let Holder::Node(id) = holder {
                savepoint.prepare_cached("DELETE FROM node WHERE id = ?1")?.execute([id.0])?;
            }
            Ok(())
        }
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
            Some(now) => return Err(Undo::Refused(WriteError::Taken { vip, holder: now })),
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
            "SELECT id, fqdn, kind, vip, floor, registration, updated_at
             FROM node LEFT JOIN vip ON vip.node = node.id ORDER BY id",
        )?
        .query_map([], node_of)?
        .collect::<rusqlite::Result<_>>()?;
    let mut generals: Vec<GeneralRecord> = transaction
        .prepare("SELECT rip, vip FROM vip WHERE rip IS NOT NULL")?
        .query_map([], |row| Ok(GeneralRecord { rip: parsed(row, 0)?, vip: Vip(parsed(row, 1)?) }))?
        .collect::<rusqlite::Result<_>>()?;
    generals.sort();
    Ok(Snapshot { boots: u64::try_from(boots).unwrap_or(0), nodes, generals })
}

fn node_of(row: &Row<'_>) -> rusqlite::Result<NodeRecord> {
    let vip: Option<String> = row.get(3)?;
    let updated_at: i64 = row.get(6)?;
    Ok(NodeRecord {
        id: NodeId(row.get(0)?),
        fqdn: parsed::<Fqdn>(row, 1)?,
        kind: if row.get_ref(2)?.as_str()? == kind_text(NodeKind::Terminal) {
            NodeKind::Terminal
        } else {
            NodeKind::Relay
        },
        vip: vip.map(|_| parsed::<Ipv4Addr>(row, 3)).transpose()?.map(Vip),
        floor: u64::from_be_bytes(row.get(4)?),
        registration: row.get(5)?,
        updated_at: u64::try_from(updated_at).unwrap_or(0),
    })
}

fn holder_of(row: &Row<'_>) -> rusqlite::Result<Holder> {
    match row.get::<_, Option<[u8; 16]>>(0)? {
        Some(id) => Ok(Holder::Node(NodeId(id))),
        None => parsed::<IpAddr>(row, 1).map(Holder::General),
    }
}

fn kind_text(kind: NodeKind) -> &'static str {
    match kind {
        NodeKind::Terminal => "terminal",
        NodeKind::Relay => "relay",
    }
}

/// The text of a column as a `T`.
fn parsed<T>(row: &Row<'_>, column: usize) -> rusqlite::Result<T>
where
    T: FromStr<Err: std::error::Error + Send + Sync + 'static>,
{
    let text = row.get_ref(column)?.as_str()?;
    text.parse().map_err(|error| {
        rusqlite::Error::FromSqlConversionFailure(column, rusqlite::types::Type::Text, Box::new(error))
    })
}
