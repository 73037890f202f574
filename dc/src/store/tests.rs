use std::fs;
use std::io::{BufRead, BufReader, Write as _};
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Command, Stdio};

use ntm_protocol::addr::{Fqdn, NodeId, Vip};
use ntm_protocol::wire::NodeKind;
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
    let kind = [NodeKind::Terminal, NodeKind::Relay, NodeKind::Coordinator][n as usize % 3];
    let real = SocketAddr::new(Ipv4Addr::from(n).into(), 4330);
    let addresses = [real, "[2001:db8::1]:4330".parse().expect("an address")][..n as usize % 3].to_vec();
    NodeRecord { node: NodeId::of(&fqdn), fqdn, kind, vip: address, floor, addresses, seen: real }
}

fn general(last: u8, address: Vip) -> GeneralRecord {
    GeneralRecord { real: Ipv4Addr::new(203, 0, 113, last).into(), vip: address }
}

/// Submits `write` and waits.
fn put(store: &Store, write: Write) -> WriteOutcome {
    store.submit(write).wait()
}

#[test]
fn what_was_written_is_there_after_a_restart() {
    let (_folder, path) = folder();
    let (store, empty) = open(&path);
    assert_eq!(empty, Snapshot { boots: 1, ..Snapshot::default() });
    let mut nodes =
        [node(0, None, 0), node(1, None, u64::MAX), node(2, Some(vip(7)), 1 << 63), node(3, Some(vip(8)), 0)];
    let six = GeneralRecord { real: "2001:db8::1".parse().expect("an address"), vip: vip(101) };
    let generals = [general(5, vip(100)), six];
    for node in &nodes {
        assert_eq!(put(&store, Write::Node(node.clone())), WriteOutcome::Stored);
    }
    for general in generals {
        assert_eq!(put(&store, Write::General(general)), WriteOutcome::Stored);
    }
    drop(store);

    nodes.sort_by_key(|node| node.node);
    for boots in [2, 3] {
        let (_store, snapshot) = open(&path);
        assert_eq!(snapshot, Snapshot { boots, nodes: nodes.to_vec(), generals: generals.to_vec() });
    }
}

#[test]
fn a_vip_has_one_holder_among_terminals_and_general_nodes() {
    let (_folder, path) = folder();
    let (store, _) = open(&path);
    let put = |write| put(&store, write);
    assert_eq!(put(Write::Node(node(2, Some(vip(1)), 1))), WriteOutcome::Stored);
    assert_eq!(put(Write::Node(node(2, Some(vip(1)), 2))), WriteOutcome::Stored, "its own");
    assert_eq!(put(Write::Node(node(4, Some(vip(1)), 1))), WriteOutcome::Taken);
    assert_eq!(put(Write::General(general(1, vip(1)))), WriteOutcome::Taken);
    assert_eq!(put(Write::General(general(1, vip(2)))), WriteOutcome::Stored);
    assert_eq!(put(Write::General(general(2, vip(2)))), WriteOutcome::Taken);
    assert_eq!(put(Write::Node(node(4, Some(vip(2)), 1))), WriteOutcome::Taken);

    // Who takes another VIP leaves the former one free.
    assert_eq!(put(Write::Node(node(2, Some(vip(3)), 3))), WriteOutcome::Stored);
    assert_eq!(put(Write::General(general(1, vip(1)))), WriteOutcome::Stored);
    assert_eq!(put(Write::Node(node(4, Some(vip(2)), 1))), WriteOutcome::Stored);
    drop(store);
    let (_store, snapshot) = open(&path);
    let mut held: Vec<_> = snapshot.nodes.iter().filter_map(|node| node.vip).collect();
    held.sort();
    assert_eq!((held, snapshot.generals), (vec![vip(2), vip(3)], vec![general(1, vip(1))]));
}

#[test]
fn a_refused_write_leaves_nothing_and_its_neighbours_stand() {
    let (_folder, path) = folder();
    let (mut database, _) = database::Database::open(&path).expect("opened");
    let writes = [
        Write::Node(node(2, Some(vip(1)), 5)),
        Write::Node(node(4, Some(vip(1)), 5)),
        Write::Node(node(6, Some(vip(6)), 5)),
    ];
    let expected = [WriteOutcome::Stored, WriteOutcome::Taken, WriteOutcome::Stored];
    assert_eq!(database.apply(&writes), expected, "in one commit");
    drop(database);
    let (_store, snapshot) = open(&path);
    let mut expected = vec![node(2, Some(vip(1)), 5), node(6, Some(vip(6)), 5)];
    expected.sort_by_key(|node| node.node);
    assert_eq!(snapshot.nodes, expected);
}

#[test]
fn a_floor_never_goes_back() {
    let (_folder, path) = folder();
    let (store, _) = open(&path);
    for floor in [5, 1 << 63, 7] {
        assert_eq!(put(&store, Write::Node(node(2, None, floor))), WriteOutcome::Stored);
    }
    drop(store);
    assert_eq!(open(&path).1.nodes, [node(2, None, 1 << 63)]);
}

#[tokio::test]
async fn an_outcome_can_be_awaited() {
    let (_folder, path) = folder();
    let (store, _) = open(&path);
    assert_eq!(store.submit(Write::General(general(1, vip(1)))).await, WriteOutcome::Stored);
    assert_eq!(Outcome::known(WriteOutcome::Taken).await, WriteOutcome::Taken);
}

#[test]
fn a_disk_that_fails_is_told() {
    let (_folder, path) = folder();
    let (mut database, _) = database::Database::open(&path).expect("opened");
    database.refuse_to_write();
    let writes = [Write::Node(node(2, None, 1)), Write::General(general(1, vip(1)))];
    assert_eq!(database.apply(&writes), [WriteOutcome::Failed; 2]);
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
        store.submit(Write::Node(node(n, Some(vip(n)), 1)));
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
        let new = store.submit(Write::Node(node(n, Some(vip(n)), u64::from(n))));
        // One node registers again and again: its floor must never go back.
        let again = store.submit(Write::Node(node(0, Some(vip(0)), u64::from(n))));
        under_way.push_back((n, new, again));
        while under_way.len() > WINDOW {
            let Some((n, new, again)) = under_way.pop_front() else { break };
            assert_eq!([new.wait(), again.wait()], [WriteOutcome::Stored; 2]);
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
            snapshot.nodes.iter().map(|node| (node.node, node)).collect();
        for &n in &acknowledged {
            let expected = node(n, Some(vip(n)), u64::from(n));
            assert_eq!(found.get(&expected.node), Some(&&expected), "write {n} was acknowledged");
        }
        let last = acknowledged.iter().max().copied().map(u64::from);
        assert!(found.get(&node(0, None, 0).node).map(|node| node.floor) >= last, "the floor went back");
    }
}
