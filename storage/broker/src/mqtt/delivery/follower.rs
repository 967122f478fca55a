//! The tail of one partition, read once for all.

use std::{ops::ControlFlow, sync::Arc};

use mainstem_log::{Chunk, Read, ReadError};
use mainstem_record::Offset;
use tokio::sync::Notify;

use super::{
    Follower, Scan,
    plan::{Current, Plan},
    scan,
};
use crate::{
    access::Reader,
    error_code::ErrorCode,
    mqtt::{
        hub::Hub,
        limits::{FOLLOW_READ_BYTES, RETRY_PAUSE},
        trie::Scratch,
    },
};

/// Working memory that lives as long as the follower.
#[derive(Default)]
struct Memory {
    topic: String,
    scratch: Scratch,
    plan: Plan,
}

/// Follows the partition until nobody wants it, it is removed or the node ends.
pub(super) async fn run(hub: Arc<Hub>, follower: Arc<Follower>) {
    let mut memory = Memory::default();
    loop {
        let reader = follower.reader.lock().clone();
        if let End::Over = follow(&hub, &follower, &reader, &mut memory).await {
            return;
        }
        // Its replicas are on other nodes now.
        while let Err(code) = hub.core.reader(follower.id).map(|reader| {
            *follower.reader.lock() = reader;
        }) {
            if code == ErrorCode::UnknownTopicOrPartition {
                return;
            }
            tokio::select! {
                biased;
                () = follower.stop.cancelled() => return,
                () = hub.core.env.sleep(RETRY_PAUSE) => {}
            }
        }
    }
}

/// Why it is not read that way any more.
enum End {
    /// Nobody wants it, or it is gone.
    Over,
    /// It is to be read elsewhere.
    Moved,
}

async fn follow(hub: &Hub, follower: &Follower, reader: &Reader, memory: &mut Memory) -> End {
    let notify = Arc::new(Notify::new());
    // Subscribed before the ends are looked at, so that no change is missed.
    let _subscription = reader.subscribe(&notify);
    loop {
        let from = follower.position.done();
        let end = reader.ends().committed_end;
        if from >= end {
            match wait(follower, reader, &notify).await {
                Some(end) => return end,
                None => continue,
            }
        }
        if follower.stop.is_cancelled() {
            return End::Over;
        }
        let read = Read {
            from,
            bytes_max: FOLLOW_READ_BYTES,
            at_least_one_batch: true,
            end,
        };
        match reader.read(read).await {
            Ok(chunk) => dispatch(hub, follower, &chunk, memory),
            Err(ReadError::OutOfRange { log_start, .. }) => pass(follower, log_start.max(from)),
            Err(ReadError::Damaged { end, .. }) => {
                let next = end.max(from.next());
                hub.metrics.dropped_damaged.inc_by(next.0.abs_diff(from.0));
                pass(follower, next);
            }
            Err(ReadError::Removed) => return End::Over,
            Err(error @ (ReadError::NotHeld { .. } | ReadError::Io(_))) => {
                tracing::warn!(partition = %follower.id, %error, "tail not read; tried again");
                hub.core.env.sleep(RETRY_PAUSE).await;
                if !reader.is_current() {
                    return End::Moved;
                }
                continue;
            }
        }
        if follower.position.done() > from {
            tokio::task::yield_now().await;
            continue;
        }
        // It went nowhere, which must not become a busy loop: wait for a change.
        if let Some(end) = wait(follower, reader, &notify).await {
            return end;
        }
    }
}

/// Waits for a change of the partition's end; why there will be none.
async fn wait(follower: &Follower, reader: &Reader, notify: &Notify) -> Option<End> {
    tokio::select! {
        biased;
        () = follower.stop.cancelled() => Some(End::Over),
        is_more = reader.more(notify) => (!is_more).then_some(End::Moved),
    }
}

/// Goes on at `to` without looking at what lies between.
fn pass(follower: &Follower, to: Offset) {
    follower.position.begin(to);
    follower.position.finish(to);
}

fn dispatch(hub: &Hub, follower: &Follower, chunk: &Chunk, memory: &mut Memory) {
    let from = follower.position.done();
    // Before the trie is looked at: who subscribes after that sees it, see `Position::begin`.
    follower.position.begin(chunk.next);
    let Memory {
        topic,
        scratch,
        plan,
    } = memory;
    let trie = hub.trie.read();
    if !trie.is_empty() {
        let image = hub.core.image();
        let how = Scan {
            kafka_topic: &follower.topic_name,
            image: &image,
            decompressed_bytes_max: hub.core.config.storage.decompressed_batch_bytes_max,
            metrics: &hub.metrics,
        };
        scan(&how, chunk, from, topic, |scanned| {
            let mut current = Current {
                scanned,
                partition: follower.id,
                message: None,
            };
            trie.for_each_match(scanned.topic, scratch, |target| {
                plan.add(target, &mut current)
            });
            ControlFlow::Continue(())
        });
    }
    drop(trie);
    plan.flush(follower.id, &hub.metrics);
    follower.position.finish(chunk.next);
}
