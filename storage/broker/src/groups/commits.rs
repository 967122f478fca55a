//! OffsetCommit, OffsetFetch and OffsetDelete.

use std::sync::Arc;

use mainstem_record::{LeaderEpoch, Offset, PartitionIndex};
use tokio::sync::oneshot;

use super::{
    Groups,
    coordinator::{BATCH_RECORDS_MAX, Coordinator, check_group_id_length, coordinator_error},
    group::Group,
    machine::GroupState,
    offsets::{Committed, OffsetTable},
    requests::{
        CommitPartition, CommitRequest, CommitTopicAnswer, DeleteOffsetsTopic, OffsetPartition,
        OffsetTopic,
    },
    store::{self, StoredOffset},
    world::TopicView,
};
use crate::{Caller, ErrorCode, internal::KeyValue};

/// The longest metadata text that the records can hold: strings have 16-bit lengths.
const METADATA_BYTES_MAX: usize = i16::MAX as usize;

/// One partition of a commit that passed its checks, and where its answer goes.
struct Accepted<'a> {
    place: (usize, usize),
    topic: &'a str,
    index: PartitionIndex,
    committed: Committed,
}

// === impl Groups ===

impl Groups {
    /// Commits offsets; each partition's answer tells whether its commit is durable.
    pub async fn commit(&self, _caller: &Caller, request: CommitRequest) -> Vec<CommitTopicAnswer> {
        let coordinator = &self.coordinator;
        let group = match coordinator.group_for_commit(&request) {
            Ok(group) => group,
            Err(error) => return answer_all(&request, error),
        };
        let request = Arc::new(request);
        let (sender, receiver) = oneshot::channel();
        let (task, work) = (coordinator.clone(), request.clone());
        // On a task of its own: a client that disconnects must not leave us with a commit that is
        // in the log but not in memory.
        let run = async move {
            let answer = task.commit(&group, &work).await;
            task.drop_if_vacant(&group);
            let _ = sender.send(answer);
        };
        coordinator.world.spawn("offset commit", Box::pin(run));
        receiver
            .await
            .unwrap_or_else(|_| answer_all(&request, ErrorCode::CoordinatorNotAvailable))
    }

    /// The committed offsets of these partitions, or of all that have any. An unknown group, like a
    /// partition without commit, is not an error: its offset is -1.
    ///
    /// `member` (version 9) binds members of the new protocol only; `require_stable` waits for
    /// transactions only. Neither exists yet, so both are without effect.
    pub async fn fetch_offsets(
        &self,
        _caller: &Caller,
        group: &str,
        member: Option<(&str, i32)>,
        topics: Option<Vec<(String, Vec<PartitionIndex>)>>,
        require_stable: bool,
    ) -> Result<Vec<OffsetTopic>, ErrorCode> {
        let _ = (member, require_stable);
        let coordinator = &self.coordinator;
        coordinator.check_served(group)?;
        check_group_id_length(group)?;
        let group = coordinator.group(group)?;
        let inside = group.as_ref().map(|group| group.inside.lock());
        let none = OffsetTable::default();
        let table = inside.as_ref().map_or(&none, |inside| &inside.offsets);
        let Some(topics) = topics else {
            return Ok(coordinator.all_offsets(table));
        };
        let found = topics.into_iter().map(|(name, partitions)| {
            let view = coordinator.world.topic(&name);
            let partitions = partitions
                .into_iter()
                .map(|index| offset_partition(index, lookup(table, &name, index, view)))
                .collect();
            OffsetTopic { name, partitions }
        });
        Ok(found.collect())
    }

    /// Forgets commits. An error as a whole: the group is unknown, or not one of consumers and in
    /// use; a partition's error: a member subscribes to the topic.
    pub async fn delete_offsets(
        &self,
        _caller: &Caller,
        group: &str,
        topics: Vec<DeleteOffsetsTopic>,
    ) -> Result<Vec<CommitTopicAnswer>, ErrorCode> {
        let coordinator = &self.coordinator;
        coordinator.check_served(group)?;
        let group = coordinator.group(group)?;
        let group = group.ok_or(ErrorCode::GroupIdNotFound)?;
        let (sender, receiver) = oneshot::channel();
        let task = coordinator.clone();
        let run = async move {
            let answer = task.delete_offsets(&group, &topics).await;
            task.drop_if_vacant(&group);
            let _ = sender.send(answer);
        };
        coordinator.world.spawn("offset delete", Box::pin(run));
        receiver
            .await
            .unwrap_or(Err(ErrorCode::CoordinatorNotAvailable))
    }
}

// === impl Coordinator ===

impl Coordinator {
    /// A commit without generation makes the group: its consumer does not want to be a member.
    fn group_for_commit(&self, request: &CommitRequest) -> Result<Arc<Group>, ErrorCode> {
        self.check_served(&request.group)?;
        check_group_id_length(&request.group)?;
        match self.group(&request.group)? {
            Some(group) => Ok(group),
            None if request.generation < 0 => self.group_or_new(&request.group),
            None => Err(ErrorCode::IllegalGeneration),
        }
    }

    async fn commit(
        self: &Arc<Self>,
        group: &Arc<Group>,
        request: &CommitRequest,
    ) -> Vec<CommitTopicAnswer> {
        let _shared = group.order.read().await;
        let checked = self.act(group, |inside, now| {
            let instance = request.instance_id.as_deref();
            let member = &request.member_id;
            inside
                .machine
                .check_commit(now, request.generation, member, instance)
        });
        if let Err(error) = checked {
            return answer_all(request, error);
        }
        let mut answers = answer_all(request, ErrorCode::None);
        let accepted = self.check_partitions(request, &mut answers);
        let mut rest = accepted.into_iter();
        loop {
            let chunk: Vec<Accepted<'_>> = rest.by_ref().take(BATCH_RECORDS_MAX).collect();
            if chunk.is_empty() {
                return answers;
            }
            let places: Vec<(usize, usize)> = chunk.iter().map(|one| one.place).collect();
            if let Err(error) = self.commit_chunk(group, chunk).await {
                for place in places {
                    set_answer(&mut answers, place, error);
                }
            }
        }
    }

    /// The partitions that can be committed; the others get their answers.
    fn check_partitions<'a>(
        &self,
        request: &'a CommitRequest,
        answers: &mut [CommitTopicAnswer],
    ) -> Vec<Accepted<'a>> {
        let commit_ms = self.now().wall_ms;
        let mut accepted = Vec::new();
        for (t, topic) in request.topics.iter().enumerate() {
            let view = self.world.topic(&topic.name);
            for (p, partition) in topic.partitions.iter().enumerate() {
                match self.check_partition(view, partition) {
                    Err(error) => set_answer(answers, (t, p), error),
                    Ok(view) => accepted.push(Accepted {
                        place: (t, p),
                        topic: &topic.name,
                        index: partition.index,
                        committed: Committed {
                            stored: StoredOffset {
                                offset: partition.offset,
                                leader_epoch: partition.leader_epoch,
                                metadata: partition.metadata.clone().unwrap_or_default(),
                                commit_ms,
                            },
                            topic: Some(view.id),
                            at: Offset::ZERO,
                        },
                    }),
                }
            }
        }
        accepted
    }

    /// Commits of partitions that do not exist are refused: nothing would ever remove them.
    fn check_partition(
        &self,
        view: Option<TopicView>,
        partition: &CommitPartition,
    ) -> Result<TopicView, ErrorCode> {
        let view = view
            .filter(|view| (0..view.partitions).contains(&partition.index.0))
            .ok_or(ErrorCode::UnknownTopicOrPartition)?;
        let limit = self
            .config
            .offset_metadata_bytes_max
            .min(METADATA_BYTES_MAX);
        if partition
            .metadata
            .as_ref()
            .is_some_and(|text| text.len() > limit)
        {
            return Err(ErrorCode::OffsetMetadataTooLarge);
        }
        Ok(view)
    }

    async fn commit_chunk(
        &self,
        group: &Arc<Group>,
        mut chunk: Vec<Accepted<'_>>,
    ) -> Result<(), ErrorCode> {
        let mut records = Vec::with_capacity(chunk.len());
        for one in &chunk {
            let key = store::offset_key(&group.name, one.topic, one.index);
            let value = store::offset_value(&one.committed.stored);
            let (Ok(key), Ok(value)) = (key, value) else {
                return Err(ErrorCode::InvalidCommitOffsetSize);
            };
            records.push(KeyValue {
                key,
                value: Some(value),
            });
        }
        let first = self
            .append(group, records)
            .await
            .map_err(coordinator_error)?;
        self.metrics.commits.inc_by(chunk.len() as u64);
        let mut inside = group.inside.lock();
        for (one, at) in chunk.drain(..).zip(first.0..) {
            let mut committed = one.committed;
            committed.at = Offset(at);
            inside.offsets.commit(one.topic, one.index, committed);
        }
        Ok(())
    }

    fn all_offsets(&self, table: &OffsetTable) -> Vec<OffsetTopic> {
        let mut topics = Vec::new();
        for (name, partitions) in table.topics() {
            let view = self.world.topic(name);
            let partitions: Vec<OffsetPartition> = partitions
                .keys()
                .filter_map(|index| {
                    let committed = lookup(table, name, *index, view)?;
                    Some(offset_partition(*index, Some(committed)))
                })
                .collect();
            if !partitions.is_empty() {
                topics.push(OffsetTopic {
                    name: name.to_owned(),
                    partitions,
                });
            }
        }
        topics
    }

    async fn delete_offsets(
        &self,
        group: &Arc<Group>,
        topics: &[DeleteOffsetsTopic],
    ) -> Result<Vec<CommitTopicAnswer>, ErrorCode> {
        let _alone = group.order.write().await;
        let mut places = Vec::new();
        let mut answers = Vec::with_capacity(topics.len());
        {
            let inside = group.inside.lock();
            let machine = &inside.machine;
            let in_use = match machine.state() {
                GroupState::Dead => return Err(ErrorCode::GroupIdNotFound),
                GroupState::Empty => None,
                _ if machine.protocol_type() == Some("consumer") => {
                    Some(machine.subscribed_topics())
                }
                _ => return Err(ErrorCode::NonEmptyGroup),
            };
            for topic in topics {
                // What a member's metadata does not tell may be in use.
                let subscribed = in_use.as_ref().is_some_and(|topics| {
                    topics
                        .as_ref()
                        .is_none_or(|topics| topics.contains(&topic.name))
                });
                let error = if subscribed {
                    ErrorCode::GroupSubscribedToTopic
                } else {
                    let known = |index: &&PartitionIndex| {
                        inside.offsets.get(&topic.name, **index).is_some()
                    };
                    let found = topic.partitions.iter().filter(known);
                    places.extend(found.map(|index| (topic.name.clone(), *index)));
                    ErrorCode::None
                };
                answers.push(CommitTopicAnswer {
                    name: topic.name.clone(),
                    partitions: topic
                        .partitions
                        .iter()
                        .map(|index| (*index, error))
                        .collect(),
                });
            }
        }
        self.bury(group, places, false).await?;
        Ok(answers)
    }
}

fn answer_all(request: &CommitRequest, error: ErrorCode) -> Vec<CommitTopicAnswer> {
    let topics = request.topics.iter();
    topics
        .map(|topic| CommitTopicAnswer {
            name: topic.name.clone(),
            partitions: topic
                .partitions
                .iter()
                .map(|partition| (partition.index, error))
                .collect(),
        })
        .collect()
}

fn set_answer(answers: &mut [CommitTopicAnswer], place: (usize, usize), error: ErrorCode) {
    let answer = answers
        .get_mut(place.0)
        .and_then(|topic| topic.partitions.get_mut(place.1));
    if let Some(answer) = answer {
        answer.1 = error;
    }
}

/// A commit that was meant for the topic that has the name today.
fn lookup<'a>(
    table: &'a OffsetTable,
    topic: &str,
    index: PartitionIndex,
    view: Option<TopicView>,
) -> Option<&'a Committed> {
    let view = view?;
    table
        .get(topic, index)
        .filter(|committed| committed.topic.is_none_or(|meant| meant == view.id))
}

fn offset_partition(index: PartitionIndex, committed: Option<&Committed>) -> OffsetPartition {
    match committed {
        Some(Committed { stored, .. }) => OffsetPartition {
            index,
            offset: stored.offset,
            leader_epoch: stored.leader_epoch,
            metadata: stored.metadata.clone(),
            error: ErrorCode::None,
        },
        None => OffsetPartition {
            index,
            offset: Offset(-1),
            leader_epoch: LeaderEpoch::NONE,
            metadata: String::new(),
            error: ErrorCode::None,
        },
    }
}
