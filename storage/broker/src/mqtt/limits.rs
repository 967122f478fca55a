//! Bounds that are not configuration.

use std::time::Duration;

/// Bytes that the tail follower of a partition reads at once.
pub(crate) const FOLLOW_READ_BYTES: usize = 1 << 20;

/// Bytes that a session reads at once when it catches up; small, so that one slow session does not
/// hold much.
pub(crate) const CATCH_UP_READ_BYTES: usize = 256 << 10;

/// Entries of the retained view that are looked at in one step; between steps others run.
pub(crate) const RETAINED_SCAN_STEP: usize = 4096;

/// Bytes of all retained messages together: the view is in memory.
pub(crate) const RETAINED_BYTES_TOTAL_MAX: usize = 1 << 30;

/// Deleted retained messages that are remembered, so that a late, older publish cannot bring one
/// back.
pub(crate) const RETAINED_DELETIONS_MAX: usize = 65_536;

/// Locks over which the retained topics are spread.
pub(crate) const RETAINED_STRIPES: usize = 16;

/// How often expired retained messages are swept.
pub(crate) const RETAINED_SWEEP_INTERVAL: Duration = Duration::from_secs(60);

/// First levels whose route is recorded in the metadata. Beyond it, what has no Kafka topic goes to
/// the overflow topic without a record: a client that invents first levels cannot fill the metadata.
pub(crate) const ROUTES_MAX: usize = 100_000;

/// QoS 2 publishes of one session that may wait for PUBREL, whatever the configuration says: a
/// partition remembers this many sequences of a session.
pub(crate) const AWAITING_REL_MAX: usize = 128;

/// Messages of QoS 0 that one call of [`super::Session::next`] returns at most.
pub(crate) const DELIVERIES_PER_CALL_MAX: usize = 512;

/// What a queued message costs besides payload and topic, in bytes of the queue's budget.
pub(crate) const QUEUED_OVERHEAD_BYTES: usize = 128;

/// A payload at least this part of its batch shares the batch's memory; a smaller one is copied if
/// the batch is larger than [`SHARED_BATCH_BYTES_MAX`], so that a queue cannot pin many batches.
pub(crate) const SHARED_PAYLOAD_PART: usize = 4;

/// Batches up to this size are always shared.
pub(crate) const SHARED_BATCH_BYTES_MAX: usize = 16 << 10;

/// User properties of one delivery; more (a Kafka record may have any number) are dropped.
pub(crate) const USER_PROPERTIES_MAX: usize = 64;

/// Records by which a clean session may lag behind the tail before it is disconnected.
pub(crate) const CLEAN_SESSION_LAG_MAX: i64 = 1_000_000;

/// Wills that are published at once; more wait.
pub(crate) const WILLS_AT_ONCE: usize = 64;

/// How often a will is tried before it is given up.
pub(crate) const WILL_ATTEMPTS_MAX: u32 = 10;

/// The pause between two attempts to publish a will, or to read after an error.
pub(crate) const RETRY_PAUSE: Duration = Duration::from_millis(500);

/// The shortest time between two warnings of first levels that cannot have a Kafka topic.
pub(crate) const OVERFLOW_NOTICE_INTERVAL: Duration = Duration::from_secs(60);

/// First levels that are known to have been warned of; beyond it all are forgotten.
pub(crate) const OVERFLOW_NOTICES_MAX: usize = 1024;

/// Characters of a first level that a warning shows.
pub(crate) const OVERFLOW_NOTICE_CHARS_MAX: usize = 128;

/// How long a node waits until it has applied what others have written of sessions.
pub(crate) const APPLY_WAIT: Duration = Duration::from_secs(5);

/// How often a session is claimed before its client is told to come back.
pub(crate) const CLAIM_ATTEMPTS_MAX: u32 = 5;

/// The pause before sessions without an owner are looked for again.
pub(crate) const ADOPT_INTERVAL: Duration = Duration::from_secs(1);

/// Shared-subscription groups of the node.
pub(crate) const SHARE_GROUPS_MAX: usize = 100_000;

/// Sessions of the node, online and offline.
pub(crate) const SESSIONS_MAX: usize = 5_000_000;

/// Records that a shared group may have out to its members or waiting to be given out again.
pub(crate) const SHARE_OUTSTANDING_MAX: usize = 100_000;
