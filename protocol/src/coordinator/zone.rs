//! The zone of a DC, as an ordinary DNS server serves it.
//!
//! The zone says who its name server is, and that this is a DC: the TXT record `ntm-dc=1` (T3.2.2-b), at the apex and at every terminal's
//! name. A terminal's name exists, and has no address: its VIP is of use only through a tunnel, and no ordinary host is told of it.

use std::fmt::Write;
use std::net::IpAddr;

use super::lookup::DC_RECORD;
use crate::addr::Fqdn;

/// How long a resolver may keep an answer, in seconds: who asks is another DC, and terminals come and go.
const TTL: u32 = 10;

/// The zone as a zone file (RFC 1035, section 5): `ns` at `addresses` serves `zone`, whose terminals are `terminals`.
pub fn zone_file<'a>(
    zone: &Fqdn,
    ns: &Fqdn,
    addresses: &[IpAddr],
    terminals: impl Iterator<Item = &'a Fqdn>,
) -> String {
    let mut text = format!(
        "$TTL {TTL}\n\
         {zone}. IN SOA {ns}. hostmaster.{zone}. 1 3600 600 86400 {TTL}\n\
         {zone}. IN NS {ns}.\n\
         {zone}. IN TXT \"{DC_RECORD}\"\n"
    );
    // Into a String nothing can fail.
    for address in addresses {
        let kind = if address.is_ipv4() { "A" } else { "AAAA" };
        let _ = writeln!(text, "{ns}. IN {kind} {address}");
    }
    for name in terminals.filter(|name| name.is_in(zone) && *name != zone && *name != ns) {
        let _ = writeln!(text, "{name}. IN TXT \"{DC_RECORD}\"");
    }
    text
}
