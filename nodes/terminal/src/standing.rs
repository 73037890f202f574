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

/// What is news about a standing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum News {
    /// The terminal serves as well as it can, for the first time.
    Ready,
    /// It stands another way than before.
    Changed,
}

/// Tells each change, and readiness once, when the terminal first stands as well as it can.
#[derive(Debug, Default)]
pub(crate) struct Announcer {
    told: Standing,
    is_ready: bool,
}

impl Announcer {
    /// Tells `standing` of the terminal `fqdn`, if it is news.
    pub(crate) fn tell(&mut self, standing: Standing, fqdn: &Fqdn) {
        let Some(news) = self.update(standing) else { return };
        let text = standing.text(fqdn);
        match news {
            News::Ready => notify::ready(&text),
            News::Changed => {
                tracing::info!("{text}");
                notify::status(&text);
            }
        }
    }

    fn update(&mut self, standing: Standing) -> Option<News> {
        if standing == self.told {
            return None;
        }
        self.told = standing;
        if self.is_ready || !standing.is_settled() {
            return Some(News::Changed);
        }
        self.is_ready = true;
        Some(News::Ready)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readiness_is_told_once_and_every_change() {
        use Standing::{NoNetwork, Registered, Registering, Starting};
        let vip = |last| Registered(Vip([198, 18, 0, last].into()));
        let told = |standings: &[Standing]| {
            let mut announcer = Announcer::default();
            standings.iter().map(|standing| announcer.update(*standing)).collect::<Vec<_>>()
        };
        let (ready, changed) = (Some(News::Ready), Some(News::Changed));
        assert_eq!(
            told(&[Starting, Registering, vip(1), vip(1), Registering, vip(2)]),
            [None, changed, ready, None, changed, changed]
        );
        assert_eq!(told(&[NoNetwork, Registering, vip(1)]), [ready, changed, changed]);
    }
}
