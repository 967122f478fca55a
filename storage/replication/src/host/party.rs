//! This broker as a party of seals: what controllers ask, of this node and of others.

use super::Host;
use crate::{
    controller::Party,
    repair::Repair,
    wire::{Fenced, RollOrder, SealAnswer, SealQuestion},
};
use mainstem_env::BoxFuture;

/// The broker of this node.
pub(crate) struct LocalParty {
    /// What it hosts.
    pub(crate) host: Host,
    /// What copies for it.
    pub(crate) repair: Repair<Host>,
}

// === impl LocalParty ===

impl Party for LocalParty {
    fn answer(&self, question: SealQuestion) -> BoxFuture<'_, SealAnswer> {
        Box::pin(async move {
            let host = &self.host;
            let member = host.me();
            match question {
                SealQuestion::Fence { image, orders } => {
                    let outcomes = host.fence(image, &orders).await;
                    let answers = orders.iter().zip(outcomes);
                    let answers = answers.map(|(order, outcome)| Fenced {
                        segment: order.segment,
                        outcome,
                    });
                    SealAnswer::Fenced {
                        member,
                        answers: answers.collect(),
                    }
                }
                SealQuestion::CopyTail(orders) => {
                    let answers = self.repair.copy_tails(&orders).await;
                    SealAnswer::Fenced { member, answers }
                }
                SealQuestion::DigestAt(questions) => {
                    let answers = host.digests(&questions).await;
                    SealAnswer::Digests { member, answers }
                }
            }
        })
    }

    fn roll(&self, order: RollOrder) {
        let host = self.host.clone();
        self.host.spawn("roll", async move {
            let RollOrder { partition, segment } = order;
            if let Err(error) = host.roll(partition, segment).await {
                tracing::info!(%partition, %error, "not sealed as the controller asked");
            }
        });
    }

    fn is_ready(&self) -> bool {
        self.host.is_in_line()
    }
}
