//! Several brokers and one partition of three replicas: what the tests of the seal protocol's rules
//! share.

use super::*;
use crate::command::{
    AlterIsr, Answer, BeginSeal, CommitSeal, EvictReplica, NextSegment, SealAndOpen, SealReason,
};

/// Brokers 1 to 4, and a topic whose partition is on 1, 2 and 3, led by 1, with
/// `min.insync.replicas` 2 unless said otherwise.
pub(super) struct Cluster {
    pub(super) log: Log,
    requests: u128,
}

/// What a restart proves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Restart {
    Intact,
    SameDirectory,
    RestoredDirectory,
    OtherDirectory,
}

pub(super) const ID: PartitionId = PartitionId {
    topic: TopicId(Uuid::from_u128(1)),
    index: PartitionIndex(0),
};

pub(super) fn id(broker: i32) -> BrokerId {
    BrokerId(broker)
}

pub(super) fn brokers(members: &[Member]) -> Vec<i32> {
    members.iter().map(|member| member.broker.0).collect()
}

impl Cluster {
    pub(super) fn new(min_insync: i16, flush: SegmentFlush) -> Self {
        let mut cluster = Self {
            log: Log::default(),
            requests: 0,
        };
        for broker in 1..=4 {
            cluster
                .restart(broker, Restart::OtherDirectory)
                .expect("registered");
        }
        let new = NewSegment {
            replicas: vec![id(1), id(2), id(3)],
            leader: Some(id(1)),
            flush,
            ..new_segment(cluster.log.fresh())
        };
        let mut command = creation(1, "t1", vec![new]);
        if let Command::CreateTopic {
            replication_factor,
            configs,
            ..
        } = &mut command
        {
            *replication_factor = 3;
            configs.insert("min.insync.replicas".to_owned(), min_insync.to_string());
        }
        assert_eq!(cluster.log.apply(&command), Ok(Applied::TopicCreated));
        cluster
    }

    pub(super) fn two_of_three() -> Self {
        Self::new(2, SegmentFlush::Interval)
    }

    pub(super) fn now(&self, broker: i32) -> Member {
        self.log.image.member(id(broker)).expect("registered")
    }

    pub(super) fn members<const N: usize>(&self, brokers: [i32; N]) -> Vec<Member> {
        brokers.map(|broker| self.now(broker)).to_vec()
    }

    /// The command with which the broker comes back.
    pub(super) fn registration(&mut self, broker: i32, how: Restart) -> Command {
        self.requests += 1;
        let before = self.log.image.brokers.get(&id(broker));
        let expected = before.map(|before| before.incarnation);
        let dir = match how {
            Restart::OtherDirectory => 1_000 + self.requests,
            _ => before.map_or(0, |before| before.directory_id.as_u128()),
        };
        let mut command = super::registration(id(broker), dir, expected);
        if let Command::RegisterBroker {
            intact,
            directory_life,
            request,
            ..
        } = &mut command
        {
            *intact = expected.filter(|_| how == Restart::Intact);
            let is_last = matches!(how, Restart::Intact | Restart::SameDirectory);
            *directory_life = expected.filter(|_| is_last);
            *request = Uuid::from_u128(self.requests);
        }
        command
    }

    pub(super) fn restart(&mut self, broker: i32, how: Restart) -> Result<Applied, ApplyError> {
        let command = self.registration(broker, how);
        self.log.apply(&command)
    }

    pub(super) fn open(&self) -> &SegmentRecord {
        let partition = self.log.image.partition(ID).expect("partition");
        partition.active().expect("open")
    }

    pub(super) fn sealed(&self) -> &SegmentRecord {
        let partition = self.log.image.partition(ID).expect("partition");
        partition.segments.front().expect("a segment")
    }

    /// Brokers in the ISR, in the ELR and among the lost.
    pub(super) fn sets(&self) -> (Vec<i32>, Vec<i32>, Vec<i32>) {
        let open = self.open();
        (brokers(&open.isr), brokers(&open.elr), brokers(&open.lost))
    }

    pub(super) fn alter(&mut self, isr: Vec<Member>) -> Result<u32, ApplyError> {
        let version = self.open().version;
        self.alter_at(version, isr)
    }

    pub(super) fn alter_at(&mut self, version: u32, isr: Vec<Member>) -> Result<u32, ApplyError> {
        let segment = self.open().id;
        let changes = vec![AlterIsr {
            partition: ID,
            segment,
            version,
            isr,
        }];
        only_version(self.log.apply(&Command::AlterIsr { changes }))
    }

    pub(super) fn evict(&mut self, broker: i32) -> Result<u32, ApplyError> {
        let evictions = vec![EvictReplica {
            partition: ID,
            segment: self.open().id,
            version: self.open().version,
            member: self.now(broker),
        }];
        only_version(self.log.apply(&Command::EvictReplicas { evictions }))
    }

    pub(super) fn begin_seal_at(&mut self, version: u32) -> Result<u32, ApplyError> {
        let seals = vec![BeginSeal {
            partition: ID,
            segment: self.open().id,
            version,
        }];
        let reason = SealReason::Requested;
        only_version(self.log.apply(&Command::BeginSeal { seals, reason }))
    }

    pub(super) fn begin_seal(&mut self) {
        let version = self.open().version;
        self.begin_seal_at(version).expect("begun");
    }

    /// The next segment on these brokers, in sync all, led by the first.
    pub(super) fn next<const N: usize>(&mut self, brokers: [i32; N]) -> NextSegment {
        let isr = self.members(brokers);
        NextSegment {
            id: self.log.fresh(),
            replicas: brokers.map(id).to_vec(),
            leader: isr[0],
            isr,
            flush: SegmentFlush::Interval,
        }
    }

    /// A commit at `end` from these answers: broker, certificate, leo. Complete is who reaches it.
    pub(super) fn commit<const N: usize>(
        &mut self,
        end: i64,
        answers: [(i32, i64, i64); N],
    ) -> CommitSeal {
        let answers = answers.map(|(broker, certificate, leo)| Answer {
            member: self.now(broker),
            certificate: Offset(certificate),
            leo: Offset(leo),
        });
        let complete = answers.iter().filter(|answer| answer.leo.0 >= end);
        CommitSeal {
            partition: ID,
            segment: self.open().id,
            version: self.open().version,
            end: Offset(end),
            bytes: 100,
            max_timestamp: TimestampMs(1),
            digest: Some([1; 16]),
            complete: complete.map(|answer| answer.member).collect(),
            durable: vec![],
            answers: answers.to_vec(),
            next: self.next([2, 3, 4]),
        }
    }

    pub(super) fn apply_commit(&mut self, commit: CommitSeal) -> Result<Opened, ApplyError> {
        let commits = vec![commit];
        only_opened(self.log.apply(&Command::CommitSeal { commits }))
    }

    pub(super) fn recover(&mut self, recovery: CommitSeal) -> Result<Opened, ApplyError> {
        let recoveries = vec![recovery];
        only_opened(self.log.apply(&Command::UncleanRecover { recoveries }))
    }

    pub(super) fn planned(&mut self, end: i64) -> SealAndOpen {
        SealAndOpen {
            partition: ID,
            segment: self.open().id,
            version: self.open().version,
            end: Offset(end),
            bytes: 100,
            max_timestamp: TimestampMs(1),
            digest: Some([1; 16]),
            durable: self.members([1]),
            next: self.next([1, 2, 3]),
        }
    }

    pub(super) fn apply_planned(&mut self, seal: SealAndOpen) -> Result<Opened, ApplyError> {
        only_opened(self.log.apply(&Command::SealAndOpen { seals: vec![seal] }))
    }

    pub(super) fn set_min_insync(&mut self, min_insync: i16) {
        let value = min_insync.to_string();
        let command = Command::AlterTopicConfigs {
            topic: ID.topic,
            set: BTreeMap::from([("min.insync.replicas".to_owned(), value)]),
            delete: vec![],
        };
        assert_eq!(self.log.apply(&command), Ok(Applied::ConfigsAltered));
    }

    pub(super) fn fence(&mut self, broker: i32) {
        let member = self.now(broker);
        let answer = self.log.apply(&Command::FenceBroker { member });
        assert_eq!(answer, Ok(Applied::BrokerChanged));
    }

    pub(super) fn declare_lost(&mut self, broker: i32) -> Result<Applied, ApplyError> {
        let member = self.now(broker);
        self.log.apply(&Command::DeclareLost { member })
    }

    /// The brokers that are complete in the sealed segment, in their present lives.
    pub(super) fn complete(&self) -> Vec<i32> {
        let copies = self.sealed().complete.iter();
        let present = copies.filter(|copy| self.log.image.is_current(copy.member()));
        present.map(|copy| copy.broker.0).collect()
    }
}

fn only_version(answer: Result<Applied, ApplyError>) -> Result<u32, ApplyError> {
    match answer? {
        Applied::IsrAltered { mut results } | Applied::SealsBegun { mut results } => {
            results.remove(0)
        }
        other => panic!("{other:?}"),
    }
}

fn only_opened(answer: Result<Applied, ApplyError>) -> Result<Opened, ApplyError> {
    match answer? {
        Applied::SealedAndOpened { mut results } => results.remove(0),
        other => panic!("{other:?}"),
    }
}
