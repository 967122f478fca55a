//! The table of `docs/durability.md`.

use super::Cell;

/// The page with the table.
const PAGE: &str = include_str!("../../../../../docs/durability.md");

/// What is acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Promise {
    Acks0,
    Acks1,
    AcksAll,
    Qos0,
    Qos1,
    Qos2,
    OffsetCommit,
    Session,
    Retained,
}

/// `mainstem.flush`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Policy {
    Os,
    Interval,
    Always,
}

/// What happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Event {
    ProcessKilled,
    PowerCut,
    /// And the power is cut after it.
    SyncFailed,
}

/// What the table says of a cell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Word {
    /// All that was acknowledged is there.
    Kept,
    /// So is what is older than the interval, or than a sync takes; the rest may be lost.
    LastMayBeLost,
    /// Whatever the operating system had not written.
    MayBeLost,
    /// The sender is told nothing.
    NotPromised,
}

const PROMISES: [(&str, Promise); 9] = [
    ("Kafka acks=0", Promise::Acks0),
    ("Kafka acks=1", Promise::Acks1),
    ("Kafka acks=all", Promise::AcksAll),
    ("MQTT QoS 0", Promise::Qos0),
    ("MQTT QoS 1", Promise::Qos1),
    ("MQTT QoS 2", Promise::Qos2),
    ("OffsetCommit", Promise::OffsetCommit),
    ("MQTT session", Promise::Session),
    ("retained message", Promise::Retained),
];

const POLICIES: [(&str, Policy); 3] = [
    ("`os`", Policy::Os),
    ("`interval`", Policy::Interval),
    ("`always`", Policy::Always),
];

const EVENTS: [(&str, Event); 3] = [
    ("process killed", Event::ProcessKilled),
    ("power cut", Event::PowerCut),
    ("sync failed", Event::SyncFailed),
];

const WORDS: [(&str, Word); 4] = [
    ("kept", Word::Kept),
    ("last may be lost", Word::LastMayBeLost),
    ("may be lost", Word::MayBeLost),
    ("not promised", Word::NotPromised),
];

// === impl Policy ===

impl Policy {
    /// As the configuration has it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Os => "os",
            Self::Interval => "interval",
            Self::Always => "always",
        }
    }
}

/// The rows of the table that begins with `| acknowledged | policy |`: their columns.
fn rows() -> Vec<Vec<&'static str>> {
    let lines = PAGE.lines();
    let columns = |line: &'static str| {
        let columns = line.trim().trim_matches('|').split('|');
        columns.map(str::trim).collect::<Vec<_>>()
    };
    let table = lines
        .skip_while(|line| !line.starts_with("| acknowledged | policy |"))
        .take_while(|line| line.starts_with('|'));
    table.map(columns).collect()
}

fn find<T: Copy>(known: &[(&str, T)], name: &str) -> T {
    let found = known.iter().find(|(known, _)| *known == name);
    found.unwrap_or_else(|| panic!("{name:?} in the table")).1
}

/// What the table says of a cell.
pub(super) fn word(cell: Cell) -> Word {
    let rows = rows();
    let column = rows[0][2..]
        .iter()
        .position(|name| find(&EVENTS, name) == cell.event)
        .expect("the event has a column");
    let row = rows[2..]
        .iter()
        .find(|row| {
            find(&PROMISES, row[0]) == cell.promise && find(&POLICIES, row[1]) == cell.policy
        })
        .expect("a row of the table");
    find(&WORDS, row[2 + column])
}

/// What the table's rows are about, each once, if it has every policy of each and every event.
pub(super) fn promises() -> Vec<Promise> {
    let rows = rows();
    let events: Vec<Event> = rows[0][2..]
        .iter()
        .map(|name| find(&EVENTS, name))
        .collect();
    assert_eq!(events, EVENTS.map(|(_, event)| event));
    let mut promises = Vec::new();
    for rows in rows[2..].chunks(POLICIES.len()) {
        let policies: Vec<Policy> = rows.iter().map(|row| find(&POLICIES, row[1])).collect();
        assert_eq!(policies, POLICIES.map(|(_, policy)| policy), "{rows:?}");
        assert!(rows.iter().all(|row| row[0] == rows[0][0]), "{rows:?}");
        promises.push(find(&PROMISES, rows[0][0]));
    }
    promises
}
