//! The records of `__consumer_offsets`, byte for byte in Kafka's own format, so that tools that
//! read Kafka's topic read ours.
//!
//! ```text
//! OffsetCommitKey    v1  i16 1 | group | topic | i32 partition
//! OffsetCommitValue  v3  i16 3 | i64 offset | i32 leader epoch | metadata | i64 commit time
//! GroupMetadataKey   v2  i16 2 | group
//! GroupMetadataValue v3  i16 3 | protocol type | i32 generation | protocol? | leader? |
//!                        i64 since when in this state | i32 count | count x (
//!                          member id | instance id? | client id | client host |
//!                          i32 rebalance timeout | i32 session timeout |
//!                          bytes subscription | bytes assignment )
//! ```
//!
//! Written are these versions; read are also the older ones. A key without value is a tombstone.

use bytes::Bytes;
use mainstem_record::{LeaderEpoch, Offset, PartitionIndex};

use super::{
    machine::{Snapshot, SnapshotMember},
    wire::{FormatError, Reader, Writer},
};

/// The version of a key that names an offset; version 0 has the same fields.
const OFFSET_KEY_VERSION: i16 = 1;
/// The version of a key that names a group.
const GROUP_KEY_VERSION: i16 = 2;
/// The version in which offsets are written: the last one before tagged fields.
const OFFSET_VALUE_VERSION: i16 = 3;
/// The version in which groups are written: the last one before tagged fields.
const GROUP_VALUE_VERSION: i16 = 3;

/// A committed offset as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StoredOffset {
    pub(crate) offset: Offset,
    pub(crate) leader_epoch: LeaderEpoch,
    pub(crate) metadata: String,
    /// Milliseconds since the Unix epoch.
    pub(crate) commit_ms: i64,
}

/// One record, understood.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Entry {
    /// A committed offset, or the end of one.
    Offset {
        group: String,
        topic: String,
        partition: PartitionIndex,
        value: Option<StoredOffset>,
    },
    /// A group, or the end of one.
    Group {
        group: String,
        value: Option<Snapshot>,
    },
}

/// The key of a committed offset.
pub(crate) fn offset_key(
    group: &str,
    topic: &str,
    partition: PartitionIndex,
) -> Result<Bytes, FormatError> {
    let mut writer = Writer::default();
    writer.i16(OFFSET_KEY_VERSION);
    writer.string(group)?;
    writer.string(topic)?;
    writer.i32(partition.0);
    Ok(writer.finish())
}

/// The value of a committed offset.
pub(crate) fn offset_value(stored: &StoredOffset) -> Result<Bytes, FormatError> {
    let mut writer = Writer::default();
    writer.i16(OFFSET_VALUE_VERSION);
    writer.i64(stored.offset.0);
    writer.i32(stored.leader_epoch.0);
    writer.string(&stored.metadata)?;
    writer.i64(stored.commit_ms);
    Ok(writer.finish())
}

/// The key of a group.
pub(crate) fn group_key(group: &str) -> Result<Bytes, FormatError> {
    let mut writer = Writer::default();
    writer.i16(GROUP_KEY_VERSION);
    writer.string(group)?;
    Ok(writer.finish())
}

/// The value of a group.
pub(crate) fn group_value(snapshot: &Snapshot) -> Result<Bytes, FormatError> {
    let mut writer = Writer::default();
    writer.i16(GROUP_VALUE_VERSION);
    writer.string(&snapshot.protocol_type)?;
    writer.i32(snapshot.generation);
    writer.nullable_string(snapshot.protocol.as_deref())?;
    writer.nullable_string(snapshot.leader.as_deref())?;
    writer.i64(snapshot.state_since_ms);
    writer.count(snapshot.members.len())?;
    for member in &snapshot.members {
        writer.string(&member.member_id)?;
        writer.nullable_string(member.instance_id.as_deref())?;
        writer.string(&member.client_id)?;
        writer.string(&member.client_host)?;
        writer.i32(member.rebalance_timeout_ms);
        writer.i32(member.session_timeout_ms);
        writer.bytes(&member.subscription)?;
        writer.bytes(&member.assignment)?;
    }
    Ok(writer.finish())
}

/// Understands a record.
pub(crate) fn decode(key: &[u8], value: Option<&[u8]>) -> Result<Entry, FormatError> {
    let mut reader = Reader::new(key);
    let version = reader.i16()?;
    let entry = match version {
        0 | OFFSET_KEY_VERSION => Entry::Offset {
            group: reader.string()?,
            topic: reader.string()?,
            partition: PartitionIndex(reader.i32()?),
            value: value.map(decode_offset).transpose()?,
        },
        GROUP_KEY_VERSION => Entry::Group {
            group: reader.string()?,
            value: value.map(decode_group).transpose()?,
        },
        version => {
            return Err(FormatError::Version {
                what: "key",
                version,
            });
        }
    };
    reader.finish()?;
    Ok(entry)
}

fn decode_offset(value: &[u8]) -> Result<StoredOffset, FormatError> {
    let mut reader = Reader::new(value);
    let version = reader.i16()?;
    if !(0..=OFFSET_VALUE_VERSION).contains(&version) {
        return Err(FormatError::Version {
            what: "offset",
            version,
        });
    }
    let offset = Offset(reader.i64()?);
    let leader_epoch = if version >= 3 {
        LeaderEpoch(reader.i32()?)
    } else {
        LeaderEpoch::NONE
    };
    let metadata = reader.string()?;
    let commit_ms = reader.i64()?;
    if version == 1 {
        // An expiry of its own; since KIP-211 the broker's retention counts.
        reader.i64()?;
    }
    reader.finish()?;
    Ok(StoredOffset {
        offset,
        leader_epoch,
        metadata,
        commit_ms,
    })
}

fn decode_group(value: &[u8]) -> Result<Snapshot, FormatError> {
    let mut reader = Reader::new(value);
    let version = reader.i16()?;
    if !(0..=GROUP_VALUE_VERSION).contains(&version) {
        return Err(FormatError::Version {
            what: "group",
            version,
        });
    }
    let protocol_type = reader.string()?;
    let generation = reader.i32()?;
    let protocol = reader.nullable_string()?;
    let leader = reader.nullable_string()?;
    let state_since_ms = if version >= 2 { reader.i64()? } else { -1 };
    let count = reader.i32()?;
    let mut members = Vec::new();
    // Not reserved by the count: it is only as true as the bytes that follow.
    for _ in 0..u32::try_from(count).map_err(|_| FormatError::Length(count))? {
        members.push(decode_member(&mut reader, version)?);
    }
    reader.finish()?;
    Ok(Snapshot {
        protocol_type,
        generation,
        protocol,
        leader,
        state_since_ms,
        members,
    })
}

fn decode_member(reader: &mut Reader<'_>, version: i16) -> Result<SnapshotMember, FormatError> {
    let member_id = reader.string()?;
    let instance_id = if version >= 3 {
        reader.nullable_string()?
    } else {
        None
    };
    let client_id = reader.string()?;
    let client_host = reader.string()?;
    let rebalance = if version >= 1 {
        Some(reader.i32()?)
    } else {
        None
    };
    let session_timeout_ms = reader.i32()?;
    Ok(SnapshotMember {
        member_id,
        instance_id,
        client_id,
        client_host,
        rebalance_timeout_ms: rebalance.unwrap_or(session_timeout_ms),
        session_timeout_ms,
        subscription: reader.bytes()?,
        assignment: reader.bytes()?,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text() -> impl Strategy<Value = String> {
        "[a-zé0-9._-]{0,20}"
    }

    fn blob() -> impl Strategy<Value = Bytes> {
        prop::collection::vec(any::<u8>(), 0..40).prop_map(Bytes::from)
    }

    fn member() -> impl Strategy<Value = SnapshotMember> {
        let texts = (text(), prop::option::of(text()), text(), text());
        (texts, any::<(i32, i32)>(), blob(), blob()).prop_map(
            |(
                (member_id, instance_id, client_id, client_host),
                timeouts,
                subscription,
                assignment,
            )| {
                SnapshotMember {
                    member_id,
                    instance_id,
                    client_id,
                    client_host,
                    rebalance_timeout_ms: timeouts.0,
                    session_timeout_ms: timeouts.1,
                    subscription,
                    assignment,
                }
            },
        )
    }

    fn snapshot() -> impl Strategy<Value = Snapshot> {
        let names = (text(), prop::option::of(text()), prop::option::of(text()));
        let members = prop::collection::vec(member(), 0..4);
        (names, any::<(i32, i64)>(), members).prop_map(|(names, numbers, members)| Snapshot {
            protocol_type: names.0,
            generation: numbers.0,
            protocol: names.1,
            leader: names.2,
            state_since_ms: numbers.1,
            members,
        })
    }

    proptest! {
        #[test]
        fn offsets_survive_the_log(
            names in (text(), text(), text()),
            numbers in any::<(i32, i64, i32, i64)>(),
        ) {
            let value = StoredOffset {
                offset: Offset(numbers.1),
                leader_epoch: LeaderEpoch(numbers.2),
                metadata: names.2,
                commit_ms: numbers.3,
            };
            let partition = PartitionIndex(numbers.0);
            let key = offset_key(&names.0, &names.1, partition).expect("short");
            let bytes = offset_value(&value).expect("short");
            let entry = |value| Entry::Offset {
                group: names.0.clone(),
                topic: names.1.clone(),
                partition,
                value,
            };
            prop_assert_eq!(decode(&key, Some(&bytes)), Ok(entry(Some(value))));
            prop_assert_eq!(decode(&key, None), Ok(entry(None)));
        }

        #[test]
        fn groups_survive_the_log(group in text(), value in snapshot()) {
            let key = group_key(&group).expect("short");
            let bytes = group_value(&value).expect("short");
            let entry = Entry::Group { group, value: Some(value) };
            prop_assert_eq!(decode(&key, Some(&bytes)), Ok(entry));
        }

        #[test]
        fn any_cut_or_rubbish_is_an_error_and_never_a_panic(
            value in snapshot(),
            cut in any::<prop::sample::Index>(),
            rubbish in prop::collection::vec(any::<u8>(), 0..64),
        ) {
            let key = group_key("g").expect("short");
            let bytes = group_value(&value).expect("short");
            let cut = cut.index(bytes.len());
            prop_assert!(decode(&key, Some(&bytes[..cut])).is_err());
            let _ = decode(&key, Some(&rubbish));
            let _ = decode(&rubbish, None);
            let _ = decode(&offset_key("g", "t", PartitionIndex(0)).expect("short"), Some(&rubbish));
        }
    }

    /// Bytes as Kafka's own schema lays them out, written by hand.
    #[test]
    fn the_format_is_kafkas() {
        let key = offset_key("g", "top", PartitionIndex(7)).expect("short");
        assert_eq!(&key[..], b"\0\x01\0\x01g\0\x03top\0\0\0\x07");
        let value = StoredOffset {
            offset: Offset(258),
            leader_epoch: LeaderEpoch(5),
            metadata: "m".to_owned(),
            commit_ms: 1,
        };
        assert_eq!(
            &offset_value(&value).expect("short")[..],
            b"\0\x03\0\0\0\0\0\0\x01\x02\0\0\0\x05\0\x01m\0\0\0\0\0\0\0\x01"
        );
        assert_eq!(&group_key("g").expect("short")[..], b"\0\x02\0\x01g");
        let snapshot = Snapshot {
            protocol_type: "consumer".to_owned(),
            generation: 3,
            protocol: Some("range".to_owned()),
            leader: None,
            state_since_ms: 9,
            members: vec![SnapshotMember {
                member_id: "a".to_owned(),
                instance_id: Some("i".to_owned()),
                client_id: "c".to_owned(),
                client_host: "h".to_owned(),
                rebalance_timeout_ms: 2,
                session_timeout_ms: 1,
                subscription: Bytes::from_static(b"s"),
                assignment: Bytes::from_static(b"xy"),
            }],
        };
        let expected = b"\0\x03\0\x08consumer\0\0\0\x03\0\x05range\xff\xff\
            \0\0\0\0\0\0\0\x09\0\0\0\x01\0\x01a\0\x01i\0\x01c\0\x01h\
            \0\0\0\x02\0\0\0\x01\0\0\0\x01s\0\0\0\x02xy";
        assert_eq!(&group_value(&snapshot).expect("short")[..], &expected[..]);
    }

    #[test]
    fn older_versions_are_read_and_newer_ones_are_refused() {
        let key = b"\0\0\0\x01g\0\x01t\0\0\0\0";
        let v1 = b"\0\x01\0\0\0\0\0\0\0\x05\0\0\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0\x03";
        let Ok(Entry::Offset {
            value: Some(value), ..
        }) = decode(key, Some(v1))
        else {
            panic!("version 1 is not read");
        };
        assert_eq!(
            (value.offset, value.leader_epoch),
            (Offset(5), LeaderEpoch::NONE)
        );
        let group = b"\0\0\0\x01x\0\0\0\x01\xff\xff\xff\xff\0\0\0\x01\
            \0\x01a\0\x01c\0\x01h\0\0\0\x09\0\0\0\0\xff\xff\xff\xff";
        let Ok(Entry::Group {
            value: Some(value), ..
        }) = decode(b"\0\x02\0\x01g", Some(group))
        else {
            panic!("version 0 is not read");
        };
        assert_eq!(value.members[0].rebalance_timeout_ms, 9);
        assert_eq!(
            decode(b"\0\x03\0\x01g", None),
            Err(FormatError::Version {
                what: "key",
                version: 3
            })
        );
        assert_eq!(
            decode(key, Some(b"\0\x04")),
            Err(FormatError::Version {
                what: "offset",
                version: 4
            })
        );
        assert!(offset_key(&"x".repeat(40_000), "t", PartitionIndex(0)).is_err());
    }
}
