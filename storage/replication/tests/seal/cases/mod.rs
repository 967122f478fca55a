//! The fault cases F01 to F46 of the specification: each passes with its rule, and breaks the named
//! invariant without it. L leads, A and B follow, min_insync is 2 unless said.

mod isr;
mod restart;
mod seal;
mod verbs;

use mainstem_metadata::{Rule, SegmentFlush};
use mainstem_record::BrokerId;

use crate::{
    switched::{self, Outcome},
    world::{Options, World},
};

pub(crate) const L: BrokerId = BrokerId(1);
pub(crate) const A: BrokerId = BrokerId(2);
pub(crate) const B: BrokerId = BrokerId(3);

/// One case.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    /// What is switched off to see it fail.
    pub(crate) rules: &'static [Rule],
    /// Which invariants may be the first to break.
    pub(crate) breaks: &'static [u8],
    /// What a walk has to break to have found this one; as `breaks`, unless another case has the same
    /// rule, or the first to break is another in a walk.
    pub(crate) walk_breaks: &'static [u8],
    pub(crate) options: Options,
    pub(crate) script: fn(&mut World),
}

impl Case {
    pub(crate) fn new(
        name: &'static str,
        rules: &'static [Rule],
        breaks: &'static [u8],
        script: fn(&mut World),
    ) -> Self {
        Self {
            name,
            rules,
            breaks,
            walk_breaks: breaks,
            options: Options::default(),
            script,
        }
    }

    pub(crate) fn min(mut self, min_insync: i16) -> Self {
        self.options.min_insync = min_insync;
        self
    }

    pub(crate) fn always(mut self) -> Self {
        self.options.flush = SegmentFlush::Always;
        self
    }

    pub(crate) fn keeps_life(mut self) -> Self {
        self.options.keeps_life = true;
        self
    }

    pub(crate) fn walk_breaks(mut self, breaks: &'static [u8]) -> Self {
        self.walk_breaks = breaks;
        self
    }

    /// Whether this is what a walk has to break.
    pub(crate) fn breaks_with(&self, what: &str) -> bool {
        is_one_of(self.walk_breaks, what)
    }

    fn run(&self, rules: &[Rule]) -> Outcome {
        switched::without(rules, || {
            let mut world = World::new(self.options);
            (self.script)(&mut world);
            if world.ghost.violation.is_none() {
                world.settle();
            }
            world.ghost.violation
        })
    }
}

fn is_one_of(invariants: &[u8], what: &str) -> bool {
    let mut invariants = invariants.iter();
    invariants.any(|invariant| what.starts_with(&format!("I-SEAL-{invariant}:")))
}

/// All of them, in the order of the specification.
pub(crate) fn all() -> Vec<Case> {
    let mut cases = seal::cases();
    cases.extend(isr::cases());
    cases.extend(restart::cases());
    cases.sort_by_key(|case| case.name);
    cases
}

#[test]
fn every_fault_case_passes_with_its_rule() {
    let failed: Vec<String> = all()
        .iter()
        .filter_map(|case| Some(format!("{}: {}", case.name, case.run(&[])?)))
        .collect();
    assert!(failed.is_empty(), "{failed:#?}");
}

#[test]
fn every_fault_case_fails_without_its_rule() {
    let mut missed = Vec::new();
    for case in all() {
        let outcome = case.run(case.rules);
        let broken = outcome
            .as_deref()
            .is_some_and(|what| is_one_of(case.breaks, what));
        if !broken {
            missed.push(format!(
                "{} without {:?}: {outcome:?}",
                case.name, case.rules
            ));
        }
    }
    assert!(missed.is_empty(), "{missed:#?}");
}

#[test]
fn all_cases_of_the_specification_are_there() {
    let names: Vec<&str> = all().iter().map(|case| case.name).collect();
    let wanted: Vec<String> = (1..=46).map(|number| format!("F{number:02}")).collect();
    assert_eq!(names, wanted);
}
