//! The data plane: two threads, one for each direction, that share nothing but the descriptors.
//!
//! ```text
//!   TUN ──read──▶ split ──▶ Egress::place, seal ──▶ trains ──sendmmsg──▶ UDP   thread "ntm-out"
//!   UDP ─recvmmsg▶ Ingress::judge ─┬─ Deliver ──▶ coalesce ──writev──▶ TUN      thread "ntm-in"
//!                                  ├─ Forward ──▶ trains ──sendmmsg──▶ UDP      (RS-S, T4.1.3-a)
//!                                  └─ Control ──▶ Plane::next
//! ```

use std::io;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use ntm_protocol::data::NotSent;
use ntm_protocol::wire::Refusal;
use thiserror::Error;
use tokio::sync::mpsc;

use crate::counters::{Counters, Counts};
use crate::inward::Inward;
use crate::outward::Outward;
use crate::table::{Egress, Ingress, Updates, updates};
use crate::tun::Tun;
use crate::udp::Udp;
use crate::wake::{Stop, Waiter};

/// Control datagrams that may wait for the control side; more are dropped and counted.
const CONTROL_QUEUE: usize = 1024;
/// Notices of single drops that may wait.
const NOTICE_QUEUE: usize = 64;

/// How the threads behave.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PlaneOptions {
    /// How long a thread, having worked, looks for more before it blocks. It lowers latency and costs a core while packets
    /// flow; zero, the default, is kind to a machine that holds many nodes.
    pub spin: Duration,
    /// Whether packets of applications that have no way are answered, so that these learn of it; else they are dropped in silence.
    pub answer: bool,
    /// Whether the TUN gives IPv6 packets that hold virtual addresses, which are translated (T3.1-d); else there is no IPv6 there.
    pub translate: bool,
}

/// The running data plane of one node. `U` is the update that both its tables understand.
///
/// It ends by [`Plane::stop`], or when dropped; both wait for the threads.
#[derive(Debug)]
pub struct Plane<U> {
    outward: Option<Updates<U>>,
    inward: Updates<U>,
    control: mpsc::Receiver<(Vec<u8>, SocketAddr)>,
    notices: mpsc::Receiver<Notice>,
    failures: mpsc::UnboundedReceiver<PlaneError>,
    counters: Arc<Counters>,
    threads: Threads,
}

/// What the data threads have for the control side.
#[derive(Debug)]
pub enum Event {
    /// A datagram for the role machine.
    Control {
        /// The datagram.
        datagram: Vec<u8>,
        /// Where it came from.
        from: SocketAddr,
    },
    /// A data packet was dropped. A few of these wait; the counters count all.
    Notice(Notice),
    /// A thread ended: the plane carries no more packets in its direction.
    Failed(PlaneError),
}

/// A dropped data packet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Notice {
    /// A datagram was refused.
    Refused {
        /// Why.
        refusal: Refusal,
        /// Where it came from.
        from: SocketAddr,
    },
    /// A packet from the TUN was not sent.
    NotSent(NotSent),
}

/// Why a data thread ended.
#[derive(Debug, Error)]
pub enum PlaneError {
    /// The system failed.
    #[error("the data thread {thread}: {what}: {source}")]
    Io {
        /// The thread.
        thread: &'static str,
        /// What it was doing.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// A defect of this program.
    #[error("the data thread {thread} panicked: {message}")]
    Panic {
        /// The thread.
        thread: &'static str,
        /// What it said.
        message: String,
    },
}

impl<U: Send + Clone + 'static> Plane<U> {
    /// Starts the threads, in the caller's network namespace. A relay that only switches (RS-S) needs no `tun`.
    pub fn start<E, I>(
        tun: Option<Tun>,
        udp: Udp,
        egress: E,
        ingress: I,
        options: PlaneOptions,
    ) -> io::Result<Self>
    where
        E: Egress<Update = U>,
        I: Ingress<Update = U>,
    {
        let (control_sender, control) = mpsc::channel(CONTROL_QUEUE);
        let (notice_sender, notices) = mpsc::channel(NOTICE_QUEUE);
        let (failure_sender, failures) = mpsc::unbounded_channel();
        let counters = Arc::new(Counters::default());
        let stop = Stop::new()?;
        let mut threads = Threads { stop: stop.clone(), udp: udp.clone(), handles: Vec::new() };
        let waiter = || Waiter::new(stop.clone(), options.spin);
        let notify = || Notify { notices: notice_sender.clone(), counters: Arc::clone(&counters) };

        let (inward, pending) = updates()?;
        let inward_thread =
            Inward::new(tun.clone(), udp.clone(), ingress, pending, control_sender, notify(), waiter());
        threads.spawn("ntm-in", failure_sender.clone(), move || inward_thread.run())?;

        let outward = match tun {
            Some(tun) => {
                let (updates, pending) = updates()?;
                let thread = Outward::new(tun, udp, egress, pending, notify(), waiter(), options);
                threads.spawn("ntm-out", failure_sender, move || thread.run())?;
                Some(updates)
            }
            None => None,
        };
        Ok(Self { outward, inward, control, notices, failures, counters, threads })
    }

    /// Changes the tables. Packets that a thread reads after this call see the change.
    pub fn update(&self, update: U) {
        if let Some(outward) = &self.outward {
            outward.send(update.clone());
        }
        self.inward.send(update);
    }

    /// What the threads have for the control side; failures first, then control datagrams. May be dropped and called again without
    /// losing anything.
    pub async fn next(&mut self) -> Event {
        tokio::select! {
            biased;
            Some(error) = self.failures.recv() => Event::Failed(error),
            Some((datagram, from)) = self.control.recv() => Event::Control { datagram, from },
            Some(notice) = self.notices.recv() => Event::Notice(notice),
            // All threads ended, and that was told: there is nothing more to come.
            else => std::future::pending().await,
        }
    }

    /// What the threads have counted.
    pub fn counts(&self) -> Counts {
        self.counters.snapshot()
    }

    /// Ends the threads and waits for them: what they counted in all, or what one failed with, if that was not told yet.
    pub fn stop(mut self) -> Result<Counts, PlaneError> {
        self.threads.join();
        match self.failures.try_recv() {
            Ok(error) => Err(error),
            Err(_) => Ok(self.counts()),
        }
    }
}

/// The threads, joined when dropped.
#[derive(Debug)]
struct Threads {
    stop: Stop,
    udp: Udp,
    handles: Vec<JoinHandle<()>>,
}

impl Threads {
    fn spawn(
        &mut self,
        name: &'static str,
        failures: mpsc::UnboundedSender<PlaneError>,
        body: impl FnOnce() -> Result<(), Failed> + Send + 'static,
    ) -> io::Result<()> {
        let run = move || {
            // What a panic may have left half done is dropped with the closure; nothing of it is used again.
            let ended = catch_unwind(AssertUnwindSafe(body));
            let error = match ended {
                Ok(Ok(())) => return,
                Ok(Err(Failed { what, source })) => PlaneError::Io { thread: name, what, source },
                Err(panic) => PlaneError::Panic { thread: name, message: message(panic.as_ref()) },
            };
            let _ = failures.send(error);
        };
        self.handles.push(thread::Builder::new().name(name.to_owned()).spawn(run)?);
        Ok(())
    }

    fn join(&mut self) {
        self.stop.raise();
        self.udp.end_receiving();
        for handle in self.handles.drain(..) {
            // A panic was caught in the thread already.
            let _ = handle.join();
        }
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.join();
    }
}

fn message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".to_owned())
}

/// What ended a thread's loop.
#[derive(Debug)]
pub(crate) struct Failed {
    pub(crate) what: &'static str,
    pub(crate) source: io::Error,
}

/// A thread's way to tell of single drops.
#[derive(Debug)]
pub(crate) struct Notify {
    notices: mpsc::Sender<Notice>,
    pub(crate) counters: Arc<Counters>,
}

impl Notify {
    pub(crate) fn tell(&self, notice: Notice) {
        if self.notices.try_send(notice).is_err() {
            self.counters.notices_lost.add(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::udp::UdpConfig;
    use ntm_protocol::data::{Verdict, Way};
    use ntm_protocol::wire::Reason;
    use std::net::UdpSocket;
    use std::ops::Range;

    /// A table for tests: what a datagram's first letter says is done with it.
    struct Letters {
        forward: Option<SocketAddr>,
    }

    impl Ingress for Letters {
        type Update = SocketAddr;

        fn apply(&mut self, update: &SocketAddr) {
            self.forward = Some(*update);
        }

        fn judge_all(&mut self, buffer: &mut [u8], places: &[Range<usize>], verdicts: &mut Vec<Verdict>) {
            verdicts.clear();
            verdicts.extend(places.iter().map(|place| match (buffer[place.clone()].first(), self.forward) {
                (Some(b'f'), Some(to)) => Verdict::Forward(to),
                (Some(b'd'), _) => Verdict::Deliver(1..place.len()),
                (Some(b'p'), _) => panic!("told to"),
                (Some(b'c'), _) => Verdict::Control,
                _ => Verdict::Refused(Refusal::new("letter", Reason::Unexpected)),
            }));
        }
    }

    impl Egress for Letters {
        type Update = SocketAddr;

        fn apply(&mut self, _update: &SocketAddr) {}

        fn place(&mut self, _length: usize, _buffer: &mut [u8]) -> Result<(usize, &Way), NotSent> {
            Err(NotSent::Malformed)
        }

        fn seal_placed(&mut self, _buffer: &mut [u8], _places: &[Range<usize>]) {}
    }

    fn start() -> (Plane<SocketAddr>, UdpSocket) {
        let config = UdpConfig { bind: SocketAddr::from(([127, 0, 0, 1], 0)), offload: true };
        let udp = Udp::bind(&config).expect("a socket");
        let peer = UdpSocket::bind("127.0.0.1:0").expect("a peer");
        peer.connect(udp.local_addr().expect("an address")).expect("connected");
        let (egress, ingress) = (Letters { forward: None }, Letters { forward: None });
        let plane = Plane::start(None, udp, egress, ingress, PlaneOptions::default()).expect("a plane");
        (plane, peer)
    }

    #[tokio::test]
    async fn control_datagrams_and_refusals_come_to_the_control_side() {
        let (mut plane, peer) = start();
        let address = peer.local_addr().expect("an address");
        peer.send(b"c1").expect("sent");
        peer.send(b"c2").expect("sent");
        for expected in [b"c1", b"c2"] {
            let Event::Control { datagram, from } = plane.next().await else { panic!("no control datagram") };
            assert_eq!((&datagram[..], from), (&expected[..], address));
        }
        peer.send(b"?").expect("sent");
        let Event::Notice(notice) = plane.next().await else { panic!("no notice") };
        let refusal = Refusal::new("letter", Reason::Unexpected);
        assert_eq!(notice, Notice::Refused { refusal, from: address });
        let counts = plane.stop().expect("a clean end");
        assert_eq!((counts.control_packets, counts.drop_refused, counts.udp_in_packets), (2, 1, 3));
    }

    /// T4.1.3-a: forwarded datagrams are those that came, byte for byte; and the update is seen by the next datagram.
    #[tokio::test]
    async fn an_update_is_seen_by_the_next_datagram_and_forwarding_changes_nothing() {
        let (mut plane, peer) = start();
        peer.send(b"f0").expect("sent");
        assert!(matches!(plane.next().await, Event::Notice(Notice::Refused { .. })));
        let target = UdpSocket::bind("127.0.0.1:0").expect("a target");
        plane.update(target.local_addr().expect("an address"));
        let mut buffer = [0; 2000];
        for len in [2, 1472, 1472, 9] {
            let datagram: Vec<u8> = std::iter::once(b'f').chain((1..len).map(|n| n as u8)).collect();
            peer.send(&datagram).expect("sent");
            let received = target.recv(&mut buffer).expect("received");
            assert_eq!(buffer[..received], datagram);
        }
        peer.send(b"d").expect("sent");
        peer.send(b"c").expect("sent");
        assert!(matches!(plane.next().await, Event::Control { .. }));
        let counts = plane.stop().expect("a clean end");
        assert_eq!((counts.forwarded_packets, counts.forwarded_bytes), (4, 2 + 1472 + 1472 + 9));
        assert_eq!(counts.drop_not_delivered, 1, "there is no TUN");
    }

    #[tokio::test]
    async fn a_panic_is_told_and_the_plane_still_ends() {
        let (mut plane, peer) = start();
        peer.send(b"p").expect("sent");
        let Event::Failed(error) = plane.next().await else { panic!("no failure") };
        assert_eq!(error.to_string(), "the data thread ntm-in panicked: told to");
        plane.stop().expect("it was told already");
    }

    #[tokio::test]
    async fn a_flood_of_control_datagrams_is_dropped_and_counted() {
        let (mut plane, peer) = start();
        let end = std::time::Instant::now() + Duration::from_secs(30);
        while plane.counts().drop_control_full == 0 {
            peer.send(b"c").expect("sent");
            assert!(std::time::Instant::now() < end, "the queue has no end");
        }
        let mut taken = 0;
        while plane.control.try_recv().is_ok() {
            taken += 1;
        }
        assert!(taken >= CONTROL_QUEUE, "{taken} waited");
        plane.stop().expect("a clean end");
    }
}
