//! A zone: what a zone file (RFC 1035, section 5) says, checked, and laid out for look-ups.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::{fs, io};

use hickory_proto::rr::{DNSClass, LowerName, Name, RData, Record, RecordSet, RecordType, RrKey};
use hickory_proto::serialize::txt::{LexerError, ParseError, Parser};
use thiserror::Error;

/// The records of one name, by type; never empty.
pub type Node = BTreeMap<RecordType, Vec<Record>>;

/// One zone with authority.
#[derive(Debug)]
pub struct Zone {
    origin: LowerName,
    /// In the canonical order of names (RFC 4034, section 6.1): what is below a name follows it at once.
    nodes: BTreeMap<LowerName, Node>,
    soa: Record,
}

/// Why a zone file cannot be served.
#[derive(Debug, Error)]
pub enum ZoneError {
    /// The file cannot be read.
    #[error("{}: the zone file cannot be read: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// One line is wrong.
    #[error("{}:{line}: {why}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// The line, from 1; the last one of an entry that spans several.
        line: usize,
        /// What is wrong.
        why: String,
    },
    /// The zone as a whole is wrong.
    #[error("{}: {why}", path.display())]
    Whole {
        /// The file.
        path: PathBuf,
        /// What is wrong, and what to do.
        why: String,
    },
}

/// What a zone holds for a name (RFC 1034, section 4.3.2, step 3).
#[derive(Debug)]
pub enum Found<'z> {
    /// The name is at or below a delegation; its NS records.
    Delegated(&'z [Record]),
    /// The name's own records.
    Here(&'z Node),
    /// The records of the wildcard that stands for the name (RFC 4592).
    Wildcard(&'z Node),
    /// Nothing at the name itself, something below it: an empty non-terminal.
    Empty,
    /// The name does not exist.
    Missing,
}

impl Zone {
    /// Reads the zone file `path` as the zone `origin`.
    pub fn load(origin: &Name, path: &Path) -> Result<Self, ZoneError> {
        let text =
            fs::read_to_string(path).map_err(|source| ZoneError::Read { path: path.to_owned(), source })?;
        Self::parse(origin, &text, path)
    }

    /// Reads `text` as the zone `origin`; `path` names it in errors, and `$INCLUDE` starts from its folder.
    pub fn parse(origin: &Name, text: &str, path: &Path) -> Result<Self, ZoneError> {
        let whole = |why| ZoneError::Whole { path: path.to_owned(), why };
        let sets = read(origin, text, path).map_err(|problem| match line_of(origin, text, path) {
            Some(line) => ZoneError::Line { path: path.to_owned(), line, why: problem.to_string() },
            None => whole(problem.to_string()),
        })?;
        let mut nodes: BTreeMap<LowerName, Node> = BTreeMap::new();
        for (key, set) in sets {
            let records = set.records_without_rrsigs().cloned().collect();
            nodes.entry(key.name).or_default().insert(key.record_type, records);
        }
        let origin = LowerName::new(origin);
        let apex = nodes.get(&origin);
        let missing = |kind| whole(format!("the zone {origin} has no {kind} record at its apex: add one"));
        let soa = apex
            .and_then(|node| negative_soa(node.get(&RecordType::SOA)?.first()?))
            .ok_or_else(|| missing("SOA"))?;
        if !apex.is_some_and(|node| node.contains_key(&RecordType::NS)) {
            return Err(missing("NS"));
        }
        let zone = Self { origin, nodes, soa };
        zone.check_glue().map_err(whole)?;
        Ok(zone)
    }

    /// The zone's name.
    pub fn origin(&self) -> &LowerName {
        &self.origin
    }

    /// The SOA record for negative answers: its TTL is how long they hold (RFC 2308, section 3).
    pub fn negative_soa(&self) -> &Record {
        &self.soa
    }

    /// What the zone holds for `name`, which is in it.
    pub fn find(&self, name: &LowerName) -> Found<'_> {
        if let Some(servers) = self.delegation(name) {
            return Found::Delegated(servers);
        }
        if let Some(node) = self.nodes.get(name) {
            return Found::Here(node);
        }
        if self.exists(name) {
            return Found::Empty;
        }
        let mut encloser = name.base_name();
        while encloser != self.origin && !self.exists(&encloser) {
            encloser = encloser.base_name();
        }
        let wildcard = Name::from(encloser).prepend_label("*").ok();
        match wildcard.and_then(|wildcard| self.nodes.get(&LowerName::new(&wildcard))) {
            Some(node) => Found::Wildcard(node),
            None => Found::Missing,
        }
    }

    /// The A and AAAA records that the zone's file has for `name`, glue included.
    pub fn addresses(&self, name: &LowerName) -> impl Iterator<Item = &Record> {
        let node = self.nodes.get(name);
        [RecordType::A, RecordType::AAAA].into_iter().filter_map(move |kind| node?.get(&kind)).flatten()
    }

    /// The NS records of the highest delegation at or above `name`.
    fn delegation(&self, name: &LowerName) -> Option<&[Record]> {
        let mut servers = None;
        let mut at = name.clone();
        while at != self.origin {
            servers = self.nodes.get(&at).and_then(|node| node.get(&RecordType::NS)).or(servers);
            at = at.base_name();
        }
        servers.map(Vec::as_slice)
    }

    /// Whether there are records at or below `name`.
    fn exists(&self, name: &LowerName) -> bool {
        let mut below = self.nodes.range::<LowerName, _>((Bound::Included(name), Bound::Unbounded));
        below.next().is_some_and(|(next, _)| name.zone_of(next))
    }

    /// A name server inside the zone that it serves is out of reach without its address beside the delegation.
    fn check_glue(&self) -> Result<(), String> {
        for (owner, node) in &self.nodes {
            for record in node.get(&RecordType::NS).into_iter().flatten() {
                let RData::NS(server) = &record.data else { continue };
                let server = LowerName::new(server);
                if owner.zone_of(&server) && self.addresses(&server).next().is_none() {
                    return Err(format!(
                        "{owner} NS {server} needs an address: add an A or AAAA record for {server}"
                    ));
                }
            }
        }
        Ok(())
    }
}

/// `soa` with the TTL of negative answers: the lesser of its own TTL and its MINIMUM field.
fn negative_soa(soa: &Record) -> Option<Record> {
    let RData::SOA(data) = &soa.data else { return None };
    let mut record = soa.clone();
    record.ttl = soa.ttl.min(data.minimum);
    Some(record)
}

/// What is wrong with a text up to a certain line.
#[derive(Debug, Error)]
enum Problem {
    #[error(transparent)]
    Syntax(#[from] ParseError),
    #[error("{0} is not in the zone {1}")]
    Outside(String, String),
    #[error("the class {0} is not served: use IN")]
    Class(DNSClass),
    #[error("{0} has a CNAME record and others beside it (RFC 1034, section 3.6.2)")]
    Cname(String),
}

impl Problem {
    /// Whether more lines could mend it.
    fn is_only_cut_short(&self) -> bool {
        use LexerError::{UnclosedList, UnclosedQuotedString};
        matches!(self, Problem::Syntax(ParseError::Lexer(UnclosedList | UnclosedQuotedString)))
    }
}

fn read(origin: &Name, text: &str, path: &Path) -> Result<BTreeMap<RrKey, RecordSet>, Problem> {
    let (_, sets) = Parser::new(text, Some(path.to_owned()), Some(origin.clone())).parse()?;
    let mut last: Option<&RrKey> = None;
    for (key, set) in &sets {
        if !origin.zone_of(&key.name) {
            return Err(Problem::Outside(key.name.to_string(), origin.to_string()));
        }
        if let Some(record) = set.records_without_rrsigs().find(|record| record.dns_class != DNSClass::IN) {
            return Err(Problem::Class(record.dns_class));
        }
        if let Some(last) = last
            && last.name == key.name
            && [last.record_type, key.record_type].contains(&RecordType::CNAME)
        {
            return Err(Problem::Cname(key.name.to_string()));
        }
        last = Some(key);
    }
    Ok(sets)
}

/// The line at which `text`, read from its beginning, goes wrong. The parser does not say; but whatever is wrong with the first
/// lines stays wrong with more of them, so halving finds it.
fn line_of(origin: &Name, text: &str, path: &Path) -> Option<usize> {
    let ends: Vec<usize> = text.match_indices('\n').map(|(at, _)| at + 1).chain([text.len()]).collect();
    let good = ends.partition_point(|&end| match read(origin, &text[..end], path) {
        Ok(_) => true,
        Err(problem) => problem.is_only_cut_short(),
    });
    (good < ends.len()).then_some(good + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEST: &str = "\
$TTL 300
@       IN SOA ns hostmaster 1 3600 600 86400 60
        IN NS  ns
ns         A   192.0.2.1
dc.ntm     NS  ns.dc.ntm
ns.dc.ntm  A   192.0.2.2
a.b.c      TXT ( \"one\"
                 \"two\" )
*.wild     A   192.0.2.3
";

    fn zone(text: &str) -> Result<Zone, ZoneError> {
        Zone::parse(&Name::from_ascii("test.").expect("a name"), text, Path::new("test.zone"))
    }

    fn refusal(text: &str) -> String {
        zone(text).expect_err("the zone is wrong").to_string()
    }

    #[test]
    fn names_are_found_as_rfc_1034_says() {
        let zone = zone(TEST).expect("a zone");
        let find = |name: &str| zone.find(&name.parse().expect("a name"));
        assert!(matches!(find("test."), Found::Here(node) if node.len() == 2));
        assert!(matches!(find("NS.test."), Found::Here(_)));
        assert!(matches!(find("a.b.c.test."), Found::Here(_)));
        assert!(matches!(find("b.c.test."), Found::Empty), "an empty non-terminal exists");
        assert!(matches!(find("ntm.test."), Found::Empty));
        for below in ["dc.ntm.test.", "ns.dc.ntm.test.", "a.b.dc.ntm.test."] {
            assert!(matches!(find(below), Found::Delegated(servers) if servers.len() == 1), "{below}");
        }
        assert!(matches!(find("x.b.c.test."), Found::Missing));
        assert!(matches!(find("x.wild.test."), Found::Wildcard(_)));
        assert!(matches!(find("y.x.wild.test."), Found::Wildcard(_)), "a wildcard stands for several labels");
        assert!(matches!(find("wild.test."), Found::Empty), "a wildcard does not stand for its own parent");
        assert_eq!(zone.negative_soa().ttl, 60, "MINIMUM is less than the TTL");
    }

    #[test]
    fn the_root_is_a_zone_too() {
        let text = ". 300 SOA a.root. h. 1 2 3 4 60\n. NS a.root.\na.root. A 192.0.2.1\ntest. NS ns.test.\nns.test. A 192.0.2.2\n";
        let zone = Zone::parse(&Name::root(), text, Path::new("root.zone")).expect("a zone");
        assert!(matches!(zone.find(&"www.test.".parse().expect("a name")), Found::Delegated(_)));
        assert!(matches!(zone.find(&"nowhere.".parse().expect("a name")), Found::Missing));
        assert!(matches!(zone.find(&LowerName::new(&Name::root())), Found::Here(_)));
    }

    #[test]
    fn an_error_names_its_line() {
        let broken = |line: &str| refusal(&format!("{TEST}\n; a remark\n{line}\nlast A 192.0.2.9\n"));
        insta::assert_snapshot!(broken("www A 192.0.2.333"), @"test.zone:12: network address parse error: invalid IPv4 address syntax");
        insta::assert_snapshot!(broken("www ADDRESS 192.0.2.3"), @"test.zone:12: proto error: decoding error: record type string unknown: ADDRESS");
        insta::assert_snapshot!(broken("www.example. A 192.0.2.3"), @"test.zone:12: www.example. is not in the zone test.");
        insta::assert_snapshot!(broken("ns CNAME www"), @"test.zone:12: ns.test. has a CNAME record and others beside it (RFC 1034, section 3.6.2)");
        insta::assert_snapshot!(broken("www CH A 192.0.2.3"), @"test.zone:12: the class CH is not served: use IN");
        insta::assert_snapshot!(refusal(&TEST.replace("192.0.2.1\n", "\n")), @"test.zone:4: token is missing: ipv4 address");
        insta::assert_snapshot!(refusal(&TEST.replace("\"two\" )", "\"two\"")), @"test.zone: lexer error: unclosed list, missing ')'");
    }

    #[test]
    fn a_zone_needs_soa_ns_and_glue() {
        insta::assert_snapshot!(refusal("@ 60 NS ns\nns A 192.0.2.1\n"), @"test.zone: the zone test. has no SOA record at its apex: add one");
        insta::assert_snapshot!(refusal("@ 60 SOA ns h 1 2 3 4 5\n"), @"test.zone: the zone test. has no NS record at its apex: add one");
        insta::assert_snapshot!(refusal(&TEST.replace("ns.dc.ntm  A", "x.dc.ntm  A")), @"test.zone: dc.ntm.test. NS ns.dc.ntm.test. needs an address: add an A or AAAA record for ns.dc.ntm.test.");
        let error = Zone::load(&Name::root(), Path::new("/nonexistent/root.zone")).unwrap_err().to_string();
        assert!(error.starts_with("/nonexistent/root.zone: the zone file cannot be read: "), "{error}");
    }
}
