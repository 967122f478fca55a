//! Runs one target over a corpus that grows.

use std::{
    cell::Cell,
    collections::HashSet,
    panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook},
    sync::Once,
};

use stats_alloc::{INSTRUMENTED_SYSTEM, Region};

use crate::{Mutator, Target, Trace};

/// How often checksums are repaired after a mutation: in so many of ten.
const REPAIRED_OF_10: u64 = 8;
/// The corpus stops growing here.
const CORPUS_MAX: usize = 4096;

/// An input with which a target failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The input.
    pub input: Vec<u8>,
    /// What went wrong.
    pub what: String,
}

/// What a run did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Report {
    /// Inputs that were tried.
    pub executions: u64,
    /// Inputs in the corpus.
    pub corpus: usize,
    /// Different features met.
    pub features: usize,
}

/// Mutates the corpus of a target.
#[derive(Debug)]
pub struct Fuzzer {
    target: &'static Target,
    mutator: Mutator,
    corpus: Vec<Vec<u8>>,
    features: HashSet<u64>,
    executions: u64,
}

thread_local! {
    /// Panics of this thread, those included that a task's runtime has caught.
    static PANICS: Cell<u64> = const { Cell::new(0) };
}

fn panics() -> u64 {
    static COUNTED: Once = Once::new();
    COUNTED.call_once(|| {
        let print = take_hook();
        set_hook(Box::new(move |panic| {
            PANICS.set(PANICS.get() + 1);
            print(panic);
        }));
    });
    PANICS.get()
}

/// Runs a target once; what it met, or how it failed.
///
/// # Errors
/// A panic, also of a task, or more allocations than the target is allowed.
pub fn run_once(target: &Target, input: &[u8]) -> Result<Trace, Failure> {
    let failure = |what: String| Failure {
        input: input.to_vec(),
        what,
    };
    let panics_before = panics();
    let region = Region::new(&INSTRUMENTED_SYSTEM);
    let mut trace = Trace::default();
    let run = AssertUnwindSafe(|| (target.run)(input, &mut trace));
    catch_unwind(run).map_err(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
        failure(text.unwrap_or("a panic").to_owned())
    })?;
    if panics() > panics_before {
        return Err(failure("a task has panicked".to_owned()));
    }
    let allocated = region.change().bytes_allocated;
    let allowed = target.bytes_free + target.bytes_factor * input.len();
    if allocated > allowed {
        return Err(failure(format!(
            "{allocated} bytes allocated for an input of {}, allowed are {allowed}",
            input.len()
        )));
    }
    Ok(trace)
}

// === impl Fuzzer ===

impl Fuzzer {
    /// A fuzzer that has run the seeds of the target.
    ///
    /// # Errors
    /// A seed fails.
    pub fn new(target: &'static Target, seed: u64) -> Result<Self, Failure> {
        let mut fuzzer = Self {
            target,
            mutator: Mutator::new(seed),
            corpus: Vec::new(),
            features: HashSet::new(),
            executions: 0,
        };
        for input in (target.seeds)() {
            let trace = run_once(target, &input)?;
            fuzzer.features.extend(trace.features());
            fuzzer.corpus.push(input);
        }
        Ok(fuzzer)
    }

    /// Tries one more input.
    ///
    /// # Errors
    /// The target fails with it.
    pub fn step(&mut self) -> Result<(), Failure> {
        let dice = self.mutator.dice();
        let mut input = self.corpus[dice.index(self.corpus.len())].clone();
        let other = self.corpus[dice.index(self.corpus.len())].clone();
        self.mutator.mutate(&mut input, &other);
        if self.mutator.dice().below(10) < REPAIRED_OF_10 {
            (self.target.repair)(&mut input);
        }
        let trace = run_once(self.target, &input)?;
        self.executions += 1;
        let known = self.features.len();
        self.features.extend(trace.features());
        if self.features.len() > known && self.corpus.len() < CORPUS_MAX {
            self.corpus.push(input);
        }
        Ok(())
    }

    /// What was done so far.
    pub fn report(&self) -> Report {
        Report {
            executions: self.executions,
            corpus: self.corpus.len(),
            features: self.features.len(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fuzzer_is_deterministic_and_reports_a_panic_with_its_input() {
        static CRASHING: Target = Target {
            name: "crashing",
            run: |input, trace| {
                trace.note_size("length", input.len());
                assert!(!input.starts_with(b"ab"), "starts with ab");
            },
            seeds: || vec![b"ax".to_vec(), b"zzzb".to_vec()],
            repair: |_| {},
            bytes_free: usize::MAX / 2,
            bytes_factor: 1,
            short: 0,
        };
        let find = || {
            let mut fuzzer = Fuzzer::new(&CRASHING, 5).expect("the seeds pass");
            (0..100_000)
                .find_map(|_| fuzzer.step().err())
                .expect("it is found")
        };
        let failure = find();
        assert!(failure.input.starts_with(b"ab") && failure.what.contains("starts with ab"));
        assert_eq!(failure, find());
    }
}
