//! The world of Fig. 6.1 for tests: two DCs, a relay, a general node, and networks behind NATs to move between.

// Each test file takes what it needs.
#![allow(dead_code, unreachable_pub)]

use std::time::Duration;

use ntm_nat::Behaviour;
use ntm_protocol::observe::{RouteName, What};
use ntm_protocol::terminal::Handover;
use ntm_sim::flow::{FlowId, Outcome, Task};
use ntm_sim::{HostId, INTERNET, Interface, Link, NetworkId, TalkId, World};

/// What terminals may do on a handover.
pub const BOTH: [Handover; 2] = [Handover::Thesis, Handover::Fast];

pub const PERIOD: Duration = Duration::from_millis(20);
/// One way between a host and its network; a router's uplink takes as long.
pub const ONE_WAY: Duration = Duration::from_millis(2);

pub fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

pub fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

pub fn link() -> Link {
    Link::of(ONE_WAY)
}

pub fn public(n: u8) -> Interface {
    Interface { network: INTERNET, address: [203, 0, 113, n].into(), link: link() }
}

/// The hosts that most tests need. Terminals are added by each test where it wants them.
pub struct Lab {
    pub world: World,
    /// MN's DC and CN's.
    pub dc: [HostId; 2],
    pub rs: HostId,
    pub gn: HostId,
    routers: u8,
}

impl Lab {
    pub fn new(seed: u64) -> Self {
        let mut world = World::new(seed);
        let dc = [
            world.coordinator("dc-a", "a.ntm.test", "198.18.0.0/16", "203.0.113.3", link()),
            world.coordinator("dc-b", "b.ntm.test", "198.19.0.0/16", "203.0.113.4", link()),
        ];
        let rs = world.relay("rs", &dc, "203.0.113.5", link());
        let gn = world.general("gn", &["www.example.test", "alias.example.test"], public(80));
        Self { world, dc, rs, gn, routers: 0 }
    }

    /// The same, where terminals move as `handover` says.
    pub fn of(seed: u64, handover: Handover) -> Self {
        let mut lab = Self::new(seed);
        lab.world.settings.handover = handover;
        lab
    }

    /// A network behind a NAT of its own on the public network.
    pub fn nat(&mut self, behaviour: Behaviour) -> NetworkId {
        self.routers += 1;
        let n = self.routers;
        self.world.router(&format!("nat-{n}"), behaviour, INTERNET, &format!("203.0.113.{}", 100 + n), link())
    }

    pub fn mn(&mut self, at: Interface) -> HostId {
        self.world.terminal("mn", self.dc[0], at)
    }

    pub fn cn(&mut self, at: Interface) -> HostId {
        self.world.terminal("cn", self.dc[1], at)
    }

    /// Everybody starts; a second later all are registered.
    pub fn start(&mut self) {
        self.world.start_all();
        self.world.run_for(secs(1));
        for host in self.world.hosts() {
            if let Some(terminal) = self.world.at_terminal(host) {
                assert!(terminal.is_registered(), "{} is not registered", self.world.name(host));
            }
        }
    }

    /// MN talks to CN; the answer must be there within a second.
    pub fn talk(&mut self, from: HostId, to: HostId) -> TalkId {
        let talk = self.world.talk(from, to, PERIOD);
        assert!(self.world.wait(secs(3), |world| world.heard(talk).returned() > 0), "{}", self.ladder(0));
        talk
    }

    /// Applications of two hosts do `task`.
    pub fn flow(&mut self, from: HostId, to: HostId, task: Task) -> FlowId {
        let name = self.world.fqdn(to).clone();
        self.world.flow(from, to, &name, 5201, task)
    }

    /// What came of a flow, which ends within a minute.
    pub fn end(&mut self, flow: FlowId) -> Outcome {
        assert!(
            self.world.wait(secs(60), |world| world.has_ended(flow)),
            "it did not end\n{}",
            self.ladder(0)
        );
        self.world.outcome(flow)
    }

    /// The trace from observation `from` on, readable.
    pub fn ladder(&self, from: usize) -> String {
        ntm_sim::ladder::render(&self.world, &self.world.trace()[from..])
    }

    /// The trace from observation `from` on, without keep-alives.
    pub fn sequence(&self, from: usize) -> String {
        let wanted = self.world.trace()[from..].iter().filter(|observation| match &observation.what {
            What::Sent { message, .. } | What::Received { message, .. } => {
                !message.name().contains("KeepAlive")
            }
            _ => true,
        });
        ntm_sim::ladder::render(&self.world, wanted)
    }

    /// The route of `host`'s one path.
    pub fn route(&self, host: HostId) -> RouteName {
        route(&self.world, host)
    }

    /// Packets flow: at least nine tenths of those sent in the next two seconds come back within two more.
    pub fn assert_flowing(&mut self, talk: TalkId) {
        let from = self.world.now();
        self.world.run_for(secs(4));
        let packets = &self.world.heard(talk).packets;
        let recent: Vec<_> = packets.iter().filter(|p| p.sent >= from && p.sent < from + secs(2)).collect();
        let back = recent.iter().filter(|packet| packet.returned.is_some()).count();
        assert!(
            recent.len() > 50 && back * 10 >= recent.len() * 9,
            "{back} of {} packets came back\n{}",
            recent.len(),
            self.ladder(0)
        );
        let heard = self.world.heard(talk);
        assert_eq!((heard.again, heard.astray), (0, 0));
    }
}

/// The route of `host`'s one path.
pub fn route(world: &World, host: HostId) -> RouteName {
    let paths = world.at_terminal(host).map(|terminal| terminal.paths()).unwrap_or_default();
    assert!(paths.len() <= 1, "{paths:#?}");
    paths.first().map_or(RouteName::None, |path| path.route)
}

pub fn inside(network: NetworkId, n: u8) -> Interface {
    Interface { network, address: [10, 0, 0, n].into(), link: link() }
}
