//! The elements of the map VIP_GN → RIP_GN, and the table's removal, as netlink messages.

use std::io;
use std::net::IpAddr;

use netlink_packet_core::NLM_F_CREATE;
use netlink_packet_netfilter::nftables::{
    DataAttribute, ListAttribute, NfTablesMessage, SetElementAttribute, SetElementList, SetElementMessage,
    TableAttribute, TableMessage,
};
use ntm_protocol::family::Family;

use super::netlink::Netlink;
use super::ruleset::MAP;

/// Adds `general : real`, both of one family, to the map of `table`. It is there when this returns; that it was there already is no error.
pub(super) fn add(netlink: &mut Netlink, table: &str, general: IpAddr, real: IpAddr) -> io::Result<()> {
    let element = message(
        table,
        vec![SetElementAttribute::Key(value(general)), SetElementAttribute::Data(value(real))],
    );
    netlink.commit(Family::of(real), NfTablesMessage::NewSetElement(element), NLM_F_CREATE)
}

/// Removes what the map of `table` has for `general`; an error of the kind `NotFound` if there is nothing.
pub(super) fn remove(netlink: &mut Netlink, table: &str, general: IpAddr) -> io::Result<()> {
    let element = message(table, vec![SetElementAttribute::Key(value(general))]);
    netlink.commit(Family::of(general), NfTablesMessage::DeleteSetElement(element), 0)
}

/// Removes `table` of `family` with everything in it.
pub(super) fn remove_table(netlink: &mut Netlink, family: Family, table: &str) -> io::Result<()> {
    let message = TableMessage { attributes: vec![TableAttribute::Name(table.to_owned())] };
    netlink.commit(family, NfTablesMessage::DeleteTable(message), 0)
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

fn value(address: IpAddr) -> DataAttribute {
    DataAttribute::Value(match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    })
}
