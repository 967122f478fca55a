//! Clients that go on from where they were when the node died: what they have been promised, and
//! how it is checked.
//!
//! An actor may be dropped at any of its awaits, as a client loses its connection at any moment; what
//! it knows by then it keeps.

mod committer;
mod idempotent;
mod plain;
mod publisher;
mod retained;
mod subscriber;

use std::collections::BTreeMap;

pub(crate) use self::{
    committer::Committer, idempotent::Idempotent, plain::Plain, publisher::Publisher,
    retained::Retained, subscriber::Subscriber,
};
use mainstem_simulation::Dice;

/// The records of a partition: offset and value.
pub(crate) type Records = BTreeMap<i64, String>;

/// A pause before the next try to connect.
const PAUSE: std::time::Duration = std::time::Duration::from_millis(5);

/// The `number`-th value of an actor, filled up to some length.
fn value(name: &str, number: u64, dice: &mut Dice) -> String {
    let filling = match dice.below(20) {
        0 => 3000 + dice.below(3000),
        1..8 => dice.below(600),
        _ => dice.below(20),
    };
    let filling = usize::try_from(filling).expect("a short value");
    format!("{name}-{number:06}-{}", "x".repeat(filling))
}

/// Those of `records` that `name` wrote, in order.
fn own<'a>(records: &'a Records, name: &str) -> Vec<&'a str> {
    let prefix = format!("{name}-");
    let values = records.values().map(String::as_str);
    values.filter(|value| value.starts_with(&prefix)).collect()
}

/// What there is to say of a value: it may be long.
fn short(value: &str) -> &str {
    value.rsplit_once('-').map_or(value, |(head, _)| head)
}
