//! The one loop: it hands every input to the [`Node`], and what the node has to say to the world. It decides nothing.

use std::future::Future;
use std::net::IpAddr;
use std::pin::pin;

use ntm_daemon::program::Failure;
use ntm_daemon::{clock, control, notify};
use ntm_protocol::data::{DataUpdate, Routes};
use ntm_protocol::terminal::Event;
use ntm_tunnel::{Event as FromPlane, Plane, Udp};

use crate::interface::Interface;
use crate::network::Watch;
use crate::node::Node;
use crate::standing::Announcer;
use crate::stub::Stub;

/// All that the loop waits for, a signal and the machine's timer aside.
pub(crate) struct Inputs {
    /// The data threads.
    pub(crate) plane: Plane<DataUpdate>,
    /// The machine's addresses.
    pub(crate) network: Watch,
    /// Queries of applications.
    pub(crate) stub: Stub,
    /// Requests over the control socket.
    pub(crate) control: control::Server,
}

/// Drives `node` until `stop` ends it.
pub(crate) async fn drive(
    node: Node,
    interface: Interface,
    udp: Udp,
    inputs: Inputs,
    stop: impl Future<Output = &'static str>,
) -> Result<(), Failure> {
    let mut shell = Shell { node, interface, udp, inputs, routes: Routes::default() };
    let mut stop = pin!(stop);
    let mut announcer = Announcer::default();
    loop {
        shell.settle().await?;
        let Shell { node, inputs, .. } = &mut shell;
        announcer.tell(node.standing(), node.fqdn());
        tokio::select! {
            signal = &mut stop => break notify::stopping(signal),
            event = inputs.plane.next() => match event {
                FromPlane::Control { datagram, from } => node.handle_datagram(from, &datagram, clock::now()),
                FromPlane::Notice(notice) => node.handle_notice(notice, clock::now()),
                FromPlane::Failed(error) => return Err(Failure::Other(error.into())),
            },
            addresses = inputs.network.next() => {
                node.handle_addresses(addresses?, clock::now());
                // What is decided about the way of packets comes before the routes of now.
                shell.settle().await?;
                shell.route(shell.routes.remotes().collect()).await;
            }
            query = inputs.stub.next() => node.handle_query(query?, clock::now()),
            request = inputs.control.next() => node.handle_request(request, inputs.plane.counts()),
            () = clock::sleep_until(node.poll_timeout()) => node.handle_timeout(clock::now()),
        }
    }
    shell.node.record();
    shell.inputs.plane.stop().map(drop).map_err(|error| Failure::Other(error.into()))
}

struct Shell {
    node: Node,
    interface: Interface,
    udp: Udp,
    inputs: Inputs,
    routes: Routes,
}

impl Shell {
    /// Drains the node. Events come before datagrams: what a datagram brings back finds the data tables ready for it.
    async fn settle(&mut self) -> Result<(), Failure> {
        while let Some(event) = self.node.poll_event() {
            match event {
                Event::Vip(vip) => self.interface.set_vip(vip).await?,
                Event::Data(update) => {
                    if let Some(remote) = self.routes.wanted(&update) {
                        self.route(vec![remote]).await;
                    }
                    self.inputs.plane.update(update);
                }
                Event::Answer { query, answer } => self.node.answer(query, answer),
            }
        }
        while let Some(transmit) = self.node.poll_transmit() {
            if let Err(error) = self.udp.send_to(&transmit.bytes, transmit.to) {
                self.node.not_sent(transmit.to, &error);
            }
        }
        self.node.record();
        Ok(())
    }

    /// Has packets to `remotes` leave as the system routes them now.
    async fn route(&mut self, remotes: Vec<IpAddr>) {
        if remotes.is_empty() {
            return;
        }
        let ways = self.inputs.network.ways(remotes).await;
        if let Some(update) = self.routes.learn(ways) {
            self.inputs.plane.update(update);
        }
    }
}
