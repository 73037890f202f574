//! The programs: how scenarios call each, what it is on a disk, and how one gets it. PURE.

/// A program that makes a tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Program {
    /// WireGuard in Go, the reference in user space.
    WireguardGo,
    /// WireGuard in Rust by Mullvad.
    Gotatun,
    /// WireGuard in Rust by Cloudflare.
    Boringtun,
    /// OpenVPN with a key shared beforehand, AES-128-CBC and HMAC-SHA-256: what the thesis's data packets have, too.
    Openvpn,
    /// Nebula, whose ends find each other by a lighthouse.
    Nebula,
}

impl Program {
    /// The words of scenario files.
    pub const WORDS: &[(&str, Self)] = &[
        ("wireguard-go", Self::WireguardGo),
        ("gotatun", Self::Gotatun),
        ("boringtun", Self::Boringtun),
        ("openvpn", Self::Openvpn),
        ("nebula", Self::Nebula),
    ];

    /// Its word.
    pub fn word(self) -> &'static str {
        match self {
            Self::WireguardGo => "wireguard-go",
            Self::Gotatun => "gotatun",
            Self::Boringtun => "boringtun",
            Self::Openvpn => "openvpn",
            Self::Nebula => "nebula",
        }
    }

    /// The files that must be on the PATH; the first is the program.
    pub fn binaries(self) -> &'static [&'static str] {
        match self {
            Self::WireguardGo => &["wireguard-go"],
            Self::Gotatun => &["gotatun"],
            Self::Boringtun => &["boringtun-cli"],
            Self::Openvpn => &["openvpn"],
            Self::Nebula => &["nebula", "nebula-cert"],
        }
    }

    /// The command that installs it.
    pub fn install(self) -> &'static str {
        match self {
            Self::WireguardGo => "apt-get install wireguard-go",
            Self::Gotatun => "cargo install --locked gotatun-cli",
            Self::Boringtun => "cargo install --locked boringtun-cli",
            Self::Openvpn => "apt-get install openvpn",
            Self::Nebula => "apt-get install nebula",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Program;

    #[test]
    fn each_is_called_by_its_word() {
        for (word, program) in Program::WORDS {
            assert_eq!(program.word(), *word);
            assert!(!program.binaries().is_empty() && program.install().contains("install"));
        }
    }
}
