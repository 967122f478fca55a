//! JoinGroup, SyncGroup, Heartbeat and LeaveGroup.

use bytes::Bytes;
use uuid::Uuid;

use super::{
    Groups,
    requests::{JoinAnswer, JoinRequest, LeaveMember, SyncAnswer, SyncRequest},
};
use crate::{Caller, ErrorCode};

/// The longest text of a member that the records can hold: strings have 16-bit lengths.
const TEXT_BYTES_MAX: usize = i16::MAX as usize;

/// So much is kept of a client's name and address; both are for people only, and the name begins
/// the member id.
const CLIENT_TEXT_BYTES_MAX: usize = 255;

// === impl Groups ===

impl Groups {
    /// Joins a group, or joins again. Waits until the rebalance is over.
    pub async fn join(&self, caller: &Caller, request: JoinRequest) -> JoinAnswer {
        let coordinator = &self.coordinator;
        let refused = |error| JoinAnswer::refused(error, request.member_id.clone());
        let checked = coordinator
            .check_request(&request.group)
            .and_then(|()| check_texts(&request));
        if let Err(error) = checked {
            return refused(error);
        }
        // Only a first join makes a group: a member id is worth nothing where nobody gave it.
        let found = if request.member_id.is_empty() {
            coordinator.group_or_new(&request.group)
        } else {
            coordinator
                .group(&request.group)
                .and_then(|group| group.ok_or(ErrorCode::UnknownMemberId))
        };
        let group = match found {
            Ok(group) => group,
            Err(error) => return refused(error),
        };
        tracing::debug!(
            group = %request.group,
            member = %request.member_id,
            client = %caller.client_id,
            reason = request.reason.as_deref().unwrap_or(""),
            "join"
        );
        let request = sanitised(request);
        let prefix = request.instance_id.as_ref().unwrap_or(&request.client_id);
        let random = Uuid::from_bytes(coordinator.world.env().random_uuid());
        let new_member_id = format!("{prefix}-{random}");
        let answer = coordinator.act(&group, |inside, now| {
            let (token, answer) = inside.await_join();
            inside.machine.join(now, token, &request, new_member_id);
            answer
        });
        coordinator.drop_if_vacant(&group);
        self.abandon_if_closed(&group);
        // Only a coordinator that ends drops a waiting request.
        answer
            .await
            .unwrap_or_else(|_| JoinAnswer::refused(ErrorCode::NotCoordinator, request.member_id))
    }

    /// Asks for the assignment, or brings it. Waits until the leader has brought it and it is
    /// durable.
    pub async fn sync(&self, _caller: &Caller, mut request: SyncRequest) -> SyncAnswer {
        let coordinator = &self.coordinator;
        if let Err(error) = coordinator.check_request(&request.group) {
            return SyncAnswer::refused(error);
        }
        let group = match coordinator.group(&request.group) {
            Ok(Some(group)) => group,
            Ok(None) => return SyncAnswer::refused(ErrorCode::UnknownMemberId),
            Err(error) => return SyncAnswer::refused(error),
        };
        for (_, assignment) in &mut request.assignments {
            *assignment = Bytes::copy_from_slice(assignment);
        }
        let answer = coordinator.act(&group, |inside, now| {
            let (token, answer) = inside.await_sync();
            inside.machine.sync(now, token, &request);
            answer
        });
        self.abandon_if_closed(&group);
        answer
            .await
            .unwrap_or_else(|_| SyncAnswer::refused(ErrorCode::NotCoordinator))
    }

    /// A request that came in while the coordinator closed, or stopped to be the group's, must not
    /// wait for a rebalance that nobody ends any more.
    fn abandon_if_closed(&self, group: &std::sync::Arc<super::group::Group>) {
        if group.term.is_over() || self.coordinator.check_open().is_err() {
            self.coordinator.act(group, |inside, _| {
                inside.machine.abandon(ErrorCode::NotCoordinator);
            });
        }
    }

    /// A sign of life of a member. REBALANCE_IN_PROGRESS asks it to join again.
    pub async fn heartbeat(
        &self,
        _caller: &Caller,
        group: &str,
        generation: i32,
        member_id: &str,
        instance_id: Option<&str>,
    ) -> ErrorCode {
        let coordinator = &self.coordinator;
        if let Err(error) = coordinator.check_request(group) {
            return error;
        }
        let group = match coordinator.group(group) {
            Ok(Some(group)) => group,
            Ok(None) => return ErrorCode::UnknownMemberId,
            Err(error) => return error,
        };
        coordinator.act(&group, |inside, now| {
            inside
                .machine
                .heartbeat(now, generation, member_id, instance_id)
        })
    }

    /// Members leave, or are made to; one result for each. An error as a whole means that nothing
    /// was done.
    pub async fn leave(
        &self,
        _caller: &Caller,
        group: &str,
        members: Vec<LeaveMember>,
    ) -> Result<Vec<(LeaveMember, ErrorCode)>, ErrorCode> {
        let coordinator = &self.coordinator;
        coordinator.check_request(group)?;
        let Some(group) = coordinator.group(group)? else {
            let unknown = |member| (member, ErrorCode::UnknownMemberId);
            return Ok(members.into_iter().map(unknown).collect());
        };
        for member in &members {
            tracing::debug!(
                group = %group.name,
                member = %member.member_id,
                reason = member.reason.as_deref().unwrap_or(""),
                "leave"
            );
        }
        let results = coordinator.act(&group, |inside, now| inside.machine.leave(now, &members))?;
        coordinator.drop_if_vacant(&group);
        Ok(members.into_iter().zip(results).collect())
    }
}

/// What could never be stored is refused at the door.
fn check_texts(request: &JoinRequest) -> Result<(), ErrorCode> {
    let instance = request.instance_id.as_deref();
    // The id of a static member is the instance id and a UUID.
    let instance_fits = instance.is_none_or(|id| {
        !id.is_empty() && id.len() <= TEXT_BYTES_MAX - "-".len() - uuid::fmt::Hyphenated::LENGTH
    });
    let protocols_fit = request
        .protocols
        .iter()
        .all(|(name, _)| name.len() <= TEXT_BYTES_MAX);
    if !instance_fits || !protocols_fit || request.protocol_type.len() > TEXT_BYTES_MAX {
        return Err(ErrorCode::InvalidRequest);
    }
    Ok(())
}

/// The request with what is kept of it for long: copies, so that a member does not keep the whole
/// request in memory, and client texts of bounded length.
fn sanitised(mut request: JoinRequest) -> JoinRequest {
    for (_, metadata) in &mut request.protocols {
        *metadata = Bytes::copy_from_slice(metadata);
    }
    truncate(&mut request.client_id);
    truncate(&mut request.client_host);
    request
}

fn truncate(text: &mut String) {
    let end = text.floor_char_boundary(CLIENT_TEXT_BYTES_MAX);
    text.truncate(end);
}
