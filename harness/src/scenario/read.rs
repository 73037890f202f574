//! Reads TOML tables by key. Unlike a serde derive it goes on after a mistake, so that one `check` shows them all.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::ops::Range;
use std::str::FromStr;
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::source::{Problem, suggest};
use super::units;

/// Where problems are collected.
#[derive(Debug, Default)]
pub struct Problems(RefCell<Vec<Problem>>);

impl Problems {
    /// Notes one.
    pub fn add(&self, problem: Problem) {
        let mut known = self.0.borrow_mut();
        // What is wrong with a description of many is wrong with each of them.
        if !known.contains(&problem) {
            known.push(problem);
        }
    }

    /// All of them.
    pub fn into_vec(self) -> Vec<Problem> {
        self.0.into_inner()
    }

    /// How many there are so far.
    pub fn count(&self) -> usize {
        self.0.borrow().len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.borrow().is_empty()
    }
}

/// A value with its place in the file.
pub type Value<'i> = Spanned<DeValue<'i>>;

/// One table being read: it remembers the keys asked for, so that `finish` can name those that nobody knows.
pub struct Table<'a, 'i> {
    what: String,
    span: Range<usize>,
    table: &'a DeTable<'i>,
    known: RefCell<BTreeSet<String>>,
    problems: &'a Problems,
}

impl<'a, 'i> Table<'a, 'i> {
    /// Reads `table`, which messages call `what`: "[router.ap]".
    pub fn new(
        what: impl Into<String>,
        span: Range<usize>,
        table: &'a DeTable<'i>,
        problems: &'a Problems,
    ) -> Self {
        Self { what: what.into(), span, table, known: RefCell::default(), problems }
    }

    /// Reads `value` as a table; notes a problem if it is none.
    pub fn of(what: impl Into<String>, value: &'a Value<'i>, problems: &'a Problems) -> Option<Self> {
        let what = what.into();
        match value.get_ref() {
            DeValue::Table(table) => Some(Self::new(what, value.span(), table, problems)),
            other => {
                problems
                    .add(Problem::new(value.span(), format!("{what} must be a table, not {}", kind(other))));
                None
            }
        }
    }

    /// How messages call this table.
    pub fn what(&self) -> &str {
        &self.what
    }

    /// Where the table stands.
    pub fn span(&self) -> Range<usize> {
        self.span.clone()
    }

    /// Notes a problem at `span`.
    pub fn problem(&self, span: Range<usize>, message: impl Into<String>) {
        self.problems.add(Problem::new(span, message));
    }

    /// Where problems go.
    pub fn problems(&self) -> &'a Problems {
        self.problems
    }

    /// The raw value at `key`.
    pub fn get(&self, key: &str) -> Option<&'a Value<'i>> {
        self.known.borrow_mut().insert(key.to_owned());
        self.table.get(key)
    }

    /// As `get`; its absence is a problem.
    pub fn need(&self, key: &str) -> Option<&'a Value<'i>> {
        let value = self.get(key);
        if value.is_none() {
            self.problem(self.head(), format!("{} lacks `{key}`", self.what));
        }
        value
    }

    /// The tables that are not among the keys asked for so far; they count as known from now on.
    pub fn other_tables(&self) -> Vec<(&'a str, Range<usize>, &'a Value<'i>)> {
        let asked = self.known.borrow().clone();
        let is_one = |name: &str, value: &Value<'i>| {
            !asked.contains(name) && matches!(value.get_ref(), DeValue::Table(_))
        };
        let others: Vec<_> =
            self.entries().into_iter().filter(|(name, _, value)| is_one(name, value)).collect();
        self.known.borrow_mut().extend(others.iter().map(|(name, ..)| (*name).to_owned()));
        others
    }

    /// The entries that are not among the keys asked for so far; they count as known from now on.
    pub fn rest(&self) -> Vec<(&'a str, Range<usize>, &'a Value<'i>)> {
        let asked = self.known.borrow().clone();
        let rest: Vec<_> = self.entries().into_iter().filter(|(name, ..)| !asked.contains(*name)).collect();
        self.known.borrow_mut().extend(rest.iter().map(|(name, ..)| (*name).to_owned()));
        rest
    }

    /// All entries, in the order of the file.
    pub fn entries(&self) -> Vec<(&'a str, Range<usize>, &'a Value<'i>)> {
        let mut entries: Vec<_> =
            self.table.iter().map(|(key, value)| (key.get_ref().as_ref(), key.span(), value)).collect();
        entries.sort_by_key(|(_, span, _)| span.start);
        entries
    }

    /// A string.
    pub fn text(&self, key: &str) -> Option<Spanned<String>> {
        self.get(key).and_then(|value| self.as_text(key, value))
    }

    /// A string that must be there.
    pub fn need_text(&self, key: &str) -> Option<Spanned<String>> {
        self.need(key).and_then(|value| self.as_text(key, value))
    }

    /// A list of strings; a single string is a list of one.
    pub fn texts(&self, key: &str) -> Vec<Spanned<String>> {
        match self.get(key) {
            None => Vec::new(),
            Some(value) => match value.get_ref() {
                DeValue::Array(items) => items.iter().filter_map(|item| self.as_text(key, item)).collect(),
                _ => self.as_text(key, value).into_iter().collect(),
            },
        }
    }

    /// A string read by `parse`, whose error becomes a problem.
    pub fn parsed<T>(&self, key: &str, parse: impl Fn(&str) -> Result<T, String>) -> Option<Spanned<T>> {
        let text = self.text(key)?;
        match parse(text.get_ref()) {
            Ok(value) => Some(Spanned::new(text.span(), value)),
            Err(message) => {
                self.problem(text.span(), message);
                None
            }
        }
    }

    /// As `parsed`, by `FromStr`.
    pub fn from_str<T: FromStr>(&self, key: &str) -> Option<Spanned<T>>
    where
        T::Err: std::fmt::Display,
    {
        self.parsed(key, |text| text.parse::<T>().map_err(|error| error.to_string()))
    }

    /// A length of time.
    pub fn duration(&self, key: &str) -> Option<Duration> {
        self.parsed(key, units::duration).map(Spanned::into_inner)
    }

    /// An IPv4 address.
    pub fn address(&self, key: &str) -> Option<Spanned<Ipv4Addr>> {
        self.parsed(key, |text| {
            text.parse().map_err(|_| format!("{text:?} is not an IPv4 address: write it as 203.0.113.9"))
        })
    }

    /// One of a few words.
    pub fn choice<T: Copy>(&self, key: &str, choices: &[(&str, T)]) -> Option<Spanned<T>> {
        let text = self.text(key)?;
        match choices.iter().find(|(name, _)| name == text.get_ref()) {
            Some((_, value)) => Some(Spanned::new(text.span(), *value)),
            None => {
                let names = choices.iter().map(|(name, _)| *name);
                self.problems.add(
                    Problem::new(text.span(), format!("`{key}` cannot be {:?}", text.get_ref()))
                        .hint(suggest(text.get_ref(), names)),
                );
                None
            }
        }
    }

    /// A whole number from `min` to `max`.
    pub fn integer(&self, key: &str, min: u64, max: u64) -> Option<u64> {
        let value = self.get(key)?;
        let number = match value.get_ref() {
            DeValue::Integer(number) => u64::from_str_radix(number.as_str(), number.radix()).ok(),
            _ => None,
        };
        match number.filter(|number| (min..=max).contains(number)) {
            Some(number) => Some(number),
            None => {
                self.problem(value.span(), format!("`{key}` must be a whole number from {min} to {max}"));
                None
            }
        }
    }

    /// A truth value.
    pub fn flag(&self, key: &str) -> Option<bool> {
        let value = self.get(key)?;
        match value.get_ref() {
            DeValue::Boolean(flag) => Some(*flag),
            other => {
                self.problem(value.span(), format!("`{key}` must be true or false, not {}", kind(other)));
                None
            }
        }
    }

    /// The tables of `[[key]]`.
    pub fn tables(&self, key: &str) -> Vec<Table<'a, 'i>> {
        let Some(value) = self.get(key) else { return Vec::new() };
        match value.get_ref() {
            DeValue::Array(items) => {
                items.iter().filter_map(|item| Table::of(format!("[[{key}]]"), item, self.problems)).collect()
            }
            other => {
                self.problem(value.span(), format!("write [[{key}]], a list of tables, not {}", kind(other)));
                Vec::new()
            }
        }
    }

    /// The named tables of `[key.NAME]`, in the order of the file.
    pub fn named(&self, key: &str) -> Vec<(Spanned<String>, Table<'a, 'i>)> {
        let Some(value) = self.get(key) else { return Vec::new() };
        let Some(table) = Table::of(format!("[{key}]"), value, self.problems) else { return Vec::new() };
        let mut out = Vec::new();
        for (name, span, value) in table.entries() {
            if let Some(inner) = Table::of(format!("[{key}.{name}]"), value, self.problems) {
                out.push((Spanned::new(span, name.to_owned()), inner));
            }
        }
        out
    }

    /// Notes every key that was never asked for.
    pub fn finish(self) {
        let known = self.known.borrow();
        for (name, span, _) in self.entries() {
            if !known.contains(name) {
                self.problems.add(
                    Problem::new(span, format!("unknown key `{name}` in {}", self.what))
                        .hint(suggest(name, known.iter().map(String::as_str))),
                );
            }
        }
    }

    fn as_text(&self, key: &str, value: &Value<'i>) -> Option<Spanned<String>> {
        match value.get_ref() {
            DeValue::String(text) => Some(Spanned::new(value.span(), text.clone().into_owned())),
            other => {
                self.problem(value.span(), format!("`{key}` must be a string, not {}", kind(other)));
                None
            }
        }
    }

    /// The first character of the table, so that a whole table is never underlined.
    pub fn head(&self) -> Range<usize> {
        self.span.start..self.span.start + 1
    }
}

/// What a value is, for messages.
pub fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) | DeValue::Float(_) => "a number without quotes and unit",
        DeValue::Boolean(_) => "a truth value",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}
