//! One file of a log: the input takes its place in a directory that a node has left, and then
//! everything that reads such a directory is let loose on it.

use std::{path::PathBuf, sync::OnceLock};

use mainstem_env::Fs;
use mainstem_record::Offset;
use mainstem_simulation::{SimFs, World};

use super::{
    Target,
    batch::{BATCHES, repair, some_batch},
    journal,
    node::{append, check, dir, segment, show, spec, start, use_it},
};
use crate::Trace;

/// A start with recovery, reads, an append, a seal and a clean stop, however often buffers grow.
const BYTES_FREE: usize = 192 << 20;
const BYTES_FACTOR: usize = 512;
const SHORT: u64 = 700;

/// How a directory was left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Left {
    /// By a clean stop.
    Stopped,
    /// By a clean stop whose mark is gone: everything is there, nothing may be trusted.
    Unmarked,
    /// By a power cut: what was not synced is gone, and only the journal has it.
    Cut,
}

/// Which file an input stands for.
#[derive(Debug, Clone, Copy)]
struct Place {
    ending: &'static str,
    /// Which of those with this ending, by name.
    number: usize,
    left: Left,
}

const fn target(name: &'static str, functions: Functions) -> Target {
    Target {
        name,
        run: functions.0,
        seeds: functions.1,
        repair: functions.2,
        bytes_free: BYTES_FREE,
        bytes_factor: BYTES_FACTOR,
        short: SHORT,
    }
}

type Functions = (fn(&[u8], &mut Trace), fn() -> Vec<Vec<u8>>, fn(&mut [u8]));

/// The functions of a target for a place.
macro_rules! place {
    ($ending:literal, $number:literal, $left:ident, $repair:path) => {{
        const PLACE: Place = Place {
            ending: $ending,
            number: $number,
            left: Left::$left,
        };
        (
            |input, trace| PLACE.run(input, trace),
            || PLACE.seeds(),
            $repair,
        )
    }};
}

pub(super) const SEGMENT: Target = target("segment", place!(".log", 0, Unmarked, repair_batches));
pub(super) const ACTIVE: Target = target("active", place!(".log", 1, Unmarked, repair_batches));
pub(super) const INDEX: Target = target("index", place!(".idx", 0, Unmarked, repair_index));
pub(super) const SNAPSHOT: Target = target("snapshot", place!(".snap", 0, Stopped, repair_index));
pub(super) const RECOVERY_POINT: Target =
    target("recovery-point", place!(".snap", 0, Unmarked, repair_index));
pub(super) const CHECKPOINT: Target = target(
    "checkpoint",
    place!("/checkpoint", 0, Unmarked, repair_trailer),
);
pub(super) const JOURNAL: Target = target("journal", place!(".ring", 0, Cut, journal::repair));
pub(super) const SCRUB: Target = target("scrub", place!("/scrub", 0, Unmarked, repair_trailer));
pub(super) const FORMAT: Target = target("format", place!("/format", 0, Unmarked, repair_trailer));
pub(super) const MARK: Target = target(
    "mark",
    place!("/clean-shutdown", 0, Stopped, repair_trailer),
);

/// Makes the checksum of each batch right, as far as lengths lead from one to the next.
fn repair_batches(input: &mut [u8]) {
    let mut at = 0;
    while let Some(field) = input.get(at + 8..at + 12) {
        let length = i32::from_be_bytes(field.try_into().expect("four bytes"));
        let len = usize::try_from(length).map_or(usize::MAX, |length| length + 12);
        let len = len.min(input.len() - at);
        if let Some(batch) = input.get_mut(at..) {
            repair(batch, len);
        }
        at += len.max(1);
    }
}

/// Bytes before the first section of an index file: magic and version.
const FRONT_BYTES: usize = 8;
/// Tag and length of a section.
const SECTION_BYTES: usize = 12;
const TRAILER_BYTES: usize = 4;

/// Makes an index file one again: lengths of sections that reach beyond the file, the checksum of the
/// header section, which comes first, and that of the file.
fn repair_index(input: &mut [u8]) {
    let end = input.len().saturating_sub(TRAILER_BYTES);
    let mut at = FRONT_BYTES;
    while at + SECTION_BYTES <= end {
        let start = at + SECTION_BYTES;
        let field = &mut input[at + 4..start];
        let length = u64::from_le_bytes(field.try_into().expect("eight bytes"));
        let room = end - start;
        let mut length = usize::try_from(length).unwrap_or(usize::MAX).min(room);
        if room - length < SECTION_BYTES {
            length = room;
        }
        field.copy_from_slice(&(length as u64).to_le_bytes());
        let section = &mut input[start..start + length];
        if at == FRONT_BYTES
            && let Some((body, crc)) = section.split_last_chunk_mut::<4>()
        {
            *crc = crc32c::crc32c(body).to_le_bytes();
        }
        at = start + length;
    }
    repair_trailer(input);
}

/// Makes the checksum right that ends a file.
fn repair_trailer(input: &mut [u8]) {
    if let Some(at) = input.len().checked_sub(4) {
        let crc = crc32c::crc32c(&input[..at]);
        input[at..].copy_from_slice(&crc.to_le_bytes());
    }
}

// === the directory ===

/// A disk with a sealed and an active segment, and where the sealed one ends.
struct Base {
    disk: SimFs,
    end: Offset,
}

impl Base {
    fn make(left: Left) -> Self {
        mainstem_simulation::run(1, |world: World| async move {
            let disk = world.disk();
            let log = start(&world, &disk, 0).await.expect("a new log");
            let first = segment(0, Offset(0), None);
            let partition = log
                .open_partition(spec(vec![first]))
                .await
                .expect("a new partition");
            for number in 0..BATCHES {
                append(&partition, some_batch(number)).await;
            }
            let info = partition.seal_begin().await.expect("it seals");
            let active = segment(1, info.end, None);
            partition.seal_commit(active).await.expect("it rolls");
            for number in 0..BATCHES {
                append(&partition, some_batch(number + 1)).await;
            }
            log.make_dictionaries().await;
            log.scrub().await;
            if left != Left::Cut {
                log.close().await.expect("a clean stop");
            }
            if left == Left::Unmarked {
                let fs: &dyn Fs = &disk;
                fs.remove_file(&dir().join("clean-shutdown"))
                    .expect("the mark is there");
            }
            let disk = match left {
                Left::Cut => disk.power_cut(0),
                Left::Stopped | Left::Unmarked => disk.process_death(),
            };
            Self {
                disk,
                end: info.end,
            }
        })
    }

    /// The one of nodes that were left so.
    fn of(left: Left) -> &'static Self {
        static BASES: [OnceLock<Base>; 3] = [const { OnceLock::new() }; 3];
        BASES[left as usize].get_or_init(|| Self::make(left))
    }
}

// === impl Place ===

impl Place {
    fn path(self, disk: &SimFs) -> PathBuf {
        let mut files = disk.files(self.ending);
        assert!(self.number < files.len(), "no {} in {files:?}", self.ending);
        files.swap_remove(self.number)
    }

    fn seeds(self) -> Vec<Vec<u8>> {
        let disk = &Base::of(self.left).disk;
        let mut content = disk.content(&self.path(disk));
        if self.is_ring() {
            content.truncate(journal::used(&content));
        }
        vec![content, Vec::new()]
    }

    /// Without an index file the epoch of a segment is the metadata's, which `verify` does not see;
    /// and a forged snapshot or journal may claim batches that nobody has written.
    fn may_deceive_verify(self) -> bool {
        self.number == 1 || self.ending == ".snap" || self.is_ring()
    }

    /// A ring has its length whatever is in it; an input leaves the zeros at its end out.
    fn is_ring(self) -> bool {
        self.ending == ".ring"
    }

    fn run(self, input: &[u8], trace: &mut Trace) {
        let base = Base::of(self.left);
        let disk = base.disk.process_death();
        let path = self.path(&disk);
        disk.edit(&path, |content| {
            let len = if self.is_ring() { content.len() } else { 0 };
            *content = input.to_vec();
            content.resize(len.max(input.len()), 0);
        });
        let is_good = check(&disk, trace) && !self.may_deceive_verify();
        show(&disk, trace);
        let node = (&disk, base.end);
        mainstem_simulation::run(1, |world| use_it(world, node, is_good, &mut *trace));
        // And what that leaves.
        check(&disk, trace);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How far the log goes after a start on what was left.
    fn end_of(base: &Base) -> Offset {
        let disk = base.disk.process_death();
        mainstem_simulation::run(1, |world: World| async move {
            let log = start(&world, &disk, 1).await.expect("a start");
            let chain = vec![
                segment(0, Offset(0), Some(base.end)),
                segment(1, base.end, None),
            ];
            let partition = log.open_partition(spec(chain)).await.expect("it opens");
            partition.ends().committed_end
        })
    }

    #[test]
    fn after_the_power_cut_only_the_journal_has_the_last_records() {
        let active = Place {
            ending: ".log",
            number: 1,
            left: Left::Cut,
        };
        let (cut, whole) = (Base::of(Left::Cut), Base::of(Left::Stopped));
        let bytes = |base: &Base| base.disk.content(&active.path(&base.disk)).len();
        assert!(bytes(cut) < bytes(whole));
        assert_eq!(end_of(cut), end_of(whole));
    }
}
