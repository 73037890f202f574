//! The schema of scenario files, declared: every table, its keys, what each takes, and what it means.
//!
//! [`page`] makes the tables of `docs/scenarios.md` of it, and [`json`] a JSON schema, by which editors complete and check. What the parser
//! knows and what stands here are compared by the tests.

pub mod json;
pub mod page;
pub mod tables;

/// One table of a scenario file.
pub struct Section {
    /// Names it in `docs/scenarios.md` and in the JSON schema.
    pub id: &'static str,
    /// How the reference calls one of its keys: "key", "key of an axis".
    pub calls: &'static str,
    /// Its keys, in the order of the reference.
    pub keys: &'static [Key],
    /// The keys of which exactly one is there; none if empty.
    pub one_of: &'static [&'static str],
    /// A table whose keys it has as well, and what the reference says of them.
    pub extends: Option<(&'static Section, &'static str)>,
}

/// A key, or several that are alike.
pub struct Key {
    /// Its names.
    pub names: &'static [&'static str],
    /// The roles of nodes that take it; all if empty.
    pub of: &'static [&'static str],
    /// What it takes.
    pub kind: Kind,
    /// What holds without it, as the reference says it; [`NEEDED`] if it must be there.
    pub default: &'static str,
    /// What it means.
    pub about: &'static str,
}

/// A key's default: none, it must be there.
pub const NEEDED: &str = "needed";

/// What a key takes.
pub enum Kind {
    /// Any text.
    Text,
    /// A list of texts; one text is a list of one.
    Texts,
    /// As [`Texts`](Kind::Texts), where one is usual.
    TextOrTexts,
    /// An expression over quantities.
    Expression,
    /// A quantity, or over rounds a list of them.
    Quantities,
    /// The time of an observation: the first handover, or a time.
    Moment,
    /// Where an interface is: the internet or a router.
    Place,
    /// The name of something: "node".
    Name(&'static str),
    /// As [`Name`](Kind::Name), or a list of names.
    Names(&'static str),
    /// One of these words.
    Words(fn() -> Vec<&'static str>),
    /// One of these words, or a table.
    WordsOrTable(fn() -> Vec<&'static str>, &'static Section),
    /// A whole number within bounds.
    Integer(u64, u64),
    /// `true` or `false`.
    Flag,
    /// A length of time.
    Time,
    /// A length of time, and what bounds it.
    TimeFrom(&'static str),
    /// A rate.
    Rate,
    /// A share.
    Share,
    /// A size.
    Size,
    /// A size in bytes, within bounds.
    SizeWithin(u64, u64),
    /// An IPv4 address.
    Address,
    /// An IPv4 network.
    Network,
    /// An IPv6 prefix of 48 bits.
    Site6,
    /// A DNS name.
    DnsName,
    /// A table.
    Table(&'static Section),
    /// Each name has a table of its own.
    Tables(&'static Section),
    /// A table of nodes: the keys of each depend on its role, and what is no key is an interface.
    Nodes(&'static Section, &'static Section),
    /// A list of tables.
    List(&'static Section),
    /// A table of paths and whatever may stand there.
    Paths,
    /// A list of whatever may stand somewhere.
    Values,
    /// A list of rows.
    Rows,
}

impl Kind {
    /// The sections within.
    fn sections(&self) -> Vec<&'static Section> {
        match self {
            Self::WordsOrTable(_, section)
            | Self::Table(section)
            | Self::Tables(section)
            | Self::List(section) => vec![section],
            Self::Nodes(section, interface) => vec![section, interface],
            _ => Vec::new(),
        }
    }

    /// The words that it is one of, where it is.
    pub fn words(&self) -> Option<Vec<&'static str>> {
        match self {
            Self::Words(words) | Self::WordsOrTable(words, _) => Some(words()),
            _ => None,
        }
    }
}

/// All sections: the file itself, and what is in it, each once.
pub fn sections() -> Vec<&'static Section> {
    let mut all: Vec<&'static Section> = vec![&tables::FILE];
    let mut at = 0;
    while let Some(section) = all.get(at) {
        let keys = section.keys.iter().flat_map(|key| key.kind.sections());
        let inner: Vec<_> = section.extends.iter().map(|(base, _)| *base).chain(keys).collect();
        for section in inner {
            if !all.iter().any(|known| known.id == section.id) {
                all.push(section);
            }
        }
        at += 1;
    }
    all
}
