//! The role machine, and what its wishes move: tables, translations, datagrams, trace, readiness.

use std::fmt::Display;

use anyhow::anyhow;
use ntm_daemon::program::Failure;
use ntm_daemon::trace::TraceSink;
use ntm_daemon::{clock, control, notify};
use ntm_protocol::addr::NodeId;
use ntm_protocol::data::DataUpdate;
use ntm_protocol::observe::Observation;
use ntm_protocol::relay::{Event, Relay};
use ntm_protocol::time::Instant;
use ntm_tunnel::{Event as Input, Notice, Plane, Udp};

use crate::config::Config;
use crate::readiness::{Readiness, Tell};
use crate::rs_n::RsN;
use crate::rs_s::RsS;
use crate::status::{COMMANDS, CoordinatorStatus, Counters, RsNStatus, Status};

/// A running relay, driven by its loop: [`Shell::drain`], then one input, again and again.
pub(crate) struct Shell {
    config: Config,
    relay: Relay,
    plane: Plane<DataUpdate>,
    udp: Udp,
    /// Or why this machine has none.
    rs_n: Result<RsN, String>,
    rs_s: RsS,
    trace: TraceSink,
    readiness: Readiness,
    control_not_sent: u64,
    not_translated: u64,
}

impl Shell {
    /// All parts, at work already.
    pub(crate) fn new(
        config: Config,
        relay: Relay,
        plane: Plane<DataUpdate>,
        udp: Udp,
        rs_n: Result<RsN, String>,
        rs_s: RsS,
        trace: TraceSink,
    ) -> Self {
        let readiness = Readiness::default();
        Self {
            config,
            relay,
            plane,
            udp,
            rs_n,
            rs_s,
            trace,
            readiness,
            control_not_sent: 0,
            not_translated: 0,
        }
    }

    /// What the data threads have next. May be dropped and called again.
    pub(crate) async fn input(&mut self) -> Input {
        self.plane.next().await
    }

    /// Takes what the data threads had.
    pub(crate) fn take(&mut self, input: Input) -> Result<(), Failure> {
        let now = clock::now();
        match input {
            Input::Control { datagram, from } => self.relay.handle_datagram(from, &datagram, now),
            Input::Notice(Notice::Refused { refusal, from }) => self.relay.refuse(from, &refusal, now),
            // A general node's packet whose terminal has no path any more; the thread that dropped it has counted it.
            Input::Notice(Notice::NotSent(_)) => {}
            Input::Failed(error) => return Err(anyhow!(error.to_string()).into()),
        }
        Ok(())
    }

    /// When [`Shell::handle_timeout`] is due.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.relay.poll_timeout().into_iter().chain(self.rs_s.poll_timeout()).min()
    }

    /// Does what is due now.
    pub(crate) fn handle_timeout(&mut self) {
        let now = clock::now();
        self.relay.handle_timeout(now);
        self.rs_s.handle_timeout(&self.plane.counts(), now);
    }

    /// Does what the role machine wants done. Tables change before the answer goes out that says so (T4.1.2-a).
    pub(crate) fn drain(&mut self) {
        while let Some(event) = self.relay.poll_event() {
            self.handle(event);
        }
        while let Some(transmit) = self.relay.poll_transmit() {
            if let Err(error) = self.udp.send_to(&transmit.bytes, transmit.to) {
                // As if it were lost on the way: requests are repeated.
                self.control_not_sent += 1;
                tracing::debug!("a control message to {} was not sent: {error}", transmit.to);
            }
        }
        while let Some((t, what)) = self.relay.poll_observation() {
            if self.trace.is_kept() {
                self.trace.write(&Observation { t, node: self.config.name.clone(), what });
            }
        }
        self.trace.flush();
        match self.readiness.update(self.relay.is_registered()) {
            None => {}
            Some(Tell::Waits) => notify::status(&self.waits()),
            Some(Tell::Ready) => notify::ready(&self.serves()),
            Some(Tell::Again) => notify::status(&self.serves()),
        }
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Data(update) => {
                self.rs_s.apply(&update, clock::now());
                self.plane.update(update);
            }
            Event::Translate { general, real } => {
                let done = match self.rs_n.as_mut().map(|rs_n| rs_n.translate(general, real)) {
                    Ok(Ok(())) => true,
                    Ok(Err(error)) => {
                        tracing::warn!("{general} is not translated: {error}");
                        false
                    }
                    // That was told at the start.
                    Err(_) => false,
                };
                self.not_translated += u64::from(!done);
                self.relay.handle_translated(general, done, clock::now());
            }
            Event::Untranslate { general } => {
                if let Ok(rs_n) = &mut self.rs_n
                    && let Err(error) = rs_n.untranslate(general)
                {
                    tracing::warn!("{general} stays translated: {error}");
                }
            }
        }
    }

    fn waits(&self) -> String {
        let coordinators = self.config.coordinators.iter();
        let coordinators = join(coordinators.map(|dc| format!("{} ({})", dc.fqdn, dc.address)));
        format!("{} waits to be registered at {coordinators}", self.config.name)
    }

    fn serves(&self) -> String {
        let Config { name, address, .. } = &self.config;
        match &self.rs_n {
            Ok(rs_n) if rs_n.helpers().is_empty() => {
                format!("{name} relays at {address}: RS-S, RS-N without helpers")
            }
            Ok(rs_n) => {
                let helpers = join(rs_n.helpers().iter().map(|helper| helper.name()));
                format!("{name} relays at {address}: RS-S, RS-N with the helpers {helpers}")
            }
            Err(_) => format!("{name} relays at {address}: RS-S only"),
        }
    }

    /// Answers a request of the control socket.
    pub(crate) fn answer(&self, request: control::Request) {
        match request.command() {
            "status" => request.answer(&self.status()),
            "table" => request.answer(&self.relay.table().rows()),
            _ => request.refuse_unknown(&COMMANDS),
        }
    }

    fn status(&self) -> Status<'_> {
        let Config { name, fqdn, address, coordinators, vips, .. } = &self.config;
        let coordinators = coordinators.iter().map(|dc| {
            let node = NodeId::of(&dc.fqdn);
            let registered = self.relay.registrations().any(|known| known == (node, true));
            CoordinatorStatus { fqdn: &dc.fqdn, node, address: &dc.address, registered }
        });
        Status {
            name,
            fqdn,
            address,
            registered: self.relay.is_registered(),
            coordinators: coordinators.collect(),
            rs_n: match &self.rs_n {
                Ok(rs_n) => RsNStatus::Available {
                    available: true,
                    tun: rs_n.tun().name(),
                    vips: *vips,
                    table: rs_n.table(),
                    helpers: rs_n.helpers().iter().map(|helper| helper.name()).collect(),
                    translations: rs_n.translations(),
                    without_ipv6: rs_n.without_ipv6(),
                },
                Err(why) => RsNStatus::Unavailable { available: false, why },
            },
            rs_s: self.rs_s.status(),
            table: self.relay.table().rows(),
            load: self.relay.table().load(),
            counters: Counters {
                refused: self.relay.refused(),
                control_not_sent: self.control_not_sent,
                not_translated: self.not_translated,
                trace_lost: self.trace.lost(),
                data: self.rs_s.counts(self.plane.counts()),
            },
        }
    }

    /// Ends the data threads, then takes away what they worked on.
    pub(crate) fn stop(self) -> Result<(), Failure> {
        drop(self.rs_s);
        self.plane.stop().map_err(|error| anyhow!(error.to_string()))?;
        drop(self.rs_n);
        Ok(())
    }
}

fn join<T: Display>(parts: impl Iterator<Item = T>) -> String {
    parts.map(|part| part.to_string()).collect::<Vec<_>>().join(", ")
}
