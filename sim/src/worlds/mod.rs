//! Random worlds against a reference model: a seed gives a world and what happens in it ([`generate`]), it is played ([`play`](mod@play)),
//! and the model says whether all is as it must be ([`judge`]): safety while faults last, and liveness after they stopped.
//!
//! What fails is replayed by its seed, and made smaller (`shrink`). [`census`] counts how often each rare event occurred, so
//! that a search that meets none is not taken for one that finds nothing.
//!
//! ```
//! let seen = ntm_sim::worlds::examine(&ntm_sim::worlds::generate(7));
//! assert_eq!(seen.fault, None);
//! ```

pub mod census;
pub mod families;
mod generate;
mod many;
mod model;
pub mod play;
pub mod script;
mod shrink;
mod streams;

use std::panic::{AssertUnwindSafe, catch_unwind};

use ntm_protocol::time::Instant;

use census::Census;
use script::Script;

pub use generate::{generate, of_datagrams};
pub use many::many;
pub use model::judge;
pub use shrink::shrink;
pub use streams::Begun;

/// Seeds whose worlds once failed, each with what was wrong: they are tried first.
pub const ONCE_FAILED: &[(u64, &str)] = &[
    (230, "a terminal got another VIP after its DC had lost its disk, and kept the path of the old one"),
    (317, "two terminals that asked for one general node at once were told two VIPs"),
    (90, "a DC that had lost its disk was not understood until it was given up: its numbers had gone back"),
    (668, "the same, and a relay was not registered again in time"),
    (
        2594,
        "a peer had another VIP since its DC had lost its disk, and no direction of the path was ever taken again",
    ),
    (882, "the same, where both ends had other VIPs"),
    (4656, "the same, and the peer's DC did not understand the terminal"),
    (5260, "a relay refused a path whose ends had other VIPs since their DC had lost its disk"),
    (
        1763,
        "a terminal that had lost its disk asked with lower Request IDs than before, and its DC was silent",
    ),
    (383, "a name was answered with an error as a path ended that was there before it was asked for"),
    (7070, "the epochs of two ends were half a circle apart, and neither took the other's direction"),
    (6407, "the same, of the two ends and their relay"),
    (6672, "the model took what the DC had decided for what the end had been told"),
    (7821, "the same, where the older direction came last"),
    (1236, "the model took a direction that the end refused for the one that it follows"),
    (9304, "two ends moved at once, and the direction that was decided first was taken for the newer"),
    (8373, "a DC that had lost its disk was not understood by the DC that asked it"),
    (
        7154,
        "one of two paths did not find the direct way; it holds since two DCs no longer refuse each other in turn",
    ),
    (
        2251,
        "a terminal that was called moved meanwhile: both ends were told where it had been, and found no direct way",
    ),
    (7374, "the same, and the terminal had not crashed"),
    (
        6932,
        "the same of a path that was there, and the terminal's own request was answered with an older epoch",
    ),
    (
        5133,
        "who asked for a name asked again after a move, though a path to the peer stood meanwhile: it got a third",
    ),
    (
        7317,
        "a DC that had lost its disk was registered with a number below others of it that had come, and refused then",
    ),
    (
        12611,
        "a terminal that had lost its disk got the answer that it had got to the same request in its life before",
    ),
    (10475, "a DC that had lost its disk gave away a VIP that a relay knew as another general node's"),
    (54479, "the same, and the name came to the DC before the path of the general node that had the VIP"),
    (
        19892,
        "an end whose first try failed asked only where the DC had named the peer, not where it had heard it",
    ),
    (52091, "a name led to another terminal, which had the peer's VIP since their DC had lost its disk"),
    (
        43440,
        "the model took a direction that the end refused for the one that it follows, when it asked what is proved",
    ),
    (
        34201,
        "a DC directed a path by a request that it had given up, and the ends stayed in two epochs, each answered by the relay",
    ),
    (
        352,
        "a general node of both families was asked for at its IPv4 address, to which no relay led from the terminal",
    ),
    (
        1744,
        "a terminal whose DC was silent in IPv4 spoke to it in IPv6 ever after, and a peer found no direct way to it",
    ),
    (2069, "the same, and there was no relay"),
    (600, "the model took NATs to be passed through without a relay that serves both ends"),
    (9815, "the model took a direct path for gone that had lived through a move"),
    (
        14404,
        "the model knew no third path, which an end that had crashed asked for beside the two that its peer had kept",
    ),
    (
        19658,
        "an end that knew no address of its peer, which had not heard the direction, waited for ever to be asked",
    ),
    (
        16054,
        "the model did not know that a path that had ended is another's where the DC does not give it back",
    ),
    (
        19810,
        "the model did not know that a relay that had crashed knows a connection again as its terminal speaks",
    ),
    (42002, "the answer for a name came late, and led a general node's connection to another relay"),
    (
        39387,
        "a direction was repeated to a terminal that had crashed meanwhile: it numbered its packets anew under keys that the peer knew",
    ),
    (
        46639,
        "the model took a VIP that a DC gave at the very instant before it lost its disk for one that it gave after",
    ),
    (
        79885,
        "a direction that was decided for a terminal's former VIP was repeated until it was taken by the terminal with its new one",
    ),
];

/// Seeds whose worlds still fail, each with what is wrong: known, and not mended yet. One that holds has to leave the list.
pub const STILL_FAIL: &[(u64, &str)] = &[];

/// A rule of the model.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Rule {
    /// Nothing panics, and everything comes to rest.
    Sound,
    /// A VIP is one node's (T3.1-a).
    VipUnique,
    /// A node keeps its VIP, over crashes as well (T3.1-a, T4.2.4-a).
    VipKept,
    /// An answer to an application names the peer that it asked for (T3.2.3-b).
    Answer,
    /// No packet comes to another application than the one that it is for.
    Astray,
    /// Nothing comes twice out of a tunnel.
    Twice,
    /// The relay that translates for a path is never another (T4.2.5-b).
    RelayKept,
    /// A direct way is used only when it is proved (T4.1.2-b).
    Proved,
    /// Every byte of a TCP connection comes once, in its place, and to its own application.
    Stream,
    /// A TCP connection lives for as long as both ends, their VIPs and its RS-N do (T4.1.4-b, T4.2.5-b).
    Reset,
    /// After the faults who closes a TCP connection is heard, and another can be made to the same peer and port.
    Closed,
    /// After the faults everybody is registered.
    Registered,
    /// After the faults who asks is answered.
    Answered,
    /// After the faults packets flow, and none is lost.
    Flows,
    /// After the faults paths take the ways that the model says, and end where it says.
    Route,
}

/// What was not as it must be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fault {
    /// The rule that was broken.
    pub rule: Rule,
    /// When.
    pub at: Instant,
    /// How.
    pub what: String,
}

/// What came of a world.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Seen {
    /// The first rule that was broken, if one was.
    pub fault: Option<Fault>,
    /// What occurred.
    pub census: Census,
    /// How many events happened.
    pub events: u64,
}

/// Plays a world and judges it. A panic is a fault.
pub fn examine(script: &Script) -> Seen {
    let played = catch_unwind(AssertUnwindSafe(|| {
        let played = play::play(script);
        let fault = judge(script, &played).err();
        Seen { fault, census: Census::of(script, &played), events: played.world.events() }
    }));
    played.unwrap_or_else(|panic| {
        let said = panic.downcast_ref::<String>().cloned();
        let said = said.or_else(|| panic.downcast_ref::<&str>().map(|said| (*said).to_owned()));
        let what = format!("a panic: {}", said.unwrap_or_default());
        let fault = Some(Fault { rule: Rule::Sound, at: Instant::ZERO, what });
        Seen { fault, census: Census::default(), events: 0 }
    })
}
