//! The dictionary of a segment's labels: which labels its records have, and in which batches.
//!
//! ```text
//! batches u32  labels u32  unlabelled postings
//! { shared varint  length varint  the rest of the label  postings }*  crc32c u32
//! postings: count varint, then the byte positions of batches as varints, each less the one before
//! ```
//! Labels rise; each begins with the first `shared` bytes of the one before. A batch that has a
//! record whose label was not known for certain is among the unlabelled, which every look-up gets.
//! Varints are unsigned, seven bits at a time, the lowest first. The checksum covers everything
//! before it, so that a dictionary can be read without the rest of its file.

use std::collections::HashMap;

use bytes::Bytes;

use super::LABELS_BYTES_MAX;
use crate::dedupe::Fields;

/// The most labels of one segment.
const LABELS_MAX: usize = 1 << 20;

/// The longest label.
const LABEL_BYTES_MAX: usize = 64 << 10;

/// The memory that a label takes besides its bytes and its postings, about.
const LABEL_OVERHEAD_BYTES: usize = 96;

/// A dictionary as it lies in the file, its checksum known to be right.
#[derive(Debug)]
pub(crate) struct Dictionary {
    payload: Bytes,
}

/// Collects the labels of a segment, batch by batch.
#[derive(Debug, Default)]
pub(crate) struct LabelsBuilder {
    labels: HashMap<Box<[u8]>, Postings>,
    unlabelled: Postings,
    batches: u32,
    memory_bytes: usize,
}

/// The segment has too many labels for a dictionary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TooMany;

/// Which batches of a segment have what was looked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Found {
    /// Byte positions, rising.
    pub(crate) positions: Vec<u32>,
    /// How many batches the segment has.
    pub(crate) batches: u32,
}

/// Byte positions of batches, encoded.
#[derive(Debug, Default)]
struct Postings {
    deltas: Vec<u8>,
    count: u32,
    last: u32,
}

// === impl LabelsBuilder ===

impl LabelsBuilder {
    /// Counts one more batch; its labels follow.
    pub(crate) fn begin_batch(&mut self) {
        self.batches += 1;
    }

    /// A record of the batch at `position` has this label; `None` if its label is not known for
    /// certain.
    ///
    /// # Errors
    /// [`TooMany`]: there can be no dictionary.
    pub(crate) fn add(&mut self, position: u32, label: Option<&[u8]>) -> Result<(), TooMany> {
        let Some(label) = label else {
            self.memory_bytes += self.unlabelled.push(position);
            return self.check();
        };
        if label.len() > LABEL_BYTES_MAX {
            return Err(TooMany);
        }
        if let Some(postings) = self.labels.get_mut(label) {
            self.memory_bytes += postings.push(position);
        } else {
            let mut postings = Postings::default();
            self.memory_bytes += postings.push(position) + label.len() + LABEL_OVERHEAD_BYTES;
            self.labels.insert(label.into(), postings);
        }
        self.check()
    }

    fn check(&self) -> Result<(), TooMany> {
        // What it takes in memory bounds what it takes in the file.
        let fits = self.labels.len() <= LABELS_MAX && self.memory_bytes <= LABELS_BYTES_MAX;
        if fits { Ok(()) } else { Err(TooMany) }
    }

    /// The section; `None` if it would tell nothing.
    pub(crate) fn finish(self) -> Option<Vec<u8>> {
        if self.labels.is_empty() {
            return None;
        }
        let mut out = Vec::new();
        out.extend_from_slice(&self.batches.to_le_bytes());
        out.extend_from_slice(&(self.labels.len() as u32).to_le_bytes());
        self.unlabelled.encode(&mut out);
        let mut sorted: Vec<_> = self.labels.into_iter().collect();
        sorted.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        let mut previous: &[u8] = &[];
        for (label, postings) in &sorted {
            let same = |(a, b): &(&u8, &u8)| a == b;
            let shared = previous.iter().zip(label).take_while(same).count();
            let rest = label.get(shared..).unwrap_or_default();
            write_varint(&mut out, shared as u32);
            write_varint(&mut out, rest.len() as u32);
            out.extend_from_slice(rest);
            postings.encode(&mut out);
            previous = label;
        }
        let crc = crc32c::crc32c(&out);
        out.extend_from_slice(&crc.to_le_bytes());
        Some(out)
    }
}

// === impl Postings ===

impl Postings {
    /// Adds a position if it is not the last one already; the bytes that it takes.
    fn push(&mut self, position: u32) -> usize {
        if self.count > 0 && self.last == position {
            return 0;
        }
        let before = self.deltas.len();
        let delta = position.saturating_sub(self.last);
        write_varint(&mut self.deltas, delta);
        self.last = position;
        self.count += 1;
        self.deltas.len() - before
    }

    fn encode(&self, out: &mut Vec<u8>) {
        write_varint(out, self.count);
        out.extend_from_slice(&self.deltas);
    }
}

// === impl Dictionary ===

impl Dictionary {
    /// Takes the payload of the section; `None` if it is damaged.
    pub(crate) fn open(payload: Bytes) -> Option<Self> {
        let (body, crc) = payload.split_last_chunk::<4>()?;
        if crc32c::crc32c(body) != u32::from_le_bytes(*crc) {
            return None;
        }
        Some(Self { payload })
    }

    /// Every label with the positions of its batches, the unlabelled ones first, without a label.
    pub(crate) fn list(&self, mut visit: impl FnMut(Option<&[u8]>, &[u32])) -> Option<()> {
        let mut fields = self.body()?;
        let (_, count) = (fields.u32()?, fields.u32()?);
        let mut positions = Vec::new();
        read_postings(&mut fields, Some(&mut positions))?;
        visit(None, &positions);
        let mut label = Vec::new();
        for number in 0..count {
            positions.clear();
            read_label(&mut fields, number == 0, &mut label)?;
            read_postings(&mut fields, Some(&mut positions))?;
            visit(Some(&label), &positions);
        }
        fields.0.is_empty().then_some(())
    }

    /// The batches with a record whose label `matches`; `None` if the dictionary is malformed.
    pub(crate) fn find(&self, mut matches: impl FnMut(&[u8]) -> bool) -> Option<Found> {
        let mut fields = self.body()?;
        let (batches, count) = (fields.u32()?, fields.u32()?);
        let mut positions = Vec::new();
        read_postings(&mut fields, Some(&mut positions))?;
        let mut label: Vec<u8> = Vec::new();
        for number in 0..count {
            read_label(&mut fields, number == 0, &mut label)?;
            let wanted = matches(&label).then_some(&mut positions);
            read_postings(&mut fields, wanted)?;
        }
        positions.sort_unstable();
        positions.dedup();
        fields.0.is_empty().then_some(Found { positions, batches })
    }

    fn body(&self) -> Option<Fields<'_>> {
        let (body, _) = self.payload.split_last_chunk::<4>()?;
        Some(Fields(body))
    }
}

/// Makes the label before, in `label`, the next one, which must be higher.
fn read_label(fields: &mut Fields<'_>, is_first: bool, label: &mut Vec<u8>) -> Option<()> {
    let shared = read_varint(fields)? as usize;
    let length = read_varint(fields)? as usize;
    let (rest, after) = fields.0.split_at_checked(length)?;
    fields.0 = after;
    let former = label.get(shared..)?;
    let rises = is_first || rest > former;
    if !rises || shared + length > LABEL_BYTES_MAX {
        return None;
    }
    label.truncate(shared);
    label.extend_from_slice(rest);
    Some(())
}

/// Reads postings, which rise, and adds them to `out`.
fn read_postings(fields: &mut Fields<'_>, mut out: Option<&mut Vec<u32>>) -> Option<()> {
    let count = read_varint(fields)?;
    let mut position = 0u32;
    for number in 0..count {
        let delta = read_varint(fields)?;
        if number > 0 && delta == 0 {
            return None;
        }
        position = position.checked_add(delta)?;
        if let Some(out) = &mut out {
            out.push(position);
        }
    }
    Some(())
}

fn write_varint(out: &mut Vec<u8>, mut value: u32) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn read_varint(fields: &mut Fields<'_>) -> Option<u32> {
    let mut value = 0u64;
    for shift in (0..35).step_by(7) {
        let byte = fields.u8()?;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return u32::try_from(value).ok();
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    /// Batches with the labels of their records.
    type Model = Vec<Vec<Option<Vec<u8>>>>;

    fn model() -> impl Strategy<Value = Model> {
        let label = prop::collection::vec(prop_oneof![Just(b'a'), Just(b'/'), any::<u8>()], 0..6);
        let record = prop::option::weighted(0.9, label);
        prop::collection::vec(prop::collection::vec(record, 0..5), 0..20)
    }

    fn build(model: &Model) -> Option<Vec<u8>> {
        let mut builder = LabelsBuilder::default();
        for (batch, labels) in model.iter().enumerate() {
            builder.begin_batch();
            for label in labels {
                builder
                    .add(batch as u32 * 1000, label.as_deref())
                    .expect("few");
            }
        }
        builder.finish()
    }

    proptest! {
        #[test]
        fn look_up_finds_the_batches_that_have_the_label(model in model(), wanted in any::<u8>()) {
            let mut with: BTreeMap<Vec<u8>, Vec<u32>> = BTreeMap::new();
            let mut always: Vec<u32> = Vec::new();
            for (batch, labels) in model.iter().enumerate() {
                for label in labels {
                    let position = batch as u32 * 1000;
                    match label {
                        Some(label) => with.entry(label.clone()).or_default().push(position),
                        None => always.push(position),
                    }
                }
            }
            let Some(section) = build(&model) else {
                prop_assert!(with.is_empty());
                return Ok(());
            };
            let dictionary = Dictionary::open(section.into()).expect("whole");
            let mut listed = Vec::new();
            dictionary.list(|label, positions| {
                if let Some(label) = label {
                    listed.push((label.to_vec(), positions.to_vec()));
                }
            });
            for positions in with.values_mut() {
                positions.dedup();
            }
            prop_assert_eq!(listed, with.clone().into_iter().collect::<Vec<_>>());
            let matches = |label: &[u8]| label.contains(&wanted) || label.is_empty();
            let mut expected = always;
            for (_, positions) in with.iter().filter(|(label, _)| matches(label)) {
                expected.extend(positions);
            }
            expected.sort_unstable();
            expected.dedup();
            let found = dictionary.find(matches).expect("well formed");
            prop_assert_eq!(found.positions, expected);
            prop_assert_eq!(found.batches as usize, model.len());
        }

        #[test]
        fn any_bytes_are_survived(model in model(), at in any::<prop::sample::Index>(), with in any::<u8>()) {
            let Some(mut section) = build(&model) else { return Ok(()); };
            let body = section.len() - 4;
            section[at.index(body)] = with;
            let crc = crc32c::crc32c(&section[..body]);
            section[body..].copy_from_slice(&crc.to_le_bytes());
            let dictionary = Dictionary::open(section.into()).expect("its checksum is right");
            let _ = dictionary.find(|_| true);
            let _ = dictionary.list(|_, _| {});
        }
    }

    #[test]
    fn too_many_labels_are_refused() {
        let mut builder = LabelsBuilder::default();
        let long = vec![b'x'; LABEL_BYTES_MAX];
        let refused = (0..u32::MAX).find(|number| {
            let mut label = long.clone();
            label[..4].copy_from_slice(&number.to_le_bytes());
            builder.add(*number, Some(&label)).is_err()
        });
        assert!(refused.is_some_and(|at| (at as usize) < LABELS_BYTES_MAX / LABEL_BYTES_MAX + 1));
    }
}
