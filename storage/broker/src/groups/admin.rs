//! ListGroups, DescribeGroups, DeleteGroups, and the lag of groups.

use std::sync::Arc;

use mainstem_record::PartitionId;
use tokio::sync::oneshot;

use super::{
    Groups,
    coordinator::{Coordinator, check_group_id_length},
    group::Group,
    machine::GroupState,
    requests::{DescribedGroup, ListedGroup},
};
use crate::{Caller, ErrorCode};

/// The only type of group that there is.
const CLASSIC: &str = "classic";

/// Groups whose lag is computed: each becomes a time series.
const LAG_GROUPS_MAX: usize = 1000;

// === impl Groups ===

impl Groups {
    /// All groups in one of these states and of one of these types; none given = all. Upper and
    /// lower case are the same.
    pub fn list(&self, _caller: &Caller, states: &[String], types: &[String]) -> Vec<ListedGroup> {
        let wanted = |filter: &[String], value: &str| {
            filter.is_empty() || filter.iter().any(|one| one.eq_ignore_ascii_case(value))
        };
        if !wanted(types, CLASSIC) {
            return Vec::new();
        }
        let mut listed: Vec<ListedGroup> = self
            .coordinator
            .all()
            .into_iter()
            .filter_map(|group| {
                let inside = group.inside.lock();
                let state = inside.machine.state();
                let shown = state != GroupState::Dead && wanted(states, state.name());
                shown.then(|| ListedGroup {
                    group: group.name.to_string(),
                    protocol_type: inside
                        .machine
                        .protocol_type()
                        .unwrap_or_default()
                        .to_owned(),
                    state: state.name(),
                    group_type: CLASSIC,
                })
            })
            .collect();
        listed.sort_by(|a, b| a.group.cmp(&b.group));
        listed
    }

    /// One group with its members.
    pub fn describe(&self, _caller: &Caller, group: &str) -> DescribedGroup {
        let without = |error| DescribedGroup {
            error,
            exists: false,
            state: GroupState::Dead.name(),
            protocol_type: String::new(),
            protocol: String::new(),
            members: Vec::new(),
        };
        let checked = self
            .coordinator
            .check_served(group)
            .and_then(|()| check_group_id_length(group));
        if let Err(error) = checked {
            return without(error);
        }
        let group = match self.coordinator.group(group) {
            Ok(Some(group)) => group,
            Ok(None) => return without(ErrorCode::None),
            Err(error) => return without(error),
        };
        let inside = group.inside.lock();
        if inside.is_dead() {
            return without(ErrorCode::None);
        }
        let (protocol, members) = inside.machine.describe();
        DescribedGroup {
            error: ErrorCode::None,
            exists: true,
            state: inside.machine.state().name(),
            protocol_type: inside
                .machine
                .protocol_type()
                .unwrap_or_default()
                .to_owned(),
            protocol,
            members,
        }
    }

    /// Deletes a group without members, and its offsets.
    pub async fn delete(&self, _caller: &Caller, group: &str) -> ErrorCode {
        let coordinator = &self.coordinator;
        let checked = coordinator
            .check_served(group)
            .and_then(|()| check_group_id_length(group));
        if let Err(error) = checked {
            return error;
        }
        let group = match coordinator.group(group) {
            Ok(Some(group)) => group,
            Ok(None) => return ErrorCode::GroupIdNotFound,
            Err(error) => return error,
        };
        let (sender, receiver) = oneshot::channel();
        let task = coordinator.clone();
        let run = async move {
            let result = task.delete(&group).await;
            let _ = sender.send(result.err().unwrap_or(ErrorCode::None));
        };
        coordinator.world.spawn("group delete", Box::pin(run));
        receiver.await.unwrap_or(ErrorCode::CoordinatorNotAvailable)
    }

    /// How many records each group has not committed yet, summed over its partitions. At most
    /// 1000 groups; partitions that this node cannot read do not count.
    pub fn lag(&self) -> Vec<(String, i64)> {
        let mut groups = self.coordinator.all();
        groups.sort_by(|a, b| a.name.cmp(&b.name));
        groups
            .into_iter()
            .filter_map(|group| Some((group.name.to_string(), self.group_lag(&group)?)))
            .take(LAG_GROUPS_MAX)
            .collect()
    }

    /// None for a group without commits.
    fn group_lag(&self, group: &Group) -> Option<i64> {
        let world = &self.coordinator.world;
        let inside = group.inside.lock();
        if inside.offsets.is_empty() {
            return None;
        }
        let mut lag = 0i64;
        for (topic, partitions) in inside.offsets.topics() {
            let Some(view) = world.topic(topic) else {
                continue;
            };
            for (index, committed) in partitions {
                let partition = PartitionId {
                    topic: view.id,
                    index: *index,
                };
                if let Some(end) = world.readable_end(partition) {
                    let behind = end.0.saturating_sub(committed.stored.offset.0.max(0));
                    lag = lag.saturating_add(behind.max(0));
                }
            }
        }
        Some(lag)
    }
}

// === impl Coordinator ===

impl Coordinator {
    /// Deletes a group without members: nobody can come in from here on, and it comes back only if
    /// the log refuses.
    pub(super) async fn delete(self: &Arc<Self>, group: &Arc<Group>) -> Result<(), ErrorCode> {
        let _alone = group.order.write().await;
        let (places, was_stored) = {
            let mut inside = group.inside.lock();
            if inside.is_dead() {
                return Err(ErrorCode::GroupIdNotFound);
            }
            if !inside.machine.kill() {
                return Err(ErrorCode::NonEmptyGroup);
            }
            (inside.offsets.places(), inside.machine.was_stored())
        };
        if let Err(error) = self.bury(group, places, was_stored).await {
            group.inside.lock().machine.revive();
            return Err(error);
        }
        self.forget(group);
        Ok(())
    }
}
