//! The clauses, and how they are cited.

use serde::Deserialize;

use crate::{project, read};

/// `docs/clauses.toml`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Clauses {
    pub(crate) section: Vec<Section>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Section {
    pub(crate) title: String,
    pub(crate) clause: Vec<Clause>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Clause {
    pub(crate) id: String,
    pub(crate) says: String,
    pub(crate) decided: Option<String>,
    /// Why there may be no proof yet.
    pub(crate) open: Option<String>,
}

impl Clauses {
    pub(crate) fn load() -> Self {
        let clauses: Self = toml::from_str(&read(&project().join("docs/clauses.toml"))).expect("the clauses");
        for clause in clauses.all() {
            assert_eq!(
                citations(&clause.id).collect::<Vec<_>>(),
                [clause.id.as_str()],
                "an ID is cited as it is written"
            );
            assert_eq!(clauses.all().filter(|other| other.id == clause.id).count(), 1, "{} twice", clause.id);
        }
        clauses
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = &Clause> {
        self.section.iter().flat_map(|section| &section.clause)
    }

    pub(crate) fn get(&self, id: &str) -> Option<&Clause> {
        self.all().find(|clause| clause.id == id)
    }
}

/// What looks like a clause's ID: `T`, a section's number or an appendix's letter, `-`, and lower-case letters.
pub(crate) fn citations(text: &str) -> impl Iterator<Item = String> + '_ {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '.' && c != '-');
    words.filter_map(|word| {
        let word = word.trim_end_matches(['.', '-']);
        let (section, letters) = word.strip_prefix('T')?.split_once('-')?;
        let appendix = ["A", "B"].contains(&section);
        let number = section.split('.').all(|part| part.parse::<u8>().is_ok());
        let lower = !letters.is_empty() && letters.bytes().all(|b| b.is_ascii_lowercase());
        ((appendix || number) && lower).then(|| word.to_owned())
    })
}

#[test]
fn ids_are_told_from_other_words() {
    let found = |text: &str| citations(text).collect::<Vec<_>>();
    assert_eq!(found("/// T4.2.5-b, (TA-c): T3.2-seq. `T4-a`"), ["T4.2.5-b", "TA-c", "T3.2-seq", "T4-a"]);
    assert_eq!(found("T4.2.5-zz is one, if a wrong one"), ["T4.2.5-zz"]);
    assert!(found("T4.2.5, UTF-a, T-a, TC-a, T4-A, T4.x-a, XT4-a, t4_2_5-b").is_empty());
}
