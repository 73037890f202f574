//! Configuration files: TOML in which an error is shown with its file, line and column, and the line itself.
//!
//! A daemon's configuration type derives `Deserialize` with `#[serde(deny_unknown_fields)]`, so that a misspelt key is an error.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;
use std::{fmt, fs, io};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use toml::de::{DeTable, DeValue};

/// Why a configuration cannot be used.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("{}: the file cannot be read: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The text is no TOML, or not the TOML that is expected.
    #[error("{}:{place}", path.display())]
    Text {
        /// The file.
        path: PathBuf,
        /// Where in it, and what is wrong.
        place: Place,
    },
    /// A value that does not stand in the file, for it is the default, cannot be used; the message names its key.
    #[error("{}: {message}", path.display())]
    Value {
        /// The file.
        path: PathBuf,
        /// The key, what is wrong with its value, what to do.
        message: String,
    },
}

impl ConfigError {
    /// The value of `key` in the file `path` is well formed and cannot be used all the same, because of `why`. A key within a table is written as
    /// in `coordinator.address`, one within the first of several tables as in `zone.0.origin`; the last may have dots itself.
    pub fn value(path: &Path, key: &str, why: impl fmt::Display) -> Self {
        let (path, message) = (path.to_owned(), format!("'{key}': {why}"));
        // Read once more, for only who fails needs to know where.
        let text = fs::read_to_string(&path).unwrap_or_default();
        match value_of(&text, key) {
            Some(span) => ConfigError::Text { path, place: Place::at(&text, span, message) },
            None => ConfigError::Value { path, message },
        }
    }
}

/// Where the value of `key` is in `text`: its bytes.
fn value_of(text: &str, key: &str) -> Option<Range<usize>> {
    value_in(DeTable::parse(text).ok()?.get_ref(), key)
}

fn value_in(table: &DeTable<'_>, key: &str) -> Option<Range<usize>> {
    if let Some(value) = table.get(key) {
        return Some(value.span());
    }
    let (first, rest) = key.split_once('.')?;
    match table.get(first)?.get_ref() {
        DeValue::Table(table) => value_in(table, rest),
        DeValue::Array(array) => {
            let (index, rest) =
                rest.split_once('.').map_or((rest, None), |(index, rest)| (index, Some(rest)));
            let value = array.get(index.parse::<usize>().ok()?)?;
            match (value.get_ref(), rest) {
                (_, None) => Some(value.span()),
                (DeValue::Table(table), Some(rest)) => value_in(table, rest),
                _ => None,
            }
        }
        _ => None,
    }
}

/// A place in a text and what is wrong there.
#[derive(Debug, PartialEq, Eq)]
pub struct Place {
    /// The line, from 1.
    pub line: usize,
    /// The column, in characters, from 1.
    pub column: usize,
    /// What is wrong.
    pub message: String,
    /// The line, and how many characters of it are meant; `None` where it must not be shown.
    excerpt: Option<(String, usize)>,
}

impl Place {
    /// Where `error` is in `text`.
    fn of(text: &str, error: &toml::de::Error) -> Self {
        // The parser may put its expectations on lines of their own.
        Self::at(text, error.span().unwrap_or(0..0), error.message().trim().replace('\n', "; "))
    }

    /// The bytes `span` of `text`.
    fn at(text: &str, span: Range<usize>, message: String) -> Self {
        let start = boundary(text, span.start.min(text.len()));
        let line_start = text[..start].rfind('\n').map_or(0, |at| at + 1);
        let line_text = text[line_start..].lines().next().unwrap_or_default();
        let end = boundary(text, span.end.min(line_start + line_text.len()));
        Self {
            line: text[..start].matches('\n').count() + 1,
            column: text[line_start..start].chars().count() + 1,
            message,
            excerpt: Some((line_text.to_owned(), text.get(start..end).map_or(0, |s| s.chars().count()))),
        }
    }

    /// The same without the line itself, for files that hold secrets.
    pub(crate) fn without_excerpt(mut self) -> Self {
        self.excerpt = None;
        self
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.line, self.column, self.message)?;
        if let Some((text, width)) = &self.excerpt {
            let number = self.line.to_string();
            // Tabs stay tabs, so that the mark stands below what it marks.
            let indent: String =
                text.chars().take(self.column - 1).map(|c| if c == '\t' { '\t' } else { ' ' }).collect();
            write!(
                f,
                "\n  {number} | {text}\n  {:1$} | {indent}{2:^<3$}",
                "",
                number.len(),
                "",
                (*width).max(1)
            )?;
        }
        Ok(())
    }
}

/// The character boundary at or below `at`, which is within `text`.
fn boundary(text: &str, at: usize) -> usize {
    (0..=at).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0)
}

/// Reads the file `path` as a `T`.
pub fn load<T: DeserializeOwned>(path: &Path) -> Result<T, ConfigError> {
    let text =
        fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
    parse(&text).map_err(|place| ConfigError::Text { path: path.to_owned(), place })
}

/// Reads `text` as a `T`.
pub fn parse<T: DeserializeOwned>(text: &str) -> Result<T, Place> {
    toml::from_str(text).map_err(|error| Place::of(text, &error))
}

/// `path` as it is meant in the configuration file `config`: a relative path starts from the folder of `config`.
pub fn beside(config: &Path, path: &Path) -> PathBuf {
    match config.parent() {
        Some(folder) => folder.join(path),
        None => path.to_owned(),
    }
}

/// A duration written with its unit: `"5s"`, `"300ms"`, `"1.5m"`. Units: `ns`, `us`, `ms`, `s`, `m`, `h`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct HumanDuration(pub Duration);

/// Why a text is not a [`HumanDuration`].
#[derive(Debug, Error, PartialEq, Eq)]
pub enum HumanDurationError {
    /// No number stands first.
    #[error("'{0}' is not a duration: write a number and a unit, as in 5s, 300ms or 2m")]
    Number(String),
    /// The unit is missing or unknown.
    #[error("'{0}' needs a unit: ns, us, ms, s, m or h, as in 5s, 300ms or 2m")]
    Unit(String),
    /// More than 64 bits of nanoseconds: 584 years.
    #[error("'{0}' is too long")]
    TooLong(String),
}

const UNITS: [(&str, u64); 6] = [
    ("h", 3_600_000_000_000),
    ("m", 60_000_000_000),
    ("s", 1_000_000_000),
    ("ms", 1_000_000),
    ("us", 1_000),
    ("ns", 1),
];

impl FromStr for HumanDuration {
    type Err = HumanDurationError;

    fn from_str(text: &str) -> Result<Self, HumanDurationError> {
        let number_error = || HumanDurationError::Number(text.to_owned());
        let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let (number, unit) = text.split_at(split);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
        if whole.is_empty() || fraction.is_empty() || fraction.len() > 9 || fraction.contains('.') {
            return Err(number_error());
        }
        let unit_nanos = UNITS
            .iter()
            .find(|(name, _)| *name == unit.trim())
            .map(|(_, nanos)| u128::from(*nanos))
            .ok_or_else(|| HumanDurationError::Unit(text.to_owned()))?;
        let too_long = || HumanDurationError::TooLong(text.to_owned());
        let whole: u64 = whole.parse().map_err(|_| too_long())?;
        let scale = 10u128.pow(fraction.len() as u32);
        let fraction: u128 = fraction.parse().map_err(|_| number_error())?;
        let nanos = u128::from(whole) * unit_nanos + fraction * unit_nanos / scale;
        Ok(Self(Duration::from_nanos(u64::try_from(nanos).map_err(|_| too_long())?)))
    }
}

impl TryFrom<String> for HumanDuration {
    type Error = HumanDurationError;

    fn try_from(text: String) -> Result<Self, HumanDurationError> {
        text.parse()
    }
}

impl From<HumanDuration> for String {
    fn from(duration: HumanDuration) -> String {
        duration.to_string()
    }
}

impl From<HumanDuration> for Duration {
    fn from(duration: HumanDuration) -> Duration {
        duration.0
    }
}

impl fmt::Display for HumanDuration {
    /// In the largest unit that leaves no fraction.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nanos = self.0.as_nanos();
        match UNITS.iter().find(|(_, unit)| nanos.is_multiple_of(u128::from(*unit))) {
            _ if nanos == 0 => f.write_str("0s"),
            Some((name, unit)) => write!(f, "{}{name}", nanos / u128::from(*unit)),
            None => write!(f, "{nanos}ns"),
        }
    }
}

impl fmt::Debug for HumanDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Config {
        name: String,
        keep_alive: HumanDuration,
    }

    fn error(text: &str) -> String {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a.toml");
        fs::write(&path, text).expect("the file is written");
        let error = load::<Config>(&path).unwrap_err().to_string();
        error.replace(&format!("{}/", folder.path().display()), "")
    }

    #[test]
    fn a_right_file() {
        let config: Config = parse("name = 'a'\nkeep_alive = '5s'").expect("a configuration");
        assert_eq!((config.name.as_str(), config.keep_alive.0), ("a", Duration::from_secs(5)));
    }

    #[test]
    fn an_unknown_key() {
        insta::assert_snapshot!(error("name = 'a'\n\nkeep-alive = '5s'\n"), @"
        a.toml:3:1: unknown field `keep-alive`, expected `name` or `keep_alive`
          3 | keep-alive = '5s'
            | ^^^^^^^^^^
        ");
    }

    #[test]
    fn a_missing_key() {
        insta::assert_snapshot!(error("name = 'a'\n"), @"
        a.toml:1:1: missing field `keep_alive`
          1 | name = 'a'
            | ^
        ");
    }

    #[test]
    fn a_wrong_unit() {
        insta::assert_snapshot!(error("name = 'あ'\n\tkeep_alive = '5 sec'\n"), @"
        a.toml:2:15: '5 sec' needs a unit: ns, us, ms, s, m or h, as in 5s, 300ms or 2m
          2 | 	keep_alive = '5 sec'
            | 	             ^^^^^^^
        ");
    }

    #[test]
    fn a_wrong_type() {
        insta::assert_snapshot!(error("name = 'a'\nkeep_alive = 5\n"), @"
        a.toml:2:14: invalid type: integer `5`, expected a string
          2 | keep_alive = 5
            |              ^
        ");
    }

    #[test]
    fn broken_toml() {
        insta::assert_snapshot!(error("name = 'a'\nkeep_alive = \"5s\nx = 1"), @r#"
        a.toml:2:17: invalid basic string, expected `"`
          2 | keep_alive = "5s
            |                 ^
        "#);
    }

    #[test]
    fn a_missing_file_and_a_bad_value() {
        let missing = load::<Config>(Path::new("/nonexistent/a.toml")).unwrap_err();
        insta::assert_snapshot!(missing.to_string(), @"/nonexistent/a.toml: the file cannot be read: No such file or directory (os error 2)");
        insta::assert_snapshot!(ConfigError::value(Path::new("a.toml"), "port", "0 is no port"), @"a.toml: 'port': 0 is no port");
    }

    #[test]
    fn a_value_that_cannot_be_used_is_shown_where_it_stands() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a.toml");
        let text = "port = 0\n[[zone]]\norigin = 'a.'\n[[zone]]\norigin =  'あ.' # no\n[dc]\nlist = [\n  1,\n  2,\n]\n[of]\n'a.b' = 3\n";
        fs::write(&path, text).expect("the file is written");
        let shown = |key: &str| {
            let text = ConfigError::value(&path, key, "no").to_string();
            text.replace(&format!("{}/", folder.path().display()), "")
        };
        insta::assert_snapshot!(shown("port"), @"
        a.toml:1:8: 'port': no
          1 | port = 0
            |        ^
        ");
        insta::assert_snapshot!(shown("zone.1.origin"), @"
        a.toml:5:11: 'zone.1.origin': no
          5 | origin =  'あ.' # no
            |           ^^^^
        ");
        insta::assert_snapshot!(shown("of.a.b"), @"
        a.toml:12:9: 'of.a.b': no
          12 | 'a.b' = 3
             |         ^
        ");
        insta::assert_snapshot!(shown("dc.list"), @"
        a.toml:7:8: 'dc.list': no
          7 | list = [
            |        ^
        ");
        insta::assert_snapshot!(shown("dc.list.1"), @"
        a.toml:9:3: 'dc.list.1': no
          9 |   2,
            |   ^
        ");
        // What has no place of its own: a default, and one of several of which nobody said which.
        for key in ["mtu", "dc.mtu", "zone.origin", "zone.2.origin", "port.x", ""] {
            assert_eq!(shown(key), format!("a.toml: '{key}': no"));
        }
    }

    #[test]
    fn relative_paths_start_from_the_configuration() {
        assert_eq!(
            beside(Path::new("/etc/ntm/a.toml"), Path::new("keys.toml")),
            Path::new("/etc/ntm/keys.toml")
        );
        assert_eq!(beside(Path::new("/etc/ntm/a.toml"), Path::new("/k.toml")), Path::new("/k.toml"));
        assert_eq!(beside(Path::new("a.toml"), Path::new("keys.toml")), Path::new("keys.toml"));
    }

    #[test]
    fn durations() {
        for (text, nanos) in [
            ("5s", 5_000_000_000),
            ("300ms", 300_000_000),
            ("2m", 120_000_000_000),
            ("1.5m", 90_000_000_000),
            ("3.9ms", 3_900_000),
            ("0.000000001s", 1),
            ("1 h", 3_600_000_000_000),
            ("7us", 7_000),
            ("0s", 0),
        ] {
            assert_eq!(text.parse(), Ok(HumanDuration(Duration::from_nanos(nanos))), "{text}");
        }
        for text in ["", "s", ".5s", "5.s", "1.2.3s", "-1s", "0.0000000001s"] {
            assert_eq!(text.parse::<HumanDuration>(), Err(HumanDurationError::Number(text.into())), "{text}");
        }
        for text in ["5", "5 sec", "5S", "5s5"] {
            assert_eq!(text.parse::<HumanDuration>(), Err(HumanDurationError::Unit(text.into())), "{text}");
        }
        for text in ["99999999999999999999s", "18446744073709551615h"] {
            assert_eq!(
                text.parse::<HumanDuration>(),
                Err(HumanDurationError::TooLong(text.into())),
                "{text}"
            );
        }
    }

    proptest! {
        #[test]
        fn a_duration_reads_back_what_it_shows(nanos: u64) {
            let duration = HumanDuration(Duration::from_nanos(nanos));
            prop_assert_eq!(duration.to_string().parse(), Ok(duration));
        }

        #[test]
        fn no_text_breaks_the_error(text in "[a-z='\"\\n\\t \\[\\]あ0-9]{0,60}") {
            if let Err(place) = parse::<Config>(&text) {
                prop_assert!(!place.to_string().is_empty());
            }
        }
    }
}
