use bytes::Bytes;
use mainstem_log::Sought;
use mainstem_record::{
    BrokerId, Incarnation, LeaderEpoch, Member, Offset, PartitionId, PartitionIndex, SegmentId,
    TimestampMs, TopicId,
};
use proptest::{collection::vec, prelude::*};
use uuid::Uuid;

use super::*;
use crate::machine::{FenceAnswer, leader::FollowRefusal};

const LIST_MAX: usize = 5;

fn member() -> impl Strategy<Value = Member> {
    (any::<i32>(), any::<u64>())
        .prop_map(|(broker, life)| Member::new(BrokerId(broker), Incarnation(life)))
}

fn segment() -> impl Strategy<Value = SegmentId> {
    any::<u128>().prop_map(|id| SegmentId(Uuid::from_u128(id)))
}

fn partition() -> impl Strategy<Value = PartitionId> {
    (any::<u128>(), any::<i32>()).prop_map(|(topic, index)| PartitionId {
        topic: TopicId(Uuid::from_u128(topic)),
        index: PartitionIndex(index),
    })
}

fn offset() -> impl Strategy<Value = Offset> {
    (0..=i64::MAX).prop_map(Offset)
}

fn epoch() -> impl Strategy<Value = LeaderEpoch> {
    any::<i32>().prop_map(LeaderEpoch)
}

fn bytes() -> impl Strategy<Value = Bytes> {
    vec(any::<u8>(), 0..50).prop_map(Bytes::from)
}

fn heartbeat() -> impl Strategy<Value = Heartbeat> {
    let suspect = (member(), any::<u32>());
    let suspect = suspect.prop_map(|(member, ago_ms)| Suspect { member, ago_ms });
    let refused = vec(suspect, 0..LIST_MAX);
    let flags = (any::<bool>(), any::<bool>());
    (member(), any::<u64>(), flags, refused).prop_map(
        |(member, image, (ready, draining), refused)| Heartbeat {
            member,
            image,
            ready,
            draining,
            refused,
        },
    )
}

fn heartbeat_answer() -> impl Strategy<Value = HeartbeatAnswer> {
    let session = prop_oneof![
        Just(Session::Live),
        Just(Session::Fenced),
        Just(Session::Unknown),
        Just(Session::NotController),
    ];
    let roll = (partition(), segment());
    let roll = roll.prop_map(|(partition, segment)| RollOrder { partition, segment });
    let rolls = vec(roll, 0..LIST_MAX);
    (any::<u64>(), session, any::<u32>(), rolls).prop_map(|(image, session, interval_ms, rolls)| {
        HeartbeatAnswer {
            image,
            session,
            interval_ms,
            rolls,
        }
    })
}

fn seal_question() -> impl Strategy<Value = SealQuestion> {
    let fence = (partition(), segment(), any::<u32>()).prop_map(|(partition, segment, version)| {
        FenceOrder {
            partition,
            segment,
            version,
        }
    });
    let copy =
        (partition(), segment(), member(), offset()).prop_map(|(partition, segment, from, at)| {
            CopyOrder {
                partition,
                segment,
                from,
                at,
            }
        });
    let digest =
        (partition(), segment(), offset()).prop_map(|(partition, segment, end)| DigestQuestion {
            partition,
            segment,
            end,
        });
    prop_oneof![
        (any::<u64>(), vec(fence, 0..LIST_MAX))
            .prop_map(|(image, orders)| SealQuestion::Fence { image, orders }),
        vec(copy, 0..LIST_MAX).prop_map(SealQuestion::CopyTail),
        vec(digest, 0..LIST_MAX).prop_map(SealQuestion::DigestAt),
    ]
}

fn seal_answer() -> impl Strategy<Value = SealAnswer> {
    let outcome = prop_oneof![
        (any::<u32>(), offset(), offset()).prop_map(Ok),
        Just(Err(Unfenced::NotYet)),
        Just(Err(Unfenced::Sealed)),
        Just(Err(Unfenced::NotHeld)),
        Just(Err(Unfenced::Failed)),
    ];
    let fenced = (member(), vec((segment(), outcome), 0..LIST_MAX)).prop_map(|(member, all)| {
        let answers = all.into_iter().map(|(segment, outcome)| Fenced {
            segment,
            outcome: outcome.map(|(version, certificate, leo)| FenceAnswer {
                segment,
                member,
                version,
                certificate,
                leo,
            }),
        });
        let answers = answers.collect();
        SealAnswer::Fenced { member, answers }
    });
    let digest = (segment(), offset(), any::<(u64, i64, u128)>()).prop_map(
        |(segment, end, (bytes, max_timestamp, digest))| DigestOf {
            segment,
            end,
            bytes,
            max_timestamp: TimestampMs(max_timestamp),
            digest,
        },
    );
    let digests = (member(), vec(digest, 0..LIST_MAX))
        .prop_map(|(member, answers)| SealAnswer::Digests { member, answers });
    prop_oneof![fenced, digests]
}

fn follower_says() -> impl Strategy<Value = FollowerSays> {
    let follow = (partition(), segment(), epoch(), offset(), offset()).prop_map(
        |(partition, segment, epoch, leo, log_end)| FollowOf {
            partition,
            segment,
            epoch,
            leo,
            log_end,
        },
    );
    let ack = (segment(), offset()).prop_map(|(segment, leo)| AckOf { segment, leo });
    let want = (partition(), segment(), epoch()).prop_map(|(partition, segment, epoch)| WantOf {
        partition,
        segment,
        epoch,
    });
    prop_oneof![
        vec(follow, 0..LIST_MAX).prop_map(FollowerSays::Follow),
        vec(segment(), 0..LIST_MAX).prop_map(FollowerSays::Unfollow),
        (any::<u32>(), vec(ack, 0..LIST_MAX))
            .prop_map(|(credit, acks)| FollowerSays::Ack { credit, acks }),
        vec(want, 0..LIST_MAX).prop_map(FollowerSays::Want),
    ]
}

fn leader_says() -> impl Strategy<Value = LeaderSays> {
    let append = (segment(), offset(), offset(), bytes()).prop_map(
        |(segment, at, high_watermark, batches)| AppendOf {
            segment,
            at,
            high_watermark,
            batches,
        },
    );
    let exposed = (segment(), offset()).prop_map(|(segment, high_watermark)| ExposedOf {
        segment,
        high_watermark,
    });
    let why = prop_oneof![
        Just(FollowRefusal::NotLeading),
        epoch().prop_map(FollowRefusal::Epoch),
        Just(FollowRefusal::NotReplica),
        any::<u64>().prop_map(|life| FollowRefusal::StaleIncarnation(Incarnation(life))),
        offset().prop_map(FollowRefusal::AboveLogEnd),
    ];
    let refused = (segment(), why).prop_map(|(segment, why)| RefusedOf { segment, why });
    let memory =
        (segment(), any::<bool>(), bytes()).prop_map(|(segment, is_last, bytes)| MemoryOf {
            segment,
            is_last,
            bytes,
        });
    prop_oneof![
        vec(append, 0..LIST_MAX).prop_map(LeaderSays::Append),
        vec(exposed, 0..LIST_MAX).prop_map(LeaderSays::Exposed),
        vec(refused, 0..LIST_MAX).prop_map(LeaderSays::Refused),
        memory.prop_map(LeaderSays::Memory),
    ]
}

proptest! {
    #[test]
    fn what_is_said_is_understood(
        heartbeat in heartbeat(),
        answer in heartbeat_answer(),
        question in seal_question(),
        sealed in seal_answer(),
        follower in follower_says(),
        leader in leader_says(),
    ) {
        prop_assert_eq!(Heartbeat::decode(heartbeat.encode()), Ok(heartbeat));
        prop_assert_eq!(HeartbeatAnswer::decode(answer.encode()), Ok(answer));
        prop_assert_eq!(SealQuestion::decode(question.encode()), Ok(question));
        prop_assert_eq!(SealAnswer::decode(sealed.encode()), Ok(sealed));
        prop_assert_eq!(FollowerSays::decode(follower.encode()), Ok(follower));
        prop_assert_eq!(LeaderSays::decode(leader.encode()), Ok(leader));
    }

    #[test]
    fn copies_are_understood(
        (partition, segment, member) in (partition(), segment(), member()),
        (at, position, cut) in (offset(), any::<u64>(), any::<prop::sample::Index>()),
        (credit, bytes) in (any::<u32>(), bytes()),
    ) {
        let hello = FollowerHello { follower: member, leader: member, credit };
        prop_assert_eq!(FollowerHello::decode(hello.encode()), Ok(hello));
        for asked in [
            Asked::Tail { from: member, at, bytes_max: credit },
            Asked::Memory { position },
            Asked::Facts { position },
            Asked::Chunk { number: credit },
            Asked::Batches { from: at, bytes_max: credit },
            Asked::Time { from: at, sought: Sought::AtLeast(TimestampMs(position as i64)) },
            Asked::Time { from: at, sought: Sought::Highest },
        ] {
            let question = CopyQuestion { partition, segment, asked };
            prop_assert_eq!(CopyQuestion::decode(question.encode()), Ok(question));
            let body = question.encode();
            let cut = body.slice(..cut.index(body.len()));
            prop_assert!(CopyQuestion::decode(cut).is_err());
        }
        let runs = [bytes.clone(), bytes.clone()];
        let batches = Bytes::from(runs.concat());
        let answer = CopyAnswer::Batches { end: at, batches };
        let encoded = CopyAnswer::encode_batches(at, &runs);
        prop_assert_eq!(&answer.encode(), &encoded);
        prop_assert_eq!(CopyAnswer::decode(encoded), Ok(answer));
        for answer in [
            CopyAnswer::Part { total: position, bytes: bytes.clone() },
            CopyAnswer::Chunk(bytes),
            CopyAnswer::Found(None),
            CopyAnswer::Found(Some((at, TimestampMs(position as i64)))),
        ] {
            prop_assert_eq!(CopyAnswer::decode(answer.encode()), Ok(answer));
        }
    }

    #[test]
    fn what_is_cut_short_or_goes_on_is_refused(
        question in seal_question(),
        follower in follower_says(),
        at in any::<prop::sample::Index>(),
    ) {
        let body = question.encode();
        prop_assert!(SealQuestion::decode(body.slice(..at.index(body.len()))).is_err());
        let longer = Bytes::from([&body[..], &[0]].concat());
        prop_assert_eq!(SealQuestion::decode(longer), Err(WireError::LeftOver(1)));
        let body = follower.encode();
        prop_assert!(FollowerSays::decode(body.slice(..at.index(body.len()))).is_err());
    }

    #[test]
    fn no_bytes_panic(kind in 0_u8..12, rest in vec(any::<u8>(), 0..200)) {
        let body = Bytes::from([&[VERSION, kind], &rest[..]].concat());
        let _ = Heartbeat::decode(body.clone());
        let _ = HeartbeatAnswer::decode(body.clone());
        let _ = SealQuestion::decode(body.clone());
        let _ = SealAnswer::decode(body.clone());
        let _ = FollowerHello::decode(body.clone());
        let _ = FollowerSays::decode(body.clone());
        let _ = LeaderSays::decode(body.clone());
        let _ = CopyQuestion::decode(body.clone());
        let _ = CopyAnswer::decode(body);
    }
}

#[test]
fn a_count_is_bounded_before_anything_is_made_room_for() {
    let counts = |count: u32| {
        let body = [&[VERSION, 3][..], &count.to_le_bytes()].concat();
        FollowerSays::decode(Bytes::from(body))
    };
    assert_eq!(counts(u32::MAX), Err(WireError::TooMany(u32::MAX as usize)));
    assert_eq!(counts(SEGMENTS_MAX as u32), Err(WireError::Truncated));
    assert_eq!(counts(0), Ok(FollowerSays::Unfollow(Vec::new())));
}

#[test]
fn other_versions_and_kinds_are_refused() {
    let says = |bytes: &'static [u8]| LeaderSays::decode(Bytes::from_static(bytes));
    assert_eq!(says(&[2, 6, 0, 0, 0, 0]), Err(WireError::Version(2)));
    assert_eq!(says(&[1, 1, 0, 0, 0, 0]), Err(WireError::Kind(1)));
    assert_eq!(says(&[]), Err(WireError::Truncated));
}
