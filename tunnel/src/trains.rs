//! Which datagrams go out together: those of one path that follow each other and take one way, all of one size but the last, are a train, which the
//! kernel takes as one and splits as late as it can (`UDP_SEGMENT`). Datagrams of other paths may come in between: a relay regroups so what many senders'
//! packets mixed. Within a path the order stays.

use std::ops::Range;

use ntm_protocol::data::Way;

/// `UDP_MAX_SEGMENTS` of the oldest kernels that have it.
const MAX_SEGMENTS: usize = 64;
/// The longest UDP payload over IPv4; a train must fit one datagram.
const MAX_BYTES: usize = 65_507;

/// Paths whose newest trains are found again; of two that share a place, the one seen last.
const NEWEST: usize = 256;
/// No train, no part.
const NONE: u32 = u32::MAX;

/// The trains of one batch, over places in a buffer.
#[derive(Debug)]
pub(crate) struct Trains {
    trains: Vec<Train>,
    parts: Vec<Part>,
    /// The newest train of each path, at the place that the Path ID gives. Only a path's newest grows, so no datagram overtakes an older one.
    newest: Box<[u32; NEWEST]>,
    enabled: bool,
}

/// Consecutive bytes of a train, and its next part.
#[derive(Debug)]
struct Part {
    place: Range<usize>,
    next: u32,
}

/// Datagrams that go out by one message.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Train {
    /// Where to, and from where.
    pub(crate) way: Way,
    /// Length of each datagram but the last, in bytes.
    pub(crate) segment: usize,
    /// How many there are.
    pub(crate) count: usize,
    /// Length of all.
    pub(crate) bytes: usize,
    path: [u8; 16],
    first: u32,
    last: u32,
    /// In how many parts its bytes lie.
    pub(crate) parts: usize,
}

impl Trains {
    /// No trains yet; with `enabled` false each datagram stays alone.
    pub(crate) fn new(enabled: bool) -> Self {
        Self { trains: Vec::new(), parts: Vec::new(), newest: Box::new([NONE; NEWEST]), enabled }
    }

    /// Adds the datagram at `place` of the buffer. A train has one `path`, because a relay may look at its first datagram only.
    pub(crate) fn push(&mut self, place: Range<usize>, way: &Way, path: &[u8; 16]) {
        let len = place.len();
        let slot = &mut self.newest[usize::from(path[0])];
        if let Some(train) = self.trains.get_mut(*slot as usize).filter(|_| self.enabled)
            && train.way == *way
            && train.path == *path
            && train.bytes == train.count * train.segment
            && len <= train.segment
            && len > 0
            && train.count < MAX_SEGMENTS
            && train.bytes + len <= MAX_BYTES
        {
            train.count += 1;
            train.bytes += len;
            let next = self.parts.len() as u32;
            match self.parts.get_mut(train.last as usize) {
                Some(last) if last.place.end == place.start => last.place.end = place.end,
                last => {
                    if let Some(last) = last {
                        last.next = next;
                    }
                    self.parts.push(Part { place, next: NONE });
                    (train.last, train.parts) = (next, train.parts + 1);
                }
            }
            return;
        }
        *slot = self.trains.len() as u32;
        let part = self.parts.len() as u32;
        self.parts.push(Part { place, next: NONE });
        self.trains.push(Train {
            way: *way,
            segment: len,
            count: 1,
            bytes: len,
            path: *path,
            first: part,
            last: part,
            parts: 1,
        });
    }

    /// The trains, in order.
    pub(crate) fn as_slice(&self) -> &[Train] {
        &self.trains
    }

    /// The places of a train's bytes.
    pub(crate) fn parts(&self, train: &Train) -> impl Iterator<Item = &Range<usize>> {
        let first = self.parts.get(train.first as usize);
        std::iter::successors(first, |part| self.parts.get(part.next as usize)).map(|part| &part.place)
    }

    /// The places of a train's datagrams, one by one.
    pub(crate) fn datagrams(&self, train: &Train) -> impl Iterator<Item = Range<usize>> {
        // A part holds whole datagrams: only the train's last is short, and it ends its part.
        self.parts(train).flat_map(|part| {
            part.clone().step_by(train.segment.max(1)).map(|at| at..part.end.min(at + train.segment))
        })
    }

    /// Whether there are none.
    pub(crate) fn is_empty(&self) -> bool {
        self.trains.is_empty()
    }

    /// Forgets all.
    pub(crate) fn clear(&mut self) {
        if !self.trains.is_empty() {
            self.newest.fill(NONE);
        }
        self.trains.clear();
        self.parts.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ntm_protocol::data::Local;
    use proptest::prelude::*;
    use std::net::SocketAddr;

    fn to(port: u16) -> Way {
        SocketAddr::from(([192, 0, 2, 1], port)).into()
    }

    fn shapes(trains: &Trains) -> Vec<(usize, usize, usize)> {
        trains.as_slice().iter().map(|t| (t.segment, t.count, t.bytes)).collect()
    }

    fn places(trains: &Trains, at: usize) -> Vec<Range<usize>> {
        trains.parts(&trains.as_slice()[at]).cloned().collect()
    }

    /// Packets of three senders, one after the other, are three trains again, of one short datagram at most.
    #[test]
    fn interleaved_paths_are_regrouped() {
        let mut trains = Trains::new(true);
        for n in 0..30 {
            let path = (n % 3) as u8;
            trains.push(n * 10..n * 10 + 10, &to(path.into()), &[path; 16]);
        }
        // Each of them ends its train; what comes later begins another.
        for n in 30..36 {
            let path = (n % 3) as u8;
            trains.push(n * 10..n * 10 + 10 - usize::from(n < 33), &to(path.into()), &[path; 16]);
        }
        assert_eq!(shapes(&trains), [[(10, 11, 109); 3], [(10, 1, 10); 3]].concat());
        assert_eq!(places(&trains, 1)[..3], [10..20, 40..50, 70..80]);
        trains.clear();
        trains.push(0..10, &to(1), &[1; 16]);
        assert_eq!(shapes(&trains), [(10, 1, 10)], "nothing of the batch before");
    }

    #[test]
    fn equal_sizes_join_and_a_short_one_ends_the_train() {
        let mut trains = Trains::new(true);
        for place in [0..100, 100..200, 200..250, 250..300, 300..400] {
            trains.push(place, &to(1), &[0; 16]);
        }
        assert_eq!(shapes(&trains), [(100, 3, 250), (50, 1, 50), (100, 1, 100)]);
        let whole = 0..250;
        assert_eq!(places(&trains, 0), [whole]);
    }

    #[test]
    fn another_address_or_path_begins_a_train() {
        let mut trains = Trains::new(true);
        trains.push(0..10, &to(1), &[0; 16]);
        trains.push(10..20, &to(2), &[0; 16]);
        trains.push(20..30, &to(2), &[1; 16]);
        trains.push(40..50, &to(2), &[1; 16]);
        assert_eq!(shapes(&trains), [(10, 1, 10), (10, 1, 10), (10, 2, 20)]);
        assert_eq!(places(&trains, 2), [20..30, 40..50]);
        let mut alone = Trains::new(false);
        (0..3).for_each(|n| alone.push(n..n + 1, &to(1), &[0; 16]));
        assert_eq!(shapes(&alone), [(1, 1, 1); 3]);
        let mut trains = Trains::new(true);
        trains.push(0..10, &to(1), &[0; 16]);
        let local = Local { address: [192, 0, 2, 9].into(), link: None };
        trains.push(10..20, &Way { local: Some(local), ..to(1) }, &[0; 16]);
        assert_eq!(shapes(&trains), [(10, 1, 10); 2], "another interface");
    }

    proptest! {
        #[test]
        fn every_datagram_goes_out_once_in_order_within_the_limits(
            // Paths 1 and 7 share a place among the newest.
            datagrams in prop::collection::vec(
                (prop::sample::select(vec![1usize, 40, 1472, 9000]), 0..2u16, 0..2usize, prop::sample::select(vec![0u8, 1, 7])),
                0..300,
            ),
        ) {
            let mut trains = Trains::new(true);
            let mut pushed = Vec::new();
            let mut at = 0;
            for (len, port, hole, path) in datagrams {
                at += hole;
                let mut id = [0; 16];
                id[..2].copy_from_slice(&[path & 1, path]);
                trains.push(at..at + len, &to(port), &id);
                pushed.push((path, at..at + len, to(port)));
                at += len;
            }
            let mut sent = Vec::new();
            for train in trains.as_slice() {
                prop_assert!(train.count <= MAX_SEGMENTS && train.bytes <= MAX_BYTES);
                let total: usize = trains.parts(train).map(|part| part.len()).sum();
                prop_assert_eq!(trains.parts(train).count(), train.parts);
                prop_assert_eq!(total, train.bytes);
                prop_assert_eq!(train.bytes.div_ceil(train.segment), train.count);
                sent.extend(trains.datagrams(train).map(|place| (train.path[1], place, train.way)));
            }
            sent.sort_by_key(|(path, ..)| *path);
            pushed.sort_by_key(|(path, ..)| *path);
            prop_assert_eq!(sent, pushed, "in the order of each path");
        }
    }
}
