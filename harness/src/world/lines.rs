//! The links of a world that pass through a line in user space ([`crate::wire`]), because this kernel has no netem or the scenario wants none.

use std::collections::BTreeMap;

use super::link;
use super::net::Net;
use super::space::Space;
use crate::exit::Failure;
use crate::scenario::model::Link;
use ntm_sim::impair::Impairment;

use crate::wire::{Direction, Inner, LinkSpec, Report, Wire};

/// Who a link belongs to: a node and its interface.
type Key = (String, String);

/// Links between a node's interface and its network, each of two pairs whose inner ends are in a namespace of the wire's own.
pub(super) struct Lines {
    space: Space,
    net: Net,
    seed: u64,
    /// Made, but not in operation.
    made: Vec<LinkSpec>,
    numbers: BTreeMap<Key, usize>,
    wire: Option<Wire>,
}

/// The network's end of a link.
pub(super) struct Port<'a> {
    /// The namespace it is in.
    pub(super) net: &'a Net,
    /// The bridge it is on.
    pub(super) bridge: u32,
    /// Its name.
    pub(super) name: &'a str,
}

impl Lines {
    /// `space` has IPv6 switched off and is used for nothing else.
    pub(super) fn new(space: Space, seed: u64) -> Result<Self, Failure> {
        let net = space.net()?;
        Ok(Self { space, net, seed, made: Vec::new(), numbers: BTreeMap::new(), wire: None })
    }

    /// Makes the link between `interface` of `node` and `port`. It carries packets once the lines are started.
    pub(super) async fn connect(
        &mut self,
        node: &Space,
        interface: &str,
        port: Port<'_>,
    ) -> Result<(), Failure> {
        let number = self.numbers.len();
        let (a, b) = (format!("in{number}a"), format!("in{number}b"));
        self.net.add_pair(&a, None, interface, node.network()).await?;
        port.net.add_pair(port.name, Some(port.bridge), &b, self.space.network()).await?;
        self.net.set_up(self.net.index(&b).await?, true).await?;
        let inner = |interface| -> Result<Inner, Failure> {
            let netns = self.space.network().try_clone();
            Ok(Inner {
                netns: netns.map_err(Failure::during("no file descriptor is left"))?.into(),
                interface,
            })
        };
        self.made.push(LinkSpec {
            name: format!("{}.{interface}", node.name),
            a: inner(a)?,
            b: inner(b)?,
            up: Impairment::default(),
            down: Impairment::default(),
            seed: self.seed,
        });
        self.numbers.insert((node.name.clone(), interface.to_owned()), number);
        Ok(())
    }

    /// Lets packets pass by all links that were made.
    pub(super) fn start(&mut self) -> Result<(), Failure> {
        if !self.made.is_empty() {
            let wire = Wire::start(std::mem::take(&mut self.made));
            self.wire = Some(wire.map_err(|error| Failure::error(error.to_string()))?);
        }
        Ok(())
    }

    /// Shapes the link of `interface` of `node`; false if it is none of these.
    pub(super) fn set(&self, node: &str, interface: &str, shape: &Link) -> Result<bool, Failure> {
        let number = self.numbers.get(&(node.to_owned(), interface.to_owned()));
        let (Some(number), Some(wire)) = (number, &self.wire) else { return Ok(false) };
        for (direction, shape) in [(Direction::Up, &shape.up), (Direction::Down, &shape.down)] {
            let set = wire.set(*number, direction, link::line(shape));
            set.map_err(|error| Failure::error(format!("link of {interface} of `{node}`: {error}")))?;
        }
        Ok(true)
    }

    /// Counts anew.
    pub(super) fn forget(&self) -> Result<(), Failure> {
        let forgotten = self.wire.as_ref().map_or(Ok(()), Wire::forget);
        forgotten.map_err(|error| Failure::error(error.to_string()))
    }

    /// What the links achieved; `None` if there are none.
    pub(super) fn report(&self) -> Option<Report> {
        // A wire that ended has said so in the log.
        self.wire.as_ref()?.report().ok()
    }
}
