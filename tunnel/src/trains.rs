//! Which datagrams go out together: consecutive ones of one path that take one way, all of one size but the last, are a train, which the
//! kernel takes as one and splits as late as it can (`UDP_SEGMENT`).

use std::ops::Range;

use ntm_protocol::data::Way;

/// `UDP_MAX_SEGMENTS` of the oldest kernels that have it.
const MAX_SEGMENTS: usize = 64;
/// The longest UDP payload over IPv4; a train must fit one datagram.
const MAX_BYTES: usize = 65_507;

/// The trains of one batch, over places in a buffer.
#[derive(Debug)]
pub(crate) struct Trains {
    trains: Vec<Train>,
    parts: Vec<Range<usize>>,
    enabled: bool,
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
    parts: Range<usize>,
}

impl Trains {
    /// No trains yet; with `enabled` false each datagram stays alone.
    pub(crate) fn new(enabled: bool) -> Self {
        Self { trains: Vec::new(), parts: Vec::new(), enabled }
    }

    /// Adds the datagram at `place` of the buffer. A train has one `path`, because a relay may look at its first datagram only.
    pub(crate) fn push(&mut self, place: Range<usize>, way: Way, path: [u8; 16]) {
        let len = place.len();
        if let Some(train) = self.trains.last_mut().filter(|_| self.enabled)
            && train.way == way
            && train.path == path
            && train.bytes == train.count * train.segment
            && len <= train.segment
            && len > 0
            && train.count < MAX_SEGMENTS
            && train.bytes + len <= MAX_BYTES
        {
            train.count += 1;
            train.bytes += len;
            match self.parts.last_mut() {
                Some(last) if last.end == place.start => last.end = place.end,
                _ => {
                    self.parts.push(place);
                    train.parts.end += 1;
                }
            }
            return;
        }
        let parts = self.parts.len()..self.parts.len() + 1;
        self.parts.push(place);
        self.trains.push(Train { way, segment: len, count: 1, bytes: len, path, parts });
    }

    /// The trains, in order.
    pub(crate) fn as_slice(&self) -> &[Train] {
        &self.trains
    }

    /// The places of a train's bytes.
    pub(crate) fn parts(&self, train: &Train) -> &[Range<usize>] {
        &self.parts[train.parts.clone()]
    }

    /// The places of a train's datagrams, one by one.
    pub(crate) fn datagrams(&self, train: &Train) -> impl Iterator<Item = Range<usize>> {
        // A part holds whole datagrams: only the train's last is short, and it ends its part.
        self.parts(train).iter().flat_map(|part| {
            part.clone().step_by(train.segment.max(1)).map(|at| at..part.end.min(at + train.segment))
        })
    }

    /// Whether there are none.
    pub(crate) fn is_empty(&self) -> bool {
        self.trains.is_empty()
    }

    /// Forgets all.
    pub(crate) fn clear(&mut self) {
        self.trains.clear();
        self.parts.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::net::SocketAddr;

    fn to(port: u16) -> Way {
        SocketAddr::from(([192, 0, 2, 1], port)).into()
    }

    fn shapes(trains: &Trains) -> Vec<(usize, usize, usize)> {
        trains.as_slice().iter().map(|t| (t.segment, t.count, t.bytes)).collect()
    }

    #[test]
    fn equal_sizes_join_and_a_short_one_ends_the_train() {
        let mut trains = Trains::new(true);
        for place in [0..100, 100..200, 200..250, 250..300, 300..400] {
            trains.push(place, to(1), [0; 16]);
        }
        assert_eq!(shapes(&trains), [(100, 3, 250), (50, 1, 50), (100, 1, 100)]);
        assert_eq!(trains.parts(&trains.as_slice()[0]), std::slice::from_ref(&(0..250)));
    }

    #[test]
    fn another_address_or_path_begins_a_train() {
        let mut trains = Trains::new(true);
        trains.push(0..10, to(1), [0; 16]);
        trains.push(10..20, to(2), [0; 16]);
        trains.push(20..30, to(2), [1; 16]);
        trains.push(40..50, to(2), [1; 16]);
        assert_eq!(shapes(&trains), [(10, 1, 10), (10, 1, 10), (10, 2, 20)]);
        assert_eq!(trains.parts(&trains.as_slice()[2]), [20..30, 40..50]);
        let mut alone = Trains::new(false);
        (0..3).for_each(|n| alone.push(n..n + 1, to(1), [0; 16]));
        assert_eq!(shapes(&alone), [(1, 1, 1); 3]);
        let mut trains = Trains::new(true);
        trains.push(0..10, to(1), [0; 16]);
        trains.push(10..20, Way { local: Some([192, 0, 2, 9].into()), ..to(1) }, [0; 16]);
        assert_eq!(shapes(&trains), [(10, 1, 10); 2], "another interface");
    }

    proptest! {
        #[test]
        fn every_datagram_goes_out_once_in_order_within_the_limits(
            datagrams in prop::collection::vec((prop::sample::select(vec![1usize, 40, 1472, 9000]), 0..2u16, 0..2usize), 0..300),
        ) {
            let mut trains = Trains::new(true);
            let mut pushed = Vec::new();
            let mut at = 0;
            for (len, port, hole) in datagrams {
                at += hole;
                trains.push(at..at + len, to(port), [0; 16]);
                pushed.push((at..at + len, to(port)));
                at += len;
            }
            let mut sent = Vec::new();
            for train in trains.as_slice() {
                prop_assert!(train.count <= MAX_SEGMENTS && train.bytes <= MAX_BYTES);
                let total: usize = trains.parts(train).iter().map(|part| part.len()).sum();
                prop_assert_eq!(total, train.bytes);
                prop_assert_eq!(train.bytes.div_ceil(train.segment), train.count);
                sent.extend(trains.datagrams(train).map(|place| (place, train.way)));
            }
            prop_assert_eq!(sent, pushed);
        }
    }
}
