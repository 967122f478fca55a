//! The seal protocol under test: fault cases as scripts, and random walks that find them by
//! themselves.

#[cfg(feature = "rule-switches")]
mod cases;
#[cfg(feature = "rule-switches")]
mod search;
#[cfg(feature = "rule-switches")]
mod switched;
mod walk;
mod walks;
mod world;
