//! The elements of the map VIP_GN → RIP_GN, and the table's removal, as netlink messages.

use std::io;
use std::net::Ipv4Addr;

use netlink_packet_core::NLM_F_CREATE;
use netlink_packet_netfilter::nftables::{
    DataAttribute, ListAttribute, NfTablesMessage, SetElementAttribute, SetElementList, SetElementMessage,
    TableAttribute, TableMessage,
};

use super::netlink::Netlink;
use super::ruleset::MAP;

/// Adds `general : real` to the map of `table`. It is there when this returns; that it was there already is no error.
pub(super) fn add(netlink: &mut Netlink, table: &str, general: Ipv4Addr, real: Ipv4Addr) -> io::Result<()> {
    let element = message(
        table,
        vec![SetElementAttribute::Key(value(general)), SetElementAttribute::Data(value(real))],
    );
    netlink.commit(NfTablesMessage::NewSetElement(element), NLM_F_CREATE)
}

/// Removes what the map of `table` has for `general`; an error of the kind `NotFound` if there is nothing.
pub(super) fn remove(netlink: &mut Netlink, table: &str, general: Ipv4Addr) -> io::Result<()> {
    let element = message(table, vec![SetElementAttribute::Key(value(general))]);
    netlink.commit(NfTablesMessage::DeleteSetElement(element), 0)
}

/// Removes `table` with everything in it.
pub(super) fn remove_table(netlink: &mut Netlink, table: &str) -> io::Result<()> {
    let message = TableMessage { attributes: vec![TableAttribute::Name(table.to_owned())] };
    netlink.commit(NfTablesMessage::DeleteTable(message), 0)
}

fn message(table: &str, element: Vec<SetElementAttribute>) -> SetElementMessage {
    SetElementMessage {
        attributes: vec![
            SetElementList::Table(table.to_owned()),
            SetElementList::Set(MAP.to_owned()),
            SetElementList::Elements(vec![ListAttribute::Element(element)]),
        ],
    }
}

fn value(address: Ipv4Addr) -> DataAttribute {
    DataAttribute::Value(address.octets().to_vec())
}
