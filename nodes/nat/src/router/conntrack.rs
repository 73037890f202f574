//! Making conntrack forget, by ctnetlink.

use std::io;
use std::os::fd::AsRawFd;

use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, setsockopt, socket,
    sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};

/// Makes the kernel forget every IPv4 connection of this network namespace.
///
/// A router begins so: a connection from before would go on by a mapping that the router's table does not know.
pub fn forget_all() -> io::Result<()> {
    let netlink = socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkNetFilter,
    )?;
    setsockopt(&netlink, sockopt::ReceiveTimeout, &TimeVal::seconds(10))?;
    sendto(netlink.as_raw_fd(), &deletion(), &NetlinkAddr::new(0, 0), MsgFlags::empty())?;
    let mut answer = [0; 256];
    let length = recv(netlink.as_raw_fd(), &mut answer, MsgFlags::empty())?;
    acknowledged(&answer[..length])
}

/// A ctnetlink message that deletes, and names nothing: all connections of its family.
fn deletion() -> [u8; 20] {
    /// `NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_DELETE`
    const DELETE: u16 = 0x0102;
    /// `NLM_F_REQUEST | NLM_F_ACK`
    const FLAGS: u16 = 0x0005;
    let mut message = [0; 20];
    message[0..4].copy_from_slice(&20u32.to_ne_bytes());
    message[4..6].copy_from_slice(&DELETE.to_ne_bytes());
    message[6..8].copy_from_slice(&FLAGS.to_ne_bytes());
    // After the netlink header: the family, AF_INET, and version 1, with which the kernel heeds it.
    message[16] = 2;
    message[17] = 1;
    message
}

/// Reads the kernel's acknowledgement: a netlink header, and an error number, 0 or negative.
fn acknowledged(answer: &[u8]) -> io::Result<()> {
    /// `NLMSG_ERROR`
    const ERROR: [u8; 2] = 2u16.to_ne_bytes();
    match (
        answer.get(4..6),
        answer.get(16..20).and_then(|bytes| bytes.try_into().ok()).map(i32::from_ne_bytes),
    ) {
        (Some(kind), Some(0)) if kind == ERROR => Ok(()),
        (Some(kind), Some(number)) if kind == ERROR => {
            Err(io::Error::from_raw_os_error(number.saturating_neg()))
        }
        _ => Err(io::Error::new(io::ErrorKind::InvalidData, "the answer of ctnetlink is no acknowledgement")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(kind: u16, number: i32) -> Vec<u8> {
        let mut answer = vec![0; 36];
        answer[4..6].copy_from_slice(&kind.to_ne_bytes());
        answer[16..20].copy_from_slice(&number.to_ne_bytes());
        answer
    }

    #[test]
    fn the_kernels_answer_is_read() {
        assert!(acknowledged(&answer(2, 0)).is_ok());
        assert_eq!(acknowledged(&answer(2, -1)).unwrap_err().kind(), io::ErrorKind::PermissionDenied);
        assert_eq!(acknowledged(&answer(3, 0)).unwrap_err().kind(), io::ErrorKind::InvalidData);
        assert_eq!(acknowledged(&[0; 10]).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}
