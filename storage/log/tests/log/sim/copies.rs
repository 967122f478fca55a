//! What is tried on a copy of the disk: bit rot, and the loss of everything that is derived.

use std::path::PathBuf;

use mainstem_log::{LogEvent, Partition, PartitionFailure, Read, ReadError};
use mainstem_record::{BatchHeader, Batches, Offset, TimestampMs};
use mainstem_simulation::SimFs;

use super::{
    model::{Id, Model},
    node::{Content, Node, finish, forget_derived, read_from},
    world::Sim,
};
use crate::support::{partition_id, records_of};

/// The incarnations of copies, apart from those of the disk itself.
const COPIES_FROM: u64 = 1 << 40;

/// A log that has nothing but its batches comes to the same state as the one that came back with
/// indexes, snapshots and synced points.
pub(crate) async fn rebuilt_from_batches(sim: &Sim, before: &SimFs, contents: &[Content]) {
    forget_derived(before);
    let process = sim.world.process(before, COPIES_FROM + sim.report.crashes);
    let node = Node::start(process, &sim.options, &sim.models).await;
    let node = node.unwrap_or_else(|error| panic!("rebuilding: {error}"));
    for (at, content) in contents.iter().enumerate() {
        let (there, here) = (&sim.node.partitions[at], &node.partitions[at]);
        assert_eq!(here.ends(), there.ends(), "rebuilt partition {at}");
        let summary = |partition: &Partition| -> Vec<_> {
            let segments = partition.segments().into_iter();
            segments
                .map(|s| (s.id, s.base, s.end, s.epoch, s.bytes, s.max_timestamp))
                .collect()
        };
        assert_eq!(summary(here), summary(there), "rebuilt partition {at}");
        let from = here.ends().log_start.0;
        let read = finish(&node.process.env, read_from(here, from, 4000)).await;
        let read = read.unwrap_or_else(|error| panic!("rebuilt partition {at}: {error}"));
        assert_eq!(read.seen, content.seen, "rebuilt partition {at}");
        for id in Model::producers(&content.batches).into_keys() {
            let of = |partition: &Partition| {
                let known = partition.producers().into_iter();
                let known = known.map(|p| (p.id.0, p.epoch, p.last_sequence, p.last_offset));
                known.filter(|known| known.0 == id).collect::<Vec<_>>()
            };
            assert_eq!(of(here), of(there), "rebuilt partition {at}");
        }
        for wanted in [
            1000,
            1000 + sim.numbers as i64 / 2,
            1000 + sim.numbers as i64,
        ] {
            let find = here.find_timestamp(TimestampMs(wanted), Offset::ZERO);
            let found = finish(&node.process.env, find).await;
            // A read begins with a whole batch, a part of which may lie below the log start.
            let mut readable = content.seen.iter().filter(|seen| seen.offset >= from);
            let expected = readable.find(|seen| seen.timestamp >= wanted);
            let expected = expected.map(|s| (Offset(s.offset), TimestampMs(s.timestamp)));
            assert_eq!(found, Ok(expected), "rebuilt partition {at}: time {wanted}");
        }
    }
    node.process.end();
}

/// One bit of the disk changes while no node runs. Nothing is ever read wrong or shortened, and
/// whatever cannot be read any more is named.
pub(crate) async fn with_bit_rot(sim: &mut Sim) {
    let disk = sim.fs.copy();
    let endings = [".log", ".log", ".log", ""];
    let files = disk.files(endings[sim.dice.index(endings.len())]);
    let Some(path) = files.get(sim.dice.index(files.len())).cloned() else {
        return;
    };
    let before = disk.content(&path);
    if before.is_empty() {
        return;
    }
    let position = sim.dice.index(before.len());
    disk.rot(&path, position as u64, sim.dice.below(8) as u8);
    let number = COPIES_FROM * 2 + sim.report.operations * 8 + sim.dice.below(8);
    let process = sim.world.process(&disk, number);
    let rot = Rot {
        path,
        position,
        before,
    };
    let mut node = match Node::start(process, &sim.options, &sim.models).await {
        Ok(node) => node,
        Err(error) => {
            let told = error.to_string();
            let path = rot.path.display().to_string();
            assert!(
                told.contains(&path),
                "{path} has rotten, and told was: {told}"
            );
            return;
        }
    };
    let mut noticed = rot.failures(&mut node);
    for (model, partition) in sim.models.iter().zip(&node.partitions) {
        let walk = rot.walk(model, partition);
        noticed |= finish(&node.process.env, walk).await;
    }
    let known = sim.models.iter().any(|model| rot.is_of(model));
    let repaired = || disk.content(&rot.path) == rot.before;
    assert!(
        noticed || !known || repaired(),
        "bit rot in {} at {position} went unnoticed",
        rot.path.display()
    );
    node.process.end();
}

struct Rot {
    path: PathBuf,
    position: usize,
    before: Vec<u8>,
}

// === impl Rot ===

impl Rot {
    /// Whether any partition has failed; it says the right place then.
    fn failures(&self, node: &mut Node) -> bool {
        let mut any = false;
        while let Ok(event) = node.events.try_recv() {
            let LogEvent::PartitionFailed { failure, .. } = event else {
                panic!("{event:?}");
            };
            let PartitionFailure::Damaged { path, position, .. } = failure else {
                panic!("{failure:?}");
            };
            assert_eq!(path, self.path);
            assert!(position <= self.position as u64, "damage is told too late");
            any = true;
        }
        any
    }

    /// Whether it is in a batch of this partition that can be read.
    fn is_of(&self, model: &Model) -> bool {
        let name = self.path.file_stem().unwrap_or_default().to_string_lossy();
        let segments = &model.chain;
        let of_segment = self.path.extension().is_some_and(|e| e == "log")
            && segments.iter().any(|s| name.ends_with(&s.id.0.to_string()));
        let mut rest = self.before.as_slice();
        let mut left = self.position;
        while of_segment && let Ok(header) = BatchHeader::parse(rest) {
            if left < header.size_bytes() {
                return header.last_offset().0 >= model.log_start;
            }
            left -= header.size_bytes();
            rest = rest.get(header.size_bytes()..).unwrap_or_default();
        }
        false
    }

    /// Reads everything, around the damage; whether there was any.
    async fn walk(&self, model: &Model, partition: &Partition) -> bool {
        let ends = partition.ends();
        assert_eq!(partition.id(), partition_id(model.index as i32));
        assert!(
            ends.log_end.0 >= model.floor,
            "{} was cut to {} below the synced {}",
            self.path.display(),
            ends.log_end.0,
            model.floor
        );
        let mut damaged = false;
        let mut next = ends.log_start;
        while next < ends.committed_end {
            let read = Read {
                from: next,
                bytes_max: 2000,
                at_least_one_batch: true,
                end: Offset(i64::MAX),
            };
            match partition.read(read).await {
                Ok(chunk) => {
                    for batch in chunk.batches.into_iter().flat_map(Batches::new) {
                        check(model, &batch.expect("a batch").1);
                    }
                    assert!(chunk.next > next, "reads stand still at {next}");
                    next = chunk.next;
                }
                Err(ReadError::Damaged { end, .. }) => {
                    damaged = true;
                    assert!(end > next, "damage that has no end");
                    next = end;
                }
                Err(error) => panic!("{error}"),
            }
        }
        damaged
    }
}

fn check(model: &Model, batch: &[u8]) {
    for seen in records_of(batch) {
        let id = Id::of(&seen);
        assert_eq!(model.place(id), Some(seen.offset), "{id:?} is elsewhere");
    }
}
