use proptest::prelude::*;

use super::*;
use crate::{Config, broker_key};

/// Kafka 4.x: name, type, default.
const KAFKA: &[(&str, ConfigKind, &str)] = &[
    ("cleanup.policy", ConfigKind::List, "delete"),
    ("compression.gzip.level", ConfigKind::Int, "-1"),
    ("compression.lz4.level", ConfigKind::Int, "9"),
    ("compression.type", ConfigKind::String, "producer"),
    ("compression.zstd.level", ConfigKind::Int, "3"),
    ("delete.retention.ms", ConfigKind::Long, "86400000"),
    ("file.delete.delay.ms", ConfigKind::Long, "60000"),
    ("flush.messages", ConfigKind::Long, "9223372036854775807"),
    ("flush.ms", ConfigKind::Long, "9223372036854775807"),
    (
        "follower.replication.throttled.replicas",
        ConfigKind::List,
        "",
    ),
    ("index.interval.bytes", ConfigKind::Int, "4096"),
    (
        "leader.replication.throttled.replicas",
        ConfigKind::List,
        "",
    ),
    ("local.retention.bytes", ConfigKind::Long, "-2"),
    ("local.retention.ms", ConfigKind::Long, "-2"),
    (
        "max.compaction.lag.ms",
        ConfigKind::Long,
        "9223372036854775807",
    ),
    ("max.message.bytes", ConfigKind::Int, "1048588"),
    (
        "message.timestamp.after.max.ms",
        ConfigKind::Long,
        "3600000",
    ),
    (
        "message.timestamp.before.max.ms",
        ConfigKind::Long,
        "9223372036854775807",
    ),
    ("message.timestamp.type", ConfigKind::String, "CreateTime"),
    ("min.cleanable.dirty.ratio", ConfigKind::Double, "0.5"),
    ("min.compaction.lag.ms", ConfigKind::Long, "0"),
    ("min.insync.replicas", ConfigKind::Int, "1"),
    ("preallocate", ConfigKind::Boolean, "false"),
    ("remote.log.copy.disable", ConfigKind::Boolean, "false"),
    ("remote.log.delete.on.disable", ConfigKind::Boolean, "false"),
    ("remote.storage.enable", ConfigKind::Boolean, "false"),
    ("retention.bytes", ConfigKind::Long, "-1"),
    ("retention.ms", ConfigKind::Long, "604800000"),
    // Kafka: 1073741824.
    ("segment.bytes", ConfigKind::Int, "268435456"),
    ("segment.index.bytes", ConfigKind::Int, "10485760"),
    ("segment.jitter.ms", ConfigKind::Long, "0"),
    ("segment.ms", ConfigKind::Long, "604800000"),
    (
        "unclean.leader.election.enable",
        ConfigKind::Boolean,
        "false",
    ),
];

fn overrides(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    let pairs = pairs.iter();
    pairs.map(|(k, v)| ((*k).into(), (*v).into())).collect()
}

fn resolved(defaults: &TopicDefaults, pairs: &[(&str, &str)]) -> TopicConfig {
    TopicConfig::resolve(defaults, pairs.iter().copied())
}

#[test]
fn every_topic_config_of_kafka_is_there_with_its_type_and_default() {
    for (name, kind, default) in KAFKA {
        let key = topic_key(name).expect(name);
        assert_eq!(
            (key.kind, key.default.as_str()),
            (*kind, *default),
            "{name}"
        );
    }
    let ours = topic_keys()
        .iter()
        .filter(|key| KAFKA.iter().all(|(name, ..)| *name != key.name));
    let ours: Vec<&str> = ours.map(|key| key.name).collect();
    assert_eq!(
        ours,
        [
            "mainstem.flush",
            "mainstem.flush.interval.bytes",
            "mainstem.flush.interval.ms",
            "mqtt.access",
            "mqtt.isolation"
        ]
    );
}

#[test]
fn every_key_takes_its_default_and_shows_it_again() {
    let defaults = TopicConfig::default();
    for key in topic_keys() {
        assert_eq!(defaults.value_of(key.name).as_ref(), Some(&key.default));
        validate_topic(&overrides(&[(key.name, &key.default)])).expect(key.name);
        assert!(!key.doc.is_empty());
    }
    assert_eq!(defaults.value_of("no.such.key"), None);
}

#[test]
fn keys_without_effect_say_so_and_why() {
    let idle = [
        "compression.gzip.level",
        "compression.lz4.level",
        "compression.zstd.level",
        "index.interval.bytes",
        "unclean.leader.election.enable",
        "local.retention.ms",
        "local.retention.bytes",
        "mqtt.isolation",
    ];
    let says_so = |doc: &str| doc.starts_with("Kept for tools: has no effect yet because ");
    for name in idle {
        let key = topic_key(name).expect(name);
        assert!(says_so(key.doc), "{name}: {}", key.doc);
        let Some(broker) = key.broker_synonym.and_then(broker_key) else {
            continue;
        };
        // Of these the broker's own value is used.
        let has_effect = broker.name == "log.index.interval.bytes";
        assert_eq!(says_so(broker.doc), !has_effect, "{}", broker.name);
    }
    for key in topic_keys() {
        assert_eq!(says_so(key.doc), idle.contains(&key.name), "{}", key.name);
    }
}

#[test]
fn every_broker_synonym_sets_the_default_of_all_topics() {
    for key in topic_keys() {
        let Some(synonym) = key.broker_synonym else {
            continue;
        };
        let broker = broker_key(synonym).expect(synonym);
        assert_eq!(broker.kind, key.kind, "{synonym}");
        assert_eq!(broker.default, key.default, "{synonym}");
        let other = other_value(key);
        let mut config = Config::default();
        if (broker.set)(&mut config, &other).is_ok() {
            config.settle();
            assert_eq!(config.topic.value_of(key.name), Some(other), "{synonym}");
        } else {
            assert!(matches!(key.allowed, Allowed::Only(..)), "{synonym}");
        }
    }
}

/// A valid value that is not the default.
fn other_value(key: &TopicKey) -> String {
    match (key.name, key.allowed) {
        ("cleanup.policy", _) => "compact".to_owned(),
        ("compression.gzip.level", _) => "5".to_owned(),
        (_, Allowed::Ratio) => "0.25".to_owned(),
        (_, Allowed::OneOf(words)) => words[words.len() - 1].to_owned(),
        (_, Allowed::Int { max, .. }) if max.to_string() != key.default => max.to_string(),
        (_, Allowed::Int { .. }) => "2000".to_owned(),
        _ => "true".to_owned(),
    }
}

#[test]
fn integers_outside_their_bounds_are_refused() {
    for key in topic_keys() {
        let Allowed::Int { min, max } = key.allowed else {
            continue;
        };
        for (value, fine) in [(min - 1, false), (min, true), (max, true), (max + 1, false)] {
            let result = validate_topic(&overrides(&[(key.name, &value.to_string())]));
            assert_eq!(result.is_ok(), fine, "{} = {value}", key.name);
        }
    }
}

#[test]
fn all_invalid_overrides_are_reported() {
    let invalid = validate_topic(&overrides(&[
        ("cleanup.policy", "shrink"),
        ("compression.type", "lz4"),
        ("message.format.version", "2.8"),
        ("min.cleanable.dirty.ratio", "NaN"),
        ("remote.storage.enable", "true"),
        ("retention.ms", " 5 "),
        ("leader.replication.throttled.replicas", "1:2,x"),
    ]))
    .expect_err("six are wrong");
    let keys: Vec<&str> = invalid.iter().map(|i| i.key.as_str()).collect();
    assert_eq!(
        keys,
        [
            "cleanup.policy",
            "compression.type",
            "leader.replication.throttled.replicas",
            "message.format.version",
            "min.cleanable.dirty.ratio",
            "remote.storage.enable",
        ]
    );
    assert_eq!(
        invalid[1].to_string(),
        "invalid value \"lz4\" for compression.type: expected producer (recompression by the broker is not built yet)"
    );
}

#[test]
fn compaction_lags_must_not_cross() {
    let lags = |min, max| {
        validate_topic(&overrides(&[
            ("min.compaction.lag.ms", min),
            ("max.compaction.lag.ms", max),
        ]))
    };
    assert!(lags("10", "10").is_ok());
    assert!(lags("11", "10").is_err());
}

#[test]
fn stored_values_that_are_invalid_leave_the_default() {
    let defaults = TopicConfig {
        retention_ms: 42,
        ..TopicConfig::default()
    };
    let config = resolved(
        &defaults,
        &[
            ("retention.ms", "never"),
            ("gone.key", "1"),
            ("cleanup.policy", "compact, delete"),
        ],
    );
    assert_eq!(config.retention_ms, 42);
    assert_eq!(
        config.value_of("cleanup.policy").as_deref(),
        Some("compact,delete")
    );
}

#[test]
fn flush_policy_is_what_is_set_else_kafkas_keys_else_by_replicas() {
    let auto = TopicConfig::default();
    let os = TopicConfig {
        flush: Some(FlushPolicy::Os),
        ..auto.clone()
    };
    type Case<'a> = (
        &'a TopicConfig,
        &'a [(&'a str, &'a str)],
        usize,
        FlushPolicy,
    );
    let cases: &[Case<'_>] = &[
        (&auto, &[], 1, FlushPolicy::Always),
        (&auto, &[], 3, FlushPolicy::Interval),
        (&os, &[], 1, FlushPolicy::Os),
        (&os, &[("mainstem.flush", "auto")], 1, FlushPolicy::Always),
        (&os, &[("flush.messages", "1")], 3, FlushPolicy::Always),
        (&os, &[("flush.messages", "2")], 1, FlushPolicy::Interval),
        (&auto, &[("flush.ms", "100")], 1, FlushPolicy::Interval),
        (&auto, &[("flush.ms", "x")], 1, FlushPolicy::Always),
        (
            &auto,
            &[("flush.messages", "1"), ("mainstem.flush", "os")],
            1,
            FlushPolicy::Os,
        ),
        (
            &auto,
            &[("flush.messages", "9223372036854775807")],
            3,
            FlushPolicy::Interval,
        ),
    ];
    for (defaults, pairs, replicas, expected) in cases {
        let policy = resolved(defaults, pairs).flush_policy(*replicas);
        assert_eq!(policy, *expected, "{pairs:?} with {replicas} replicas");
    }
}

#[test]
fn interval_is_our_key_else_kafkas_time_else_the_brokers() {
    let broker = TopicConfig {
        flush_interval_bytes: 7,
        flush_interval_ms: 200,
        ..TopicConfig::default()
    };
    type Case<'a> = (&'a [(&'a str, &'a str)], (u64, u64));
    let cases: &[Case<'_>] = &[
        (&[], (7, 200)),
        (&[("flush.ms", "1000")], (7, 1000)),
        (&[("flush.ms", "0")], (7, 1)),
        (&[("flush.ms", "9223372036854775807")], (7, 200)),
        (&[("flush.messages", "10")], (7, 200)),
        (
            &[("flush.ms", "1000"), ("mainstem.flush.interval.ms", "50")],
            (7, 50),
        ),
        (&[("mainstem.flush.interval.bytes", "4096")], (4096, 200)),
        (&[("mainstem.flush.interval.ms", "0")], (7, 200)),
    ];
    for (pairs, expected) in cases {
        let config = resolved(&broker, pairs);
        let found = (config.flush_interval_bytes, config.flush_interval_ms);
        assert_eq!(found, *expected, "{pairs:?}");
    }
}

#[test]
fn mqtt_access_says_what_is_allowed() {
    let access = |word| resolved(&TopicConfig::default(), &[("mqtt.access", word)]).mqtt_access;
    assert_eq!(access("auto"), None);
    let rights = |word| access(word).map(|a| (a.allows_read(), a.allows_write()));
    assert_eq!(rights("none"), Some((false, false)));
    assert_eq!(rights("read"), Some((true, false)));
    assert_eq!(rights("write"), Some((false, true)));
    assert_eq!(rights("both"), Some((true, true)));
}

proptest! {
    #[test]
    fn what_is_accepted_is_shown_in_a_form_that_means_the_same(
        index in 0..topic_keys().len(),
        text in prop_oneof![
            any::<i64>().prop_map(|v| v.to_string()),
            (-3i64..100_000).prop_map(|v| v.to_string()),
            "(0|1)(\\.[0-9]{1,4})?",
            "(compact|delete|auto|os|always|both|read|TRUE|False|,| ){1,3}",
            ".{0,12}",
        ],
    ) {
        let key = &topic_keys()[index];
        let mut first = TopicConfig::default();
        if (key.set)(&mut first, &text).is_ok() {
            let mut second = TopicConfig::default();
            (key.set)(&mut second, &(key.get)(&first)).expect("shown values are valid");
            prop_assert_eq!(first, second);
        } else {
            prop_assert_eq!(first, TopicConfig::default());
        }
    }
}
