//! RS-N: VIP_GN ↔ RIP_GN and VIP_MN ↔ the relay's address, both by Netfilter (T4.2.3-a, T5.1.2-a, T5.1.2-b).
//!
//! Decapsulated packets enter the kernel by the TUN, unchanged. One nftables table of our own (see [`ruleset`]) translates them; conntrack
//! translates the answers back and routing brings them to the TUN. A translation is one element of a map, set by netlink in some
//! tens of microseconds; the table itself is made once, by the nft program.

mod connections;
mod element;
mod netlink;
pub mod ruleset;
mod system;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr};

use anyhow::anyhow;
use ntm_daemon::program::Failure;
use ntm_protocol::addr::{Vip, VipRange};
use ntm_tunnel::{Tun, TunConfig};
use thiserror::Error;

use connections::Pair;
use netlink::Netlink;
use ruleset::{Helper, Rules};
use system::Forwarding;

/// RS-N in place: TUN, route, table and forwarding. All go when it is dropped, and the last handle of the TUN with it.
pub struct RsN {
    // In this order of fields they are undone.
    _forwarding: Forwarding,
    table: Table,
    tun: Tun,
    vips: VipRange,
    address: Option<Ipv4Addr>,
    helpers: Vec<Helper>,
    translations: BTreeMap<Ipv4Addr, Ipv4Addr>,
    /// Other translations that connections may follow still.
    former: BTreeSet<Pair>,
}

/// Why a translation cannot be made.
#[derive(Debug, Error)]
pub enum TranslateError {
    /// VIP_GN is not in the range that is routed into the TUN.
    #[error("VIP_GN {0} is outside of 'vips' ({1}): give the relay the virtual range of all its DCs")]
    NotVirtual(Ipv4Addr, VipRange),
    /// RIP_GN is of the other family.
    #[error("the general node has the IPv6 address {0}; RS-N translates IPv4")]
    NotIpv4(IpAddr),
    /// RIP_GN is no node's address, or none that a relay leads to.
    #[error("the general node's address {0} is {1}")]
    NotANode(Ipv4Addr, &'static str),
    /// The kernel refused it.
    #[error("the kernel does not take the translation {0} : {1}: {2}")]
    Kernel(Ipv4Addr, Ipv4Addr, io::Error),
}

impl RsN {
    /// Puts RS-N in place for a relay with the IPv4 address `address`. [`Failure::Lacks`] if this machine cannot have it: the text says what is missing and
    /// what to do. Must be called within a tokio runtime.
    pub async fn open(tun: &str, vips: VipRange, address: Option<Ipv4Addr>) -> Result<Self, Failure> {
        let tun = Tun::open(&TunConfig::relay(tun)).await.map_err(tun_failure)?;
        let name = ruleset::table(tun.name());
        let mut forwarding = Forwarding::read(&name)?;
        let helpers = system::helpers()?;
        let netlink = Netlink::open()
            .map_err(|error| Failure::Lacks(format!("this kernel has no netlink for Netfilter: {error}")))?;
        let forwards = forwarding.former();
        let rules = Rules { tun: tun.name(), vips, address, helpers: &helpers, forwards };
        system::apply(&ruleset::ruleset(&rules))?;
        let mut table = Table { netlink, name };
        let former = connections::followed(&mut table.netlink, vips).unwrap_or_else(|error| {
            tracing::warn!("conntrack does not list the connections of a former run: {error}");
            BTreeSet::new()
        });
        // Only now do packets pass: everything that watches them is in place.
        tun.add_route(vips).await.map_err(tun_failure)?;
        forwarding.begin()?;
        let translations = BTreeMap::new();
        Ok(Self { _forwarding: forwarding, table, tun, vips, address, helpers, translations, former })
    }

    /// The TUN.
    pub fn tun(&self) -> &Tun {
        &self.tun
    }

    /// The helpers in use.
    pub fn helpers(&self) -> &[Helper] {
        &self.helpers
    }

    /// VIP_GN → RIP_GN, as in the kernel's map.
    pub fn translations(&self) -> &BTreeMap<Ipv4Addr, Ipv4Addr> {
        &self.translations
    }

    /// The table's name.
    pub fn table(&self) -> &str {
        &self.table.name
    }

    /// Translates packets to `general` into packets to `real`, from the return on. Connections that began when `general` stood for
    /// another address end.
    pub fn translate(&mut self, general: Vip, real: IpAddr) -> Result<(), TranslateError> {
        let (general, real) = (general.0, node(general, real, self.vips, self.address)?);
        let failed = |error| TranslateError::Kernel(general, real, error);
        match self.translations.get(&general) {
            Some(old) if *old == real => return Ok(()),
            Some(_) => self.untranslate(Vip(general)).map_err(failed)?,
            None => {}
        }
        let netlink = &mut self.table.netlink;
        let of_general = (general, Ipv4Addr::UNSPECIFIED)..=(general, Ipv4Addr::BROADCAST);
        let stale: Vec<Pair> = self.former.range(of_general).copied().collect();
        if stale.iter().any(|(_, old)| *old != real) {
            let count = connections::end_others(netlink, self.vips, general, real).map_err(failed)?;
            tracing::info!("{general} stands for {real} now: {count} connections to another node were ended");
        }
        element::add(netlink, &self.table.name, general, real).map_err(failed)?;
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
        element::remove(&mut self.table.netlink, &self.table.name, general.0)?;
        self.translations.remove(&general.0);
        self.former.insert((general.0, real));
        Ok(())
    }
}

/// Checks that packets to `real` may be sent for terminals that send to `general`. Names in the DNS are anybody's: what they say must not
/// lead terminals to the relay itself or back into the virtual range.
fn node(
    general: Vip,
    real: IpAddr,
    vips: VipRange,
    own: Option<Ipv4Addr>,
) -> Result<Ipv4Addr, TranslateError> {
    if !vips.contains(general) {
        return Err(TranslateError::NotVirtual(general.0, vips));
    }
    let IpAddr::V4(real) = real else { return Err(TranslateError::NotIpv4(real)) };
    let why = match real {
        _ if real.octets()[0] == 0 => "of no node (0.0.0.0/8)",
        _ if real.is_loopback() => "of the loopback range",
        _ if real.is_link_local() => "of a single link",
        _ if real.is_multicast() => "a multicast address",
        _ if real.is_broadcast() => "the broadcast address",
        _ if vips.contains(Vip(real)) => "a virtual one",
        _ if Some(real) == own => "the relay's own",
        _ => return Ok(real),
    };
    Err(TranslateError::NotANode(real, why))
}

fn tun_failure(error: ntm_tunnel::TunError) -> Failure {
    // Its text tells its cause already.
    let text = error.to_string();
    if error.is_lack() { Failure::Lacks(text) } else { Failure::Other(anyhow!(text)) }
}

/// The table while it is there.
struct Table {
    netlink: Netlink,
    name: String,
}

impl Drop for Table {
    fn drop(&mut self) {
        if let Err(error) = element::remove_table(&mut self.netlink, &self.name) {
            let name = &self.name;
            tracing::warn!("the table {name} stays behind: {error}. Remove it: nft delete table ip {name}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_that_no_general_node_has_are_refused() {
        let vips = "198.18.0.0/15".parse().expect("a range");
        let (general, own) = (Vip([198, 18, 128, 1].into()), Ipv4Addr::new(203, 0, 113, 20));
        let judge = |general, real: &str| {
            node(general, real.parse().expect("an address"), vips, Some(own))
                .map_err(|error| error.to_string())
        };
        assert_eq!(judge(general, "203.0.113.80"), Ok([203, 0, 113, 80].into()));
        assert_eq!(judge(general, "10.1.2.3"), Ok([10, 1, 2, 3].into()), "a relay may serve a company");
        let refused = [
            (general, "0.1.2.3"),
            (general, "127.0.0.1"),
            (general, "169.254.169.254"),
            (general, "224.0.0.1"),
            (general, "255.255.255.255"),
            (general, "198.19.0.1"),
            (general, "203.0.113.20"),
            (general, "2001:db8::1"),
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
        the general node has the IPv6 address 2001:db8::1; RS-N translates IPv4
        VIP_GN 192.0.2.1 is outside of 'vips' (198.18.0.0/15): give the relay the virtual range of all its DCs
        ");
    }
}
