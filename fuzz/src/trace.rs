//! What a target met with an input.

use std::{
    collections::BTreeSet,
    fmt::Debug,
    hash::{DefaultHasher, Hash as _, Hasher as _},
};

/// The features of one execution. Two inputs that give the same ones teach the same.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Trace(BTreeSet<u64>);

// === impl Trace ===

impl Trace {
    /// Notes that this was met.
    pub fn note(&mut self, what: &str) {
        let mut hasher = DefaultHasher::new();
        what.hash(&mut hasher);
        self.0.insert(hasher.finish());
    }

    /// Notes the variant of an error or another value, without the numbers in it.
    pub fn note_kind(&mut self, place: &str, value: &dyn Debug) {
        let text = format!("{place} {value:?}");
        self.note(&text.replace(|c: char| c.is_ascii_digit(), ""));
    }

    /// Notes a number by its magnitude.
    pub fn note_size(&mut self, place: &str, size: usize) {
        self.note(&format!(
            "{place} {}",
            size.checked_ilog2().map_or(0, |log| log + 1)
        ));
    }

    /// The features.
    pub fn features(&self) -> impl Iterator<Item = u64> {
        self.0.iter().copied()
    }
}
