//! Kafka's error codes: the broker's one vocabulary of refusals, for both protocols.
//!
//! Codes, names and which of them a client may retry are those of the Kafka protocol's error
//! table (4.x).

macro_rules! error_codes {
    ($($code:literal $name:ident $retriable:literal $text:literal;)*) => {
        /// An error code of the Kafka protocol; [`ErrorCode::None`] is success.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[repr(i16)]
        pub enum ErrorCode {
            $(#[doc = $text] $name = $code,)*
        }

        impl ErrorCode {
            /// The number on the wire.
            pub const fn code(self) -> i16 {
                self as i16
            }

            /// Whether a client may send the same request again.
            pub const fn is_retriable(self) -> bool {
                match self {
                    $(Self::$name => $retriable,)*
                }
            }

            /// One English sentence for people.
            pub const fn text(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                }
            }

            /// The name, for metrics and logs.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$name => stringify!($name),)*
                }
            }
        }
    };
}

error_codes! {
    -1 UnknownServerError false "The server met an error that it did not expect.";
    0 None false "No error.";
    1 OffsetOutOfRange false "The offset is not within the range of offsets that the partition holds.";
    2 CorruptMessage true "The batch failed its checksum, has an illegal size or is otherwise damaged.";
    3 UnknownTopicOrPartition true "This node does not have this topic or partition.";
    4 InvalidFetchSize false "The fetch size is not legal.";
    5 LeaderNotAvailable true "The partition has no leader at the moment.";
    6 NotLeaderOrFollower true "This node is not the leader of the partition.";
    7 RequestTimedOut true "The request timed out.";
    8 BrokerNotAvailable false "The broker is not available.";
    9 ReplicaNotAvailable true "The replica is not available.";
    10 MessageTooLarge false "The batch is larger than the topic allows (max.message.bytes).";
    11 StaleControllerEpoch false "The controller has moved.";
    12 OffsetMetadataTooLarge false "The metadata of the committed offset is too long (offset.metadata.max.bytes).";
    13 NetworkException true "The connection broke before the answer.";
    14 CoordinatorLoadInProgress true "The coordinator is loading its state.";
    15 CoordinatorNotAvailable true "The coordinator is not available.";
    16 NotCoordinator true "This node is not the coordinator.";
    17 InvalidTopicException false "The topic name is not legal, or the topic may not be used so.";
    18 RecordListTooLarge false "The batch is larger than a segment may be.";
    19 NotEnoughReplicas true "Fewer replicas are in sync than min.insync.replicas asks for.";
    20 NotEnoughReplicasAfterAppend true "The batch was written to fewer replicas than min.insync.replicas asks for.";
    21 InvalidRequiredAcks false "acks must be -1, 0 or 1.";
    22 IllegalGeneration false "The generation is not the group's.";
    23 InconsistentGroupProtocol false "The member supports no protocol that the group's members share.";
    24 InvalidGroupId false "The group id is not legal.";
    25 UnknownMemberId false "The group does not know this member.";
    26 InvalidSessionTimeout false "The session timeout is outside what the broker allows.";
    27 RebalanceInProgress false "The group is rebalancing: join again.";
    28 InvalidCommitOffsetSize false "The offset commit is too large.";
    29 TopicAuthorizationFailed false "Not authorised for the topic.";
    30 GroupAuthorizationFailed false "Not authorised for the group.";
    31 ClusterAuthorizationFailed false "Not authorised for the cluster.";
    32 InvalidTimestamp false "A record's timestamp is outside what the topic allows.";
    33 UnsupportedSaslMechanism false "The SASL mechanism is not supported.";
    34 IllegalSaslState false "The SASL request does not fit the state of the connection.";
    35 UnsupportedVersion false "The version of the API is not supported.";
    36 TopicAlreadyExists false "A topic of this name exists.";
    37 InvalidPartitions false "The number of partitions is not legal.";
    38 InvalidReplicationFactor false "The replication factor is not legal, or larger than the number of brokers.";
    39 InvalidReplicaAssignment false "The replica assignment is not legal.";
    40 InvalidConfig false "A configuration value is not legal.";
    41 NotController true "This node is not the controller.";
    42 InvalidRequest false "The request is not legal.";
    43 UnsupportedForMessageFormat false "The message format does not support the request.";
    44 PolicyViolation false "A policy refuses the request.";
    45 OutOfOrderSequenceNumber false "The producer's sequence number is not the next one.";
    46 DuplicateSequenceNumber false "The producer's sequence number was seen before.";
    47 InvalidProducerEpoch false "The producer's epoch is older than the one known.";
    48 InvalidTxnState false "The transaction is in a state that does not allow this.";
    49 InvalidProducerIdMapping false "The producer id does not belong to the transactional id.";
    50 InvalidTransactionTimeout false "The transaction timeout is larger than the broker allows.";
    51 ConcurrentTransactions true "Another request for the same transaction is in progress.";
    52 TransactionCoordinatorFenced false "The transaction coordinator has moved.";
    53 TransactionalIdAuthorizationFailed false "Not authorised for the transactional id.";
    54 SecurityDisabled false "Security features are off.";
    55 OperationNotAttempted false "The operation was not tried.";
    56 KafkaStorageError true "The broker could not read or write its disk.";
    57 LogDirNotFound false "The log directory does not exist.";
    58 SaslAuthenticationFailed false "Authentication failed.";
    59 UnknownProducerId false "The broker knows nothing of this producer id.";
    60 ReassignmentInProgress false "A reassignment is in progress.";
    61 DelegationTokenAuthDisabled false "Delegation tokens are off.";
    62 DelegationTokenNotFound false "The delegation token does not exist.";
    63 DelegationTokenOwnerMismatch false "The delegation token has another owner.";
    64 DelegationTokenRequestNotAllowed false "Delegation tokens may not be asked for on this connection.";
    65 DelegationTokenAuthorizationFailed false "Not authorised for the delegation token.";
    66 DelegationTokenExpired false "The delegation token has expired.";
    67 InvalidPrincipalType false "The type of principal is not supported.";
    68 NonEmptyGroup false "The group has members.";
    69 GroupIdNotFound false "The group does not exist.";
    70 FetchSessionIdNotFound true "The fetch session does not exist.";
    71 InvalidFetchSessionEpoch true "The epoch of the fetch session is not the next one.";
    72 ListenerNotFound true "There is no matching listener.";
    73 TopicDeletionDisabled false "Topics may not be deleted (delete.topic.enable).";
    74 FencedLeaderEpoch true "The leader epoch is older than the partition's.";
    75 UnknownLeaderEpoch true "The leader epoch is newer than the partition's.";
    76 UnsupportedCompressionType false "The compression is not supported by this version of the API.";
    77 StaleBrokerEpoch false "The broker epoch has changed.";
    78 OffsetNotAvailable true "The high watermark has not caught up after an election.";
    79 MemberIdRequired false "Join again with the member id that is given.";
    80 PreferredLeaderNotAvailable true "The preferred leader is not available.";
    81 GroupMaxSizeReached false "The group is full (group.max.size).";
    82 FencedInstanceId false "Another member has taken over this group.instance.id.";
    83 EligibleLeadersNotAvailable true "No eligible leader is available.";
    84 ElectionNotNeeded true "The partition has its leader already.";
    85 NoReassignmentInProgress false "No reassignment is in progress.";
    86 GroupSubscribedToTopic false "The group is subscribed to the topic.";
    87 InvalidRecord false "A record is not legal for this topic.";
    88 UnstableOffsetCommit true "There are offsets of an open transaction.";
    89 ThrottlingQuotaExceeded true "A quota is exceeded.";
    90 ProducerFenced false "A newer producer has the transactional id.";
    91 ResourceNotFound false "The resource does not exist.";
    92 DuplicateResource false "The resource exists already.";
    93 UnacceptableCredential false "The credential does not meet what is asked of it.";
    94 InconsistentVoterSet false "The set of voters differs.";
    95 InvalidUpdateVersion false "The update version is not legal.";
    96 FeatureUpdateFailed false "The feature could not be updated.";
    97 PrincipalDeserializationFailure false "The principal could not be read.";
    98 SnapshotNotFound false "The snapshot does not exist.";
    99 PositionOutOfRange false "The position is outside the snapshot.";
    100 UnknownTopicId true "This node does not know the topic id.";
    101 DuplicateBrokerRegistration false "The broker id is in use.";
    102 BrokerIdNotRegistered false "The broker id is not registered.";
    103 InconsistentTopicId true "The topic id does not match the one on disk.";
    104 InconsistentClusterId false "The cluster id is another one.";
    105 TransactionalIdNotFound false "The transactional id does not exist.";
    106 FetchSessionTopicIdError true "The fetch session mixes topic names and ids.";
    107 IneligibleReplica false "The replica may not join the in-sync set.";
    108 NewLeaderElected false "A new leader was elected.";
    109 OffsetMovedToTieredStorage false "The offset is in tiered storage.";
    110 FencedMemberEpoch false "The member epoch is fenced: join again.";
    111 UnreleasedInstanceId false "The instance id is still in use.";
    112 UnsupportedAssignor false "The assignor is not supported.";
    113 StaleMemberEpoch false "The member epoch is stale.";
    114 MismatchedEndpointType false "The request went to an endpoint of the wrong type.";
    115 UnsupportedEndpointType false "The type of endpoint is not supported.";
    116 UnknownControllerId false "The controller id is not known.";
    117 UnknownSubscriptionId false "The subscription id is not known.";
    118 TelemetryTooLarge false "The telemetry is too large.";
    119 InvalidRegistration false "The registration is not legal.";
    120 TransactionAbortable false "The transaction must be aborted.";
    121 InvalidRecordState false "The record is in a state that does not allow this.";
    122 ShareSessionNotFound true "The share session does not exist.";
    123 InvalidShareSessionEpoch true "The epoch of the share session is not the next one.";
    124 FencedStateEpoch false "The state epoch is fenced.";
    125 InvalidVoterKey false "The voter key does not match.";
    126 DuplicateVoter false "The voter is in the set already.";
    127 VoterNotFound false "The voter is not in the set.";
    128 InvalidRegularExpression false "The regular expression is not legal.";
    129 RebootstrapRequired false "The client must bootstrap again.";
    130 StreamsInvalidTopology false "The topology is not legal.";
    131 StreamsInvalidTopologyEpoch false "The topology epoch is not legal.";
    132 StreamsTopologyFenced false "The topology epoch is fenced.";
    133 ShareSessionLimitReached true "No more share sessions are allowed.";
}

// === impl ErrorCode ===

impl ErrorCode {
    /// Whether it is success.
    pub const fn is_ok(self) -> bool {
        matches!(self, Self::None)
    }
}

impl std::fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.text())
    }
}

impl std::error::Error for ErrorCode {}
