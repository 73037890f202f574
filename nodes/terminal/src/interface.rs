//! The terminal's virtual interface: the VIP is its address, and all VIPs are behind it (T3.1-b, TB-a).

use std::net::Ipv4Addr;

use ntm_daemon::program::Failure;
use ntm_protocol::addr::Vip;
use ntm_tunnel::{Tun, TunConfig, TunError};

use crate::config::Config;
use crate::network;

/// The interface while the terminal runs. It goes with the last handle of its [`Tun`].
#[derive(Debug)]
pub(crate) struct Interface {
    tun: Tun,
    vip: Option<Ipv4Addr>,
}

impl Interface {
    /// Makes the interface. The route for all VIPs is there from the start, so that a packet to a VIP never leaves the machine outside
    /// a tunnel.
    pub(crate) async fn open(config: &Config) -> Result<Self, Failure> {
        let options = TunConfig { mtu: config.mtu, ..TunConfig::terminal(&config.tun) };
        let tun = Tun::open(&options).await.map_err(failure)?;
        tun.add_route(config.vips).await.map_err(failure)?;
        Ok(Self { tun, vip: None })
    }

    /// The device, for the data plane.
    pub(crate) fn tun(&self) -> &Tun {
        &self.tun
    }

    /// Gives the interface its address: the source of what applications send to VIPs, because it is the only one there.
    pub(crate) async fn set_vip(&mut self, Vip(vip): Vip) -> Result<(), Failure> {
        self.tun.add_address(vip).await.map_err(failure)?;
        if let Some(old) = self.vip.replace(vip).filter(|old| *old != vip) {
            network::remove_address(self.tun.index(), old).await?;
        }
        Ok(())
    }
}

fn failure(error: TunError) -> Failure {
    match error {
        TunError::Name(_) => Failure::Config(format!("'tun': {error}")),
        _ if error.is_lack() => Failure::Lacks(error.to_string()),
        _ => Failure::Other(error.into()),
    }
}
