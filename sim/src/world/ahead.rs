//! Of a million machines none is in the processor's caches when its turn comes. But the queue knows whose turn comes next: what those will need
//! is fetched beside the work for those before them. Nothing that happens depends on it: the world is only looked at.

use ntm_protocol::prefetch::prefetch;

use super::World;
use super::run::Event;
use crate::HostId;
use crate::host::Machine;

/// How many events are looked at together: the memory answers so many at once.
const TOGETHER: usize = 8;
/// A world of fewer hosts is in the caches anyway.
const MANY: usize = 4096;

impl World {
    /// Whenever as many events are over, looks at the next: first at those that are far, whose hosts are fetched, then at
    /// those that come now, of whom more can be asked.
    pub(super) fn look_ahead(&self) {
        if self.hosts.len() < MANY || !self.events.is_multiple_of(TOGETHER as u64) {
            return;
        }
        for event in self.queue.ahead(TOGETHER, TOGETHER) {
            match event {
                Event::Wake(id) | Event::Receive(id, _) => prefetch(&self.hosts[id.0]),
                _ => {}
            }
        }
        for event in self.queue.ahead(0, TOGETHER) {
            match event {
                Event::Wake(id) => {
                    // What it says then goes over its link.
                    let interfaces = &self.hosts[id.0].interfaces;
                    interfaces.iter().take(1).for_each(|interface| self.networks.prefetch(interface.wire));
                    self.fetch_machine(*id, &[]);
                }
                Event::Receive(id, datagram) => self.fetch_machine(*id, &datagram.payload),
                Event::On(network, datagram) => self.networks.fetch_owner(*network, datagram),
                _ => {}
            }
        }
    }

    /// The machine of a host is going to act, perhaps on `datagram`.
    fn fetch_machine(&self, id: HostId, datagram: &[u8]) {
        match &self.hosts[id.0].machine {
            Machine::Terminal(terminal, _) => prefetch(&**terminal),
            Machine::Coordinator(dc) => dc.expect(datagram),
            Machine::Relay(..) | Machine::Off | Machine::General => {}
        }
    }
}
