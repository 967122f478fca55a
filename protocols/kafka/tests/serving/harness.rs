//! A node in this process, and a client that knows nothing but the codec.

use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use kafka_protocol::{
    messages::{
        CreateTopicsRequest, MetadataRequest, ProduceRequest, ProduceResponse, RequestHeader,
        ResponseHeader, TopicName,
        create_topics_request::CreatableTopic,
        metadata_request::MetadataRequestTopic,
        produce_request::{PartitionProduceData, TopicProduceData},
    },
    protocol::{Decodable, Encodable, HeaderVersion, Request, StrBytes},
};
use mainstem_broker::{Broker, BrokerDeps};
use mainstem_config::{Config, Sources, load};
use mainstem_env::{Env, MemFs};
use mainstem_kafka::{KafkaDeps, KafkaProtocol};
use mainstem_log::{Log, LogOptions};
use mainstem_metadata::{Metadata, MetadataOptions, StoreKind};
use mainstem_net::Connection;
use mainstem_peers::Peers;
use mainstem_record::{BatchBuilder, TimestampMs};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// Bytes that fit between client and server without either reading.
const PIPE_BYTES: usize = 1 << 20;

/// A node, of a cluster of one if nothing else is said.
pub(crate) struct Node {
    pub(crate) protocol: KafkaProtocol,
    pub(crate) metadata: Metadata,
    pub(crate) registry: prometheus::Registry,
    pub(crate) drain: CancellationToken,
    env: Env,
}

/// A connection to it.
pub(crate) struct Client {
    stream: DuplexStream,
    correlation: i32,
}

// === impl Node ===

impl Node {
    /// A node with quick consumer groups.
    pub(crate) async fn start() -> Self {
        Self::with(&[]).await
    }

    /// A node with some keys set.
    pub(crate) async fn with(flags: &[(&str, &str)]) -> Self {
        let env = Env::real().with_fs(Arc::new(MemFs::new()));
        let options = MetadataOptions {
            dir: "/data".into(),
            node_id: 1,
            store: StoreKind::Memory,
        };
        let metadata = Metadata::start(env.clone(), options).await;
        Self::over((env, metadata.expect("metadata")), None, flags).await
    }

    /// A node over its metadata, with its connections to others.
    pub(crate) async fn over(
        (env, metadata): (Env, Metadata),
        peers: Option<Peers>,
        flags: &[(&str, &str)],
    ) -> Self {
        let registry = prometheus::Registry::new();
        let mut all = vec![
            ("group.initial.rebalance.delay.ms", "0"),
            ("num.partitions", "4"),
        ];
        all.extend_from_slice(flags);
        let flags = all
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        let sources = Sources {
            file: None,
            env: Vec::new(),
            flags: flags.collect(),
        };
        let config: Arc<Config> = Arc::new(load(sources).expect("config"));
        let options = LogOptions {
            journal_bytes: 1 << 20,
            ..LogOptions::new("/data/log".into())
        };
        let (log, log_events) = Log::start(env.clone(), options, &registry)
            .await
            .expect("log");
        let address = peers.as_ref().and_then(Peers::local_addr);
        let deps = BrokerDeps {
            env: env.clone(),
            config: config.clone(),
            metadata: metadata.clone(),
            log,
            log_events,
            peers,
            peer_address: address.map(|address| address.to_string()),
            registry: registry.clone(),
            advertise: ("broker.test".to_owned(), 9092),
            directory_id: Uuid::from_u128(config.node_id.unsigned_abs().into()),
        };
        let broker = Broker::start(deps).await.expect("broker");
        let deps = KafkaDeps {
            env: env.clone(),
            config,
            broker,
            registry: registry.clone(),
        };
        let protocol = KafkaProtocol::new(deps).expect("protocol");
        Self {
            protocol,
            metadata,
            registry,
            drain: CancellationToken::new(),
            env,
        }
    }

    /// A new connection.
    pub(crate) fn connect(&self) -> Client {
        let (near, far) = tokio::io::duplex(PIPE_BYTES);
        let connection = Connection {
            stream: Box::new(far),
            peer: ([127, 0, 0, 1], 40_000).into(),
            id: 1,
            drain: self.drain.clone(),
        };
        self.env
            .spawn("connection", self.protocol.handler()(connection));
        Client {
            stream: near,
            correlation: 0,
        }
    }

    /// A client with a topic of one partition.
    pub(crate) async fn with_topic(&self, name: &str) -> Client {
        let mut client = self.connect();
        client.create_topic(name, 1).await;
        client
    }

    /// The sum of a counter over all its labels.
    pub(crate) fn counter(&self, name: &str) -> f64 {
        let families = self.registry.gather();
        let family = families.iter().find(|family| family.name() == name);
        family.map_or(0.0, |family| {
            family
                .get_metric()
                .iter()
                .map(|metric| metric.get_counter().get_value())
                .sum()
        })
    }
}

// === impl Client ===

impl Client {
    /// Sends a request; returns its correlation id.
    pub(crate) async fn send<R: Request>(&mut self, version: i16, request: &R) -> i32 {
        let mut frame = BytesMut::new();
        frame.put_i32(0);
        self.correlation += 1;
        RequestHeader::default()
            .with_request_api_key(R::KEY)
            .with_request_api_version(version)
            .with_correlation_id(self.correlation)
            .with_client_id(Some(StrBytes::from_static_str("test-client")))
            .encode(&mut frame, R::header_version(version))
            .expect("header");
        request.encode(&mut frame, version).expect("request");
        let length = frame.len() as i32 - 4;
        frame[..4].copy_from_slice(&length.to_be_bytes());
        self.stream.write_all(&frame).await.expect("write");
        self.correlation
    }

    /// Sends bytes as they are.
    pub(crate) async fn send_bytes(&mut self, bytes: &[u8]) {
        // The server may have closed already.
        let _ = self.stream.write_all(bytes).await;
    }

    /// Sends no more.
    pub(crate) async fn finish(&mut self) {
        let _ = self.stream.shutdown().await;
    }

    /// The next frame; `None` if the server closed.
    pub(crate) async fn frame(&mut self) -> Option<Bytes> {
        let length = self.stream.read_i32().await.ok()?;
        let mut frame = vec![0; usize::try_from(length).expect("length")];
        self.stream
            .read_exact(&mut frame)
            .await
            .expect("whole frame");
        Some(Bytes::from(frame))
    }

    /// The next response, whose request had this correlation id.
    pub(crate) async fn receive<R: Request>(&mut self, version: i16, id: i32) -> R::Response {
        let mut frame = self.frame().await.expect("a response");
        let header = ResponseHeader::decode(&mut frame, R::Response::header_version(version))
            .expect("header");
        assert_eq!(header.correlation_id, id, "responses out of order");
        let response = R::Response::decode(&mut frame, version).expect("response");
        assert!(!frame.has_remaining(), "bytes behind the response");
        response
    }

    /// Sends and receives.
    pub(crate) async fn call<R: Request>(&mut self, version: i16, request: &R) -> R::Response {
        let id = self.send(version, request).await;
        self.receive::<R>(version, id).await
    }

    /// Makes a topic.
    pub(crate) async fn create_topic(&mut self, name: &str, partitions: i32) {
        let topic = CreatableTopic::default()
            .with_name(topic_name(name))
            .with_num_partitions(partitions)
            .with_replication_factor(1);
        let request = CreateTopicsRequest::default().with_topics(vec![topic]);
        let response = self.call(7, &request).await;
        assert_eq!(response.topics[0].error_code, 0, "{response:?}");
    }

    /// The id of a topic.
    pub(crate) async fn topic_id(&mut self, name: &str) -> Uuid {
        let topic = MetadataRequestTopic::default().with_name(Some(topic_name(name)));
        let request = MetadataRequest::default().with_topics(Some(vec![topic]));
        self.call(12, &request).await.topics[0].topic_id
    }

    /// Produces a batch to partition 0 and returns the response for it.
    pub(crate) async fn produce(&mut self, version: i16, topic: &str, batch: Bytes) -> (i16, i64) {
        let response = self.call(version, &produce_request(topic, batch, -1)).await;
        first_partition(&response)
    }
}

/// Error and base offset of the first partition.
pub(crate) fn first_partition(response: &ProduceResponse) -> (i16, i64) {
    let partition = &response.responses[0].partition_responses[0];
    (partition.error_code, partition.base_offset)
}

/// A request for partition 0 of a topic.
pub(crate) fn produce_request(topic: &str, batch: Bytes, acks: i16) -> ProduceRequest {
    let partition = PartitionProduceData::default()
        .with_index(0)
        .with_records(Some(batch));
    let topic = TopicProduceData::default()
        .with_name(topic_name(topic))
        .with_partition_data(vec![partition]);
    ProduceRequest::default()
        .with_acks(acks)
        .with_timeout_ms(30_000)
        .with_topic_data(vec![topic])
}

/// A name as the codec wants it.
pub(crate) fn topic_name(name: &str) -> TopicName {
    TopicName(StrBytes::from_string(name.to_owned()))
}

/// A batch of records with these values and a time of now.
pub(crate) fn batch(values: &[&str]) -> Bytes {
    let now = Env::real().wall_ms();
    let mut builder = BatchBuilder::default();
    for value in values {
        builder.push_record(
            0,
            TimestampMs(now),
            Some(b"key"),
            Some(value.as_bytes()),
            [],
        );
    }
    builder.finish().expect("batch").freeze()
}

/// The values in runs of batches.
pub(crate) fn values(records: &Bytes) -> Vec<String> {
    let mut values = Vec::new();
    for found in mainstem_record::Batches::new(records.clone()) {
        let (_, batch) = found.expect("batch");
        let records = mainstem_record::records(&batch, 1 << 20).expect("records");
        for record in records.iter() {
            let value = record.expect("record").value.expect("value").to_vec();
            values.push(String::from_utf8(value).expect("text"));
        }
    }
    values
}
