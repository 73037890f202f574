//! Traffic between nodes, and commands.

use std::time::Duration;

use hickory_proto::rr::RecordType;
use ntm_protocol::addr::Fqdn;
use toml::Spanned;

use crate::flow::ftp::{self, Mode};
use crate::flow::pingpong;

/// Traffic between nodes, or a command.
#[derive(Debug, Clone)]
pub struct Flow {
    /// Names it in expectations.
    pub id: Spanned<String>,
    /// The id that the file has, where it is one of those that each terminal of a group has.
    pub of: Option<String>,
    /// When it starts, from the moment all daemons are ready.
    pub start: Duration,
    /// It is ended after so long.
    pub duration: Option<Duration>,
    /// How it should end, where the scenario says so.
    pub ends: Option<End>,
    /// What it is.
    pub kind: FlowKind,
}

/// How a flow ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// It did what it was there for.
    Complete,
    /// It ended by itself without that.
    Failed,
    /// Its time was over first.
    Cut,
}

impl End {
    /// Their words in scenario files and reports.
    pub const WORDS: &[(&str, Self)] =
        &[("complete", Self::Complete), ("failed", Self::Failed), ("cut", Self::Cut)];

    /// Its word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::Failed => "failed",
            Self::Cut => "cut",
        }
    }
}

/// What a flow is.
#[derive(Debug, Clone)]
pub enum FlowKind {
    /// A transfer by iperf3, TCP's or UDP's.
    Iperf3 {
        /// Ends.
        ends: Ends,
        /// How long data flows.
        duration: Duration,
        /// Whether it is datagrams at a steady rate instead of TCP.
        udp: bool,
        /// Whether data flows from `to` to `from`.
        reverse: bool,
        /// At most this many bits per second.
        rate: Option<u64>,
        /// Data flows for so long before it is measured.
        omit: Duration,
        /// TCP's congestion control, as the kernel calls it; the kernel's own unless given.
        congestion: Option<String>,
        /// The sockets' buffers in bytes, which bound what is under way.
        window: Option<u64>,
        /// How many connections, or streams of datagrams, at once.
        streams: u64,
        /// What each write, or datagram, has in bytes; iperf3's own unless given.
        length: Option<u64>,
    },
    /// ICMP echo by name.
    Ping {
        /// Ends.
        ends: Ends,
        /// How many requests.
        count: u64,
        /// Time between them.
        interval: Duration,
    },
    /// DNS questions.
    Dns {
        /// Where they are asked.
        node: Spanned<String>,
        /// Who is asked; the node's own resolver unless given.
        server: Option<Spanned<String>>,
        /// The name asked for.
        name: Spanned<String>,
        /// The records asked for.
        record: RecordType,
        /// How many questions.
        count: u64,
        /// From one to the next.
        interval: Duration,
    },
    /// A page fetched with curl from an HTTP server.
    Http {
        /// Ends.
        ends: Ends,
        /// Bytes of the page.
        size: u64,
    },
    /// A file fetched by FTP with curl from vsftpd.
    Ftp {
        /// Ends.
        ends: Ends,
        /// Who opens the data connection.
        mode: Mode,
        /// Bytes of the file.
        size: u64,
        /// At most this many bits per second.
        rate: Option<u64>,
    },
    /// Calls by SIP with media by RTP, from sipp to sipp.
    Sip {
        /// Ends.
        ends: Ends,
        /// How many calls, one after the other.
        calls: u64,
        /// How long each is.
        duration: Duration,
        /// Whether there is a voice in them.
        media: bool,
    },
    /// UDP datagrams, each answered by one.
    Udp {
        /// Ends.
        ends: Ends,
        /// Payload of each, in bytes.
        size: u64,
        /// Payload of each answer.
        reply: u64,
        /// How many.
        count: u64,
        /// Time between them.
        interval: Duration,
        /// Whether both ends forbid to cut them up.
        whole: bool,
        /// Whether anybody answers.
        listen: bool,
    },
    /// Small messages over one TCP connection, each sent when the answer to the one before is there.
    PingPong {
        /// Ends.
        ends: Ends,
        /// How many.
        count: u64,
        /// Bytes of each, and of its answer.
        size: u64,
    },
    /// Numbered and timed datagrams in both directions at once.
    Probe {
        /// Ends.
        ends: Ends,
        /// How long each end sends.
        duration: Duration,
        /// Time between two of one end.
        interval: Duration,
        /// Payload of each, in bytes.
        size: u64,
    },
    /// Any command.
    Exec {
        /// Where it runs.
        node: Spanned<String>,
        /// The program and its arguments.
        command: Vec<String>,
        /// It is ended after this time.
        timeout: Duration,
    },
}

/// The ends of a kind of flow, or else the one node that it is at; by reference as the kind is.
macro_rules! ends_of {
    ($kind:expr) => {
        match $kind {
            Self::Iperf3 { ends, .. }
            | Self::Ping { ends, .. }
            | Self::Http { ends, .. }
            | Self::Ftp { ends, .. }
            | Self::Sip { ends, .. }
            | Self::Udp { ends, .. }
            | Self::PingPong { ends, .. }
            | Self::Probe { ends, .. } => Ok(ends),
            Self::Dns { node, .. } | Self::Exec { node, .. } => Err(node),
        }
    };
}

impl FlowKind {
    /// Whether it is a program of the host, and no application of which the simulator has its own.
    pub fn is_of_the_host(&self) -> bool {
        matches!(self, Self::Exec { .. } | Self::Ftp { .. } | Self::Sip { .. })
    }

    /// Its key in scenario files.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Iperf3 { .. } => "iperf3",
            Self::Ping { .. } => "ping",
            Self::Dns { .. } => "dns",
            Self::Http { .. } => "http",
            Self::Ftp { .. } => "ftp",
            Self::Sip { .. } => "sip",
            Self::Udp { .. } => "udp",
            Self::PingPong { .. } => "pingpong",
            Self::Probe { .. } => "probe",
            Self::Exec { .. } => "exec",
        }
    }

    /// The same with `from` as its client.
    pub fn with_client(mut self, from: &str) -> Self {
        if let Ok(ends) = ends_of!(&mut self) {
            ends.from = Spanned::new(ends.from.span(), from.to_owned());
        }
        self
    }

    /// The ends, where it has two.
    pub fn ends(&self) -> Option<&Ends> {
        self.ends_or_node().ok()
    }

    /// The ends, or else the one node that it is at.
    pub fn ends_or_node(&self) -> Result<&Ends, &Spanned<String>> {
        ends_of!(self)
    }

    /// About how long it takes.
    pub fn needs(&self) -> Duration {
        let times = |count: u64| u32::try_from(count).unwrap_or(u32::MAX);
        match self {
            Self::Iperf3 { duration, omit, .. } => *omit + *duration,
            Self::Ping { count, interval, .. }
            | Self::Dns { count, interval, .. }
            | Self::Udp { count, interval, .. } => interval.saturating_mul(times(*count)),
            Self::Http { .. } => Duration::from_secs(10),
            Self::PingPong { count, .. } => pingpong::time(*count),
            Self::Ftp { size, rate, .. } => ftp::time(*size, *rate),
            Self::Sip { calls, duration, .. } => duration.saturating_mul(times(*calls)),
            Self::Probe { duration, .. } => *duration,
            Self::Exec { timeout, .. } => *timeout,
        }
    }
}

/// Who speaks to whom.
#[derive(Debug, Clone)]
pub struct Ends {
    /// The node that begins.
    pub from: Spanned<String>,
    /// What the application is given: the name of the node that answers.
    pub to: Spanned<Fqdn>,
}
