use std::fs;
use std::io::{BufRead, BufReader, Write as _};
use std::net::Ipv4Addr;
use std::process::{Command, Stdio};

use rusqlite::Connection;

use super::*;

fn folder() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("dc.sqlite");
    (folder, path)
}

fn open(path: &Path) -> (Store, Snapshot) {
    Store::open(path).expect("the store opens")
}

fn vip(n: u32) -> Vip {
    Vip(Ipv4Addr::from(u32::from(Ipv4Addr::new(198, 18, 0, 0)) + n))
}

fn node(n: u32, address: Option<Vip>, floor: u64) -> NodeRecord {
    let fqdn: Fqdn = format!("mn{n}.dc.test").parse().expect("a name");
    NodeRecord {
        id: NodeId::of(&fqdn),
        fqdn,
        kind: if n.is_multiple_of(2) { NodeKind::Terminal } else { NodeKind::Relay },
        vip: address,
        floor,
        registration: format!("{{\"n\":{n}}}"),
        updated_at: 1_700_000_000_000_000 + u64::from(n),
    }
}

fn general(last: u8, address: Vip) -> GeneralRecord {
    GeneralRecord { rip: Ipv4Addr::new(203, 0, 113, last).into(), vip: address }
}

/// Submits `write` and waits.
fn put(store: &Store, write: Write) -> Result<(), WriteError> {
    store.submit(write).wait()
}

#[test]
fn what_was_written_is_there_after_a_restart() {
    let (_folder, path) = folder();
    let (store, empty) = open(&path);
    assert_eq!(empty, Snapshot { boots: 1, ..Snapshot::default() });
    let mut nodes = [node(1, None, u64::MAX), node(2, Some(vip(7)), 1), node(3, Some(vip(8)), 0)];
    let generals = [
        general(5, vip(100)),
        GeneralRecord { rip: "2001:db8::1".parse().expect("an address"), vip: vip(101) },
    ];
    for node in &nodes {
        put(&store, Write::PutNode(node.clone())).expect("put");
    }
    for general in generals {
        put(&store, Write::PutGeneral(general)).expect("put");
    }
    drop(store);

    let (store, snapshot) = open(&path);
    nodes.sort_by_key(|node| node.id);
    assert_eq!(snapshot, Snapshot { boots: 2, nodes: nodes.to_vec(), generals: generals.to_vec() });
    put(&store, Write::Forget(Holder::Node(nodes[0].id))).expect("forgotten");
    put(&store, Write::Forget(Holder::General(generals[0].rip))).expect("forgotten");
    put(&store, Write::Forget(Holder::General(generals[0].rip))).expect("nothing is left to forget");
    drop(store);
    let (_store, snapshot) = open(&path);
    let left = Snapshot { boots: 3, nodes: nodes[1..].to_vec(), generals: generals[1..].to_vec() };
    assert_eq!(snapshot, left);
}

#[test]
fn a_vip_has_one_holder_among_terminals_and_general_nodes() {
    let (_folder, path) = folder();
    let (store, _) = open(&path);
    let first = node(2, Some(vip(1)), 1);
    put(&store, Write::PutNode(first.clone())).expect("free");
    put(&store, Write::PutNode(NodeRecord { floor: 2, ..first.clone() })).expect("its own");

    let taken = Err(WriteError::Taken { vip: vip(1), holder: Holder::Node(first.id) });
    assert_eq!(put(&store, Write::PutNode(node(4, Some(vip(1)), 1))), taken);
    assert_eq!(put(&store, Write::PutGeneral(general(1, vip(1)))), taken);
    put(&store, Write::PutGeneral(general(1, vip(2)))).expect("free");
    let refused = put(&store, Write::PutNode(node(4, Some(vip(2)), 1)));
    assert_eq!(refused.unwrap_err().to_string(), "the VIP 198.18.0.2 is held by general node 203.0.113.1");

    // Who takes another VIP leaves the former one free.
    put(&store, Write::PutNode(NodeRecord { vip: Some(vip(3)), floor: 3, ..first.clone() })).expect("free");
    put(&store, Write::PutGeneral(general(1, vip(1)))).expect("free again");
    put(&store, Write::PutNode(node(4, Some(vip(2)), 1))).expect("free again");
    drop(store);
    let (_store, snapshot) = open(&path);
    let mut held: Vec<_> = snapshot.nodes.iter().filter_map(|node| node.vip).collect();
    held.sort();
    assert_eq!((held, snapshot.generals), (vec![vip(2), vip(3)], vec![general(1, vip(1))]));
}

#[test]
fn a_refused_write_leaves_nothing_and_its_neighbours_stand() {
    let (_folder, path) = folder();
    let (store, _) = open(&path);
    let writes = [
        Write::PutNode(node(2, Some(vip(1)), 5)),
        Write::PutNode(node(4, Some(vip(1)), 5)),
        Write::PutNode(node(6, Some(vip(6)), 5)),
        Write::PutNode(node(2, Some(vip(9)), 4)),
    ];
    let outcomes = writes.map(|write| store.submit(write)).map(Outcome::wait);
    let taken = WriteError::Taken { vip: vip(1), holder: Holder::Node(node(2, None, 0).id) };
    assert_eq!(outcomes, [Ok(()), Err(taken), Ok(()), Err(WriteError::Stale { floor: 5 })]);
    drop(store);
    let (_store, snapshot) = open(&path);
    let mut expected = vec![node(2, Some(vip(1)), 5), node(6, Some(vip(6)), 5)];
    expected.sort_by_key(|node| node.id);
    assert_eq!(snapshot.nodes, expected);
}

#[tokio::test]
async fn an_outcome_can_be_awaited() {
    let (_folder, path) = folder();
    let (store, _) = open(&path);
    assert_eq!(store.submit(Write::PutGeneral(general(1, vip(1)))).await, Ok(()));
    assert_eq!(Outcome::known(Err(WriteError::Busy)).await, Err(WriteError::Busy));
}

#[test]
fn one_store_serves_one_process() {
    let (_folder, path) = folder();
    let (_store, _) = open(&path);
    let error = Store::open(&path).expect_err("in use");
    assert!(matches!(error, OpenError::InUse { .. }), "{error}");
}

#[test]
fn a_file_that_is_no_sound_store_is_refused_and_left_alone() {
    let (folder, path) = folder();
    let refusal = |path: &Path| {
        let before = fs::read(path).ok();
        let error = Store::open(path).expect_err("refused").to_string();
        assert!(fs::read(path).ok() == before, "the file was changed: {error}");
        error.replace(&format!("{}/", folder.path().display()), "")
    };

    let text = folder.path().join("text");
    fs::write(&text, "Not a database, but long enough to be looked at. ".repeat(100)).expect("a file");
    insta::assert_snapshot!(refusal(&text), @"text: this file is not the store of a DC: choose another file for it");

    let other = folder.path().join("other.sqlite");
    Connection::open(&other).and_then(|c| c.execute_batch("CREATE TABLE t (a)")).expect("a database");
    insta::assert_snapshot!(refusal(&other), @"other.sqlite: this file is not the store of a DC: choose another file for it");

    insta::assert_snapshot!(refusal(&folder.path().join("none/dc.sqlite")), @"none/dc.sqlite: the DC's store cannot be opened: unable to open database file: none/dc.sqlite; check that its folder exists and is writable");

    let (store, _) = open(&path);
    for n in 0..500 {
        put(&store, Write::PutNode(node(n, Some(vip(n)), 1))).expect("put");
    }
    drop(store);
    let newer = folder.path().join("newer.sqlite");
    fs::copy(&path, &newer).expect("copied");
    Connection::open(&newer).and_then(|c| c.pragma_update(None, "user_version", 9)).expect("changed");
    insta::assert_snapshot!(refusal(&newer), @"newer.sqlite: the DC's store has format 9, this ntm-dc knows formats up to 1: use the ntm-dc that wrote it, or a later one");

    // A page in the middle is overwritten.
    let mut bytes = fs::read(&path).expect("the store");
    let middle = bytes.len() / 2 / 4096 * 4096;
    bytes[middle..middle + 4096].fill(0x5a);
    fs::write(&path, bytes).expect("damaged");
    let error = refusal(&path);
    assert!(error.starts_with("dc.sqlite: the DC's store is damaged: "), "{error}");
}

#[test]
fn a_commit_waits_for_the_disk() {
    let (_folder, path) = folder();
    let database = database::Database::open(&path).expect("opened").0;
    assert_eq!(database.durability(), ("wal".to_owned(), 2), "synchronous = FULL");
}

/// How many pairs of writes the child keeps under way.
const WINDOW: usize = 64;
/// What the child would do if nobody killed it; so it never runs for ever.
const MOST: u32 = 100_000;
const CHILD: &str = "NTM_TEST_STORE";

/// The child of the next test: it writes, and says what was acknowledged, until it is killed.
fn write_until_killed(path: &Path) {
    let (store, snapshot) = open(path);
    let start = u32::try_from(snapshot.boots).expect("few boots") * MOST;
    let mut out = std::io::stdout();
    let mut under_way = std::collections::VecDeque::new();
    for n in start..start + MOST {
        let new = store.submit(Write::PutNode(node(n, Some(vip(n)), u64::from(n))));
        // One node registers again and again: its floor must never go back.
        let again = store.submit(Write::PutNode(node(0, Some(vip(0)), u64::from(n))));
        under_way.push_back((n, new, again));
        while under_way.len() > WINDOW {
            let Some((n, new, again)) = under_way.pop_front() else { break };
            new.wait().and(again.wait()).expect("written");
            writeln!(out, "written {n}").expect("the parent listens");
        }
    }
}

#[test]
fn kill_9_loses_no_acknowledged_write() {
    // The child is this same test with a variable set.
    if let Some(path) = std::env::var_os(CHILD) {
        return write_until_killed(Path::new(&path));
    }
    let (_folder, path) = folder();
    let mut acknowledged: Vec<u32> = Vec::new();
    for (round, kill_after) in [1, 150, 700, 2500].into_iter().enumerate() {
        let mut child = Command::new(std::env::current_exe().expect("the test binary"))
            .args(["--exact", "store::tests::kill_9_loses_no_acknowledged_write", "--nocapture"])
            .env(CHILD, &path)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("the child starts");
        let mut lines = BufReader::new(child.stdout.take().expect("its output")).lines();
        let mut read = |most: usize| {
            let numbers = lines
                .by_ref()
                .map_while(Result::ok)
                .filter_map(|line| line.strip_prefix("written ")?.parse::<u32>().ok());
            let before = acknowledged.len();
            acknowledged.extend(numbers.take(most));
            acknowledged.len() - before
        };
        assert_eq!(read(kill_after), kill_after, "the child writes");
        child.kill().expect("killed");
        read(usize::MAX);
        assert_eq!(child.wait().expect("ended").code(), None, "it was killed");

        let (store, snapshot) = open(&path);
        assert_eq!(snapshot.boots, 2 * (round as u64 + 1), "each opening counts, ours and the child's");
        drop(store);
        let found: std::collections::BTreeMap<_, _> =
            snapshot.nodes.iter().map(|node| (node.id, node)).collect();
        for &n in &acknowledged {
            let expected = node(n, Some(vip(n)), u64::from(n));
            assert_eq!(found.get(&expected.id), Some(&&expected), "write {n} was acknowledged");
        }
        let last = acknowledged.iter().max().copied().map(u64::from);
        assert!(found.get(&node(0, None, 0).id).map(|node| node.floor) >= last, "the floor went back");
    }
}
