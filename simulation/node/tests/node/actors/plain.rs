//! A Kafka producer with acks=all that never tries again: what is answered is there.

use std::collections::VecDeque;

use mainstem_simulation::Dice;

use super::{PAUSE, Records, own, short, value};
use crate::{
    kafka::{Gone, Kafka, NONE, TOPIC_ALREADY_EXISTS, batch, is_retriable},
    node::Door,
};

/// The producer.
pub(crate) struct Plain {
    name: String,
    pub(crate) topic: String,
    dice: Dice,
    numbers: u64,
    acknowledged: Vec<(i64, String)>,
}

// === impl Plain ===

impl Plain {
    pub(crate) fn new(name: &str, topic: &str, seed: u64) -> Self {
        Self {
            name: name.to_owned(),
            topic: topic.to_owned(),
            dice: Dice::new(seed),
            numbers: 0,
            acknowledged: Vec::new(),
        }
    }

    /// Sends so many more records and waits for the answers.
    pub(crate) async fn live(&mut self, door: &Door, mut records: u64) {
        while self.connected(door, &mut records).await.is_err() {
            door.clients.sleep(PAUSE).await;
        }
    }

    async fn connected(&mut self, door: &Door, records: &mut u64) -> Result<(), Gone> {
        let mut kafka = Kafka::connect(door).await?;
        let created = kafka.create(&self.topic, &[]).await?;
        if ![NONE, TOPIC_ALREADY_EXISTS].contains(&created) {
            return Err(Gone);
        }
        let mut in_flight = VecDeque::new();
        while *records > 0 || !in_flight.is_empty() {
            if *records > 0 && in_flight.len() < 8 && !self.dice.one_in(4) {
                *records -= 1;
                self.numbers += 1;
                let value = value(&self.name, self.numbers, &mut self.dice);
                let bytes = batch(std::slice::from_ref(&value), None, door.clients.wall_ms());
                kafka.send_batch(&self.topic, -1, bytes).await?;
                in_flight.push_back(value);
                continue;
            }
            let Some(value) = in_flight.pop_front() else {
                continue;
            };
            let (error, offset) = kafka.produced().await?;
            if error != NONE {
                assert!(is_retriable(error), "{}: error {error}", self.name);
                return Err(Gone);
            }
            self.acknowledged.push((offset, value));
        }
        Ok(())
    }

    /// What was acknowledged is where it was said to be, and nothing is there twice.
    pub(crate) fn check(&self, records: &Records) {
        for (offset, value) in &self.acknowledged {
            let found = records.get(offset).map(|found| short(found));
            assert_eq!(found, Some(short(value)), "{} at {offset}", self.name);
        }
        let found = own(records, &self.name);
        let in_order = found.windows(2).all(|pair| short(pair[0]) < short(pair[1]));
        assert!(in_order, "{}: at most once each, in order", self.name);
    }

    pub(crate) fn acknowledged(&self) -> usize {
        self.acknowledged.len()
    }
}
