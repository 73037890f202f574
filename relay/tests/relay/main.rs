//! The relay on real machines: the daemon as a process, its table in the kernel, packets through it.
//!
//! Every test makes network namespaces of its own, which end with it. It needs root and the programs ip, nft, ping and setpriv (packages
//! iproute2, nftables, iputils-ping, util-linux); where something is missing it fails and says so.

mod appendix;
mod daemon;
mod ipv6;
mod peers;
mod process;
mod switching;
mod table;
mod translation;
mod world;
