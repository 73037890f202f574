//! Bad input on its two ports.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use hickory_proto::op::{Message as DnsMessage, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RecordType};
use ntm_protocol::addr::NodeId;
use ntm_protocol::wire::{
    Error, ErrorCode, InformationRequest, List, NodeKind, RegistrationRequest, RegistrationResponse,
    RequestId,
};
use serde_json::{Value, json};

use crate::hand::Hand;
use crate::process::{Dc, Files, PATIENCE, SITE, fqdn, loopback, steadily, traced, vip};
use crate::space::Space;

/// T3.1-e: whatever comes to its UDP port, it is counted and traced with the field that was wrong, and changes nothing else.
#[test]
fn t3_1_e_refused_datagrams_are_counted_and_traced_and_change_nothing() {
    let space = Space::new();
    let dc = Dc::start(&space, Files::new(&SITE));
    let mut mn = Hand::new(&space, &SITE, "mn.dc.test", 31, 1);
    let (registration, _) = mn.register(1);
    let kept = mn.keep_alive(2);

    let changed = |at: usize| {
        let mut bytes = kept.clone();
        bytes[at] ^= 1;
        bytes
    };
    let last = kept.len() - 1;
    let mut data = vec![0; 1472];
    data[..4].copy_from_slice(&[1, 0x30, 1, 1]);
    let mut its_data = data.clone();
    its_data[16..32].copy_from_slice(&NodeId::of(&mn.fqdn).0);
    let mut stranger = Hand::new(&space, &SITE, "nobody.dc.test", 66, 1);
    let mut wrong_key = Hand::with_key(&space, &SITE, "mn.dc.test", [7; 32], 67, 1000);
    let forged = wrong_key.seal(wrong_key.registration(9));
    let right = mn.registration(3);
    let as_relay = mn.seal(RegistrationRequest { kind: NodeKind::Relay, ..right.clone() });
    let as_another = mn.seal(RegistrationRequest { fqdn: fqdn("cn.dc.test"), ..right.clone() });
    let nowhere = mn.seal(RegistrationRequest { addresses: List::default(), ..right });
    let spies = mn.seal(InformationRequest { request: RequestId(4), fqdn: fqdn("cn.dc.test") });
    let unasked = mn.seal(RegistrationResponse {
        request: RequestId(1),
        vip: Some(vip(9)),
        seen: mn.address,
        keep_alive: Duration::ZERO,
        relays: List::default(),
        vips: None,
    });
    let misled = mn.seal(Error { sequence: 1, code: ErrorCode::Stale { floor: u64::MAX } });
    let datagrams = [
        ("nothing", vec![]),
        ("garbage", b"garbage".to_vec()),
        ("as long as a header", vec![0xff; 32]),
        ("as long as a datagram can be", vec![0xff; 65_507]),
        ("cut in the header", registration[..20].to_vec()),
        ("cut after the header", registration[..32].to_vec()),
        ("cut by a byte", registration[..registration.len() - 1].to_vec()),
        ("with a byte more", [&kept[..], &[0]].concat()),
        ("another version", changed(0)),
        ("another length", changed(5)),
        ("another number", changed(15)),
        ("another sender", changed(31)),
        ("another IV", changed(32)),
        ("another MAC", changed(last)),
        ("a data packet", data),
        ("a data packet by a Node ID", its_data),
        ("a stranger", stranger.seal(stranger.registration(1))),
        ("under another key", forged),
        ("a Registration Request again", registration.clone()),
        ("a Keep-alive again", kept.clone()),
        ("registers as a relay", as_relay),
        ("registers as another", as_another),
        ("registers without an address", nowhere),
        ("a terminal asks what a DC may", spies),
        ("an answer to nothing", unasked),
        ("an error about nothing", misled),
    ];

    let (store, before, start) = (dc.files.store_bytes(), dc.status(), dc.files.trace().len());
    let thief = space.udp(loopback(68), 4330);
    let mut outcome = String::new();
    for (n, (what, datagram)) in (1..).zip(&datagrams) {
        let at = dc.files.trace().len();
        thief.send_to(datagram, SITE.socket()).expect("sent");
        dc.await_status(|status| status["refused"] == n);
        // An answer on the control socket comes after the trace of all that was before it.
        let trace = dc.files.trace();
        let refused = traced(&trace[at..], "refused");
        assert_eq!(refused.len(), 1, "{what}: {:?}", &trace[at..]);
        let line = refused[0];
        assert_eq!((&line["node"], &line["from"]), (&json!("dc"), &json!("127.0.0.68:4330")), "{what}");
        let text = |key: &str| line[key].as_str().expect("a text");
        outcome += &format!("{what}: {}: {}\n", text("field"), text("reason"));
    }
    insta::assert_snapshot!(outcome, @"
    nothing: header: the datagram ends inside it
    garbage: header: the datagram ends inside it
    as long as a header: version: the value 255 has no meaning
    as long as a datagram can be: version: the value 255 has no meaning
    cut in the header: header: the datagram ends inside it
    cut after the header: length: a length of 34 is not allowed
    cut by a byte: length: a length of 34 is not allowed
    with a byte more: length: a length of 10 is not allowed
    another version: version: the value 0 has no meaning
    another length: length: a length of 11 is not allowed
    another number: mac: does not match
    another sender: node id: not known here
    another IV: mac: does not match
    another MAC: mac: does not match
    a data packet: node id: not known here
    a data packet by a Node ID: length: a length of 0 is not allowed
    a stranger: node id: not known here
    under another key: mac: does not match
    a Registration Request again: sequence: the number 1 was seen before or is too old
    a Keep-alive again: sequence: the number 2 was seen before or is too old
    registers as a relay: kind: contradicts what is known here
    registers as another: fqdn: contradicts what is known here
    registers without an address: addresses: a length of 0 is not allowed
    a terminal asks what a DC may: type: not expected here
    an answer to nothing: request: not expected here
    an error about nothing: type: not expected here
    ");
    let after = dc.status();
    assert_eq!(
        after["received"],
        json!(before["received"].as_u64().expect("a count") + datagrams.len() as u64)
    );
    for key in ["fqdn", "zone", "vips", "terminals", "relays", "dns", "trace_lost"] {
        assert_eq!(after[key], before[key], "{key}");
    }
    assert_eq!(dc.files.store_bytes(), store, "nothing was written");
    let trace = dc.files.trace();
    for what in ["registered", "unregistered", "asked", "directed"] {
        assert_eq!(traced(&trace[start..], what), Vec::<&Value>::new());
    }
    // What is right is taken as before, from where the terminal is.
    mn.keep_alive(5);
    assert_eq!(mn.register(6).1.vip, Some(vip(1)));
}

/// T5.3-b: its DNS port answers what is a question, by UDP and TCP, whatever else comes there; of that, its other side knows nothing.
#[test]
fn t5_3_b_garbage_at_the_dns_port_leaves_it_answering() {
    let space = Space::new();
    let dc = Dc::start(&space, Files::new(&SITE));
    let mut mn = Hand::new(&space, &SITE, "mn.dc.test", 31, 1);
    mn.register(1);
    let (store, before, start) = (dc.files.store_bytes(), dc.status(), dc.files.trace().len());
    let at = SocketAddr::new(loopback(10), 53);

    let question = dns_question(7, "dc.test.", RecordType::TXT);
    let mut response = question.clone();
    response[2] |= 0x80;
    let mut copied = dns_question(8, "dc.test.", RecordType::AXFR);
    let socket = space.udp(loopback(31), 5353);
    for garbage in [
        &[][..],
        b"garbage",
        &[0xff; 12],
        &[0; 512],
        &[0xff; 65_507],
        &question[..question.len() - 3],
        &response,
        &copied,
    ] {
        socket.send_to(garbage, at).expect("sent");
    }
    socket.send_to(&question, at).expect("sent");
    let mut buffer = [0; 4096];
    let answer = loop {
        let length = steadily(|| socket.recv(&mut buffer)).expect("an answer");
        let answer = DnsMessage::from_vec(&buffer[..length]).expect("a DNS message");
        if answer.id == 7 && answer.response_code == ResponseCode::NoError {
            break answer;
        }
        assert_ne!(answer.response_code, ResponseCode::NoError, "{answer}");
        assert_eq!(answer.answers, []);
    };
    assert_eq!(texts(&answer), ["ntm-dc=1"]);

    // Clients that begin a message and stop; and one that says more than it means to.
    let connect = || {
        let stream = space.within(|| TcpStream::connect(at).expect("connected"));
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        stream
    };
    let mut idle: Vec<TcpStream> = (0..8).map(|_| connect()).collect();
    for (n, stream) in idle.iter_mut().enumerate() {
        stream.write_all(&[&[0xff, 0xff][..], &[0xff; 100][..]].concat()[..n * 3]).expect("sent");
    }
    copied[2..].fill(0xff);
    for (bytes, right) in [(copied, false), (question, true)] {
        let mut stream = connect();
        let length = u16::try_from(bytes.len()).expect("short").to_be_bytes();
        stream.write_all(&[&length, &bytes[..]].concat()).expect("sent");
        let mut length = [0; 2];
        // Garbage may be answered by an error, or by the end of the connection.
        if stream.read_exact(&mut length).is_err() {
            assert!(!right, "the question is answered");
            continue;
        }
        let mut answer = vec![0; usize::from(u16::from_be_bytes(length))];
        stream.read_exact(&mut answer).expect("an answer");
        let answer = DnsMessage::from_vec(&answer).expect("a DNS message");
        assert_eq!(answer.response_code == ResponseCode::NoError, right, "{answer}");
    }

    // Counted among answers: the question by UDP and TCP, the copy that is not given, and the message of zeros.
    let after = dc.await_status(|status| {
        status["dns"]["by_code"] == json!({ "NOERROR": 2, "REFUSED": 1, "FORMERR": 1 })
    });
    assert_eq!((&after["dns"]["by_type"]["TXT"], &after["dns"]["by_type"]["AXFR"]), (&json!(2), &json!(1)));
    assert_eq!(after["dns"]["refused"], json!({ "short": 2, "answer": 4, "malformed": 1 }));
    for key in ["terminals", "relays", "received", "sent", "refused", "trace_lost"] {
        assert_eq!(after[key], before[key], "{key}");
    }
    assert_eq!(dc.files.store_bytes(), store, "nothing was written");
    let traced = dc.files.trace().split_off(start);
    assert_eq!(traced.len(), 7, "{traced:?}");
    for line in traced {
        assert!(
            line["what"] == "refused" && line["field"] == "dns message" && line["reason"].is_string(),
            "{line}"
        );
    }
    mn.keep_alive(2);
}

fn dns_question(id: u16, name: &str, kind: RecordType) -> Vec<u8> {
    let mut message = DnsMessage::new(id, MessageType::Query, OpCode::Query);
    message.add_query(Query::query(Name::from_ascii(name).expect("a name"), kind));
    message.to_vec().expect("a query")
}

fn texts(message: &DnsMessage) -> Vec<String> {
    message.answers.iter().map(|record| record.data.to_string()).collect()
}
