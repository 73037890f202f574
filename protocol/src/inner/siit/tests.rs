//! T3.1-d.

use super::super::tests::is_right;
use super::*;
use proptest::prelude::*;

const TCP: u8 = 6;

/// Bytes in front of a packet, as an NTM header leaves them.
const FRONT: usize = 32;

fn head(protocol: u8, flags: u16) -> Head {
    let (source, destination) = ([198, 18, 0, 1], [198, 18, 128, 9]);
    Head { class: 0x2e, hops: 63, protocol, flags, id: 0x1234, source, destination }
}

fn ipv4(protocol: u8, flags: u16, body: &[u8]) -> Vec<u8> {
    let mut packet = vec![0; V4];
    head(protocol, flags).write_v4(&mut packet, body.len()).unwrap();
    packet.extend(body);
    packet
}

/// `body` with its checksum at `at`.
fn segment(protocol: u8, mut body: Vec<u8>, at: usize) -> Vec<u8> {
    body[at..at + 2].fill(0);
    let pseudo = checksum::pseudo(&head(protocol, 0).addresses(), protocol, body.len());
    let sum = !checksum::fold(checksum::sum(&body, pseudo));
    let sum = if sum == 0 { u16::MAX } else { sum };
    body[at..at + 2].copy_from_slice(&sum.to_be_bytes());
    body
}

fn translated(packet: &[u8]) -> Option<Vec<u8>> {
    let mut buffer = vec![0xee; FRONT];
    buffer.extend(packet);
    // A MAC stood behind it.
    buffer.extend([0xee; 16]);
    let place = to_v6(&mut buffer, FRONT..FRONT + packet.len())?;
    Some(buffer[place].to_vec())
}

/// Whether the checksum over pseudo-header and message is right (RFC 8200, section 8.1).
fn is_right_v6(packet: &[u8]) -> bool {
    let length = packet.len() - V6;
    let sum = checksum::sum(&packet[8..40], u64::from(packet[6]) + length as u64);
    checksum::fold(checksum::sum(&packet[V6..], sum)) == 0xffff
}

fn back(packet: &[u8]) -> Option<Vec<u8>> {
    let mut packet = packet.to_vec();
    let place = to_v4(&mut packet, None, &mut 7)?;
    Some(packet[place].to_vec())
}

#[test]
fn the_prefix_weighs_nothing() {
    assert_eq!(checksum::fold(checksum::sum(&PREFIX, 0)), 0xffff);
    let (address, other) = (Ipv4Addr::new(198, 18, 128, 9), "2001:db8::1".parse().unwrap());
    assert_eq!(embed(address).to_string(), "fd4e:2b1::c612:8009");
    assert_eq!((embedded(embed(address)), embedded(other)), (Some(address), None));
}

proptest! {
    /// There and back, a packet is the same, and its checksum right on the way; a long one may not be cut up any more.
    #[test]
    fn tcp_udp_and_echoes_come_back_as_they_were(
        which in 0..4usize,
        body in prop::collection::vec(any::<u8>(), 20..1400),
    ) {
        let (protocol, body) = match which {
            0 => (TCP, segment(TCP, body, 16)),
            1 => (UDP, segment(UDP, body, 6)),
            _ => {
                let mut body = body;
                body[..2].copy_from_slice(&[if which == 2 { 8 } else { 0 }, 0]);
                complete(&mut body, 0);
                (ICMP, body)
            }
        };
        let packet = ipv4(protocol, DONT_FRAGMENT, &body);
        let v6 = translated(&packet).unwrap();
        prop_assert!(is_right_v6(&v6));
        prop_assert_eq!(v6.len(), packet.len() + LONGER);
        prop_assert_eq!((v6[0], v6[1], v6[7]), (0x62, 0xe0, 63), "traffic class and hop limit");
        let again = back(&v6).unwrap();
        prop_assert!(is_right(&again[..V4]));
        prop_assert_eq!(&again[V4..], &packet[V4..]);
        prop_assert_eq!(&again[12..20], &packet[12..20]);
        prop_assert_eq!((again[1], again[8], again[9]), (packet[1], packet[8], packet[9]));
        let (id, flags) = if packet.len() > 1260 { (0, DONT_FRAGMENT) } else { (7, 0) };
        prop_assert_eq!((short(&again, 4), short(&again, 6)), (Some(id), Some(flags)));
    }

    /// Fragments keep their place, and come back byte for byte, for they keep their number.
    #[test]
    fn fragments_keep_their_place(
        offset in 0..0x1000u16,
        last in any::<bool>(),
        body in prop::collection::vec(any::<u8>(), 20..1400),
    ) {
        let flags = if last && offset > 0 { offset } else { offset | MORE_FRAGMENTS };
        let packet = ipv4(TCP, flags, &body);
        let v6 = translated(&packet).unwrap();
        prop_assert_eq!(v6.len(), packet.len() + LONGER + FRAGMENT);
        prop_assert_eq!(back(&v6).unwrap(), packet);
    }

    /// The other way round: a packet of IPv6 is the same after IPv4.
    #[test]
    fn from_ipv6_and_back(body in prop::collection::vec(any::<u8>(), 20..1400), udp in any::<bool>()) {
        let (protocol, at) = if udp { (UDP, 6) } else { (TCP, 16) };
        let mut packet = vec![0; V6];
        let body = segment(protocol, body, at);
        head(protocol, 0).write_v6(&mut packet, body.len()).unwrap();
        packet.extend(body);
        prop_assert!(is_right_v6(&packet));
        prop_assert_eq!(translated(&back(&packet).unwrap()).unwrap(), packet);
    }

    #[test]
    fn whatever_the_bytes_it_never_panics(mut bytes in prop::collection::vec(any::<u8>(), 0..200), first in 0..3usize, next in 0..5usize) {
        let total = bytes.len() as u16;
        if let (Some(byte), Some(first)) = (bytes.first_mut(), [0x45, 0x60, 0x4f].get(first)) {
            *byte = *first;
        }
        if bytes.len() > 60 && bytes[0] != 0x60 {
            bytes[2..4].copy_from_slice(&total.to_be_bytes());
            bytes[9] = [ICMP, UDP, TCP, ICMP, ICMP][next];
            bytes[6] &= 0x40;
            bytes[28] = 0x45;
        } else if bytes.len() > 60 {
            bytes[4..6].copy_from_slice(&(total - 40).to_be_bytes());
            bytes[6] = [ICMP6, FRAGMENT_HEADER, ROUTING, HOP_BY_HOP, UDP][next];
            bytes[24..36].copy_from_slice(&PREFIX);
            bytes[48] = 0x60;
        }
        translated(&bytes);
        back(&bytes);
        to_v4(&mut bytes.clone(), Some(0), &mut 0);
        let whole = bytes.len();
        header_to_v6(&mut bytes.clone(), 20);
        to_v6(&mut bytes, 0..whole);
    }
}

/// RFC 7915, section 5.1: what may be cut up has a number of its own; of a train each segment has one.
#[test]
fn what_may_be_cut_up_is_numbered() {
    let v6 = translated(&ipv4(TCP, 0, &segment(TCP, vec![1; 1300], 16))).unwrap();
    let numbered = |size| {
        let (mut packet, mut id) = (v6.clone(), 7);
        let place = to_v4(&mut packet, size, &mut id).unwrap();
        (short(&packet[place.clone()], 4).unwrap(), short(&packet[place], 6).unwrap(), id)
    };
    assert_eq!(numbered(None), (0, DONT_FRAGMENT, 7));
    assert_eq!(numbered(Some(400)), (7, 0, 7 + 4));
    assert_eq!(numbered(Some(1250)), (0, DONT_FRAGMENT, 7));
}

/// A train has one header for all; what is partial in its checksum stays.
#[test]
fn the_header_of_a_train_is_translated_alone() {
    let packet = ipv4(TCP, DONT_FRAGMENT, &segment(TCP, vec![1; 1300], 16));
    let mut buffer = vec![0xee; FRONT];
    buffer.extend(&packet[..V4 + 20]);
    let start = header_to_v6(&mut buffer, FRONT).unwrap();
    assert_eq!(start, FRONT - LONGER);
    assert_eq!(buffer[start..], translated(&packet).unwrap()[..V6 + 20]);
    let mut fragment = vec![0xee; FRONT];
    fragment.extend(ipv4(TCP, MORE_FRAGMENTS, &[1; 20]));
    assert_eq!(header_to_v6(&mut fragment, FRONT), None);
}

#[test]
fn a_datagram_without_checksum_gets_one() {
    let mut body = segment(UDP, vec![7; 40], 6);
    body[6..8].fill(0);
    assert!(is_right_v6(&translated(&ipv4(UDP, 0, &body)).unwrap()));
    assert_eq!(translated(&ipv4(UDP, MORE_FRAGMENTS, &body)), None, "of a part it cannot be known");
    assert!(translated(&ipv4(UDP, MORE_FRAGMENTS | 5, &body)).is_some(), "a later part has no header");
    assert_eq!(translated(&ipv4(ICMP, MORE_FRAGMENTS, &body)), None, "nor of a part of ICMP");
}

/// Errors about packets between the two find their connection on the other side, the packets cut up or not.
#[test]
fn errors_are_translated_with_what_they_quote() {
    for flags in [DONT_FRAGMENT, MORE_FRAGMENTS] {
        let datagram = ipv4(UDP, flags, &segment(UDP, vec![7; 400], 6));
        let quoted = translated(&datagram).unwrap();
        let headers = if flags == DONT_FRAGMENT { V6 } else { V6 + FRAGMENT };
        for (v4, v6) in [
            ([3, 3], [1, 4]),
            ([11, 0], [3, 0]),
            ([3, 4], [2, 0]),
            ([3, 1], [1, 0]),
            ([3, 10], [1, 1]),
            ([3, 2], [4, 1]),
        ] {
            // From a terminal, about what the general node sent.
            let mut error = vec![v4[0], v4[1], 0, 0, 0, 0, 5, 0x90];
            error.extend(&datagram[..200]);
            complete(&mut error, 0);
            let sent = translated(&ipv4(ICMP, 0, &error)).unwrap();
            assert!(is_right_v6(&sent), "{v4:?}");
            assert_eq!(sent[V6..V6 + 2], v6, "{v4:?}");
            assert_eq!(sent[V6 + 8..V6 + 8 + headers], quoted[..headers], "the headers quoted");
            let more = &sent[V6 + 8 + headers..];
            assert!(more.len() >= 150 && quoted[headers..].starts_with(more), "and what follows them");
            // From the general node, about what the terminal sent.
            let answer = back(&sent).unwrap();
            assert!(is_right(&answer[..V4]) && is_right(&answer[V4..]), "{v6:?}");
            assert_eq!(answer[V4..V4 + 2], v4, "{v6:?}");
            let header = &answer[V4 + 8..V4 + 8 + V4];
            assert_eq!(
                (&header[..4], &header[6..10], &header[12..]),
                (&datagram[..4], &datagram[6..10], &datagram[12..V4])
            );
            if v4 == [3, 4] {
                assert_eq!(answer[V4 + 6..V4 + 8], [5, 0x90], "what would pass");
                assert_eq!(short(&sent, V6 + 6), Some(0x590 + 20), "and what would in IPv6");
                // A router between relay and general node says it: in the name of the general node.
                let mut from_router = sent.clone();
                from_router[8..24].copy_from_slice(&"2001:db8::7".parse::<Ipv6Addr>().unwrap().octets());
                assert_eq!(back(&from_router).unwrap()[12..16], datagram[16..20]);
            }
        }
        for unknown in [[3, 14], [5, 0], [13, 0], [12, 1]] {
            let mut error = vec![unknown[0], unknown[1], 0, 0, 0, 0, 0, 0];
            error.extend(&datagram[..100]);
            assert_eq!(translated(&ipv4(ICMP, 0, &error)), None, "{unknown:?}");
        }
    }
}

/// RFC 7915, sections 4.1 and 5.1: what IPv4's options and IPv6's extension headers say is left out, but a route is not ignored.
#[test]
fn options_are_left_out() {
    let body = segment(TCP, vec![1; 40], 16);
    let plain = ipv4(TCP, 0, &body);
    let with = |options: [u8; 4]| {
        let mut packet = plain.clone();
        packet.splice(V4..V4, options);
        packet[0] = 0x46;
        let total = packet.len() as u16;
        packet[2..4].copy_from_slice(&total.to_be_bytes());
        super::super::complete(&mut packet[..V4 + 4]);
        translated(&packet)
    };
    assert_eq!(with([1, 1, 1, 0]), translated(&plain));
    assert_eq!(with([1, 131, 3, 4]), None);
    let v6 = translated(&plain).unwrap();
    let with = |kind: u8, header: [u8; 8]| {
        let mut packet = v6.clone();
        packet.splice(V6..V6, header);
        packet[5] += 8;
        packet[6] = kind;
        back(&packet)
    };
    assert_eq!(with(HOP_BY_HOP, [TCP, 0, 1, 4, 0, 0, 0, 0]), back(&v6));
    assert_eq!(with(ROUTING, [TCP, 0, 0, 0, 0, 0, 0, 0]), back(&v6));
    assert_eq!(with(ROUTING, [TCP, 0, 0, 1, 0, 0, 0, 0]), None, "it goes elsewhere first");
}

#[test]
fn what_is_between_others_is_not_translated() {
    let v6 = translated(&ipv4(TCP, 0, &segment(TCP, vec![1; 40], 16))).unwrap();
    for at in [8, 24] {
        let mut other = v6.clone();
        other[at] = 0x20;
        assert_eq!(back(&other), None);
    }
    let mut buffer = ipv4(TCP, 0, &segment(TCP, vec![1; 40], 16));
    let whole = buffer.len();
    assert_eq!(to_v6(&mut buffer, 0..whole), None, "there is no room in front");
}
