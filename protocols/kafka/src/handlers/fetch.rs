//! Fetch: reads what is there and waits, on the partitions' own wake-ups, for what is not.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use bytes::Bytes;
use kafka_protocol::messages::{FetchRequest, TopicName};
use mainstem_broker::{ErrorCode, FetchError, FetchPartition, Isolation};
use mainstem_net::ByteLease;
use mainstem_record::{BATCH_HEADER_BYTES, BatchHeader, LeaderEpoch, Offset, PartitionIndex};
use tokio::sync::Notify;
use uuid::Uuid;

use super::{hints::Hints, text};
use crate::{
    context::Call,
    fetch::{
        encode::{FetchResponse, PartitionResponse, TopicResponse},
        session::{Checkout, SessionRequest, TopicKey, Wanted},
    },
};

/// The first version that names topics by id.
const TOPIC_IDS_FROM: i16 = 13;
/// The first version whose answer says who leads instead (KIP-951).
const HINTS_FROM: i16 = 16;
/// A reader is told that nothing is there after this time at the latest: a client that is gone is
/// noticed only when it is answered.
const WAIT_MAX: Duration = Duration::from_secs(60);
/// What a response may take when the memory of responses is used up: slow readers hold it, and the
/// others go on in small steps.
const BYTES_WHEN_SHORT: usize = 64 << 10;

/// What one read from another broker counts for at least when it is decided how many are begun: it
/// brings one batch, however little was asked for.
const ELSEWHERE_BYTES_MIN: usize = 1 << 20;

/// What bounds a fetch.
struct Limits {
    bytes_min: usize,
    bytes_max: usize,
    wait: Duration,
    isolation: Isolation,
}

/// Records that this broker lacks, and gets from others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Away {
    /// What is wanted is here.
    No,
    /// It is not, and was not asked for yet.
    Wanted {
        /// How much of the response is kept free for it.
        bytes_max: usize,
        /// The first batch comes whatever its size.
        first: bool,
    },
    /// They are in the response. What is sealed does not change, so they are not read again.
    Read,
    /// Nobody gave them.
    Failed,
}

/// One partition of a fetch.
struct Reading {
    place: u64,
    wanted: Wanted,
    source: Result<FetchPartition, ErrorCode>,
    /// The high watermark before the last read.
    seen: Offset,
    away: Away,
    response: PartitionResponse,
}

/// One fetch.
struct Poll<'a> {
    call: &'a Call<'a>,
    limits: Limits,
    readings: Vec<Reading>,
    lease: Option<ByteLease>,
}

/// Answers a fetch. The lease holds the memory of the records until they are written.
pub(crate) async fn handle(
    call: &Call<'_>,
    request: FetchRequest,
) -> (FetchResponse, Option<ByteLease>) {
    let session = SessionRequest {
        id: request.session_id,
        epoch: request.session_epoch,
        by_id: call.version >= TOPIC_IDS_FROM,
    };
    let limits = Limits {
        bytes_min: usize::try_from(request.min_bytes).unwrap_or(0),
        bytes_max: usize::try_from(
            request
                .max_bytes
                .min(call.context.config.kafka.fetch_bytes_max),
        )
        .unwrap_or(0),
        wait: Duration::from_millis(u64::try_from(request.max_wait_ms).unwrap_or(0)).min(WAIT_MAX),
        isolation: match request.isolation_level {
            1 => Isolation::ReadCommitted,
            _ => Isolation::ReadUncommitted,
        },
    };
    let (wanted, forgotten) = named(request, session.by_id);
    let checkout = match call.context.sessions.open(session, wanted, &forgotten) {
        Ok(checkout) => checkout,
        Err(code) => {
            let error = call.code(code);
            return (
                FetchResponse {
                    error,
                    ..FetchResponse::default()
                },
                None,
            );
        }
    };
    let mut poll = Poll::new(call, limits, &checkout);
    poll.run().await;
    let (told, lease) = poll.into_told();
    let (session_id, told) = checkout.finish(told);
    (response(call, session_id, told), lease)
}

/// What a request wants and no longer wants.
fn named(request: FetchRequest, by_id: bool) -> (Vec<Wanted>, Vec<(TopicKey, i32)>) {
    let key = |name: &TopicName, id: Uuid| match by_id {
        true => TopicKey::Id(id),
        // A copy: the session outlives the frame.
        false => TopicKey::Name(Arc::from(name.as_str())),
    };
    let mut wanted = Vec::new();
    for topic in request.topics {
        let topic_key = key(&topic.topic, topic.topic_id);
        wanted.extend(topic.partitions.into_iter().map(|partition| Wanted {
            topic: topic_key.clone(),
            index: partition.partition,
            offset: partition.fetch_offset,
            bytes_max: partition.partition_max_bytes,
            current_epoch: partition.current_leader_epoch,
            last_epoch: partition.last_fetched_epoch,
        }));
    }
    let mut forgotten = Vec::new();
    for topic in request.forgotten_topics_data {
        let topic_key = key(&topic.topic, topic.topic_id);
        forgotten.extend(
            topic
                .partitions
                .into_iter()
                .map(|index| (topic_key.clone(), index)),
        );
    }
    (wanted, forgotten)
}

fn response(
    call: &Call<'_>,
    session_id: i32,
    told: Vec<(u64, TopicKey, PartitionResponse)>,
) -> FetchResponse {
    let metrics = &call.context.metrics;
    let mut topics: Vec<TopicResponse> = Vec::new();
    let mut last = None;
    let mut hints = Hints::default();
    for (_, key, mut partition) in told {
        if call.version >= HINTS_FROM {
            let place = (&key.topic_ref(), partition.index);
            partition.current_leader = hints.leader(call.broker(), place, partition.error);
        }
        metrics.fetched_bytes.inc_by(partition.bytes() as u64);
        metrics
            .fetched_records
            .inc_by(count_records(&partition.records));
        match topics.last_mut().filter(|_| last.as_ref() == Some(&key)) {
            Some(topic) => topic.partitions.push(partition),
            None => {
                let (name, id) = match &key {
                    TopicKey::Name(name) => (text(&**name), Uuid::nil()),
                    TopicKey::Id(id) => (text(""), *id),
                };
                topics.push(TopicResponse {
                    name,
                    id,
                    partitions: vec![partition],
                });
                last = Some(key);
            }
        }
    }
    FetchResponse {
        error: 0,
        session_id,
        topics,
        nodes: hints.into_nodes(),
    }
}

/// The records that batch headers claim.
fn count_records(runs: &[Bytes]) -> u64 {
    let mut count = 0;
    for run in runs {
        let mut rest = &run[..];
        while let Some(Ok(header)) = rest.get(..BATCH_HEADER_BYTES).map(BatchHeader::parse) {
            count += u64::try_from(header.record_count).unwrap_or(0);
            rest = rest.get(header.size_bytes()..).unwrap_or_default();
        }
    }
    count
}

fn length(runs: &[Bytes]) -> usize {
    runs.iter().map(Bytes::len).sum()
}

// === impl Reading ===

impl Reading {
    fn new(call: &Call<'_>, isolation: Isolation, place: u64, wanted: &Wanted) -> Self {
        let mut reading = Self {
            place,
            wanted: wanted.clone(),
            source: Err(ErrorCode::UnknownServerError),
            seen: Offset(-1),
            away: Away::No,
            response: PartitionResponse::failed(wanted.index, 0),
        };
        reading.resolve(call, isolation);
        reading
    }

    fn resolve(&mut self, call: &Call<'_>, isolation: Isolation) {
        let topic = self.wanted.topic.topic_ref();
        let index = PartitionIndex(self.wanted.index);
        let epoch = LeaderEpoch(self.wanted.current_epoch);
        self.away = Away::No;
        self.source = call
            .broker()
            .fetch_partition(call.caller, &topic, index, epoch, isolation);
    }

    fn partition_bytes_max(&self) -> usize {
        usize::try_from(self.wanted.bytes_max).unwrap_or(0)
    }

    /// About how many bytes a read would give.
    fn available(&self) -> usize {
        let source = match (&self.source, self.away) {
            (_, Away::Read) => return self.response.bytes(),
            (Ok(source), Away::No | Away::Wanted { .. }) => source,
            (Err(_), _) | (_, Away::Failed) => return 0,
        };
        let bytes = source.available_bytes(Offset(self.wanted.offset));
        usize::try_from(bytes)
            .unwrap_or(usize::MAX)
            .min(self.partition_bytes_max())
    }

    fn moved(&self) -> bool {
        self.source
            .as_ref()
            .is_ok_and(|source| source.high_watermark() != self.seen)
    }

    async fn read(&mut self, call: &Call<'_>, bytes_max: usize, first: bool, aborted_list: bool) {
        let source = match &self.source {
            Ok(source) => source,
            Err(code) => {
                self.response = PartitionResponse::failed(self.wanted.index, call.code(*code));
                return;
            }
        };
        self.seen = source.high_watermark();
        if let Away::Read | Away::Failed = self.away {
            return;
        }
        self.away = Away::No;
        let mut response = PartitionResponse::failed(self.wanted.index, 0);
        if bytes_max > 0 || first {
            let from = Offset(self.wanted.offset);
            let last_epoch = LeaderEpoch(self.wanted.last_epoch);
            match source.read(from, last_epoch, bytes_max, first).await {
                Ok(Some(chunk)) => response.records = chunk.batches,
                Ok(None) => self.away = Away::Wanted { bytes_max, first },
                Err(error) if error.code.is_ok() => {
                    response.diverging = error.diverging.map(|(epoch, end)| (epoch.0, end.0));
                }
                Err(error) => {
                    self.response =
                        PartitionResponse::failed(self.wanted.index, call.code(error.code));
                    return;
                }
            }
        }
        response.high_watermark = source.high_watermark().0;
        response.last_stable_offset = source.last_stable_offset().0;
        response.log_start = source.log_start().0;
        response.aborted_list = aborted_list;
        self.response = response;
    }

    fn is_wanted(&self) -> bool {
        matches!(self.away, Away::Wanted { .. })
    }

    /// Takes what another broker gave, if it fits.
    fn take(&mut self, call: &Call<'_>, read: Result<Vec<Bytes>, FetchError>) {
        let Away::Wanted { bytes_max, first } = self.away else {
            return;
        };
        match read {
            Ok(records) if first || length(&records) <= bytes_max => {
                self.response.records = records;
                self.away = Away::Read;
            }
            // The next fetch asks for it again.
            Ok(_) => self.away = Away::No,
            Err(error) => {
                let code = call.code(error.code);
                self.response = PartitionResponse::failed(self.wanted.index, code);
                self.away = Away::Failed;
            }
        }
    }
}

// === impl Poll ===

impl<'a> Poll<'a> {
    fn new(call: &'a Call<'a>, limits: Limits, checkout: &Checkout) -> Self {
        let readings = checkout
            .wanted()
            .map(|(place, wanted)| Reading::new(call, limits.isolation, place, wanted))
            .collect();
        Self {
            call,
            limits,
            readings,
            lease: None,
        }
    }

    /// Reads, and if that is not enough, waits for more until the client's time is over.
    async fn run(&mut self) {
        self.read_all().await;
        if self.limits.wait.is_zero() || self.is_enough() {
            return;
        }
        let notify = Arc::new(Notify::new());
        let sources = self
            .readings
            .iter()
            .filter_map(|reading| reading.source.as_ref().ok());
        let subscriptions: Vec<_> = sources.map(|source| source.subscribe(&notify)).collect();
        let mut deadline = self.call.context.env.sleep(self.limits.wait);
        // Subscribed first and looked second: what came in between is seen here.
        let mut look = self.readings.iter().any(Reading::moved);
        loop {
            if look && self.is_worth_reading() {
                self.read_all().await;
                if self.is_enough() {
                    break;
                }
            }
            look = true;
            tokio::select! {
                biased;
                () = self.call.drain.cancelled() => break,
                () = notify.notified() => {}
                () = &mut deadline => {
                    // Less than was asked for is better than nothing.
                    if self.readings.iter().any(Reading::moved) {
                        self.read_all().await;
                    }
                    break;
                }
            }
        }
        drop(subscriptions);
    }

    /// Whether a read would end the wait, as far as can be told without one.
    fn is_worth_reading(&mut self) -> bool {
        if !self.readings.iter().any(Reading::moved) {
            // Woken without new data: a partition was cut, failed or is gone. Look anew.
            for reading in &mut self.readings {
                reading.resolve(self.call, self.limits.isolation);
            }
            return true;
        }
        let available = self.readings.iter().map(Reading::available);
        available.fold(0, usize::saturating_add) >= self.limits.bytes_min
    }

    fn is_enough(&self) -> bool {
        // Where others have the records and none answers, the client waits as it would for new ones:
        // told at once, it would ask again at once.
        let failed = |reading: &Reading| {
            let error = reading.response.error;
            let passes =
                reading.away == Away::Failed && error == ErrorCode::NotLeaderOrFollower.code();
            (error != 0 && !passes) || reading.response.diverging.is_some()
        };
        let bytes: usize = self
            .readings
            .iter()
            .map(|reading| reading.response.bytes())
            .sum();
        self.readings.is_empty()
            || bytes >= self.limits.bytes_min
            || self.readings.iter().any(failed)
    }

    /// Reads every partition in order, within the limits. The first batch of the first partition
    /// that has one is returned whatever its size (KIP-74).
    async fn read_all(&mut self) {
        let bytes_max = self.lease_memory().await;
        self.read_here(bytes_max).await;
        if self.read_elsewhere(bytes_max).await {
            // What was kept free for those who have failed is for those behind them.
            self.read_here(bytes_max).await;
        }
    }

    /// Reads what is here. For what is not, room is kept free in its place.
    async fn read_here(&mut self, bytes_max: usize) {
        let aborted_list = self.limits.isolation == Isolation::ReadCommitted;
        let (mut remaining, mut first) = (bytes_max, true);
        for reading in &mut self.readings {
            let bytes_max = reading.partition_bytes_max().min(remaining);
            reading
                .read(self.call, bytes_max, first, aborted_list)
                .await;
            let bytes = match reading.away {
                Away::Wanted { bytes_max, .. } => bytes_max,
                _ => reading.response.bytes(),
            };
            first &= bytes == 0 && !reading.is_wanted();
            remaining = remaining.saturating_sub(bytes);
        }
    }

    /// Reads what is not here, after all that is: together, so that the one is not kept waiting by
    /// the broker that is asked for the other. Returns whether something was in vain.
    async fn read_elsewhere(&mut self, bytes_max: usize) -> bool {
        let env = &self.call.context.env;
        let (mut asked, mut room) = (VecDeque::new(), bytes_max);
        for reading in &self.readings {
            let (Away::Wanted { bytes_max, .. }, Ok(source)) = (reading.away, &reading.source)
            else {
                continue;
            };
            if room == 0 && !asked.is_empty() {
                // It goes before others next time.
                break;
            }
            room = room.saturating_sub(bytes_max.max(ELSEWHERE_BYTES_MIN));
            let (source, from) = (source.clone(), Offset(reading.wanted.offset));
            let read = async move {
                let read = source.read_elsewhere(from, bytes_max).await;
                read.map(|chunk| chunk.batches)
            };
            asked.push_back(env.start("fetch-elsewhere", read));
        }
        let mut is_in_vain = false;
        for reading in self
            .readings
            .iter_mut()
            .filter(|reading| reading.is_wanted())
        {
            let Some(answer) = asked.pop_front() else {
                break;
            };
            let read = answer.await;
            // The node stops.
            let read = read.unwrap_or(Err(FetchError::from(ErrorCode::NotLeaderOrFollower)));
            reading.take(self.call, read);
            is_in_vain |= reading.away == Away::Failed;
        }
        is_in_vain
    }

    /// Takes memory for about what will be read. Returns how much may be read.
    async fn lease_memory(&mut self) -> usize {
        self.lease = None;
        let available = self.readings.iter().map(Reading::available);
        let wanted = available
            .fold(0, usize::saturating_add)
            .min(self.limits.bytes_max);
        if wanted == 0 {
            return self.limits.bytes_max;
        }
        let budget = &self.call.context.responses;
        if let Some(lease) = budget.try_acquire(wanted) {
            self.lease = Some(lease);
            return self.limits.bytes_max;
        }
        let short = wanted.min(BYTES_WHEN_SHORT);
        self.lease = Some(budget.acquire(short).await);
        short
    }

    fn into_told(self) -> (Vec<(u64, TopicKey, PartitionResponse)>, Option<ByteLease>) {
        let told = self
            .readings
            .into_iter()
            .map(|reading| (reading.place, reading.wanted.topic, reading.response));
        (told.collect(), self.lease)
    }
}

#[cfg(test)]
mod tests {
    use mainstem_record::{BatchBuilder, TimestampMs};

    use super::*;

    #[test]
    fn records_are_counted_over_runs_of_batches() {
        let batch = |count: usize| {
            let mut builder = BatchBuilder::default();
            for _ in 0..count {
                builder.push_record(0, TimestampMs(1), None, Some(b"v"), []);
            }
            builder.finish().expect("batch").freeze()
        };
        let run: Bytes = [batch(3), batch(1)].concat().into();
        assert_eq!(count_records(&[run.clone(), batch(5)]), 9);
        assert_eq!(count_records(&[run.slice(..run.len() - 1)]), 4);
        assert_eq!(count_records(&[Bytes::from_static(b"garbage")]), 0);
    }
}
