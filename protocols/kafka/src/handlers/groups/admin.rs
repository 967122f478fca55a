//! ListGroups, DescribeGroups and DeleteGroups.

use kafka_protocol::messages::{
    DeleteGroupsRequest, DeleteGroupsResponse, DescribeGroupsRequest, DescribeGroupsResponse,
    GroupId, ListGroupsRequest, ListGroupsResponse,
    delete_groups_response::DeletableGroupResult,
    describe_groups_response::{DescribedGroup, DescribedGroupMember},
    list_groups_response::ListedGroup,
};
use mainstem_broker::ErrorCode;

use super::{owned, text};
use crate::context::Call;

/// The first version of DescribeGroups that says that a group is not there (KIP-1043).
const NOT_FOUND_FROM: i16 = 6;
/// The first version of DescribeGroups with instance ids (KIP-345).
const INSTANCE_IDS_FROM: i16 = 4;
/// The first version of DescribeGroups that may ask for the operations that are allowed.
const OPERATIONS_FROM: i16 = 3;
/// READ, DELETE and DESCRIBE, as bits.
const GROUP_OPERATIONS: i32 = 0b1_0100_1000;

/// Lists groups, by state and type if asked.
pub(crate) async fn list(call: &Call<'_>, request: ListGroupsRequest) -> ListGroupsResponse {
    let states: Vec<String> = request.states_filter.iter().map(owned).collect();
    let types: Vec<String> = request.types_filter.iter().map(owned).collect();
    let groups = call.broker().groups().list(call.caller, &states, &types);
    let groups = groups.into_iter().map(|group| {
        ListedGroup::default()
            .with_group_id(GroupId(text(group.group)))
            .with_protocol_type(text(group.protocol_type))
            .with_group_state(text(group.state))
            .with_group_type(text(group.group_type))
    });
    ListGroupsResponse::default().with_groups(groups.collect())
}

/// Describes groups and their members.
pub(crate) async fn describe(
    call: &Call<'_>,
    request: DescribeGroupsRequest,
) -> DescribeGroupsResponse {
    let with_operations = request.include_authorized_operations && call.version >= OPERATIONS_FROM;
    let groups = request.groups.into_iter().map(|group| {
        let described = call.broker().groups().describe(call.caller, &group);
        let mut response = DescribedGroup::default().with_group_id(group);
        let unknown = described.error.is_ok() && !described.exists;
        let code = match unknown && call.version >= NOT_FOUND_FROM {
            true => ErrorCode::GroupIdNotFound,
            false => described.error,
        };
        if !code.is_ok() && call.version >= NOT_FOUND_FROM {
            response.error_message = Some(text(code.text()));
        }
        if with_operations {
            response.authorized_operations = GROUP_OPERATIONS;
        }
        let members = described.members.into_iter().map(|member| {
            let instance_id = member
                .instance_id
                .filter(|_| call.version >= INSTANCE_IDS_FROM);
            DescribedGroupMember::default()
                .with_member_id(text(member.member_id))
                .with_group_instance_id(instance_id.map(text))
                .with_client_id(text(member.client_id))
                .with_client_host(text(member.client_host))
                .with_member_metadata(member.metadata)
                .with_member_assignment(member.assignment)
        });
        response
            .with_error_code(call.code(code))
            .with_group_state(text(described.state))
            .with_protocol_type(text(described.protocol_type))
            .with_protocol_data(text(described.protocol))
            .with_members(members.collect())
    });
    DescribeGroupsResponse::default().with_groups(groups.collect())
}

/// Deletes groups without members, with their offsets.
pub(crate) async fn delete(call: &Call<'_>, request: DeleteGroupsRequest) -> DeleteGroupsResponse {
    let mut results = Vec::with_capacity(request.groups_names.len());
    for group in request.groups_names {
        let code = call.broker().groups().delete(call.caller, &group).await;
        let result = DeletableGroupResult::default()
            .with_group_id(group)
            .with_error_code(call.code(code));
        results.push(result);
    }
    DeleteGroupsResponse::default().with_results(results)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_are_the_bits_of_kafkas_acl_operations() {
        // READ 3, DELETE 6, DESCRIBE 8.
        let bits = [3, 6, 8].iter().fold(0, |all, bit| all | (1 << bit));
        assert_eq!(GROUP_OPERATIONS, bits);
    }
}
