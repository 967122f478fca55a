//! Properties of the codec, the space and the scan together, without a shard.

use std::{collections::BTreeMap, io, io::IoSlice, path::Path, sync::Arc};

use mainstem_env::{File, Fs, MemFs, OpenMode};
use mainstem_record::{Offset, PartitionId, PartitionIndex, SegmentId, TopicId};
use mainstem_simulation::{Faults, SimFs};
use proptest::prelude::*;
use uuid::Uuid;

use super::{
    file::{close, read_header},
    header::{Header, RING_BYTES_MIN},
    record::{self, BLOCK_BYTES, ENTRY_BYTES, Entry, HEAD_BYTES, Head},
    ring::Ring,
    scan::{self, Hole},
};

const RING: u128 = 0x5eed;

/// What a disk writes whole or not at all.
const SECTOR_BYTES: usize = 512;

fn entry(index: i32, payload: &[u8]) -> Entry {
    Entry {
        partition: PartitionId {
            topic: TopicId(Uuid::from_u128(1)),
            index: PartitionIndex(index),
        },
        segment: SegmentId(Uuid::from_u128(2)),
        base: Offset(3),
        position: 4,
        end: Offset(5),
        length: payload.len() as u32,
        crc: crc32c::crc32c(payload),
    }
}

/// A whole record, filling included.
fn encoded(head: &Head, payloads: &[Vec<u8>]) -> (Vec<Entry>, Vec<u8>) {
    let entries: Vec<Entry> = payloads
        .iter()
        .enumerate()
        .map(|(index, payload)| entry(index as i32, payload))
        .collect();
    let mut bytes = record::encode(head, &entries);
    payloads.iter().for_each(|p| bytes.extend_from_slice(p));
    bytes.resize(bytes.len().next_multiple_of(BLOCK_BYTES), 0);
    (entries, bytes)
}

fn head(sequence: u64, trim: u64, durable: u64, payloads: &[Vec<u8>]) -> Head {
    Head {
        ring: RING,
        sequence,
        trim,
        durable,
        entries: payloads.len(),
        payload: payloads.iter().map(Vec::len).sum(),
    }
}

/// The ring's file with zeros, as it is when it is new.
fn new_file(bytes: u64) -> Arc<dyn File> {
    let fs = MemFs::new();
    let file = fs
        .open(Path::new("/ring"), OpenMode::Create)
        .expect("opens");
    file.set_len(bytes).expect("grows");
    file
}

fn write(file: &dyn File, bytes: &[u8], position: u64) {
    file.write_all_vectored_at(&[IoSlice::new(bytes)], position)
        .expect("writes");
}

fn payloads() -> impl Strategy<Value = Vec<Vec<u8>>> {
    let payload = prop_oneof![
        Just(0usize),
        1..200usize,
        4000..4200usize,
        12_000..13_000usize
    ];
    prop::collection::vec((payload, any::<u8>()), 0..4).prop_map(|payloads| {
        let payload = |(length, byte): (usize, u8)| vec![byte; length];
        payloads.into_iter().map(payload).collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn record_round_trips_and_every_flipped_bit_is_found(
        payloads in payloads(), sequence in 1..u64::MAX, flip in any::<prop::sample::Index>(),
    ) {
        let head = head(sequence, sequence / 2, sequence - 1, &payloads);
        let (entries, bytes) = encoded(&head, &payloads);
        let blocks = record::blocks_of(entries.len(), head.payload);
        prop_assert_eq!(bytes.len() as u64, blocks * BLOCK_BYTES as u64);
        let front = HEAD_BYTES + entries.len() * ENTRY_BYTES;
        prop_assert_eq!(record::decode(&bytes[..front], RING), Some((head, entries)));
        prop_assert_eq!(record::decode(&bytes[..front], RING + 1), None);
        let mut bad = bytes[..front].to_vec();
        let bit = flip.index(front * 8);
        bad[bit / 8] ^= 1 << (bit % 8);
        prop_assert_eq!(record::decode(&bad, RING), None);
        prop_assert_eq!(record::decode(&bytes[..front - 1], RING), None);
    }

    #[test]
    fn arbitrary_bytes_are_no_record(mut bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let _ = record::decode(&bytes, RING);
        if let Some(start) = bytes.get_mut(..24) {
            start[..8].copy_from_slice(b"MSJR\x01\0\0\0");
            start[8..].copy_from_slice(&RING.to_le_bytes());
            prop_assert_eq!(record::decode(&bytes, RING), None);
        }
    }

    /// Whatever part of the newest record has reached the disk over whatever lay there before, all
    /// that counts is found, lap after lap.
    #[test]
    fn crash_in_the_middle_of_any_write_leaves_every_durable_record_that_counts(
        rounds in prop::collection::vec((payloads(), 0..100u64, any::<u64>(), any::<bool>()), 1..60),
    ) {
        let file = new_file(RING_BYTES_MIN);
        let mut ring = Ring::new(RING_BYTES_MIN);
        let mut model: BTreeMap<u64, Vec<Vec<u8>>> = BTreeMap::new();
        let mut trim = 1;
        for (mut payloads, trims, sectors, syncs) in rounds {
            trim = (trim + trims / 10).min(ring.next_sequence());
            let blocks = |p: &[Vec<u8>]| record::blocks_of(p.len(), p.iter().map(Vec::len).sum());
            let mut place = ring.place(blocks(&payloads), false);
            if place.is_none() && trim > ring.durable_trim() {
                payloads.clear();
                place = ring.place(1, true);
                prop_assert!(place.is_some(), "there is always room to say what is not needed");
            }
            // Without payload it may be written and not synced.
            let syncs = syncs || payloads.iter().any(|p| !p.is_empty()) || payloads.is_empty();
            let Some(place) = place else { continue };
            let head = head(place.sequence, trim, ring.durable(), &payloads);
            let (_, bytes) = encoded(&head, &payloads);
            prop_assert!(place.position + bytes.len() as u64 <= RING_BYTES_MIN);
            // Any of its sectors.
            for (at, sector) in bytes.chunks(SECTOR_BYTES).enumerate() {
                if sectors.rotate_left(at as u32) & 1 == 1 {
                    write(&*file, sector, place.position + (at * SECTOR_BYTES) as u64);
                }
            }
            check(&*file, &model, ring.durable_trim(), ring.durable())?;
            write(&*file, &bytes, place.position);
            model.insert(place.sequence, payloads);
            if syncs {
                ring.synced(place.sequence, trim);
                check(&*file, &model, trim, place.sequence)?;
            }
        }
    }
}

/// All records from `trim` up to `durable` are found, with their payloads.
fn check(
    file: &dyn File,
    model: &BTreeMap<u64, Vec<Vec<u8>>>,
    trim: u64,
    durable: u64,
) -> Result<(), TestCaseError> {
    let found = scan::find(file, RING, RING_BYTES_MIN).expect("reads");
    let live = scan::live(found);
    prop_assert!(live.is_ok(), "{live:?}");
    let live = live.unwrap_or_default();
    let by_sequence: BTreeMap<u64, _> = live
        .records
        .iter()
        .map(|found| (found.head.sequence, found))
        .collect();
    // The newest record may say itself that less is needed.
    let newest = live.records.last().map_or(trim, |found| found.head.trim);
    let needed = trim.max(newest);
    for (sequence, payloads) in model {
        if *sequence < needed || *sequence > durable {
            continue;
        }
        let found = by_sequence.get(sequence);
        prop_assert!(
            found.is_some(),
            "{sequence} of {trim}..={durable} is missing"
        );
        let Some(found) = found else { continue };
        let front = HEAD_BYTES + payloads.len() * ENTRY_BYTES;
        let mut at = found.position + front as u64;
        for payload in payloads {
            let mut bytes = vec![0; payload.len()];
            file.read_exact_at(&mut bytes, at).expect("reads");
            prop_assert_eq!(&bytes, payload);
            at += payload.len() as u64;
        }
    }
    Ok(())
}

/// Three records with one block each, of which the third says that two are durable.
fn three_records() -> (Arc<dyn File>, Vec<u64>) {
    let file = new_file(RING_BYTES_MIN);
    let mut ring = Ring::new(RING_BYTES_MIN);
    let mut positions = Vec::new();
    for sequence in 1..=3 {
        let payloads = vec![vec![7; 100]];
        let place = ring.place(1, false).expect("room");
        let head = head(sequence, 1, sequence - 1, &payloads);
        write(&*file, &encoded(&head, &payloads).1, place.position);
        ring.synced(sequence, 1);
        positions.push(place.position);
    }
    (file, positions)
}

#[test]
fn hole_below_what_was_durable_is_damage_and_above_it_is_a_torn_tail() {
    let sequences = |file: &dyn File| {
        let found = scan::find(file, RING, RING_BYTES_MIN).expect("reads");
        let live = scan::live(found)?;
        let records = live.records.iter();
        Ok::<Vec<u64>, Hole>(records.map(|found| found.head.sequence).collect())
    };
    let (file, positions) = three_records();
    assert_eq!(sequences(&*file), Ok(vec![1, 2, 3]));
    // Whatever is left of the last one: nobody was told of it.
    for kept in (0..HEAD_BYTES + ENTRY_BYTES).step_by(4) {
        let (file, positions) = three_records();
        write(
            &*file,
            &vec![0; BLOCK_BYTES - kept],
            positions[2] + kept as u64,
        );
        assert_eq!(sequences(&*file), Ok(vec![1, 2]), "{kept}");
    }
    write(&*file, &[9; 4], positions[1] + 20);
    let hole = Hole {
        sequence: 2,
        position: Some(positions[1]),
    };
    assert_eq!(sequences(&*file), Err(hole));
    let (file, positions) = three_records();
    write(&*file, &[0; 4], positions[0]);
    let hole = Hole {
        sequence: 1,
        position: None,
    };
    assert_eq!(sequences(&*file), Err(hole));
}

#[test]
fn records_of_an_earlier_life_of_the_ring_do_not_count() {
    let (file, _) = three_records();
    let found = scan::find(&*file, RING + 1, RING_BYTES_MIN).expect("reads");
    assert!(found.is_empty());
    assert_eq!(scan::live(found).map(|live| live.records.len()), Ok(0));
}

/// The format on disk: what an older version wrote must be read.
#[test]
fn golden_record_has_these_bytes() {
    let payloads = vec![b"one".to_vec(), Vec::new()];
    let (entries, bytes) = encoded(&head(9, 7, 8, &payloads), &payloads);
    let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
    let front = HEAD_BYTES + ENTRY_BYTES * 2;
    assert_eq!(hex(&bytes[..front + 3]), GOLDEN.concat());
    assert!(bytes[front + 3..].iter().all(|byte| *byte == 0));
    let decoded = record::decode(&bytes[..front], RING);
    assert_eq!(decoded, Some((head(9, 7, 8, &payloads), entries)));
}

const GOLDEN: [&str; 7] = [
    "4d534a5201000000ed5e00000000000000000000000000000900000000000000",
    "070000000000000008000000000000000200000003000000b9d67bcd00000000",
    "0000000000000000000000000000000100000000000000000000000000000000",
    "0000000203000000000000000400000000000000050000000000000003000000",
    "e9b2942a00000000000000000000000000000001010000000000000000000000",
    "0000000000000002030000000000000004000000000000000500000000000000",
    "00000000000000006f6e65",
];

#[test]
fn slot_of_which_a_part_was_written_is_put_back() {
    let fs = SimFs::new();
    let path = Path::new("/ring");
    let file = fs.open(path, OpenMode::Create).expect("opens");
    file.set_len(RING_BYTES_MIN).expect("grows");
    let header = |generation, open| Header {
        generation,
        ring: RING,
        bytes: RING_BYTES_MIN,
        open,
    };
    write(&*file, &header(0, false).encode(), 0);
    write(&*file, &header(1, true).encode(), BLOCK_BYTES as u64);
    for kept in 0..BLOCK_BYTES {
        fs.set_faults(Faults {
            write: Some((kept, io::ErrorKind::StorageFull)),
            ..Faults::default()
        });
        assert!(close(&*file, &header(1, true)).is_err());
        let found = read_header(&*file, path).expect("can be read");
        assert_eq!(found, header(1, true), "{kept} bytes");
    }
    close(&*file, &header(1, true)).expect("closes");
    let found = read_header(&*file, path).expect("can be read");
    assert_eq!(found, header(2, false));
}
