//! From packets to what the kernel takes fastest: consecutive segments of one TCP connection, or datagrams of one UDP flow, become one train, which the TUN takes in
//! one write (the reverse of [`crate::split`]).
//!
//! A train is a list of places in the arena of received datagrams. Packets stay where they are; but a payload that came in the very next
//! datagram is moved to the end of the one before it: it is in the first cache still, and the kernel then copies one long piece instead of
//! many short ones, which takes longer. A segment joins the newest item of its connection only, so no connection's packets change their
//! order. What joins is what the kernel's own GRO would join, and splitting the train again gives the same packets, byte for byte. A
//! segment with a wrong checksum never joins: the train's checksum is the kernel's to make, and would hide the error.

use std::ops::Range;

use ntm_protocol::inner::checksum::{fold, pseudo, sum};
use ntm_protocol::inner::siit;

use crate::vnet::{Gso, VNET_LEN, Vnet};

/// Segments in one train: few writes are left to save beyond that, and a write takes at most 1024 pieces (`UIO_MAXIOV`).
pub(crate) const MAX_SEGMENTS: usize = 64;

/// Places for the newest item of a connection.
const SLOTS: usize = 256;

const IP_LEN: usize = 20;
const TCP: u8 = 6;
const UDP: u8 = 17;
const UDP_LEN: usize = 8;
const ACK: u8 = 0x10;
const PSH: u8 = 0x08;
const DONT_FRAGMENT: u8 = 0x40;

/// Collects the packets of one batch.
#[derive(Debug)]
pub(crate) struct Coalescer {
    /// Only the first `live` are of this batch; the others keep their room for the next.
    items: Vec<Item>,
    live: usize,
    /// The newest item of a connection, by a hash; of two that share a place the older one only loses some joining.
    newest: Box<[Option<u32>; SLOTS]>,
    /// Whether TCP segments join.
    tcp: bool,
    /// Whether UDP datagrams do.
    udp: bool,
}

/// What one write to the TUN carries.
#[derive(Debug)]
pub(crate) struct Write<'a> {
    /// The virtio header.
    pub(crate) vnet: [u8; VNET_LEN],
    /// The places of what follows it.
    pub(crate) parts: &'a [Range<usize>],
    /// How many packets there were before they were joined.
    pub(crate) packets: usize,
    /// Bytes of the packets before they were joined.
    pub(crate) bytes: usize,
}

#[derive(Debug, Default)]
struct Item {
    /// The first packet whole, then the payloads of the others; what lies together is one part.
    parts: Vec<Range<usize>>,
    /// Where the datagram of the newest packet ends.
    end: usize,
    train: Option<Train>,
    /// Whether it leaves as IPv6.
    for_v6: bool,
}

#[derive(Clone, Copy, Debug)]
struct Train {
    protocol: u8,
    /// Length of the IPv4 and TCP or UDP headers.
    headers: usize,
    /// Payload of each segment but the last.
    size: usize,
    segments: usize,
    /// Length of the train as one packet.
    total: usize,
    /// Of TCP.
    next_sequence: u32,
    next_id: u16,
    /// Whether the last segment has the push flag.
    push: bool,
    /// Whether another segment may join.
    open: bool,
    first_is_checked: bool,
}

impl Coalescer {
    /// One that joins segments if `tcp`, and datagrams if `udp`.
    pub(crate) fn new(tcp: bool, udp: bool) -> Self {
        Self { items: Vec::new(), live: 0, newest: Box::new([None; SLOTS]), tcp, udp }
    }

    fn joins(&self, segment: &Segment<'_>) -> bool {
        if segment.is_tcp() { self.tcp } else { self.udp }
    }

    /// Adds the packet at `inner` of the datagram at `datagram` of `arena`.
    pub(crate) fn push(&mut self, arena: &mut [u8], datagram: &Range<usize>, inner: Range<usize>) {
        let place = datagram.start + inner.start..datagram.start + inner.end;
        let packet = &arena[place.clone()];
        let Some(segment) = Segment::of(packet).filter(|segment| self.joins(segment)) else {
            if matches!(packet.get(9), Some(&(TCP | UDP))) {
                // Its connection is not known, so nothing may pass it.
                self.newest.fill(None);
            }
            return self.start(datagram, place, None);
        };
        let (slot, headers) = (segment.slot(), segment.headers);
        if let Some(index) = self.newest[slot] {
            let item = &mut self.items[index as usize];
            if item.joins(arena, &segment) {
                return item.append(arena, datagram, place.start + headers..place.end);
            }
        }
        self.newest[slot] = Some(self.live as u32);
        let train = segment.train();
        self.start(datagram, place, train);
    }

    /// Adds the packet at `inner` of the datagram at `datagram` of `arena`, for a node that has only IPv6 (T3.1-d); false where it cannot be
    /// translated. Segments join as they are, and their train's header is translated; all else is translated at once.
    pub(crate) fn push_for_v6(
        &mut self,
        arena: &mut [u8],
        datagram: &Range<usize>,
        inner: Range<usize>,
    ) -> bool {
        let place = datagram.start + inner.start..datagram.start + inner.end;
        let is_segment = |packet| Segment::of(packet).is_some_and(|segment| segment.is_tcp());
        if self.tcp && inner.start >= siit::LONGER && is_segment(&arena[place.clone()]) {
            let live = self.live;
            self.push(arena, datagram, inner);
            if self.live > live {
                self.items[live].for_v6 = true;
            }
            return true;
        }
        let is_tcp = arena[place].get(9) == Some(&TCP);
        let Some(translated) = siit::to_v6(&mut arena[datagram.clone()], inner) else { return false };
        if is_tcp {
            self.newest.fill(None);
        }
        let place = datagram.start + translated.start..datagram.start + translated.end;
        self.start(datagram, place, None);
        true
    }

    fn start(&mut self, datagram: &Range<usize>, place: Range<usize>, train: Option<Train>) {
        if self.live == self.items.len() {
            self.items.push(Item::default());
        }
        let item = &mut self.items[self.live];
        item.end = datagram.end;
        item.parts.clear();
        item.parts.push(place);
        item.train = train;
        item.for_v6 = false;
        self.live += 1;
    }

    /// Ends the batch: `write` gets the arena and each item. The headers of trains are completed in the arena first.
    pub(crate) fn finish(&mut self, arena: &mut [u8], mut write: impl FnMut(&[u8], &Write<'_>)) {
        for item in &mut self.items[..self.live] {
            let mut vnet = item.complete(arena);
            let length: usize = item.parts.iter().map(Range::len).sum();
            let packets = item.train.map_or(1, |train| train.segments);
            let left_out = (packets - 1) * usize::from(vnet.header_len);
            if item.for_v6 {
                item.translate(arena, &mut vnet);
            }
            let bytes = length + left_out;
            write(arena, &Write { vnet: vnet.emit(), parts: &item.parts, packets, bytes });
        }
        self.live = 0;
        self.newest.fill(None);
    }
}

impl Item {
    /// Whether `segment` continues the train, which then counts with it.
    fn joins(&mut self, arena: &[u8], segment: &Segment<'_>) -> bool {
        let Some(train) = self.train.as_mut().filter(|train| train.open) else { return false };
        let first = Segment { packet: &arena[self.parts[0].clone()], headers: train.headers };
        let payload = segment.payload_len();
        if train.segments == MAX_SEGMENTS
            || payload == 0
            || payload > train.size
            || train.total + payload > 0xffff
            || segment.is_tcp() && segment.sequence() != train.next_sequence
            || !segment.is_like(&first, train.next_id)
            || !segment.checksum_is_right()
        {
            return false;
        }
        if !train.first_is_checked {
            if !first.checksum_is_right() {
                train.open = false;
                return false;
            }
            train.first_is_checked = true;
        }
        train.segments += 1;
        train.total += payload;
        train.next_sequence = train.next_sequence.wrapping_add(payload as u32);
        train.next_id = train.next_id.wrapping_add(1);
        train.push = segment.is_tcp() && segment.flags() & PSH != 0;
        // Splitting gives neither a short segment nor a push back from the middle of a train.
        train.open = payload == train.size && !train.push;
        true
    }

    /// Adds the `payload` of the segment in `datagram`.
    fn append(&mut self, arena: &mut [u8], datagram: &Range<usize>, payload: Range<usize>) {
        let is_next = datagram.start == self.end;
        self.end = datagram.end;
        match self.parts.last_mut() {
            Some(part) if is_next => {
                let length = payload.len();
                arena.copy_within(payload, part.end);
                part.end += length;
            }
            _ => self.parts.push(payload),
        }
    }

    /// Writes the headers of a train, and says what the kernel has to do with the item.
    fn complete(&self, arena: &mut [u8]) -> Vnet {
        let Some(train) = self.train.filter(|train| train.segments > 1) else { return Vnet::default() };
        let (ip, transport) = arena[self.parts[0].start..][..train.headers].split_at_mut(IP_LEN);
        let length = train.total - IP_LEN;
        ip[2..4].copy_from_slice(&(train.total as u16).to_be_bytes());
        ip[10..12].fill(0);
        let checksum = !fold(sum(ip, 0));
        ip[10..12].copy_from_slice(&checksum.to_be_bytes());
        let mut addresses = [0; 8];
        addresses.copy_from_slice(&ip[12..20]);
        let partial = fold(pseudo(&addresses, train.protocol, length));
        let (gso, checksum_at) = if train.protocol == TCP { (Gso::Tcp4, 16) } else { (Gso::Udp, 6) };
        transport[checksum_at..checksum_at + 2].copy_from_slice(&partial.to_be_bytes());
        if train.protocol == UDP {
            transport[4..6].copy_from_slice(&(length as u16).to_be_bytes());
        } else if train.push {
            transport[13] |= PSH;
        }
        Vnet {
            partial: Some((IP_LEN as u16, checksum_at as u16)),
            gso,
            gso_size: train.size as u16,
            header_len: train.headers as u16,
        }
    }
}

impl Item {
    /// Turns the header of a segment, or of a train, into one of IPv6; the prefix weighs nothing in the checksum.
    fn translate(&mut self, arena: &mut [u8], vnet: &mut Vnet) {
        // There is room in front, and it is a segment: both were seen before it was taken.
        let Some(start) = siit::header_to_v6(arena, self.parts[0].start) else { return };
        let longer = (self.parts[0].start - start) as u16;
        self.parts[0].start = start;
        if let Some((checksum, offset)) = vnet.partial {
            *vnet = Vnet {
                partial: Some((checksum + longer, offset)),
                gso: Gso::Tcp6,
                header_len: vnet.header_len + longer,
                ..*vnet
            };
        }
    }
}

/// A TCP segment, or a UDP datagram that has a checksum, in an IPv4 packet without IP options that is no fragment; its lengths were checked.
struct Segment<'a> {
    packet: &'a [u8],
    /// Length of the IPv4 and TCP or UDP headers.
    headers: usize,
}

impl<'a> Segment<'a> {
    fn of(packet: &'a [u8]) -> Option<Self> {
        let ip = packet.first_chunk::<IP_LEN>()?;
        let length = usize::from(u16::from_be_bytes([ip[2], ip[3]]));
        let is_fragment = u16::from_be_bytes([ip[6], ip[7]]) & 0x3fff != 0;
        if ip[0] != 0x45 || is_fragment || length != packet.len() {
            return None;
        }
        match ip[9] {
            TCP => {
                let tcp_len = usize::from(packet.get(IP_LEN + 12)? >> 4) * 4;
                let headers = IP_LEN + tcp_len;
                (tcp_len >= 20 && headers <= packet.len()).then_some(Self { packet, headers })
            }
            UDP => {
                let udp = packet[IP_LEN..].first_chunk::<UDP_LEN>()?;
                let is_whole = usize::from(u16::from_be_bytes([udp[4], udp[5]])) == length - IP_LEN;
                (is_whole && udp[6..] != [0, 0]).then_some(Self { packet, headers: IP_LEN + UDP_LEN })
            }
            _ => None,
        }
    }

    fn protocol(&self) -> u8 {
        self.packet[9]
    }

    fn is_tcp(&self) -> bool {
        self.protocol() == TCP
    }

    /// The train that it begins, alone as yet; `None` if nothing can join it.
    fn train(&self) -> Option<Train> {
        let may_begin = !self.is_tcp() || self.flags() == ACK;
        (may_begin && self.payload_len() > 0).then(|| Train {
            protocol: self.protocol(),
            headers: self.headers,
            size: self.payload_len(),
            segments: 1,
            total: self.packet.len(),
            next_sequence: match self.is_tcp() {
                true => self.sequence().wrapping_add(self.payload_len() as u32),
                false => 0,
            },
            next_id: self.id().wrapping_add(1),
            push: false,
            open: true,
            first_is_checked: false,
        })
    }

    /// Whether it differs from `first`, the first of a train, only in what a train's later segments do.
    fn is_like(&self, first: &Segment<'_>, next_id: u16) -> bool {
        let same = |range: Range<usize>| self.packet[range.clone()] == first.packet[range];
        // The identification of a packet that is never fragmented means nothing (RFC 6864, section 4.1).
        let id_fits = self.id() == next_id || self.packet[6] & DONT_FRAGMENT != 0;
        let is_like_packet = self.headers == first.headers
            && id_fits
            && same(1..2) // type of service
            && same(6..10) // fragmentation, time to live, protocol
            && same(12..IP_LEN + 4); // addresses, ports
        let is_like_segment = || {
            self.flags() & !PSH == ACK
            && same(IP_LEN + 8..IP_LEN + 13) // acknowledgement, header length
            && same(IP_LEN + 14..IP_LEN + 16) // window
            && same(IP_LEN + 18..self.headers) // urgent pointer, options
        };
        is_like_packet && (!self.is_tcp() || is_like_segment())
    }

    fn checksum_is_right(&self) -> bool {
        let mut addresses = [0; 8];
        addresses.copy_from_slice(&self.packet[12..20]);
        let transport = &self.packet[IP_LEN..];
        fold(sum(transport, pseudo(&addresses, self.protocol(), transport.len()))) == 0xffff
            && fold(sum(&self.packet[..IP_LEN], 0)) == 0xffff
    }

    /// A place for its connection.
    fn slot(&self) -> usize {
        let mut hash = 0u32;
        for word in self.packet[12..IP_LEN + 4].chunks_exact(4) {
            let word = u32::from_be_bytes([word[0], word[1], word[2], word[3]]);
            hash = (hash ^ word).wrapping_mul(0x9e37_79b1).rotate_left(15);
        }
        hash as usize % SLOTS
    }

    fn id(&self) -> u16 {
        u16::from_be_bytes([self.packet[4], self.packet[5]])
    }

    fn sequence(&self) -> u32 {
        let at = IP_LEN + 4;
        u32::from_be_bytes([self.packet[at], self.packet[at + 1], self.packet[at + 2], self.packet[at + 3]])
    }

    fn flags(&self) -> u8 {
        self.packet[IP_LEN + 13]
    }

    fn payload_len(&self) -> usize {
        self.packet.len() - self.headers
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oracle::is_right;
    use crate::packets::{Tcp, udp};
    use crate::split::split;
    use proptest::prelude::*;

    /// What is written for `packets`: each write's virtio header and bytes.
    fn writes(enabled: bool, packets: &[Vec<u8>]) -> Vec<(Vnet, Vec<u8>)> {
        let mut arena = vec![0xee; 7];
        let mut coalescer = Coalescer::new(enabled, enabled);
        let places: Vec<_> = packets
            .iter()
            .map(|packet| {
                arena.extend(packet);
                arena.len() - packet.len()..arena.len()
            })
            .collect();
        for place in places {
            let inner = 0..place.len();
            coalescer.push(&mut arena, &place, inner);
        }
        let mut writes = Vec::new();
        let mut total = 0;
        coalescer.finish(&mut arena, |arena, write| {
            total += write.bytes;
            let mut bytes = write.vnet.to_vec();
            write.parts.iter().for_each(|part| bytes.extend(&arena[part.clone()]));
            let (vnet, packet) = Vnet::parse(&mut bytes).expect("a header");
            writes.push((vnet, packet.to_vec()));
        });
        assert_eq!(total, packets.iter().map(Vec::len).sum::<usize>());
        writes
    }

    /// What the kernel makes of the writes.
    fn split_again(writes: Vec<(Vnet, Vec<u8>)>) -> Vec<Vec<u8>> {
        let mut packets = Vec::new();
        for (vnet, mut bytes) in writes {
            split(vnet, &mut bytes, |parts| packets.push(parts.concat())).expect("it splits");
        }
        packets
    }

    /// `count` segments that continue each other.
    fn stream(tcp: &Tcp, count: usize, size: usize) -> Vec<Vec<u8>> {
        (0..count)
            .map(|i| {
                let mut one = tcp.clone();
                one.id = tcp.id.wrapping_add(i as u16);
                one.sequence = tcp.sequence.wrapping_add((i * size) as u32);
                one.packet(&vec![i as u8 + 1; size])
            })
            .collect()
    }

    #[test]
    fn a_stream_becomes_one_train() {
        let packets = stream(&Tcp::default(), 10, 1372);
        let writes = writes(true, &packets);
        assert_eq!(writes.len(), 1);
        let (vnet, train) = &writes[0];
        assert_eq!(*vnet, Vnet { partial: Some((20, 16)), gso: Gso::Tcp4, gso_size: 1372, header_len: 52 });
        assert_eq!(train.len(), 52 + 10 * 1372);
        assert_eq!(split_again(writes), packets);
    }

    /// What lies between two segments may be a datagram that is yet to be passed on.
    #[test]
    fn payloads_of_datagrams_that_follow_each_other_become_one_part_and_nothing_else_is_touched() {
        let packets = stream(&Tcp::default(), 4, 1372);
        let (front, between) = ([0xee; 32], [0xcc; 100]);
        let (mut arena, mut places) = (Vec::new(), Vec::new());
        for (n, packet) in packets.iter().enumerate() {
            if n == 2 {
                arena.extend(between);
            }
            let start = arena.len();
            arena.extend([&front[..], packet, &front[..16]].concat());
            places.push((start..arena.len(), 32..32 + packet.len()));
        }
        let kept = places[1].0.end..places[2].0.start;
        let mut coalescer = Coalescer::new(true, true);
        for (datagram, inner) in places {
            coalescer.push(&mut arena, &datagram, inner);
        }
        let mut count = 0;
        coalescer.finish(&mut arena, |arena, write| {
            count += 1;
            assert_eq!(write.parts.iter().map(Range::len).collect::<Vec<_>>(), [52 + 2 * 1372, 2 * 1372]);
            assert_eq!((write.packets, write.bytes), (4, packets.iter().map(Vec::len).sum()));
            let mut bytes = write.vnet.to_vec();
            write.parts.iter().for_each(|part| bytes.extend(&arena[part.clone()]));
            let (vnet, packet) = Vnet::parse(&mut bytes).expect("a header");
            assert_eq!(split_again(vec![(vnet, packet.to_vec())]), packets);
        });
        assert_eq!(count, 1);
        assert_eq!(arena[kept], between);
    }

    /// T3.1-d: of a stream for a node that has only IPv6 the train's header alone is translated, and translated back it is the same stream;
    /// so is what joins nothing.
    #[test]
    fn a_stream_for_ipv6_becomes_one_train_of_ipv6() {
        const HEADER: usize = 32;
        for (enabled, expected) in [(true, 2), (false, 11)] {
            let mut packets = stream(&Tcp::default(), 10, 1372);
            packets.push(udp(1, &[1; 10]));
            let mut arena = Vec::new();
            let mut coalescer = Coalescer::new(enabled, enabled);
            let places: Vec<_> = packets
                .iter()
                .map(|packet| {
                    let start = arena.len();
                    arena.extend([0xee; HEADER]);
                    arena.extend(packet);
                    arena.extend([0xee; 16]);
                    (start..arena.len(), HEADER..HEADER + packet.len())
                })
                .collect();
            for (datagram, inner) in places {
                assert!(coalescer.push_for_v6(&mut arena, &datagram, inner));
            }
            let (mut count, mut back) = (0, Vec::new());
            coalescer.finish(&mut arena, |arena, write| {
                count += 1;
                let mut bytes = write.vnet.to_vec();
                write.parts.iter().for_each(|part| bytes.extend(&arena[part.clone()]));
                let (vnet, packet) = Vnet::parse(&mut bytes).expect("a header");
                assert_eq!(packet[0] >> 4, 6);
                let segment = (vnet.gso == Gso::Tcp6).then_some(1372);
                let place = siit::to_v4(packet, segment, &mut 0).expect("it comes back");
                let partial = vnet.partial.map(|(start, offset)| (start - place.start as u16, offset));
                let gso = if segment.is_some() { Gso::Tcp4 } else { Gso::None };
                back.extend(split_again(vec![(Vnet { partial, gso, ..vnet }, packet[place].to_vec())]));
            });
            assert_eq!(count, expected);
            let without_number = |packets: Vec<Vec<u8>>| -> Vec<Vec<u8>> {
                packets
                    .into_iter()
                    .map(|packet| [&packet[..4], &packet[8..10], &packet[12..]].concat())
                    .collect()
            };
            assert!(back.iter().all(|packet| is_right(packet)));
            assert_eq!(without_number(back), without_number(packets));
        }
    }

    #[test]
    fn no_train_is_longer_than_a_packet_may_be() {
        for (count, size) in [(100, 1372), (200, 8)] {
            let packets = stream(&Tcp::default(), count, size);
            let writes = writes(true, &packets);
            assert!(writes.iter().all(|(_, bytes)| bytes.len() <= 0xffff));
            assert!(writes.len() < 5, "{} writes", writes.len());
            assert_eq!(split_again(writes), packets);
        }
    }

    #[test]
    fn two_interleaved_streams_become_two_trains() {
        let other = Tcp { source_port: 2000, ..Tcp::default() };
        let (a, b) = (stream(&Tcp::default(), 5, 100), stream(&other, 5, 200));
        let packets: Vec<_> = a.iter().zip(&b).flat_map(|(a, b)| [a.clone(), b.clone()]).collect();
        let writes = writes(true, &packets);
        assert_eq!(writes.len(), 2);
        assert_eq!(split_again(writes), [a, b].concat());
    }

    #[test]
    fn a_short_segment_or_a_push_ends_a_train() {
        let tcp = Tcp::default();
        let push = Tcp { flags: ACK | PSH, ..tcp.clone() };
        let at = |tcp: &Tcp, index: u16, sequence: u32| Tcp { id: tcp.id + index, sequence, ..tcp.clone() };
        let packets = [
            at(&tcp, 0, 100).packet(&[1; 50]),
            at(&tcp, 1, 150).packet(&[2; 20]),
            at(&tcp, 2, 170).packet(&[3; 50]),
            at(&push, 3, 220).packet(&[4; 50]),
            at(&tcp, 4, 270).packet(&[5; 50]),
        ];
        let writes = writes(true, &packets);
        assert_eq!(
            writes.iter().map(|(_, bytes)| bytes.len()).collect::<Vec<_>>(),
            [52 + 70, 52 + 100, 52 + 50]
        );
        assert_eq!(split_again(writes), packets);
    }

    #[test]
    fn what_differs_does_not_join_and_keeps_its_order() {
        let second = Tcp { id: 6, sequence: 200, ..Tcp::default() };
        let cases = [
            Tcp { sequence: 201, ..second.clone() },
            Tcp { acknowledgement: 10, ..second.clone() },
            Tcp { window: 513, ..second.clone() },
            Tcp { tos: 1, ..second.clone() },
            Tcp { dont_fragment: false, ..second.clone() },
            Tcp { flags: ACK | 1, ..second.clone() },
            Tcp { flags: ACK | 0x20, ..second.clone() },
            Tcp { options: vec![], ..second.clone() },
            Tcp { options: vec![1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 3], ..second.clone() },
            Tcp { source_port: 1001, ..second.clone() },
        ];
        for case in cases {
            let packets = [Tcp::default().packet(&[1; 100]), case.packet(&[2; 100])];
            let writes = writes(true, &packets);
            assert_eq!(writes.len(), 2, "{case:?}");
            assert_eq!(split_again(writes), packets, "{case:?}");
        }
        // An identification that jumps matters only where fragments are possible.
        for (dont_fragment, expected) in [(true, 1), (false, 2)] {
            let first = Tcp { dont_fragment, ..Tcp::default() };
            let jump = Tcp { dont_fragment, id: 9, ..second.clone() };
            let packets = [first.packet(&[1; 100]), jump.packet(&[2; 100])];
            assert_eq!(writes(true, &packets).len(), expected);
        }
    }

    #[test]
    fn nothing_passes_a_packet_of_its_own_connection() {
        let stream = stream(&Tcp::default(), 3, 100);
        let pure_ack = Tcp { sequence: 300, ..Tcp::default() }.packet(&[]);
        let mut fragment = pure_ack.clone();
        fragment[6] = 0x20;
        for between in [pure_ack, fragment] {
            let packets = [stream[0].clone(), stream[1].clone(), between, stream[2].clone()];
            let writes = writes(true, &packets);
            assert_eq!(writes.len(), 3);
            assert_eq!(split_again(writes), packets);
        }
    }

    #[test]
    fn a_wrong_checksum_stays_to_be_seen() {
        for wrong in 0..3 {
            let mut packets = stream(&Tcp::default(), 3, 100);
            packets[wrong][80] ^= 1;
            assert_eq!(split_again(writes(true, &packets)), packets);
            let mut packets = stream(&Tcp::default(), 3, 100);
            packets[wrong][10] ^= 1;
            assert_eq!(split_again(writes(true, &packets)), packets);
        }
    }

    #[test]
    fn datagrams_of_one_flow_become_one_train() {
        let packets: Vec<_> = (0..10).map(|n| udp(n, &[n as u8; 1372])).collect();
        let writes = writes(true, &packets);
        assert_eq!(writes.len(), 1);
        let (vnet, train) = &writes[0];
        assert_eq!(*vnet, Vnet { partial: Some((20, 6)), gso: Gso::Udp, gso_size: 1372, header_len: 28 });
        assert_eq!(train.len(), 28 + 10 * 1372);
        assert_eq!(split_again(writes), packets);
    }

    /// A shorter datagram ends a train, a longer one begins another; what is empty, has no checksum, or a wrong one, stays alone and in its place.
    #[test]
    fn datagrams_join_only_where_splitting_gives_them_back() {
        let mut packets: Vec<_> = [100, 100, 60, 100, 0, 100, 100, 200, 200]
            .iter()
            .zip(1..)
            .map(|(size, n)| udp(n, &vec![7; *size]))
            .collect();
        packets[5][IP_LEN + 6..IP_LEN + 8].fill(0);
        packets[8][50] ^= 1;
        let writes = writes(true, &packets);
        let lengths: Vec<_> = writes.iter().map(|(_, bytes)| bytes.len() - 28).collect();
        assert_eq!(lengths, [260, 100, 0, 100, 100, 200, 200]);
        assert_eq!(split_again(writes), packets);
    }

    #[test]
    fn disabled_nothing_joins() {
        let mut packets = stream(&Tcp::default(), 3, 100);
        packets.extend([udp(1, &[1; 10]), udp(2, &[2; 10]), vec![0x45], vec![]]);
        let all = writes(false, &packets);
        assert_eq!(all.len(), packets.len());
        assert_eq!(split_again(all), packets);
    }

    proptest! {
        /// Any mix of a few connections, sizes, flags, losses: each connection's packets come out as they went in, in their order.
        #[test]
        fn splitting_gives_back_what_was_joined(
            moves in prop::collection::vec((0..4u16, prop::sample::select(vec![0usize, 7, 100, 101]), 0..12u8), 1..80),
        ) {
            let mut flows: Vec<_> = (0..3).map(|port| Tcp { source_port: port, ..Tcp::default() }).collect();
            let (mut packets, mut datagrams) = (Vec::new(), 0);
            for (n, (flow, size, kind)) in moves.into_iter().enumerate() {
                // The last flow is of datagrams.
                let Some(tcp) = flows.get_mut(usize::from(flow)) else {
                    packets.push(udp(datagrams, &vec![n as u8; size]));
                    datagrams += 1;
                    continue;
                };
                match kind {
                    0 => tcp.sequence = tcp.sequence.wrapping_add(1000),
                    1 => tcp.acknowledgement += 1,
                    _ => {}
                }
                tcp.flags = if kind == 2 { ACK | PSH } else { ACK };
                packets.push(tcp.packet(&vec![n as u8; size]));
                tcp.sequence = tcp.sequence.wrapping_add(size as u32);
                tcp.id += 1;
            }
            let back = split_again(writes(true, &packets));
            prop_assert!(back.iter().all(|packet| is_right(packet)));
            for port in [0, 1, 2, 1000u16] {
                let of = |all: &[Vec<u8>]| -> Vec<_> {
                    all.iter().filter(|p| p[20..22] == port.to_be_bytes()).cloned().collect()
                };
                prop_assert_eq!(of(&back), of(&packets));
            }
        }

        #[test]
        fn nothing_breaks_it(packets in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..80), 0..20)) {
            let packets: Vec<_> = packets.into_iter().map(|mut packet| {
                if let [first, _, high, low, ..] = &mut packet[..] { (*first, *high, *low) = (0x45, 0, *low % 80); }
                if let Some(protocol) = packet.get_mut(9) { *protocol = if *protocol % 2 == 0 { TCP } else { UDP }; }
                packet
            }).collect();
            prop_assert_eq!(split_again(writes(true, &packets)), packets);
        }
    }
}
