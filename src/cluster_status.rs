//! What a node says of its cluster on the admin HTTP: `/cluster/status` and `/cluster/nodes`.

use std::{collections::BTreeMap, sync::Arc};

use mainstem_metadata::{Broker, Image, QuorumMember, QuorumStatus};
use mainstem_record::BrokerId;
use mainstem_replication::Counts;
use serde_json::{Value, json};

/// The cluster in short.
pub(crate) fn status(node: BrokerId, image: &Arc<Image>, quorum: &QuorumStatus) -> Value {
    let voters = quorum.members.iter().filter(|member| member.voter);
    let of = |is: fn(&Broker) -> bool| -> Vec<i32> {
        let brokers = image.brokers.values().filter(|broker| is(broker));
        brokers.map(|broker| broker.id.0).collect()
    };
    let counts = Counts::of(image);
    json!({
        "cluster_id": image.cluster_id,
        "node_id": node.0,
        "leader": quorum.leader.map(|leader| leader.0),
        "term": quorum.term,
        "applied": quorum.applied,
        "voters": voters.map(|voter| voter.node.0).collect::<Vec<_>>(),
        "nodes": quorum.members.iter().map(|member| member.node.0).collect::<Vec<_>>(),
        "brokers": of(|_| true),
        "fenced": of(|broker| broker.fenced),
        "draining": of(|broker| broker.draining),
        "partitions": counts.partitions,
        "leaderless": counts.leaderless,
        "under_replicated": counts.under_replicated,
        "under_min_isr": counts.under_min_isr,
    })
}

/// Every node: a member of the quorum, a registered broker, or both.
pub(crate) fn nodes(image: &Image, quorum: &QuorumStatus) -> Value {
    let mut nodes: BTreeMap<BrokerId, (Option<&QuorumMember>, Option<&Broker>)> = BTreeMap::new();
    for member in &quorum.members {
        nodes.entry(member.node).or_default().0 = Some(member);
    }
    for broker in image.brokers.values() {
        nodes.entry(broker.id).or_default().1 = Some(broker);
    }
    let shown = nodes.into_iter().map(|(id, (member, broker))| {
        json!({
            "node": id.0,
            "address": member.map(|member| member.address.as_str()).filter(|text| !text.is_empty()),
            "leads": quorum.leader == Some(id),
            "voter": member.is_some_and(|member| member.voter),
            "controller": member.is_some_and(|member| member.controller || member.voter),
            "matched": member.and_then(|member| member.matched),
            "incarnation": broker.map(|broker| broker.incarnation.0),
            "fenced": broker.map(|broker| broker.fenced),
            "draining": broker.map(|broker| broker.draining),
        })
    });
    shown.collect()
}
