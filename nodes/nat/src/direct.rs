//! Whether two hosts behind NATs can speak directly: the oracle of route optimisation.

use crate::behaviour::{Axes, Behaviour, Dependence};

/// Whether UDP hole punching gives a direct path between a host behind `a` and a host behind `b`, two different NATs.
///
/// Both hosts know the address and port that the other's NAT showed to a third party, send there until something comes, and answer
/// to the address and port they actually saw (T4.1.2-b). Each answers from the mapping by which the packet came, as a NAT that
/// tracks sessions lets it.
///
/// One packet that gets through decides: it left the sender's NAT, so that NAT lets the answer in. So the question is whether either
/// side's packets reach the other's mapping that the third party saw.
pub fn direct_possible(a: Behaviour, b: Behaviour) -> bool {
    reaches(a, b) || reaches(b, a)
}

/// Whether what a host behind `from` sends to the mapping of a host behind `to` that a third party saw passes `to`, once that host has
/// sent to what `from` showed the third party.
fn reaches(from: Behaviour, to: Behaviour) -> bool {
    let Behaviour::Nat(to) = to else { return true };
    match to.filtering {
        Dependence::EndpointIndependent => true,
        // Sending opens the mapping that it leaves by: the one the third party saw, or another.
        Dependence::AddressDependent => is_stable(&to),
        // And the port that was sent to must be the one that `from` really sends by.
        Dependence::AddressAndPortDependent => is_stable(&to) && from.axes().is_none_or(is_stable),
    }
}

/// Whether the mapping that a third party saw serves all destinations.
fn is_stable(axes: &Axes) -> bool {
    axes.mapping == Dependence::EndpointIndependent
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::behaviour::Allocation;
    use crate::flow::Flow;
    use crate::translator::Translator;
    use ntm_protocol::time::Instant;
    use std::net::SocketAddr;

    fn addr(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    /// A host, and its NAT if it has one.
    struct Side {
        nat: Option<Translator>,
        host: SocketAddr,
    }

    impl Side {
        fn new(behaviour: Behaviour, private: &str, public: &str, seed: u8) -> Self {
            match behaviour {
                Behaviour::None => Self { nat: None, host: addr(public) },
                nat => Self {
                    nat: Some(Translator::new(nat, addr(public).ip(), &[], [seed; 32]).unwrap()),
                    host: addr(private),
                },
            }
        }

        /// The source that others see of what this host sends to `to`.
        fn send(&mut self, to: SocketAddr) -> SocketAddr {
            let flow = Flow::udp(self.host, to);
            self.nat.as_mut().map_or(self.host, |nat| nat.outbound(flow, Instant::ZERO).unwrap().flow.source)
        }

        /// Whether a packet reaches this host.
        fn receive(&mut self, from: SocketAddr, to: SocketAddr) -> bool {
            match &mut self.nat {
                None => to == self.host,
                Some(nat) => nat
                    .inbound(Flow::udp(from, to), Instant::ZERO)
                    .is_ok_and(|got| got.flow.destination == self.host),
            }
        }
    }

    /// Plays hole punching on two NATs: whether in the end packets get through both ways.
    fn punch(a: Behaviour, b: Behaviour, first: bool) -> bool {
        let third = addr("192.0.2.1:4330");
        let mut sides = [
            Side::new(a, "10.0.1.2:4330", "203.0.113.1:4330", 1),
            Side::new(b, "10.0.2.2:4330", "203.0.113.2:4330", 2),
        ];
        let mut target: [SocketAddr; 2] = {
            let [a, b] = &mut sides;
            [b.send(third), a.send(third)]
        };
        let mut heard = [false; 2];
        // Enough rounds for each to have sent before and after it heard of the other.
        for turn in 0..8 {
            let from = usize::from((turn % 2 == 0) == first);
            let to = 1 - from;
            let destination = target[from];
            let seen = sides[from].send(destination);
            heard[to] = sides[to].receive(seen, destination);
            if heard[to] {
                target[to] = seen;
            }
        }
        heard == [true; 2]
    }

    fn all() -> Vec<Behaviour> {
        let mut all = vec![Behaviour::None];
        for (_, mapping) in Dependence::ALL {
            for (_, filtering) in Dependence::ALL {
                for (_, allocation) in Allocation::ALL {
                    all.push(Behaviour::Nat(Axes {
                        allocation: *allocation,
                        ..Axes::new(*mapping, *filtering)
                    }));
                }
            }
        }
        all
    }

    #[test]
    fn the_oracle_says_what_the_nats_do() {
        for a in all() {
            for b in all() {
                for first in [false, true] {
                    assert_eq!(
                        direct_possible(a, b),
                        punch(a, b, first),
                        "{a:?}\n{b:?}\nfirst to send: {first}"
                    );
                }
            }
        }
    }

    /// Cited by T4.1.2-b: the classic four, and no NAT.
    #[test]
    fn the_grid_of_the_classic_names() {
        let presets = [
            Behaviour::None,
            Behaviour::FULL_CONE,
            Behaviour::ADDRESS_RESTRICTED,
            Behaviour::PORT_RESTRICTED,
            Behaviour::SYMMETRIC,
        ];
        let row = |a: Behaviour| {
            let cells: Vec<&str> =
                presets.map(|b| if direct_possible(a, b) { "direct" } else { "RS-S" }).into_iter().collect();
            format!("{:<18} {}", a.to_string(), cells.join(" "))
        };
        insta::assert_snapshot!(presets.map(row).join("\n"), @"
        none               direct direct direct direct direct
        full-cone          direct direct direct direct direct
        address-restricted direct direct direct direct direct
        port-restricted    direct direct direct direct RS-S
        symmetric          direct direct direct RS-S RS-S
        ");
    }
}
