//! A consumer that commits ever higher offsets.

use super::PAUSE;
use crate::{
    kafka::{Gone, Kafka, NONE, TOPIC_ALREADY_EXISTS, is_retriable},
    node::Door,
};

/// The consumer.
pub(crate) struct Committer {
    group: String,
    topic: String,
    /// The last offset that was sent, and the last one that was answered; -1 before.
    sent: i64,
    pub(crate) answered: i64,
}

// === impl Committer ===

impl Committer {
    pub(crate) fn new(group: &str, topic: &str) -> Self {
        Self {
            group: group.to_owned(),
            topic: topic.to_owned(),
            sent: -1,
            answered: -1,
        }
    }

    /// Looks at what is committed, and commits so many more offsets.
    pub(crate) async fn live(&mut self, door: &Door, mut commits: u64) {
        while self.connected(door, &mut commits).await.is_err() {
            door.clients.sleep(PAUSE).await;
        }
    }

    async fn connected(&mut self, door: &Door, commits: &mut u64) -> Result<(), Gone> {
        let mut kafka = Kafka::connect(door).await?;
        let created = kafka.create(&self.topic, &[]).await?;
        if ![NONE, TOPIC_ALREADY_EXISTS].contains(&created) {
            return Err(Gone);
        }
        self.look(&mut kafka).await?;
        while *commits > 0 {
            *commits -= 1;
            self.sent += 1;
            let error = kafka.commit(&self.group, &self.topic, self.sent).await?;
            if error != NONE {
                assert!(is_retriable(error), "{}: error {error}", self.group);
                return Err(Gone);
            }
            self.answered = self.sent;
        }
        self.look(&mut kafka).await
    }

    /// What was answered is not lost, and nothing is there that was never sent.
    async fn look(&mut self, kafka: &mut Kafka) -> Result<(), Gone> {
        let found = kafka.committed(&self.group, &self.topic).await?;
        let found = found.map_err(|error| {
            assert!(is_retriable(error), "{}: error {error}", self.group);
            Gone
        })?;
        let range = self.answered..=self.sent;
        assert!(
            range.contains(&found),
            "{}: {found} of {range:?}",
            self.group
        );
        Ok(())
    }
}
