//! A Kafka producer with acks=all and idempotence: exactly once, in order.

use std::collections::VecDeque;

use mainstem_simulation::Dice;

use super::{PAUSE, Records, own, short, value};
use crate::{
    kafka::{Gone, Kafka, NONE, Producer, TOPIC_ALREADY_EXISTS, batch, is_retriable},
    node::Door,
};

/// Batches in flight, as many as the broker remembers of a producer.
const WINDOW: usize = 5;

struct Batch {
    sequence: i32,
    values: Vec<String>,
}

/// The producer.
pub(crate) struct Idempotent {
    name: String,
    pub(crate) topic: String,
    configs: Vec<(&'static str, &'static str)>,
    dice: Dice,
    pub(crate) producer: Option<Producer>,
    numbers: u64,
    sequence: i32,
    /// Sent or to be sent, not answered.
    waiting: VecDeque<Batch>,
    sent: Vec<String>,
    acknowledged: Vec<(i64, String)>,
}

// === impl Idempotent ===

impl Idempotent {
    /// Makes its topic with these configs.
    pub(crate) fn new(
        name: &str,
        topic: &str,
        configs: &[(&'static str, &'static str)],
        seed: u64,
    ) -> Self {
        Self {
            name: name.to_owned(),
            topic: topic.to_owned(),
            configs: configs.to_vec(),
            dice: Dice::new(seed),
            producer: None,
            numbers: 0,
            sequence: 0,
            waiting: VecDeque::new(),
            sent: Vec::new(),
            acknowledged: Vec::new(),
        }
    }

    /// Sends so many more batches and waits until all are answered.
    pub(crate) async fn live(&mut self, door: &Door, mut batches: u64) {
        while self.connected(door, &mut batches).await.is_err() {
            door.clients.sleep(PAUSE).await;
        }
    }

    async fn connected(&mut self, door: &Door, batches: &mut u64) -> Result<(), Gone> {
        let mut kafka = Kafka::connect(door).await?;
        let producer = self.ready(&mut kafka).await?;
        let mut in_flight = 0;
        loop {
            while in_flight < WINDOW && (in_flight < self.waiting.len() || *batches > 0) {
                if in_flight == self.waiting.len() {
                    *batches -= 1;
                    self.make();
                }
                let next = &self.waiting[in_flight];
                let now_ms = door.clients.wall_ms();
                let bytes = batch(&next.values, Some((producer, next.sequence)), now_ms);
                kafka.send_batch(&self.topic, -1, bytes).await?;
                in_flight += 1;
                if self.dice.one_in(3) {
                    break;
                }
            }
            if in_flight == 0 {
                return Ok(());
            }
            let (error, base) = kafka.produced().await?;
            if error != NONE {
                assert!(is_retriable(error), "{}: error {error}", self.name);
                return Err(Gone);
            }
            in_flight -= 1;
            let batch = self.waiting.pop_front().expect("it was sent");
            self.acknowledged.extend((base..).zip(batch.values));
        }
    }

    async fn ready(&mut self, kafka: &mut Kafka) -> Result<Producer, Gone> {
        let created = kafka.create(&self.topic, &self.configs).await?;
        if ![NONE, TOPIC_ALREADY_EXISTS].contains(&created) {
            assert!(is_retriable(created), "{}: error {created}", self.name);
            return Err(Gone);
        }
        if let Some(producer) = self.producer {
            return Ok(producer);
        }
        let producer = kafka.init_producer().await?.map_err(|_| Gone)?;
        Ok(*self.producer.insert(producer))
    }

    fn make(&mut self) {
        let count = 1 + self.dice.below(3);
        let values: Vec<String> = (0..count)
            .map(|_| {
                self.numbers += 1;
                value(&self.name, self.numbers, &mut self.dice)
            })
            .collect();
        self.sent.extend(values.iter().cloned());
        let sequence = self.sequence;
        self.sequence += i32::try_from(count).expect("a small batch");
        self.waiting.push_back(Batch { sequence, values });
    }

    /// What was acknowledged is where it was said to be, and everything is there once, in order.
    pub(crate) fn check(&self, records: &Records) {
        for (offset, value) in &self.acknowledged {
            let found = records.get(offset).map(|found| short(found));
            assert_eq!(found, Some(short(value)), "{} at {offset}", self.name);
        }
        assert!(self.waiting.is_empty(), "all is answered in the end");
        let expected: Vec<&str> = self.sent.iter().map(|value| short(value)).collect();
        let found = own(records, &self.name);
        let found: Vec<&str> = found.into_iter().map(short).collect();
        assert_eq!(found, expected, "{}: once each, in order", self.name);
    }

    pub(crate) fn acknowledged(&self) -> usize {
        self.acknowledged.len()
    }
}
