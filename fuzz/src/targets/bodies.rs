//! What nodes say to each other about segments: the bodies of calls and streams.

use bytes::Bytes;
use mainstem_record::{
    BrokerId, Incarnation, LeaderEpoch, Member, Offset, PartitionId, PartitionIndex, SegmentId,
    TimestampMs, TopicId,
};
use mainstem_replication::{
    machine::{FenceAnswer, leader::FollowRefusal},
    wire::{
        AckOf, AppendOf, Asked, CopyAnswer, CopyOrder, CopyQuestion, DigestOf, DigestQuestion,
        ExposedOf, FenceOrder, Fenced, FollowOf, FollowerHello, FollowerSays, Heartbeat,
        HeartbeatAnswer, LeaderSays, MemoryOf, RefusedOf, RollOrder, SealAnswer, SealQuestion,
        Session, Suspect, Unfenced, WantOf, WireError,
    },
};
use uuid::Uuid;

use super::Target;
use crate::Trace;

pub(super) const BODIES: Target = Target {
    name: "node-bodies",
    run,
    seeds,
    repair: |_| {},
    bytes_free: 64 << 10,
    bytes_factor: 64,
    short: 5000,
};

/// Reads a body and writes it again.
type Again = fn(Bytes) -> Result<Bytes, WireError>;

/// All that is read, by the first byte of an input.
const KINDS: [(&str, Again); 9] = [
    ("heartbeat", |body| {
        Heartbeat::decode(body).map(|it| it.encode())
    }),
    ("heartbeat-answer", |body| {
        HeartbeatAnswer::decode(body).map(|it| it.encode())
    }),
    ("seal-question", |body| {
        SealQuestion::decode(body).map(|it| it.encode())
    }),
    ("seal-answer", |body| {
        SealAnswer::decode(body).map(|it| it.encode())
    }),
    ("hello", |body| {
        FollowerHello::decode(body).map(|it| it.encode())
    }),
    ("follower", |body| {
        FollowerSays::decode(body).map(|it| it.encode())
    }),
    ("leader", |body| {
        LeaderSays::decode(body).map(|it| it.encode())
    }),
    ("copy-question", |body| {
        CopyQuestion::decode(body).map(|it| it.encode())
    }),
    ("copy-answer", |body| {
        CopyAnswer::decode(body).map(|it| it.encode())
    }),
];

fn run(input: &[u8], trace: &mut Trace) {
    let Some((kind, body)) = input.split_first() else {
        return;
    };
    let (name, again) = KINDS[usize::from(*kind) % KINDS.len()];
    let body = Bytes::copy_from_slice(body);
    match again(body.clone()) {
        // One meaning has one form: nobody can say the same thing in two ways.
        Ok(written) => assert_eq!(written, body, "{name} is written in another way"),
        Err(error) => trace.note_kind(name, &std::mem::discriminant(&error)),
    }
    if let (6, Ok(LeaderSays::Append(appends))) = (*kind, LeaderSays::decode(body)) {
        trace.note(&format!("appends {}", appends.len().min(8)));
    }
}

fn seeds() -> Vec<Vec<u8>> {
    let member = Member::new(BrokerId(3), Incarnation(9));
    let partition = PartitionId {
        topic: TopicId(Uuid::from_u128(7)),
        index: PartitionIndex(2),
    };
    let segment = SegmentId(Uuid::from_u128(8));
    let (offset, epoch) = (Offset(1000), LeaderEpoch(4));
    let all = [
        (0, liveness(member)),
        (2, questions(member, partition, segment)),
        (3, answers(member, segment)),
        (5, follower((partition, segment), epoch)),
        (6, leader(segment)),
        (7, copies(member, partition, segment)),
    ];
    let hello = FollowerHello {
        follower: member,
        leader: member,
        credit: 1000,
    };
    let answer = HeartbeatAnswer {
        image: 9,
        session: Session::Fenced,
        interval_ms: 500,
        rolls: vec![RollOrder { partition, segment }],
    };
    let alone = [
        (1, answer.encode()),
        (4, hello.encode()),
        (
            8,
            CopyAnswer::encode_batches(offset, &[Bytes::from_static(b"batches")]),
        ),
        (
            8,
            CopyAnswer::Part {
                total: 7,
                bytes: Bytes::from_static(b"part"),
            }
            .encode(),
        ),
        (8, CopyAnswer::Chunk(Bytes::from_static(b"chunk")).encode()),
    ];
    let many = all
        .into_iter()
        .flat_map(|(kind, bodies)| bodies.into_iter().map(move |body| (kind, body)));
    many.chain(alone)
        .map(|(kind, body)| [&[kind], &body[..]].concat())
        .collect()
}

fn liveness(member: Member) -> Vec<Bytes> {
    let heartbeat = Heartbeat {
        member,
        image: 77,
        ready: true,
        draining: false,
        refused: vec![Suspect { member, ago_ms: 30 }],
    };
    vec![heartbeat.encode()]
}

fn questions(from: Member, partition: PartitionId, segment: SegmentId) -> Vec<Bytes> {
    let fence = FenceOrder {
        partition,
        segment,
        version: 3,
    };
    let copy = CopyOrder {
        partition,
        segment,
        from,
        at: Offset(5),
    };
    let digest = DigestQuestion {
        partition,
        segment,
        end: Offset(9),
    };
    let fences = SealQuestion::Fence {
        image: 12,
        orders: vec![fence, fence],
    };
    vec![
        fences.encode(),
        SealQuestion::CopyTail(vec![copy]).encode(),
        SealQuestion::DigestAt(vec![digest]).encode(),
    ]
}

fn answers(member: Member, segment: SegmentId) -> Vec<Bytes> {
    let answer = FenceAnswer {
        segment,
        member,
        version: 3,
        certificate: Offset(90),
        leo: Offset(95),
    };
    let outcomes = [Ok(answer), Err(Unfenced::NotYet), Err(Unfenced::Failed)];
    let fenced = outcomes.map(|outcome| Fenced { segment, outcome });
    let digest = DigestOf {
        segment,
        end: Offset(9),
        bytes: 100,
        max_timestamp: TimestampMs(-1),
        digest: 1 << 100,
    };
    let fenced = SealAnswer::Fenced {
        member,
        answers: fenced.to_vec(),
    };
    let digests = SealAnswer::Digests {
        member,
        answers: vec![digest],
    };
    vec![fenced.encode(), digests.encode()]
}

fn follower((partition, segment): (PartitionId, SegmentId), epoch: LeaderEpoch) -> Vec<Bytes> {
    let follow = FollowOf {
        partition,
        segment,
        epoch,
        leo: Offset(4),
        log_end: Offset(5),
    };
    let ack = AckOf {
        segment,
        leo: Offset(6),
    };
    let want = WantOf {
        partition,
        segment,
        epoch,
    };
    vec![
        FollowerSays::Follow(vec![follow, follow]).encode(),
        FollowerSays::Unfollow(vec![segment]).encode(),
        FollowerSays::Ack {
            credit: 100,
            acks: vec![ack, ack],
        }
        .encode(),
        FollowerSays::Want(vec![want]).encode(),
    ]
}

fn leader(segment: SegmentId) -> Vec<Bytes> {
    let append = AppendOf {
        segment,
        at: Offset(10),
        high_watermark: Offset(7),
        batches: Bytes::from_static(b"as long as a batch may be, or not"),
    };
    let exposed = ExposedOf {
        segment,
        high_watermark: Offset(7),
    };
    let whys = [
        FollowRefusal::NotLeading,
        FollowRefusal::Epoch(LeaderEpoch(3)),
        FollowRefusal::NotReplica,
        FollowRefusal::StaleIncarnation(Incarnation(4)),
        FollowRefusal::AboveLogEnd(Offset(5)),
    ];
    let refused = whys.map(|why| RefusedOf { segment, why });
    let memory = MemoryOf {
        segment,
        is_last: true,
        bytes: Bytes::from_static(b"memory"),
    };
    vec![
        LeaderSays::Append(vec![append.clone(), append]).encode(),
        LeaderSays::Exposed(vec![exposed]).encode(),
        LeaderSays::Refused(refused.to_vec()).encode(),
        LeaderSays::Memory(memory).encode(),
    ]
}

fn copies(from: Member, partition: PartitionId, segment: SegmentId) -> Vec<Bytes> {
    let asked = [
        Asked::Tail {
            from,
            at: Offset(3),
            bytes_max: 1 << 20,
        },
        Asked::Memory { position: 4 },
        Asked::Facts { position: 5 },
        Asked::Chunk { number: 6 },
        Asked::Batches {
            from: Offset(3),
            bytes_max: 1 << 20,
        },
    ];
    let question = |asked| CopyQuestion {
        partition,
        segment,
        asked,
    };
    asked.map(|asked| question(asked).encode()).to_vec()
}
