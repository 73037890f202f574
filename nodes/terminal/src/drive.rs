//! The one loop: it hands every input to the [`Node`], and what the node has to say to the world. It decides nothing.

use std::future::Future;
use std::pin::pin;

use ntm_daemon::program::Failure;
use ntm_daemon::{clock, control, notify};
use ntm_protocol::data::DataUpdate;
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
    mut node: Node,
    mut interface: Interface,
    udp: Udp,
    mut inputs: Inputs,
    stop: impl Future<Output = &'static str>,
) -> Result<(), Failure> {
    let mut stop = pin!(stop);
    let mut announcer = Announcer::default();
    loop {
        settle(&mut node, &mut interface, &udp, &inputs.plane).await?;
        announcer.tell(node.standing(), node.fqdn());
        tokio::select! {
            signal = &mut stop => break notify::stopping(signal),
            event = inputs.plane.next() => match event {
                FromPlane::Control { datagram, from } => node.handle_datagram(from, &datagram, clock::now()),
                FromPlane::Notice(notice) => node.handle_notice(notice, clock::now()),
                FromPlane::Failed(error) => return Err(Failure::Other(error.into())),
            },
            addresses = inputs.network.next() => node.handle_addresses(addresses?, clock::now()),
            query = inputs.stub.next() => node.handle_query(query?, clock::now()),
            request = inputs.control.next() => node.handle_request(request, inputs.plane.counts()),
            () = clock::sleep_until(node.poll_timeout()) => node.handle_timeout(clock::now()),
        }
    }
    node.record();
    inputs.plane.stop().map(drop).map_err(|error| Failure::Other(error.into()))
}

/// Drains the node. Events come before datagrams: what a datagram brings back finds the data tables ready for it.
async fn settle(
    node: &mut Node,
    interface: &mut Interface,
    udp: &Udp,
    plane: &Plane<DataUpdate>,
) -> Result<(), Failure> {
    while let Some(event) = node.poll_event() {
        match event {
            Event::Vip(vip) => interface.set_vip(vip).await?,
            Event::Data(update) => plane.update(update),
            Event::Answer { query, answer } => node.answer(query, answer),
        }
    }
    while let Some(transmit) = node.poll_transmit() {
        if let Err(error) = udp.send_to(&transmit.bytes, transmit.to) {
            node.not_sent(transmit.to, &error);
        }
    }
    node.record();
    Ok(())
}
