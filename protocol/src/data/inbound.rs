//! From the network: which datagrams are opened, and which are passed on.

use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::sync::Arc;

use crate::addr::PathId;
use crate::crypto::{DataKeys, OPENED_AT_ONCE, ReplayWindow, inner_at, open_all};
use crate::slots::{Keyed, Slots};
use crate::wire::{Header, ID_AT, Kind, Reason, Refusal, Role};

use super::{DataUpdate, Flow, Usage};

/// Keys of one epoch that still open packets.
struct Opening {
    keys: Arc<DataKeys>,
    window: ReplayWindow,
}

/// What becomes of a path's datagrams. A relay has a million of these, and reads one for every datagram: it is a line of memory, and what is
/// longer stands elsewhere.
#[repr(align(64))]
struct Inlet {
    path: PathId,
    does: Does,
}

enum Does {
    Open(Box<Open>),
    Switch([Option<End>; 2]),
}

const _: () = assert!(size_of::<Option<Inlet>>() == 64);

impl Keyed for Inlet {
    type Key = PathId;

    fn key(&self) -> PathId {
        self.path
    }
}

/// The path ends here. The last three epochs are kept: packets of an old one may be under way while both ends, having moved at
/// once, each had the path directed anew.
struct Open {
    flow: Flow,
    epochs: Vec<Opening>,
    usage: Option<Usage>,
    /// Whether its packets are for a node that has only IPv6.
    translated: bool,
}

/// An end's address and port, without what messages never carry: an IPv6 address's scope and flow label.
#[derive(Clone, Copy)]
struct End {
    /// An IPv4 address as one of IPv6 (RFC 4291, section 2.5.5.2).
    address: [u8; 16],
    port: u16,
    is_v4: bool,
}

impl From<SocketAddr> for End {
    fn from(end: SocketAddr) -> Self {
        let address = match end.ip() {
            IpAddr::V4(v4) => v4.to_ipv6_mapped(),
            IpAddr::V6(v6) => v6,
        };
        Self { address: address.octets(), port: end.port(), is_v4: end.is_ipv4() }
    }
}

impl From<End> for SocketAddr {
    fn from(End { address, port, is_v4 }: End) -> Self {
        let [.., a, b, c, d] = address;
        let ip = if is_v4 { [a, b, c, d].into() } else { address.into() };
        SocketAddr::new(ip, port)
    }
}

const EPOCHS_KEPT: usize = 3;

/// The table for datagrams from the network.
#[derive(Default)]
pub struct Inbound {
    paths: Slots<Inlet>,
    /// The datagrams of a batch that are to be opened, and the keys that open them.
    sealed: Vec<Candidate>,
    keys: Vec<Arc<DataKeys>>,
}

/// A datagram whose path ends here, and that may be good.
struct Candidate {
    /// Which of the batch it is.
    index: usize,
    header: Header,
    /// Which of the keys.
    keys: usize,
}

/// What is found out about a datagram before it is opened.
enum Look<'a> {
    Decided(Verdict),
    Sealed(Header, &'a Arc<DataKeys>),
}

/// What to do with a datagram.
#[derive(PartialEq, Eq, Debug)]
pub enum Verdict {
    /// It was opened: the inner packet stands here.
    Deliver(Range<usize>),
    /// The same, for a general node that has only IPv6: it is to be translated (RS-N, T3.1-d).
    Translate(Range<usize>),
    /// It goes on unchanged to this address (RS-S).
    Forward(SocketAddr),
    /// It is for the role machine.
    Control,
    /// It is refused.
    Refused(Refusal),
}

impl Inbound {
    /// Applies a change; those of the other direction are none here.
    pub fn apply(&mut self, update: &DataUpdate) {
        match update {
            DataUpdate::Receive { flow, keys } => {
                let opening = Opening { keys: Arc::clone(keys), window: ReplayWindow::default() };
                match self.open_mut(keys.path()) {
                    Some(Open { flow: known, epochs, .. }) if known == flow => {
                        epochs.retain(|old| old.keys.epoch() != keys.epoch());
                        epochs.truncate(EPOCHS_KEPT - 1);
                        epochs.insert(0, opening);
                    }
                    _ => {
                        let epochs = vec![opening];
                        let open = Open { flow: *flow, epochs, usage: None, translated: false };
                        self.paths.insert(Inlet { path: keys.path(), does: Does::Open(Box::new(open)) });
                    }
                }
            }
            DataUpdate::Watch { path, received, .. } => {
                if let Some(open) = self.open_mut(*path) {
                    open.usage = Some(received.clone());
                }
            }
            DataUpdate::Translate { path } => {
                if let Some(open) = self.open_mut(*path) {
                    open.translated = true;
                }
            }
            DataUpdate::Switch { path, ends } => {
                let ends = ends.map(|end| end.map(End::from));
                self.paths.insert(Inlet { path: *path, does: Does::Switch(ends) });
            }
            DataUpdate::Forget { path } => {
                self.paths.remove(path);
            }
            DataUpdate::Send { .. }
            | DataUpdate::Remote { .. }
            | DataUpdate::Routes { .. }
            | DataUpdate::Keep { .. }
            | DataUpdate::Narrow { .. }
            | DataUpdate::Lose { .. }
            | DataUpdate::Pause
            | DataUpdate::Resume => {}
        }
    }

    fn open_mut(&mut self, path: PathId) -> Option<&mut Open> {
        match &mut self.paths.get_mut(&path)?.does {
            Does::Open(open) => Some(open),
            Does::Switch(_) => None,
        }
    }

    /// Has the entries of these datagrams brought near: a relay of a million paths then waits for memory once, and not for each.
    fn ask_for(&self, buffer: &[u8], places: &[Range<usize>]) {
        let mut last = None;
        for place in places {
            let id = buffer[place.clone()].get(ID_AT).and_then(|id| id.first_chunk());
            if let Some(id) = id.filter(|id| last != Some(*id)) {
                self.paths.ask_for(&PathId(*id));
                last = Some(id);
            }
        }
    }

    /// Judges `datagram`, opening it in place where its path ends here.
    pub fn judge(&mut self, datagram: &mut [u8]) -> Verdict {
        match self.look(datagram) {
            Look::Decided(verdict) => verdict,
            Look::Sealed(header, keys) => {
                let keys = Arc::clone(keys);
                let opened = keys.open(datagram);
                self.take(&header, opened, datagram)
            }
        }
    }

    /// Judges the datagrams at `places` of `buffer` as [`judge`](Self::judge) does, in their order; `verdicts` are theirs.
    pub fn judge_all(&mut self, buffer: &mut [u8], places: &[Range<usize>], verdicts: &mut Vec<Verdict>) {
        verdicts.clear();
        if self.paths.is_far() {
            self.ask_for(buffer, places);
        }
        let mut sealed = std::mem::take(&mut self.sealed);
        let mut keys = std::mem::take(&mut self.keys);
        for (index, place) in places.iter().enumerate() {
            match self.look(&buffer[place.clone()]) {
                Look::Decided(verdict) => verdicts.push(verdict),
                Look::Sealed(header, these) => {
                    // Packets of one path come together: they are not counted as holders of its keys one by one.
                    if keys.last().is_none_or(|last| !Arc::ptr_eq(last, these)) {
                        keys.push(Arc::clone(these));
                    }
                    sealed.push(Candidate { index, header, keys: keys.len() - 1 });
                    // Its own comes below.
                    verdicts.push(Verdict::Control);
                }
            }
        }
        for some in sealed.chunks(OPENED_AT_ONCE) {
            let datagrams = some.iter().map(|one| (&*keys[one.keys], places[one.index].clone()));
            let opened = open_all(buffer, datagrams);
            for (Candidate { index, header, .. }, opened) in some.iter().zip(opened) {
                verdicts[*index] = self.take(header, opened, &buffer[places[*index].clone()]);
            }
        }
        sealed.clear();
        self.sealed = sealed;
        keys.clear();
        self.keys = keys;
    }

    fn look(&self, datagram: &[u8]) -> Look<'_> {
        // What has no good header is the role machine's to refuse: refusals of control and data are told in one place.
        let Ok(header) = Header::parse(datagram) else { return Look::Decided(Verdict::Control) };
        if header.kind != Kind::Data {
            return Look::Decided(Verdict::Control);
        }
        let refused = |field, reason| Look::Decided(Verdict::Refused(Refusal::new(field, reason)));
        match self.paths.get(&PathId(header.id)).map(|inlet| &inlet.does) {
            None => refused("path id", Reason::Stranger),
            Some(Does::Switch(ends)) => {
                let to = if header.flags.responder { Role::Initiator } else { Role::Responder };
                match ends[to.index()] {
                    Some(remote) => Look::Decided(Verdict::Forward(remote.into())),
                    None => refused("path id", Reason::Unexpected),
                }
            }
            Some(Does::Open(open)) => {
                let Some(opening) = open.epochs.iter().find(|o| o.keys.epoch() == header.epoch) else {
                    return refused("epoch", Reason::Unknown(header.epoch.into()));
                };
                if !opening.window.check(header.sequence) {
                    return refused("sequence", Reason::Replayed(header.sequence));
                }
                match opening.keys.check(&header, datagram) {
                    Ok(()) => Look::Sealed(header, &opening.keys),
                    Err(refusal) => Look::Decided(Verdict::Refused(refusal)),
                }
            }
        }
    }

    /// Judges a datagram that was looked at, and opened if `opened`. Others may have been taken since: its number is judged again.
    fn take(&mut self, header: &Header, opened: bool, datagram: &[u8]) -> Verdict {
        let refused = |field, reason| Verdict::Refused(Refusal::new(field, reason));
        let Some(Open { flow, epochs, usage, translated }) = self.open_mut(PathId(header.id)) else {
            return refused("path id", Reason::Stranger);
        };
        let Some(opening) = epochs.iter_mut().find(|o| o.keys.epoch() == header.epoch) else {
            return refused("epoch", Reason::Unknown(header.epoch.into()));
        };
        if !opening.window.check(header.sequence) {
            return refused("sequence", Reason::Replayed(header.sequence));
        }
        if !opened {
            return refused("mac", Reason::Mac);
        }
        opening.window.accept(header.sequence);
        let inner = inner_at(header);
        match Flow::of(&datagram[inner.clone()]) {
            Err(refusal) => return Verdict::Refused(refusal),
            Ok(shown) if shown != *flow => return refused("inner addresses", Reason::Conflict),
            Ok(_) => {}
        }
        if let Some(usage) = usage {
            usage.note();
        }
        if *translated { Verdict::Translate(inner) } else { Verdict::Deliver(inner) }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Outbound;
    use super::super::tests::{PATH, ends, flow, keys, packet, sealed};
    use super::*;
    use crate::crypto::{SharedKey, Suite, sealed_len};

    /// A batch gets the verdicts that its datagrams get one by one: good ones of two paths, a copy, a changed one, strangers, other messages.
    #[test]
    fn a_batch_is_judged_as_its_datagrams_are_alone() {
        // In a small table, and in one whose entries are asked for beforehand.
        [0, 5000].into_iter().for_each(a_batch_beside);
    }

    fn a_batch_beside(others: u32) {
        let (mut out, mut inb) = ends(0);
        let (_, mut alone) = ends(0);
        for n in 0..others {
            let mut id = [3; 16];
            id[..4].copy_from_slice(&n.to_be_bytes());
            inb.apply(&DataUpdate::Switch { path: PathId(id), ends: [None, None] });
        }
        assert_eq!(inb.paths.is_far(), others > 0);
        let other = PathId([2; 16]);
        let switch = DataUpdate::Switch { path: other, ends: [None, Some("192.0.2.2:2".parse().unwrap())] };
        inb.apply(&switch);
        alone.apply(&switch);
        let mut datagrams: Vec<_> = (0..9).map(|n| sealed(&mut out, &packet(flow(), n * 150))).collect();
        datagrams.insert(4, datagrams[3].clone());
        datagrams[7][40] ^= 1;
        datagrams.insert(2, vec![1, 2, 3]);
        let keys = DataKeys::new(&SharedKey::new([8; 32]), other, 0, Suite::None, Role::Initiator);
        let mut passed = vec![0; sealed_len(Suite::None, 20)];
        keys.place(1, 20, &mut passed).unwrap();
        datagrams.insert(5, passed);

        let mut places = Vec::new();
        let mut buffer: Vec<u8> = Vec::new();
        for datagram in &datagrams {
            places.push(buffer.len()..buffer.len() + datagram.len());
            buffer.extend(datagram);
        }
        let mut verdicts = vec![Verdict::Control];
        inb.judge_all(&mut buffer, &places, &mut verdicts);
        let expected: Vec<_> = datagrams.iter_mut().map(|datagram| alone.judge(datagram)).collect();
        assert_eq!(verdicts, expected);
        // What is left of a refused one, nobody looks at.
        for ((place, datagram), verdict) in places.iter().zip(&datagrams).zip(&verdicts) {
            if !matches!(verdict, Verdict::Refused(_)) {
                assert_eq!(&buffer[place.clone()], datagram);
            }
        }
        let kinds = verdicts.iter().map(|verdict| match verdict {
            Verdict::Deliver(_) | Verdict::Translate(_) => 'd',
            Verdict::Forward(_) => 'f',
            Verdict::Control => 'c',
            Verdict::Refused(_) => 'r',
        });
        assert_eq!(kinds.collect::<String>(), "ddcddfrddrdd");
    }

    #[test]
    fn packets_of_the_last_epochs_are_opened_and_older_ones_not() {
        let (mut out, mut inb) = ends(0);
        let mut old = sealed(&mut out, &packet(flow(), 1));
        for epoch in 1..EPOCHS_KEPT as u8 {
            inb.apply(&DataUpdate::Receive { flow: flow(), keys: keys(epoch, Role::Initiator) });
        }
        assert!(matches!(inb.judge(&mut old.clone()), Verdict::Deliver(_)));
        inb.apply(&DataUpdate::Receive { flow: flow(), keys: keys(9, Role::Initiator) });
        assert_eq!(inb.judge(&mut old), Verdict::Refused(Refusal::new("epoch", Reason::Unknown(0))));
    }

    #[test]
    fn an_inner_packet_cannot_claim_other_addresses() {
        let (mut out, mut inb) = (Outbound::default(), Inbound::default());
        let lie = Flow { source: [198, 18, 9, 9].into(), ..flow() };
        out.apply(&DataUpdate::Send {
            flow: lie,
            remote: "192.0.2.1:1".parse().unwrap(),
            keys: keys(0, Role::Initiator),
            first: 1,
        });
        inb.apply(&DataUpdate::Receive { flow: flow(), keys: keys(0, Role::Initiator) });
        let mut datagram = sealed(&mut out, &packet(lie, 1));
        assert_eq!(
            inb.judge(&mut datagram),
            Verdict::Refused(Refusal::new("inner addresses", Reason::Conflict))
        );
    }

    /// T4.1.3-a, T5.2-a: by its Path ID an RS-S passes a packet on without a byte of it changed, to the other side than it came from.
    #[test]
    fn a_switch_forwards_unchanged_to_the_other_side() {
        let (mut out, _) = ends(0);
        let (a, b) = ("192.0.2.1:1".parse().unwrap(), "192.0.2.2:2".parse().unwrap());
        let mut relay = Inbound::default();
        let mut datagram = sealed(&mut out, &packet(flow(), 50));
        let copy = datagram.clone();
        assert_eq!(relay.judge(&mut datagram), Verdict::Refused(Refusal::new("path id", Reason::Stranger)));
        relay.apply(&DataUpdate::Switch { path: PATH, ends: [Some(a), None] });
        assert_eq!(relay.judge(&mut datagram), Verdict::Refused(Refusal::new("path id", Reason::Unexpected)));
        relay.apply(&DataUpdate::Switch { path: PATH, ends: [Some(a), Some(b)] });
        assert_eq!(relay.judge(&mut datagram), Verdict::Forward(b));
        assert_eq!(datagram, copy);
        relay.apply(&DataUpdate::Forget { path: PATH });
        assert_eq!(relay.judge(&mut datagram), Verdict::Refused(Refusal::new("path id", Reason::Stranger)));
    }

    /// A tunnel's end is the address that it was given, of either family (T3.1-d).
    #[test]
    fn ends_are_kept_as_they_are() {
        for end in ["192.0.2.1:1", "0.0.0.0:0", "[2001:db8::1]:65535", "[::ffff:192.0.2.1]:7", "[::]:9"] {
            let end: SocketAddr = end.parse().unwrap();
            assert_eq!(SocketAddr::from(End::from(end)), end);
        }
    }
}
