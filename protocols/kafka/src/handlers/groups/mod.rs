//! Consumer groups: membership here, committed offsets in [`commits`], administration in [`admin`].

mod admin;
mod commits;

use bytes::Bytes;
use kafka_protocol::{
    messages::{
        HeartbeatRequest, HeartbeatResponse, JoinGroupRequest, JoinGroupResponse,
        LeaveGroupRequest, LeaveGroupResponse, SyncGroupRequest, SyncGroupResponse,
        join_group_response::JoinGroupResponseMember, leave_group_response::MemberResponse,
    },
    protocol::StrBytes,
};
use mainstem_broker::{ErrorCode, JoinAnswer, JoinRequest, LeaveMember, SyncAnswer, SyncRequest};

pub(crate) use self::{
    admin::{delete, describe, list},
    commits::{commit, delete_offsets, fetch_offsets},
};
use super::{owned, text};
use crate::context::Call;

/// The first version of JoinGroup that can be asked to come again with an id (KIP-394).
const MEMBER_ID_REQUIRED_FROM: i16 = 4;
/// The first version of JoinGroup in which the protocol's name may be null.
const NULL_PROTOCOL_FROM: i16 = 7;
/// The first version of JoinGroup that knows `skip_assignment` (KIP-814).
const SKIP_ASSIGNMENT_FROM: i16 = 9;
/// The first version of LeaveGroup that names many members (KIP-345).
const LEAVE_MANY_FROM: i16 = 3;

/// Joins a group. Waits for the rebalance.
pub(crate) async fn join(call: &Call<'_>, request: JoinGroupRequest) -> JoinGroupResponse {
    let member_id = owned(&request.member_id);
    let request = JoinRequest {
        group: owned(&request.group_id),
        member_id: member_id.clone(),
        instance_id: request.group_instance_id.as_ref().map(owned),
        session_timeout_ms: request.session_timeout_ms,
        rebalance_timeout_ms: request.rebalance_timeout_ms,
        protocol_type: owned(&request.protocol_type),
        protocols: request
            .protocols
            .into_iter()
            // Slices of the frame: what the group keeps, it copies.
            .map(|protocol| (owned(&protocol.name), protocol.metadata))
            .collect(),
        require_member_id: call.version >= MEMBER_ID_REQUIRED_FROM,
        client_id: call.caller.client_id.to_string(),
        client_host: format!("/{}", call.caller.address.ip()),
        reason: request.reason.as_ref().map(owned),
        supports_skip_assignment: call.version >= SKIP_ASSIGNMENT_FROM,
    };
    let answer = tokio::select! {
        biased;
        answer = call.broker().groups().join(call.caller, request) => answer,
        // The client comes again, to whoever is the coordinator then.
        () = call.drain.cancelled() => JoinAnswer {
            error: ErrorCode::NotCoordinator,
            generation: -1,
            protocol_type: None,
            protocol: None,
            leader: String::new(),
            skip_assignment: false,
            member_id,
            members: Vec::new(),
        },
    };
    let members = answer.members.into_iter().map(|member| {
        JoinGroupResponseMember::default()
            .with_member_id(text(member.member_id))
            .with_group_instance_id(member.instance_id.map(text))
            .with_metadata(member.metadata)
    });
    let protocol = match answer.protocol {
        None if call.version < NULL_PROTOCOL_FROM => Some(text("")),
        protocol => protocol.map(text),
    };
    JoinGroupResponse::default()
        .with_error_code(call.code(answer.error))
        .with_generation_id(answer.generation)
        .with_protocol_type(answer.protocol_type.map(text))
        .with_protocol_name(protocol)
        .with_leader(text(answer.leader))
        .with_skip_assignment(answer.skip_assignment && call.version >= SKIP_ASSIGNMENT_FROM)
        .with_member_id(text(answer.member_id))
        .with_members(members.collect())
}

/// Fetches a member's assignment; the leader brings everybody's. Waits for the leader.
pub(crate) async fn sync(call: &Call<'_>, request: SyncGroupRequest) -> SyncGroupResponse {
    let request = SyncRequest {
        group: owned(&request.group_id),
        generation: request.generation_id,
        member_id: owned(&request.member_id),
        instance_id: request.group_instance_id.as_ref().map(owned),
        protocol_type: request.protocol_type.as_ref().map(owned),
        protocol: request.protocol_name.as_ref().map(owned),
        assignments: request
            .assignments
            .into_iter()
            .map(|part| (owned(&part.member_id), part.assignment))
            .collect(),
    };
    let answer = tokio::select! {
        biased;
        answer = call.broker().groups().sync(call.caller, request) => answer,
        () = call.drain.cancelled() => SyncAnswer {
            error: ErrorCode::NotCoordinator,
            protocol_type: None,
            protocol: None,
            assignment: Bytes::new(),
        },
    };
    SyncGroupResponse::default()
        .with_error_code(call.code(answer.error))
        .with_protocol_type(answer.protocol_type.map(text))
        .with_protocol_name(answer.protocol.map(text))
        .with_assignment(answer.assignment)
}

/// Keeps a member alive, and tells it of a rebalance.
pub(crate) async fn heartbeat(call: &Call<'_>, request: HeartbeatRequest) -> HeartbeatResponse {
    let instance_id = request.group_instance_id.as_ref().map(StrBytes::as_str);
    let code = call
        .broker()
        .groups()
        .heartbeat(
            call.caller,
            &request.group_id,
            request.generation_id,
            &request.member_id,
            instance_id,
        )
        .await;
    HeartbeatResponse::default().with_error_code(call.code(code))
}

/// Takes members out of a group.
pub(crate) async fn leave(call: &Call<'_>, request: LeaveGroupRequest) -> LeaveGroupResponse {
    let members = if call.version >= LEAVE_MANY_FROM {
        let members = request.members.iter().map(|member| LeaveMember {
            member_id: owned(&member.member_id),
            instance_id: member.group_instance_id.as_ref().map(owned),
            reason: member.reason.as_ref().map(owned),
        });
        members.collect()
    } else {
        vec![LeaveMember {
            member_id: owned(&request.member_id),
            instance_id: None,
            reason: None,
        }]
    };
    let result = call
        .broker()
        .groups()
        .leave(call.caller, &request.group_id, members)
        .await;
    let response = LeaveGroupResponse::default();
    match result {
        Err(code) => response.with_error_code(call.code(code)),
        Ok(left) if call.version < LEAVE_MANY_FROM => {
            let code = left.first().map_or(ErrorCode::None, |(_, code)| *code);
            response.with_error_code(call.code(code))
        }
        Ok(left) => {
            let members = left.into_iter().map(|(member, code)| {
                MemberResponse::default()
                    .with_member_id(text(member.member_id))
                    .with_group_instance_id(member.instance_id.map(text))
                    .with_error_code(call.code(code))
            });
            response.with_members(members.collect())
        }
    }
}
