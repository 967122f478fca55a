//! What a member does for its membership: voters grow, and a node that has moved says so.

use std::{sync::Arc, time::Duration};

use super::{Hub, Standing, founding::Silence};
use crate::raft::RaftLog;

/// The pause between two looks.
const PAUSE: Duration = Duration::from_millis(250);

/// Runs until the log is closed.
pub(crate) async fn care(hub: Arc<Hub>, log: Arc<RaftLog>) {
    while !log.is_stopped() {
        log.promote().await;
        if !log.knows_leader() {
            look_for_moved(&hub, &log).await;
        }
        if log.known_as().as_ref() != Some(hub.me()) {
            let outcome = say_where(&hub, &log).await;
            // Told once: it does not heal by itself, and goes on failing until then.
            if outcome != hub.refusal()
                && let Some(why) = &outcome
            {
                tracing::error!(%why, "the cluster does not take this node's address");
            }
            hub.set_refusal(outcome);
        }
        hub.env().sleep(PAUSE).await;
    }
}

/// All nodes may have moved at once, and nobody can tell anybody: where the seeds are now is known.
async fn look_for_moved(hub: &Hub, log: &RaftLog) {
    for (seed, said) in hub.ask_seeds().await {
        if let Ok(hello) = said
            && matches!(hello.standing, Standing::Starting | Standing::Member { .. })
        {
            log.found_at(hello.node, hello.me.directory_id, seed);
        }
    }
}

/// Tells the quorum what this node is; returns why it is refused.
async fn say_where(hub: &Hub, log: &RaftLog) -> Option<String> {
    let told = hub.rejoin_by(log).await;
    if told.is_ok() {
        return None;
    }
    let mut refused = match told {
        Err(Silence::Refused(why)) => return Some(why),
        _ => None,
    };
    if log.knows_leader() {
        return None;
    }
    for (seed, said) in hub.ask_seeds().await {
        if said.is_ok() {
            match hub.rejoin(&seed).await {
                Ok(()) => return None,
                Err(Silence::Refused(why)) => refused = Some(why),
                Err(_) => {}
            }
        }
    }
    refused
}
