//! This broker as a party of seals: what controllers ask, of this node and of others.

use super::Host;
use crate::{
    controller::Party,
    wire::{Fenced, RollOrder, SealAnswer, SealQuestion, Unfenced},
};
use mainstem_env::BoxFuture;

/// The broker of this node.
pub(crate) struct LocalParty(pub(crate) Host);

// === impl LocalParty ===

impl Party for LocalParty {
    fn answer(&self, question: SealQuestion) -> BoxFuture<'_, SealAnswer> {
        Box::pin(async move {
            let host = &self.0;
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
                    let mut answers = Vec::with_capacity(orders.len());
                    for order in orders {
                        let answer = host.answer(order.partition, order.segment);
                        answers.push(Fenced {
                            segment: order.segment,
                            outcome: answer.ok_or(Unfenced::NotYet),
                        });
                    }
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
        let host = self.0.clone();
        self.0.spawn("roll", async move {
            let RollOrder { partition, segment } = order;
            if let Err(error) = host.roll(partition, segment).await {
                tracing::info!(%partition, %error, "not sealed as the controller asked");
            }
        });
    }

    fn is_ready(&self) -> bool {
        self.0.is_in_line()
    }
}
