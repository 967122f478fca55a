//! What was proposed and read, and whether it is linearizable: blocks of producer ids are a counter
//! to which everybody adds, so every answer says where in the one order it stands.

use std::collections::{BTreeMap, BTreeSet};

use mainstem_metadata::{Applied, Command, Metadata, ProposeError};
use mainstem_simulation::HostId;

/// The history of one cluster.
#[derive(Debug, Default)]
pub(crate) struct History {
    /// Blocks that were given: where they begin, and how long they are.
    given: BTreeMap<i64, i64>,
    /// The counter was at least there when the last answer came.
    floor: i64,
    /// No more than this can ever have been given.
    asked: i64,
    /// Answers of all kinds.
    pub(crate) answers: u64,
    /// The one leader of a term.
    leaders: BTreeMap<u64, HostId>,
    /// The counter in each version of the image.
    versions: BTreeMap<u64, i64>,
    /// The newest version that a life of a node had.
    newest: BTreeMap<HostId, (u64, u64)>,
    cluster_ids: BTreeSet<String>,
}

/// A question under way.
pub(crate) struct Asked {
    count: i64,
    floor: i64,
}

// === impl History ===

impl History {
    /// Before a block of so many ids is proposed.
    pub(crate) fn propose(&mut self, count: i32) -> (Asked, Command) {
        let asked = Asked {
            count: i64::from(count),
            floor: self.floor,
        };
        self.asked += asked.count;
        (asked, Command::AllocateProducerIds { count })
    }

    /// After it; without an answer it may be given for ever after. A node that was stopped meanwhile
    /// may say that it has failed for good.
    pub(crate) fn proposed(
        &mut self,
        asked: &Asked,
        answer: &Result<Applied, ProposeError>,
        stopped: bool,
    ) {
        match answer {
            Ok(Applied::ProducerIds { first, count }) => {
                assert_eq!(i64::from(*count), asked.count);
                let end = first + asked.count;
                assert!(*first >= asked.floor, "{first} after {}", asked.floor);
                assert!(end <= self.asked, "{end} of {}", self.asked);
                let before = self.given.range(..end).next_back();
                let free = before.is_none_or(|(begin, count)| begin + count <= *first);
                assert!(free, "{first}..{end} overlaps {before:?}");
                self.given.insert(*first, asked.count);
                self.floor = self.floor.max(end);
                self.answers += 1;
            }
            Ok(other) => panic!("{other:?}"),
            Err(ProposeError::Fatal) if stopped => {}
            Err(error) => {
                assert!(error.is_retriable(), "{error}");
                if !error.is_outcome_unknown() {
                    self.asked -= asked.count;
                }
            }
        }
    }

    /// Before a linearizable read.
    pub(crate) fn read(&self) -> Asked {
        Asked {
            count: 0,
            floor: self.floor,
        }
    }

    /// What it found.
    pub(crate) fn found(&mut self, asked: &Asked, counter: i64) {
        assert!(counter >= asked.floor, "{counter} after {}", asked.floor);
        assert!(counter <= self.asked, "{counter} of {}", self.asked);
        self.floor = self.floor.max(counter);
        self.answers += 1;
    }

    /// Looks at a node, in a life that `life` tells from its others.
    pub(crate) fn look(&mut self, host: HostId, life: u64, metadata: &Metadata) {
        let leadership = *metadata.leadership().borrow();
        if leadership.leads {
            let leader = *self.leaders.entry(leadership.term).or_insert(host);
            assert_eq!(leader, host, "two lead in term {}", leadership.term);
        }
        let image = metadata.image();
        let (version, counter) = (image.version, image.next_producer_id);
        let there = *self.versions.entry(version).or_insert(counter);
        assert_eq!(there, counter, "version {version} differs on {host:?}");
        let (last_life, newest) = self
            .newest
            .insert(host, (life, version))
            .unwrap_or((life, 0));
        assert!(
            last_life != life || newest <= version,
            "{host:?} went back from {newest} to {version}"
        );
        if !image.cluster_id.is_empty() {
            self.cluster_ids.insert(image.cluster_id.clone());
            assert_eq!(self.cluster_ids.len(), 1, "{:?}", self.cluster_ids);
        }
    }

    /// In all versions that were looked at the counter only grows; what was given is in it.
    pub(crate) fn check(&self) {
        assert!(self.versions.values().is_sorted(), "the counter went back");
        let last = self.versions.values().next_back();
        assert!(last.is_some_and(|last| *last >= self.floor));
    }

    /// Terms that had a leader.
    pub(crate) fn terms(&self) -> usize {
        self.leaders.len()
    }
}
