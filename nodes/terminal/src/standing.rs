//! How the terminal stands with the network, and telling it to whoever started the daemon.

use ntm_daemon::notify;
use ntm_protocol::addr::{Fqdn, Vip};

/// How the terminal stands with the network.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum Standing {
    /// It does not know its addresses yet.
    #[default]
    Starting,
    /// It has no usable address.
    NoNetwork,
    /// The DC has not answered yet.
    Registering,
    /// It is registered, with this VIP.
    Registered(Vip),
}

impl Standing {
    /// Whether there is nothing more to wait for: the terminal serves as well as it can where it is.
    fn is_settled(self) -> bool {
        matches!(self, Standing::NoNetwork | Standing::Registered(_))
    }

    fn text(self, fqdn: &Fqdn) -> String {
        match self {
            Standing::Starting => format!("{fqdn} starts"),
            Standing::NoNetwork => "no network".to_owned(),
            Standing::Registering => format!("{fqdn} registers"),
            Standing::Registered(vip) => format!("{fqdn} is registered and has the VIP {vip}"),
        }
    }
}

/// Tells each change, and readiness once, when the terminal first stands as well as it can.
#[derive(Debug, Default)]
pub(crate) struct Announcer {
    told: Standing,
    is_ready: bool,
}

impl Announcer {
    /// Tells `standing` of the terminal `fqdn`, if it is another than before.
    pub(crate) fn tell(&mut self, standing: Standing, fqdn: &Fqdn) {
        if standing == self.told {
            return;
        }
        self.told = standing;
        let text = standing.text(fqdn);
        if !self.is_ready && standing.is_settled() {
            self.is_ready = true;
            notify::ready(&text);
        } else {
            tracing::info!("{text}");
            notify::status(&text);
        }
    }
}
