//! Where two sequences differ. Both have the same steps, and there is an order of them in which both runs could have been.
//!
//! A step comes before another where it must: its sender sent both, or had the one when it sent the other, and both are about the same path or name. Steps that no
//! such chain joins happened at once, as far as any node could tell, and may come in either order in either world. So the worlds differ in a
//! step that only one of them has, and in two steps each of which must come first in one of them.

use std::collections::{BTreeMap, BTreeSet};

use ntm_protocol::time::Instant;

use super::{Pair, Sequence, Step};

/// Something in which two sequences differ.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Difference {
    /// It, in words.
    pub text: String,
    /// Of what one of them alone has: whether that is the first of them, and when it happened there.
    pub at: Option<(bool, Instant)>,
}

/// A step by what it says, whether that is an answer, and what it is about; and how many of the same there were up to it.
type Key<'a> = ((String, bool, Option<&'a str>), usize);

/// The steps of one part.
struct Part<'a> {
    steps: Vec<&'a Step>,
    keys: Vec<Key<'a>>,
}

impl<'a> Part<'a> {
    fn new(steps: &'a [Step]) -> Self {
        let mut counted: BTreeMap<(String, bool, Option<&str>), usize> = BTreeMap::new();
        let counted = steps.iter().map(|step| {
            let says = (step.line(), step.answers, step.subject.as_deref());
            let count = counted.entry(says.clone()).or_default();
            *count += 1;
            (step, (says, *count))
        });
        // How often the DNS is asked for what is known already hangs on who else asks at the moment; how often something is tried that
        // never arrives, on when its sender hears of a better way.
        let once = |step: &Step| step.is_lookup() || step.came.is_none();
        let (steps, keys) = counted.filter(|(step, (_, count))| *count == 1 || !once(step)).unzip();
        Self { steps, keys }
    }

    fn place(&self, key: &Key<'_>) -> Option<usize> {
        self.keys.iter().position(|own| own == key)
    }

    /// Those that `other` has not.
    fn without(&self, other: &Self) -> impl Iterator<Item = (&'a Step, &Key<'a>)> {
        let all = self.steps.iter().copied().zip(&self.keys);
        all.filter(|(_, key)| other.place(key).is_none())
    }
}

impl Step {
    /// Whether this one must come before `later`, which stands behind it: of one sender, what it asks or does by itself keeps its order; an answer comes behind what it
    /// answers, and what is asked behind the answer that it follows from. Where there are `several` paths, each has an order of its own.
    fn precedes(&self, later: &Self, several: bool) -> bool {
        let same = self.subject == later.subject;
        let related = same || !several || self.subject.is_none() || later.subject.is_none();
        if self.from == self.to {
            return related && !(self.is_unordered() && later.is_unordered());
        }
        // Whether a message is lost, and when, is the moment's affair.
        if self.came.is_none() || later.came.is_none() {
            return false;
        }
        let knew = || self.came.is_some_and(|came| came <= later.sent);
        match self.from == later.from {
            true => related && self.answers == later.answers,
            false => (same || !several) && self.answers != later.answers && knew(),
        }
    }
}

impl Sequence {
    /// Where the sequences of two worlds, called `own` and `others`, differ: each line names the nodes.
    pub fn differences(&self, other: &Self, own: &str, others: &str) -> Vec<Difference> {
        let none = Vec::new();
        let pairs: BTreeSet<&Pair> = self.parts.keys().chain(other.parts.keys()).collect();
        // With one path in the world, the order of everything counts.
        let several = [self, other].iter().any(|of| of.paths > 1);
        let mut out = Vec::new();
        for pair in pairs {
            let [here, there] = [self, other].map(|of| Part::new(of.parts.get(pair).unwrap_or(&none)));
            let only = |step: &Step, key: &Key<'_>, is_own: bool| {
                let ((line, _, subject), number) = key;
                let world = if is_own { own } else { others };
                let about = subject.map(|subject| format!(" ({subject})")).unwrap_or_default();
                let which = if *number > 1 { format!(", time {number}") } else { String::new() };
                let text = format!("only in {world}: {line}{about}{which}");
                Difference { text, at: Some((is_own, step.at)) }
            };
            out.extend(here.without(&there).map(|(step, key)| only(step, key, true)));
            out.extend(there.without(&here).map(|(step, key)| only(step, key, false)));
            if let Some((first, second)) = contradiction(&here, &there, several) {
                let text = format!(
                    "in another order: {own}: {first} before {second}; {others}: the other way round"
                );
                out.push(Difference { text, at: None });
            }
        }
        out
    }
}

/// Two steps that have no common order: as the first world has them.
fn contradiction(here: &Part<'_>, there: &Part<'_>, several: bool) -> Option<(String, String)> {
    // The steps that both have, by their places in each.
    let both: Vec<(usize, usize)> =
        here.keys.iter().enumerate().filter_map(|(at, key)| Some((at, there.place(key)?))).collect();
    let must = |first: &(usize, usize), second: &(usize, usize)| {
        let [own, others] = [
            first.0 < second.0 && here.steps[first.0].precedes(here.steps[second.0], several),
            first.1 < second.1 && there.steps[first.1].precedes(there.steps[second.1], several),
        ];
        own || others
    };
    let mut rest = both;
    while !rest.is_empty() {
        let free = rest.iter().position(|step| !rest.iter().any(|before| must(before, step)));
        match free {
            Some(free) => drop(rest.remove(free)),
            None => break,
        }
    }
    // Of those that wait for each other in a ring, two that do so directly, else the first two.
    let waits = |first: &(usize, usize), second: &(usize, usize)| must(first, second) && must(second, first);
    let mut twos = rest.iter().flat_map(|first| rest.iter().map(move |second| (first, second)));
    let (first, second) = twos
        .find(|(first, second)| first.0 < second.0 && waits(first, second))
        .or_else(|| Some((rest.first()?, rest.get(1)?)))?;
    let [first, second] = [first, second].map(|step| here.keys[step.0].0.0.clone());
    Some((first, second))
}
