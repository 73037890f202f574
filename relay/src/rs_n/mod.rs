//! RS-N: VIP_GN ↔ RIP_GN and VIP_MN ↔ the relay's address, both by Netfilter (T4.2.3-a, T5.1.2-a, T5.1.2-b).
//!
//! Decapsulated packets enter the kernel by the TUN, unchanged. One nftables table of our own (see [`ruleset`]) translates them; conntrack
//! translates the answers back and routing brings them to the TUN. Where RIP_GN is an IPv6 address (T3.1-d), the data plane turns them into
//! IPv6 packets first, between addresses that hold the virtual ones, and a table of that family does the rest. A translation is one element of a map, set by netlink in some
//! tens of microseconds; the table itself is made once, by the nft program.

mod connections;
mod element;
mod netlink;
pub mod ruleset;
mod system;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::anyhow;
use ntm_daemon::program::Failure;
use ntm_protocol::addr::{Vip, VipRange};
use ntm_protocol::family::Family;
use ntm_protocol::inner::siit;
use ntm_tunnel::{Tun, TunConfig};
use thiserror::Error;

use connections::Pair;
use netlink::Netlink;
use ruleset::{Helper, Rules};
use system::Forwarding;

/// RS-N in place: TUN, routes, tables and forwarding. All go when it is dropped, and the last handle of the TUN with it.
pub struct RsN {
    // In this order of fields they are undone.
    _forwarding: Forwarding,
    /// The same in IPv6, or why there are no translations into it.
    v6: Result<Forwarding, String>,
    table: Table,
    tun: Tun,
    vips: VipRange,
    own: Vec<IpAddr>,
    helpers: Vec<Helper>,
    translations: BTreeMap<Ipv4Addr, IpAddr>,
    /// Other translations that connections may follow still.
    former: BTreeSet<Pair>,
}

/// Why a translation cannot be made.
#[derive(Debug, Error)]
pub enum TranslateError {
    /// VIP_GN is not in the range that is routed into the TUN.
    #[error("VIP_GN {0} is outside of 'vips' ({1}): give the relay the virtual range of all its DCs")]
    NotVirtual(Ipv4Addr, VipRange),
    /// RIP_GN is an IPv6 address, and this relay has no IPv6.
    #[error("the general node has the IPv6 address {0}: {1}")]
    NoIpv6(Ipv6Addr, String),
    /// RIP_GN is no node's address, or none that a relay leads to.
    #[error("the general node's address {0} is {1}")]
    NotANode(IpAddr, &'static str),
    /// The kernel refused it.
    #[error("the kernel does not take the translation {0} : {1}: {2}")]
    Kernel(Ipv4Addr, IpAddr, io::Error),
}

impl RsN {
    /// Puts RS-N in place for a relay with the addresses `own` and the UDP `port`. [`Failure::Lacks`] if this machine cannot have it: the text says what is missing and
    /// what to do. Must be called within a tokio runtime.
    pub async fn open(tun: &str, vips: VipRange, own: Vec<IpAddr>, port: u16) -> Result<Self, Failure> {
        let tun = Tun::open(&TunConfig::relay(tun)).await.map_err(tun_failure)?;
        let name = ruleset::table(tun.name());
        let helpers = system::helpers()?;
        let netlink = Netlink::open()
            .map_err(|error| Failure::Lacks(format!("this kernel has no netlink for Netfilter: {error}")))?;
        let mut table = Table { netlink, name, port, families: Vec::new() };
        let mut forwarding = table.make(Family::V4, &tun, vips, &own, &helpers)?;
        let mut v6 = match own.iter().any(IpAddr::is_ipv6) {
            true => lacking(table.make(Family::V6, &tun, vips, &own, &[]))?,
            false => Err("the relay has no IPv6 address".to_owned()),
        };
        let mut former = BTreeSet::new();
        for family in table.families.clone() {
            match connections::followed(&mut table.netlink, family, vips) {
                Ok(pairs) => former.extend(pairs),
                Err(error) => {
                    tracing::warn!("conntrack does not list the connections of a former run: {error}")
                }
            }
        }
        // Only now do packets pass: everything that watches them is in place.
        tun.add_route(vips).await.map_err(tun_failure)?;
        forwarding.begin()?;
        if let Ok(forwarding) = &mut v6 {
            let (prefix, length) = (siit::embed(vips.base()), siit::PREFIX_LEN + vips.prefix());
            // What fills the tunnel in IPv4 is longer here.
            let routed = tun.add_route_v6(prefix, length, tun.mtu() + siit::LONGER as u16).await;
            let begun =
                routed.map_err(|error| Failure::Lacks(error.to_string())).and_then(|()| forwarding.begin());
            if let Err(why) = lacking(begun)? {
                v6 = Err(why);
            }
        }
        if let Err(why) = &v6 {
            tracing::info!("general nodes that have only IPv6 are not served: {why}");
        }
        let translations = BTreeMap::new();
        Ok(Self { _forwarding: forwarding, v6, table, tun, vips, own, helpers, translations, former })
    }

    /// The TUN.
    pub fn tun(&self) -> &Tun {
        &self.tun
    }

    /// The helpers in use.
    pub fn helpers(&self) -> &[Helper] {
        &self.helpers
    }

    /// VIP_GN → RIP_GN, as in the kernel's maps.
    pub fn translations(&self) -> &BTreeMap<Ipv4Addr, IpAddr> {
        &self.translations
    }

    /// The tables' name.
    pub fn table(&self) -> &str {
        &self.table.name
    }

    /// Why general nodes that have only IPv6 are not served (T3.1-d); nothing where they are.
    pub fn without_ipv6(&self) -> Option<&str> {
        self.v6.as_ref().err().map(String::as_str)
    }

    /// Translates packets to `general` into packets to `real`, from the return on. Connections that began when `general` stood for
    /// another address end.
    pub fn translate(&mut self, general: Vip, real: IpAddr) -> Result<(), TranslateError> {
        node(general, real, self.vips, &self.own)?;
        if let (IpAddr::V6(real), Err(why)) = (real, &self.v6) {
            return Err(TranslateError::NoIpv6(real, why.clone()));
        }
        let general = general.0;
        let failed = |error| TranslateError::Kernel(general, real, error);
        match self.translations.get(&general) {
            Some(old) if *old == real => return Ok(()),
            Some(_) => self.untranslate(Vip(general)).map_err(failed)?,
            None => {}
        }
        let netlink = &mut self.table.netlink;
        let of_general =
            (general, Ipv4Addr::UNSPECIFIED.into())..=(general, Ipv6Addr::from([0xff; 16]).into());
        let stale: Vec<Pair> = self.former.range(of_general).copied().collect();
        if stale.iter().any(|(_, old)| *old != real) {
            let mut count = 0;
            for family in &self.table.families {
                count +=
                    connections::end_others(netlink, *family, self.vips, general, real).map_err(failed)?;
            }
            tracing::info!("{general} stands for {real} now: {count} connections to another node were ended");
        }
        element::add(netlink, &self.table.name, held(general, real), real).map_err(failed)?;
        for pair in &stale {
            self.former.remove(pair);
        }
        self.translations.insert(general, real);
        Ok(())
    }

    /// Translates packets to `general` no more, those of connections that stand excepted: they end by themselves, and reach nobody, for
    /// no path leads to the terminal.
    pub fn untranslate(&mut self, general: Vip) -> io::Result<()> {
        let Some(real) = self.translations.get(&general.0).copied() else { return Ok(()) };
        element::remove(&mut self.table.netlink, &self.table.name, held(general.0, real))?;
        self.translations.remove(&general.0);
        self.former.insert((general.0, real));
        Ok(())
    }
}

/// `general` in the family of `real`.
fn held(general: Ipv4Addr, real: IpAddr) -> IpAddr {
    match real {
        IpAddr::V4(_) => general.into(),
        IpAddr::V6(_) => siit::embed(general).into(),
    }
}

/// What this machine lacks is no failure here.
fn lacking<T>(result: Result<T, Failure>) -> Result<Result<T, String>, Failure> {
    match result {
        Err(Failure::Lacks(why)) => Ok(Err(why)),
        other => other.map(Ok),
    }
}

/// Checks that packets to `real` may be sent for terminals that send to `general`. Names in the DNS are anybody's: what they say must not
/// lead terminals to the relay itself, which has the addresses `own`, or back into the virtual range.
fn node(general: Vip, real: IpAddr, vips: VipRange, own: &[IpAddr]) -> Result<(), TranslateError> {
    if !vips.contains(general) {
        return Err(TranslateError::NotVirtual(general.0, vips));
    }
    let why = match real {
        _ if own.contains(&real) => "the relay's own",
        _ if real.is_loopback() => "of the loopback range",
        _ if real.is_multicast() => "a multicast address",
        IpAddr::V4(real) if real.octets()[0] == 0 => "of no node (0.0.0.0/8)",
        IpAddr::V4(real) if real.is_link_local() => "of a single link",
        IpAddr::V4(real) if real.is_broadcast() => "the broadcast address",
        IpAddr::V4(real) if vips.contains(Vip(real)) => "a virtual one",
        IpAddr::V6(real) if real.is_unspecified() => "of no node",
        IpAddr::V6(real) if real.is_unicast_link_local() => "of a single link",
        IpAddr::V6(real) if siit::embedded(real).is_some() => "a virtual one",
        IpAddr::V6(real) if real.to_ipv4().is_some() => "an IPv4 address in another form",
        _ => return Ok(()),
    };
    Err(TranslateError::NotANode(real, why))
}

fn tun_failure(error: ntm_tunnel::TunError) -> Failure {
    // Its text tells its cause already.
    let text = error.to_string();
    if error.is_lack() { Failure::Lacks(text) } else { Failure::Other(anyhow!(text)) }
}

/// The table while it is there, in each of `families`.
struct Table {
    netlink: Netlink,
    name: String,
    /// The relay's UDP port.
    port: u16,
    families: Vec<Family>,
}

impl Table {
    /// Makes it in `family`; with it, whether the machine forwards such packets.
    fn make(
        &mut self,
        family: Family,
        tun: &Tun,
        vips: VipRange,
        own: &[IpAddr],
        helpers: &[Helper],
    ) -> Result<Forwarding, Failure> {
        let forwarding = Forwarding::read(family, &self.name)?;
        let address = own.iter().copied().find(|address| Family::of(*address) == family);
        let forwards = forwarding.former();
        system::apply(&ruleset::ruleset(&Rules {
            tun: tun.name(),
            family,
            vips,
            address,
            port: self.port,
            helpers,
            forwards,
        }))?;
        self.families.push(family);
        Ok(forwarding)
    }
}

impl Drop for Table {
    fn drop(&mut self) {
        for family in &self.families {
            if let Err(error) = element::remove_table(&mut self.netlink, *family, &self.name) {
                let (name, family) = (&self.name, ruleset::name(*family));
                tracing::warn!(
                    "the table {name} stays behind: {error}. Remove it: nft delete table {family} {name}"
                );
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_that_no_general_node_has_are_refused() {
        let vips = "198.18.0.0/15".parse().expect("a range");
        let general = Vip([198, 18, 128, 1].into());
        let own = ["203.0.113.20", "2001:db8::20"].map(|own| own.parse().expect("an address"));
        let judge = |general, real: &str| {
            node(general, real.parse().expect("an address"), vips, &own).map_err(|error| error.to_string())
        };
        assert_eq!(judge(general, "203.0.113.80"), Ok(()));
        assert_eq!(judge(general, "2001:db8::80"), Ok(()));
        assert_eq!(judge(general, "10.1.2.3"), Ok(()), "a relay may serve a company");
        let refused = [
            (general, "0.1.2.3"),
            (general, "127.0.0.1"),
            (general, "169.254.169.254"),
            (general, "224.0.0.1"),
            (general, "255.255.255.255"),
            (general, "198.19.0.1"),
            (general, "203.0.113.20"),
            (general, "::"),
            (general, "::1"),
            (general, "fe80::1"),
            (general, "ff02::1"),
            (general, "fd4e:2b1::c612:1"),
            (general, "::ffff:127.0.0.1"),
            (general, "2001:db8::20"),
            (Vip([192, 0, 2, 1].into()), "203.0.113.80"),
        ];
        let said: Vec<String> =
            refused.iter().map(|(general, real)| judge(*general, real).expect_err("refused")).collect();
        insta::assert_snapshot!(said.join("\n"), @"
        the general node's address 0.1.2.3 is of no node (0.0.0.0/8)
        the general node's address 127.0.0.1 is of the loopback range
        the general node's address 169.254.169.254 is of a single link
        the general node's address 224.0.0.1 is a multicast address
        the general node's address 255.255.255.255 is the broadcast address
        the general node's address 198.19.0.1 is a virtual one
        the general node's address 203.0.113.20 is the relay's own
        the general node's address :: is of no node
        the general node's address ::1 is of the loopback range
        the general node's address fe80::1 is of a single link
        the general node's address ff02::1 is a multicast address
        the general node's address fd4e:2b1::c612:1 is a virtual one
        the general node's address ::ffff:127.0.0.1 is an IPv4 address in another form
        the general node's address 2001:db8::20 is the relay's own
        VIP_GN 192.0.2.1 is outside of 'vips' (198.18.0.0/15): give the relay the virtual range of all its DCs
        ");
    }
}
