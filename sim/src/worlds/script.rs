//! A random world as data: who is in it, how links and NATs behave, and what happens when. A pure function of a seed makes one; others
//! play it, judge it, and make it smaller.

use std::fmt;
use std::net::IpAddr;

use ntm_nat::Behaviour;
use ntm_protocol::session::LONGEST;
use ntm_protocol::terminal::Handover;
use ntm_protocol::time::Duration;

use super::families::Families;
use crate::clock::Clock;
use crate::flow::Turns;
use crate::impair::Impairment;

/// How long a world lasts.
pub const LENGTH: Duration = Duration::from_secs(60);
/// When faults stop: what is down starts again, what is cut is mended, links do nothing to packets but delay them.
pub const CALM: Duration = Duration::from_secs(30);
/// When applications ask once more for everybody whom somebody talked to.
pub const AFRESH: Duration = Duration::from_secs(42);
/// How long after the faults a name may still be refused. Whatever is unanswered is repeated every two seconds at least, and Keep-alives are no
/// further apart; so by then everybody is heard again. What was asked of the DC or of a peer before that is given up after [`LONGEST`] at most.
///
/// Ten seconds would not do: a question may wait for as long as that, and be asked in the first second after the faults.
pub const REFUSED: Duration = Duration::from_secs(2).saturating_add(LONGEST);
/// From here on nothing is lost.
pub const SETTLED: Duration = Duration::from_secs(55);

/// A world and what happens in it.
#[derive(Clone, PartialEq, Debug)]
pub struct Script {
    /// Of all that is random in the world itself.
    pub seed: u64,
    /// Between two Keep-alives.
    pub keep_alive: Duration,
    /// What a DC's write takes until it is durable, and again until the DC knows.
    pub write: Duration,
    /// How long a path and a relay's entry stay that nobody uses.
    pub lifetime: Duration,
    /// The most entries of a relay.
    pub capacity: usize,
    /// What terminals do on a handover.
    pub handover: Handover,
    /// What every link does to packets in each direction, until the calm.
    pub impairment: Impairment,
    /// The virtual ranges of the DCs, as prefix lengths.
    pub coordinators: Vec<u8>,
    /// How many relays there are; each registers at every DC.
    pub relays: usize,
    /// The NATs.
    pub sites: Vec<Behaviour>,
    /// The terminals.
    pub terminals: Vec<Resident>,
    /// How many general nodes there are.
    pub generals: usize,
    /// Whether applications ask again and again from the end of the faults on, as resolvers do, for everybody whom somebody talked to.
    pub insistent: bool,
    /// Clocks that are not the world's.
    pub clocks: Vec<(Who, Clock)>,
    /// Who has IPv6.
    pub families: Families,
    /// What happens, in the order of time.
    pub timeline: Vec<Entry>,
}

/// A terminal.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Resident {
    /// Its DC.
    pub coordinator: usize,
    /// Where it begins.
    pub at: Place,
    /// When it starts.
    pub start: Duration,
}

/// Where a terminal is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    /// In no network.
    Nowhere,
    /// On the public network, at its first address there or its other.
    Public {
        /// At the other.
        other: bool,
    },
    /// Behind a NAT, at its first address there or its other.
    Behind {
        /// Which NAT.
        site: usize,
        /// At the other address.
        other: bool,
    },
}

/// Something that happens.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Entry {
    /// When.
    pub at: Duration,
    /// What.
    pub act: Act,
}

/// What happens.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Act {
    /// An application asks for a peer and sends it a packet every `period`.
    Talk {
        /// On which terminal.
        from: usize,
        /// To whom.
        to: Peer,
        /// Between two packets.
        period: Duration,
    },
    /// The application of the conversation that began as the `n`th ends.
    HangUp {
        /// Which.
        n: usize,
    },
    /// An application connects to a peer by TCP, and says something every `period`.
    Stream {
        /// On which terminal.
        from: usize,
        /// To whom.
        to: Peer,
        /// Between two messages.
        period: Duration,
        /// How its connections follow each other, if one is not to be all.
        turns: Option<Turns>,
    },
    /// A terminal moves.
    Move {
        /// Who.
        terminal: usize,
        /// Where to.
        to: Place,
    },
    /// A node is killed, and started again.
    Crash {
        /// Who.
        who: Who,
        /// After which time.
        down: Duration,
        /// Whether its disk is lost, too.
        disk: bool,
        /// Whether the moment is the first, within five seconds, at which a write of the DC is under way.
        writing: bool,
    },
    /// Datagrams from one to the other are lost for a time.
    Cut {
        /// From whom.
        from: Spot,
        /// To whom.
        to: Spot,
        /// Whether those the other way pass.
        one_way: bool,
        /// For how long.
        lasts: Duration,
    },
}

/// With whom an application talks.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Peer {
    /// A terminal.
    Terminal(usize),
    /// A general node.
    General(usize),
}

/// Who can crash.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Who {
    /// A DC.
    Coordinator(usize),
    /// A relay.
    Relay(usize),
    /// A terminal.
    Terminal(usize),
}

/// Whoever has a public address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Spot {
    /// A DC.
    Coordinator(usize),
    /// A relay.
    Relay(usize),
    /// A NAT.
    Site(usize),
    /// A terminal, at its first public address.
    Terminal(usize),
}

impl Spot {
    /// Its public address in IPv4.
    pub fn address(self) -> IpAddr {
        match self {
            Self::Coordinator(n) => public(3, n),
            Self::Relay(n) => public(20, n),
            Self::Site(n) => public(100, n),
            Self::Terminal(n) => Place::Public { other: false }.address(n).unwrap_or(public(200, n)),
        }
    }
}

/// The address of general node `n` in IPv4.
pub fn general_address(n: usize) -> IpAddr {
    public(60, n)
}

fn public(first: u8, n: usize) -> IpAddr {
    [203, 0, 113, first + n as u8].into()
}

impl Place {
    /// The address that terminal `n` has there in IPv4.
    pub fn address(self, n: usize) -> Option<IpAddr> {
        let n = n as u8;
        match self {
            Self::Nowhere => None,
            Self::Public { other } => Some([203, 0, 113, 200 + 2 * n + u8::from(other)].into()),
            Self::Behind { other, .. } => Some([10, 0, 0, 2 + 2 * n + u8::from(other)].into()),
        }
    }

    /// The NAT that it is behind.
    pub fn site(self) -> Option<usize> {
        match self {
            Self::Behind { site, .. } => Some(site),
            _ => None,
        }
    }
}

impl Script {
    /// Whether a DC's disk is lost.
    pub fn loses_records_of(&self, coordinator: usize) -> bool {
        self.timeline.iter().any(|entry| {
            matches!(entry.act, Act::Crash { who: Who::Coordinator(n), disk: true, .. } if n == coordinator)
        })
    }

    /// Where a terminal is in the end: where it moved last, or where it began if that is nowhere.
    pub fn last_place(&self, terminal: usize) -> Place {
        let mut moves = self.timeline.iter().filter_map(|entry| match entry.act {
            Act::Move { terminal: who, to } if who == terminal => Some(to),
            _ => None,
        });
        moves.next_back().filter(|place| *place != Place::Nowhere).unwrap_or(self.terminals[terminal].at)
    }

    /// Everybody who talks to somebody, each pair once.
    pub fn pairs(&self) -> Vec<(usize, Peer)> {
        self.distinct(|act| match act {
            Act::Talk { from, to, .. } => Some((from, to)),
            _ => None,
        })
    }

    /// Everybody who has a connection to somebody, each pair once.
    pub fn connected(&self) -> Vec<(usize, Peer)> {
        self.distinct(|act| match act {
            Act::Stream { from, to, .. } => Some((from, to)),
            _ => None,
        })
    }

    /// How connections of a pair follow each other, for the first of its streams where they do.
    pub fn turns(&self, pair: (usize, Peer)) -> Option<Turns> {
        self.timeline.iter().find_map(|entry| match entry.act {
            Act::Stream { from, to, turns, .. } if (from, to) == pair => turns,
            _ => None,
        })
    }

    /// The ends of what happens, in the order in which each pair comes first.
    fn distinct(&self, ends: impl Fn(Act) -> Option<(usize, Peer)>) -> Vec<(usize, Peer)> {
        let mut pairs = Vec::new();
        for pair in self.timeline.iter().filter_map(|entry| ends(entry.act)) {
            if !pairs.contains(&pair) {
                pairs.push(pair);
            }
        }
        pairs
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let other = |other| if other { ", at another address" } else { "" };
        match self {
            Self::Nowhere => write!(f, "nowhere"),
            Self::Public { other: o } => write!(f, "the public network{}", other(*o)),
            Self::Behind { site, other: o } => write!(f, "behind nat{site}{}", other(*o)),
        }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Terminal(n) => write!(f, "mn{n}"),
            Self::General(n) => write!(f, "gn{n}"),
        }
    }
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Coordinator(n) => write!(f, "dc{n}"),
            Self::Relay(n) => write!(f, "rs{n}"),
            Self::Terminal(n) => write!(f, "mn{n}"),
        }
    }
}

impl fmt::Display for Spot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Coordinator(n) => write!(f, "dc{n}"),
            Self::Relay(n) => write!(f, "rs{n}"),
            Self::Site(n) => write!(f, "nat{n}"),
            Self::Terminal(n) => write!(f, "mn{n}"),
        }
    }
}

impl fmt::Display for Act {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Talk { from, to, period } => write!(f, "mn{from} talks to {to}, every {period:?}"),
            Self::Stream { from, to, period, turns } => {
                write!(f, "mn{from} connects to {to}, and says something every {period:?}")?;
                let Some(Turns { lasts, by_server, half, pause, ports, asks }) = turns else { return Ok(()) };
                let first = if *by_server { "the server" } else { "the client" };
                let asks = if *asks { " asks and" } else { "" };
                write!(f, "; {first} closes after {lasts:?}, the other {half:?} later; {pause:?} later it")?;
                write!(f, "{asks} connects again, from {ports} ports in turn")
            }
            Self::HangUp { n } => write!(f, "conversation {n} ends"),
            Self::Move { terminal, to } => write!(f, "mn{terminal} moves to {to}"),
            Self::Crash { who, down, disk, writing } => {
                let disk = if *disk { " and loses its disk" } else { "" };
                let writing = if *writing { " as it writes" } else { "" };
                write!(f, "{who} crashes{writing}{disk}, for {down:?}")
            }
            Self::Cut { from, to, one_way, lasts } => {
                let arrow = if *one_way { "→" } else { "↔" };
                write!(f, "{from} {arrow} {to} is cut for {lasts:?}")
            }
        }
    }
}

/// Everything, for a reader.
impl fmt::Display for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let way = &self.impairment;
        writeln!(
            f,
            "keep-alive {:?}, write {:?}, lifetime {:?}, {} entries at most, handover {:?}",
            self.keep_alive, self.write, self.lifetime, self.capacity, self.handover
        )?;
        writeln!(
            f,
            "links: {:?} one way, loss {}, duplicates {}, reordering {}",
            way.delay, way.loss, way.duplicate, way.reorder
        )?;
        for (n, prefix) in self.coordinators.iter().enumerate() {
            writeln!(f, "dc{n} has a /{prefix}")?;
        }
        writeln!(f, "{} relays, {} general nodes", self.relays, self.generals)?;
        if self.insistent {
            writeln!(f, "applications ask again and again from {CALM:?} on")?;
        }
        for (n, behaviour) in self.sites.iter().enumerate() {
            writeln!(f, "nat{n}: {behaviour}")?;
        }
        for (n, Resident { coordinator, at, start }) in self.terminals.iter().enumerate() {
            writeln!(f, "mn{n} of dc{coordinator} starts at {start:?}: {at}")?;
        }
        for (who, Clock { offset, drift }) in &self.clocks {
            writeln!(f, "the clock of {who} shows {offset:?} at first, and gains {drift} ppm")?;
        }
        write!(f, "{}", self.families)?;
        self.timeline.iter().try_for_each(|Entry { at, act }| writeln!(f, "{at:>12?} {act}"))
    }
}
