//! Configuration, what can stand in the way of a start, and the end.

use nix::sys::signal::Signal;
use ntm_protocol::addr::NodeId;
use serde_json::json;

use crate::hand::Hand;
use crate::process::{Dc, Files, LAB, SITE, loopback};
use crate::space::Space;

#[test]
fn the_configuration_is_checked_and_nothing_is_made() {
    let files = Files::new(&SITE);
    let names = files.names();
    assert_eq!(files.check(), (Some(0), "dc.toml is right".into(), String::new()));
    assert_eq!(files.names(), names);
}

/// Exit code 2, with file, line and key, by `--check` and without it.
#[test]
fn a_wrong_configuration_is_told_with_its_place() {
    let space = Space::new();
    let wrong = |files: Files| {
        let names = files.names();
        let (code, said, told) = files.check();
        assert_eq!((code, said.as_str()), (Some(2), ""), "{told}");
        assert_eq!(files.run(&space), (code, said, told.clone()));
        assert_eq!(files.names(), names, "nothing is made");
        told
    };
    let replaced = |from: &str, to: &str| wrong(Files::new(&SITE).with(from, to));
    insta::assert_snapshot!(replaced("store = ", "stor = "), @r#"
    ntm-dc: dc.toml:6:1: unknown field `stor`, expected one of `name`, `fqdn`, `zone`, `address`, `port`, `dns_port`, `vips`, `store`, `roots`, `keys`, `keepalive`, `relay_selection`, `suite`, `neighbours`, `trace`, `control`
      6 | stor = "store"
        | ^^^^
    "#);
    insta::assert_snapshot!(replaced("\"127.0.0.10\"", "\"127.0.0\""), @r#"
    ntm-dc: dc.toml:4:11: invalid IP address syntax
      4 | address = "127.0.0"
        |           ^^^^^^^^^
    "#);
    insta::assert_snapshot!(replaced("198.18.0.0/24", "198.18.0.1/24"), @r#"
    ntm-dc: dc.toml:5:8: 198.18.0.1/24 has bits set after its prefix: did you mean 198.18.0.0/24?
      5 | vips = "198.18.0.1/24"
        |        ^^^^^^^^^^^^^^^
    "#);
    insta::assert_snapshot!(replaced("\"1h\"", "\"5\""), @r#"
    ntm-dc: dc.toml:11:13: '5' needs a unit: ns, us, ms, s, m or h, as in 5s, 300ms or 2m
      11 | keepalive = "5"
         |             ^^^
    "#);
    insta::assert_snapshot!(replaced("\"1h\"", "\"1ms\""), @r#"
    ntm-dc: dc.toml:11:13: 'keepalive': a Keep-alive more often than every 100ms holds nothing open better
      11 | keepalive = "1ms"
         |             ^^^^^
    "#);
    insta::assert_snapshot!(replaced("[\"127.0.0.1\"]", "[]"), @"
    ntm-dc: dc.toml:7:9: 'roots': name at least one DNS root server
      7 | roots = []
        |         ^^
    ");
    insta::assert_snapshot!(replaced("zone = \"dc.test\"", "zone = \"lab.test\""), @r#"
    ntm-dc: dc.toml:2:8: 'fqdn': the DC's name 'ns.dc.test' must be in its zone 'lab.test'
      2 | fqdn = "ns.dc.test"
        |        ^^^^^^^^^^^^
    "#);
    insta::assert_snapshot!(replaced("keys.toml", "none.toml"), @r#"
    ntm-dc: dc.toml:8:8: 'keys': none.toml: the key file cannot be read: No such file or directory (os error 2)
      8 | keys = "none.toml"
        |        ^^^^^^^^^^^
    "#);

    // T3.1-a: ranges that overlap are refused, this DC's with another's, and whose key is not there.
    insta::assert_snapshot!(replaced("\"198.18.1.0/24\"", "\"198.18.0.128/25\""), @r#"
    ntm-dc: dc.toml:12:32: 'neighbours.ns.lab.test': the virtual range 198.18.0.128/25 of 'ns.lab.test' overlaps with 198.18.0.0/24 of 'ns.dc.test': give each DC a range of its own
      12 | neighbours = { "ns.lab.test" = "198.18.0.128/25" }
         |                                ^^^^^^^^^^^^^^^^^
    "#);
    insta::assert_snapshot!(replaced("\"ns.lab.test\" =", "\"mn.dc.test\" ="), @r#"
    ntm-dc: dc.toml:12:31: 'neighbours.mn.dc.test': 'mn.dc.test' is no coordinator in the key file
      12 | neighbours = { "mn.dc.test" = "198.18.1.0/24" }
         |                               ^^^^^^^^^^^^^^^
    "#);

    let files = Files::new(&SITE);
    files.protect("keys.toml", 0o640);
    insta::assert_snapshot!(wrong(files), @r#"
    ntm-dc: dc.toml:8:8: 'keys': keys.toml: others than its owner have rights on the key file (mode 0640): run chmod 600 keys.toml
      8 | keys = "keys.toml"
        |        ^^^^^^^^^^^
    "#);
    let files = Files::new(&SITE);
    files.write("keys.toml", "[[key]]\npeer = \"mn.dc.test\"\nkind = \"terminal\"\nkey = \"5ec2e7\"\n");
    insta::assert_snapshot!(wrong(files), @r#"
    ntm-dc: dc.toml:8:8: 'keys': keys.toml:4: the key of 'mn.dc.test' must be a string of 64 hexadecimal digits
      8 | keys = "keys.toml"
        |        ^^^^^^^^^^^
    "#);
}

/// Exit code 3, and what to look at, where the machine or another process stands in the way.
#[test]
fn what_is_taken_or_not_there_is_told() {
    let space = Space::new();
    let fails = |files: &Files| {
        let (code, said, told) = files.run(&space);
        assert_eq!((code, said.as_str()), (Some(3), ""), "{told}");
        assert!(!files.names().contains(&"control".to_owned()), "its socket goes with it");
        told
    };
    let files = Files::new(&SITE).with("\"127.0.0.10\"", "\"203.0.113.5\"");
    insta::assert_snapshot!(fails(&files), @"ntm-dc: UDP 203.0.113.5:4330 cannot be bound: Cannot assign requested address (os error 99) (this machine has no such address: configure one that it has)");
    let taken = [4330, 53].map(|port| space.udp(loopback(10), port));
    insta::assert_snapshot!(fails(&Files::new(&SITE)), @"ntm-dc: UDP 127.0.0.10:4330 cannot be bound: Address already in use (os error 98) (another process has this port: end it, or configure another port)");
    let [control, _dns] = taken;
    drop(control);
    insta::assert_snapshot!(fails(&Files::new(&SITE)), @"ntm-dc: the DC's DNS server cannot be started: listening on UDP 127.0.0.10:53: Address already in use (os error 98) (another process has this port: end it, or configure another port)");
}

#[test]
fn one_store_serves_one_process() {
    let space = Space::new();
    let dc = Dc::start(&space, Files::new(&SITE));
    let mut mn = Hand::new(&space, &SITE, "mn.dc.test", 31, 1);
    mn.register(1);
    let (store, status) = (dc.files.store_bytes(), dc.status());
    let path = dc.files.path("store").display().to_string();
    let second = Files::new(&LAB).with("\"store\"", &format!("\"{path}\""));
    let (code, _, told) = second.run(&space);
    let told = told.replace(&path, "STORE");
    assert_eq!(code, Some(3), "{told}");
    insta::assert_snapshot!(told, @"ntm-dc: STORE: the DC's store is in use by another process: one store serves one ntm-dc, end the other or choose another file");
    assert_eq!((dc.files.store_bytes(), dc.status()), (store, status), "the first goes on as it was");
    mn.keep_alive(2);
}

#[test]
fn it_ends_cleanly_and_goes_on_where_it_was() {
    let space = Space::new();
    let mut dc = Dc::start(&space, Files::new(&SITE));
    let unknown = dc.request("{\"command\":\"sing\"}");
    assert_eq!(unknown, json!({ "error": "there is no command 'sing'; there is: status" }));
    let mut mn = Hand::new(&space, &SITE, "mn.dc.test", 31, 1);
    let (_, granted) = mn.register(1);
    for (n, signal) in [(2, Signal::SIGTERM), (3, Signal::SIGINT)] {
        assert!(dc.files.path("control").exists());
        assert_eq!(dc.end(signal).code(), Some(0), "{}", dc.files.log());
        assert!(dc.told().starts_with("STOPPING=1\n"));
        let names = dc.files.names();
        assert_eq!(names, ["dc.toml", "keys.toml", "log", "notify", "store", "trace"], "its socket is gone");
        dc.restart();
        assert_eq!(mn.register(n).1.vip, granted.vip);
    }
    dc.kill();
    let node = &dc.files.snapshot().nodes[0];
    assert_eq!((node.node, node.vip, node.seen), (NodeId::of(&mn.fqdn), granted.vip, mn.address));
}
