//! A broker: a disk, and a life while it runs.

use std::{collections::BTreeMap, sync::Arc};

use mainstem_metadata::{Command, Image};
use mainstem_record::{BrokerId, Incarnation, Member, Offset, SegmentId};
use mainstem_replication::machine::replica::{AtSeal, Replica};
use uuid::Uuid;

use super::{log::Log, message::Proof};

/// A broker.
#[derive(Clone, Debug)]
pub(crate) struct Broker {
    pub(crate) id: BrokerId,
    pub(crate) disk: Disk,
    pub(crate) life: Option<Life>,
}

/// What outlives the process.
#[derive(Clone, Debug)]
pub(crate) struct Disk {
    pub(crate) directory: Uuid,
    pub(crate) logs: BTreeMap<SegmentId, Log>,
    /// The clean-shutdown marker, or, after a kill, the run marker of this boot.
    pub(crate) marker: Option<Incarnation>,
    /// The life that the directory last registered under.
    pub(crate) registered: Option<Incarnation>,
}

/// A running process.
#[derive(Clone, Debug)]
pub(crate) struct Life {
    /// Which process of all that ever ran.
    pub(crate) number: u64,
    pub(crate) request: Uuid,
    pub(crate) proof: Proof,
    /// Once it is registered.
    pub(crate) member: Option<Member>,
    pub(crate) image: Arc<Image>,
    pub(crate) replicas: BTreeMap<SegmentId, Replica>,
    /// As leader: where each follower's stream stands.
    pub(crate) streams: BTreeMap<(SegmentId, BrokerId), (Member, Offset)>,
    /// The SealAndOpen of a version: repeated as it was (R30).
    pub(crate) seals: BTreeMap<(SegmentId, u32), Command>,
}

/// How a process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// Everything is synced, then the marker is written.
    Clean,
    /// Killed: the page cache lives on.
    Kill,
    /// Power is lost, and so is what was not synced, but for so many records of each log.
    Power { kept: usize },
    /// The directory is gone.
    Disk,
    /// The directory is set back to what it was at the last backup.
    Restored,
}

impl Broker {
    pub(crate) fn new(id: BrokerId, directory: Uuid) -> Self {
        Self {
            id,
            disk: Disk {
                directory,
                logs: BTreeMap::new(),
                marker: None,
                registered: None,
            },
            life: None,
        }
    }

    pub(crate) fn member(&self) -> Option<Member> {
        self.life.as_ref()?.member
    }

    pub(crate) fn replica(&mut self, segment: SegmentId) -> Option<&mut Replica> {
        self.life.as_mut()?.replicas.get_mut(&segment)
    }

    /// R33: what the machine says of a log when its seal is learned.
    pub(crate) fn at_seal(&mut self, segment: SegmentId, what: AtSeal) {
        let Some(log) = self.disk.logs.get_mut(&segment) else {
            return;
        };
        if let AtSeal::Cut(end) = what {
            log.cut(end);
            let ends = log.ends();
            if let Some(replica) = self.replica(segment) {
                replica.was_cut(ends);
            }
        }
    }

    /// The segments of a chain that concern this broker.
    pub(crate) fn concerned(
        &self,
        image: &Image,
        partition: mainstem_record::PartitionId,
    ) -> Vec<SegmentId> {
        let Some(chain) = image.partition(partition) else {
            return Vec::new();
        };
        let concerned = chain.segments.iter().filter(|record| {
            record.replicas.contains(&self.id)
                || self.disk.logs.contains_key(&record.id)
                || record.leader == self.id
        });
        concerned.map(|record| record.id).collect()
    }
}
