//! The wire's thread: one loop over all ends, no decision of its own.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, TryRecvError};

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::EventFd;
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use nix::time::{ClockId as AnyClock, clock_gettime};
use ntm_protocol::time::{Duration, Instant};
use ntm_sim::impair::{Impairment, Line, Reason, Verdict};

use super::frame;
use super::report::{Achieved, LinkReport, Report};
use super::socket::{BATCH, End, Read, Slots};
use super::transit::{Doze, Dozer, Frame, Transit};
use crate::{clock, processors};

/// What the thread is told.
pub(super) enum Command {
    /// A direction does this to packets from now on.
    Set(usize, Impairment),
    /// What was achieved so far does not count.
    Forget,
    /// Somebody wants to know.
    Report(Sender<Report>),
}

/// Tokens of the event queue that are not ends.
const WAKE: u64 = u64::MAX;
const ALARM: u64 = u64::MAX - 1;
/// Batches sent before the ends are read again.
const TURNS: usize = 4;

/// Directions have numbers: link × 2, and one more for the way back. The end that a direction reads has its number, and the other end of
/// that link the one with the last bit flipped.
pub(super) struct Driver {
    names: Vec<String>,
    ways: Vec<Way>,
    transit: Transit,
    slots: Slots,
    due: Vec<Frame>,
    epoll: Epoll,
    alarm: TimerFd,
    /// What the alarm is set to.
    set: Option<Instant>,
    commands: Receiver<Command>,
    wake: Arc<EventFd>,
    is_realtime: bool,
}

/// A direction, and the end that it reads.
struct Way {
    end: End,
    line: Line,
    tally: Achieved,
}

impl Driver {
    /// `ways`: the end each direction reads, and what it does to packets.
    pub(super) fn new(
        names: Vec<String>,
        ways: Vec<(End, Line)>,
        commands: Receiver<Command>,
        wake: Arc<EventFd>,
    ) -> io::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let alarm =
            TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC)?;
        epoll.add(&*wake, EpollEvent::new(EpollFlags::EPOLLIN, WAKE))?;
        epoll.add(&alarm, EpollEvent::new(EpollFlags::EPOLLIN, ALARM))?;
        for (number, (end, _)) in (0..).zip(&ways) {
            epoll.add(end, EpollEvent::new(EpollFlags::EPOLLIN, number))?;
        }
        let way = |(end, line)| Way { end, line, tally: Achieved::default() };
        Ok(Self {
            names,
            transit: Transit::new(ways.len()),
            ways: ways.into_iter().map(way).collect(),
            slots: Slots::new(),
            due: Vec::with_capacity(BATCH),
            epoll,
            alarm,
            set: None,
            commands,
            wake,
            is_realtime: processors::go_first(),
        })
    }

    /// Runs until nobody can give commands any more.
    pub(super) fn run(mut self) -> io::Result<()> {
        let mut dozer = Dozer::new(clock::now());
        let mut events = [EpollEvent::empty(); 64];
        loop {
            self.deliver();
            let timeout = match dozer.doze(self.transit.next(), clock::now()) {
                Doze::Spin => EpollTimeout::ZERO,
                Doze::Until(instant) => {
                    self.set_alarm(Some(instant))?;
                    EpollTimeout::NONE
                }
                Doze::Idle => {
                    self.set_alarm(None)?;
                    EpollTimeout::NONE
                }
            };
            let count = match self.epoll.wait(&mut events, timeout) {
                Ok(count) => count,
                Err(Errno::EINTR) => 0,
                Err(error) => return Err(error.into()),
            };
            for event in &events[..count] {
                match event.data() {
                    // Setting it anew is what silences it.
                    ALARM => self.set = Some(Instant::ZERO),
                    WAKE => {
                        // A counter that was read already is nothing to worry about.
                        let _ = self.wake.read();
                        if self.obey().is_break() {
                            return Ok(());
                        }
                    }
                    number => self.read(number as usize),
                }
            }
        }
    }

    fn set_alarm(&mut self, instant: Option<Instant>) -> io::Result<()> {
        if self.set == instant {
            return Ok(());
        }
        match instant {
            Some(instant) => {
                let at = TimeSpec::from_duration(Duration::from_nanos(instant.as_nanos()));
                self.alarm.set(Expiration::OneShot(at), TimerSetTimeFlags::TFD_TIMER_ABSTIME)?;
            }
            None => self.alarm.unset()?,
        }
        self.set = instant;
        Ok(())
    }

    /// Reads a batch from an end and asks its line what becomes of each frame.
    fn read(&mut self, direction: usize) {
        let Some(Way { end, line, tally }) = self.ways.get_mut(direction) else { return };
        let transit = &mut self.transit;
        let (now, wall) = (clock::now(), clock::wall());
        let received = end.receive(&mut self.slots, |Read { bytes, wall: came, is_cut }| {
            if is_cut {
                tally.dropped.oversize += 1;
                return;
            }
            let Some(size) = frame::measure(bytes) else {
                tally.dropped.refused += 1;
                return;
            };
            let entered = clock::before(now, came.and_then(|came| wall.checked_sub(came)));
            let mut put = |at, sent| {
                let (packets, length) = (size.packets, size.bytes);
                let bytes = Box::from(&*bytes);
                let frame = Frame { at, entered, sent, direction, packets, length, bytes };
                if transit.push(frame).is_err() {
                    tally.dropped.memory += packets;
                }
            };
            match line.offer(size.bytes, entered) {
                Verdict::Deliver { at, copy } => {
                    put(at, copy.is_none().then(|| line.sent()));
                    if let Some(copy) = copy {
                        put(copy, None);
                        tally.duplicated += size.packets;
                    }
                }
                Verdict::Drop(Reason::Loss) => tally.dropped.lost += size.packets,
                Verdict::Drop(Reason::Queue) => tally.dropped.queue += size.packets,
            }
        });
        match received.map_err(|error| error.raw_os_error()) {
            // The interface went down, and may come up again: then frames come again.
            Ok(_) | Err(Some(libc::EAGAIN | libc::EINTR | libc::ENETDOWN)) => {}
            // The kernel threw away a train of a kind that its note cannot describe.
            Err(_) => tally.dropped.refused += 1,
        }
    }

    /// Sends what is due.
    fn deliver(&mut self) {
        for _ in 0..TURNS {
            self.transit.take_due(clock::now(), BATCH, &mut self.due);
            let Some(first) = self.due.first() else { return };
            let direction = first.direction;
            let mut rest = self.due.as_slice();
            while !rest.is_empty() {
                let sent = self.ways[direction ^ 1].end.send(rest);
                let now = clock::now();
                let tally = &mut self.ways[direction].tally;
                let (done, after) =
                    rest.split_at(sent.as_ref().map_or(1, |sent| (*sent).clamp(1, rest.len())));
                rest = after;
                match sent {
                    Ok(_) => done.iter().for_each(|frame| delivered(tally, frame, now)),
                    Err(error) => {
                        let dropped = &mut tally.dropped;
                        let reason = match error.raw_os_error() {
                            // ENOBUFS: no carrier, as the other side of the pair is down.
                            Some(libc::ENETDOWN | libc::ENXIO | libc::ENODEV | libc::ENOBUFS) => {
                                &mut dropped.down
                            }
                            Some(libc::EMSGSIZE) => &mut dropped.oversize,
                            _ => &mut dropped.refused,
                        };
                        *reason += done[0].packets;
                    }
                }
            }
        }
    }

    /// Does what was commanded. Breaks when there is nobody left to command.
    fn obey(&mut self) -> std::ops::ControlFlow<()> {
        loop {
            match self.commands.try_recv() {
                Ok(Command::Set(direction, asked)) => {
                    if let Some(way) = self.ways.get_mut(direction) {
                        way.line.set(asked);
                    }
                }
                Ok(Command::Forget) => {
                    for way in &mut self.ways {
                        // Reading it sets the kernel's count back.
                        let _ = way.end.unread();
                        way.tally = Achieved::default();
                    }
                }
                Ok(Command::Report(to)) => {
                    // Whoever asked may have gone.
                    let _ = to.send(self.report());
                }
                Err(TryRecvError::Empty) => return std::ops::ControlFlow::Continue(()),
                Err(TryRecvError::Disconnected) => return std::ops::ControlFlow::Break(()),
            }
        }
    }

    fn report(&mut self) -> Report {
        for way in &mut self.ways {
            way.tally.dropped.unread += way.end.unread().unwrap_or(0);
        }
        let link = |(name, pair): (&String, &[Way])| {
            let [up, down] = pair else { return None };
            Some(LinkReport { name: name.clone(), up: up.tally.clone(), down: down.tally.clone() })
        };
        let cpu = clock_gettime(AnyClock::CLOCK_THREAD_CPUTIME_ID).map_or(Duration::ZERO, Duration::from);
        Report {
            at: clock::now(),
            cpu,
            is_realtime: self.is_realtime,
            links: self.names.iter().zip(self.ways.chunks(2)).filter_map(link).collect(),
        }
    }
}

fn delivered(tally: &mut Achieved, frame: &Frame, now: Instant) {
    tally.packets += frame.packets;
    tally.frames += 1;
    tally.bytes += frame.length as u64;
    tally.first.get_or_insert(now);
    tally.last = Some(now);
    tally.busiest.add(now, frame.length as u64);
    tally.delay.add(now.since(frame.entered));
    if let Some(sent) = frame.sent {
        tally.travel.add(now.since(sent));
    }
    tally.lateness.add(now.since(frame.at));
}
