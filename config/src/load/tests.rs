use std::{collections::BTreeSet, net::SocketAddr};

use proptest::prelude::*;

use super::*;
use crate::value::Allowed;

fn file(contents: &str) -> Sources {
    Sources {
        file: Some(FileSource {
            path: "m.toml".into(),
            contents: contents.to_owned(),
        }),
        ..Sources::default()
    }
}

fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    let pairs = pairs.iter();
    pairs.map(|(k, v)| ((*k).into(), (*v).into())).collect()
}

fn flags(flags: &[(&str, &str)]) -> Sources {
    Sources {
        flags: pairs(flags),
        ..Sources::default()
    }
}

fn failure(sources: Sources) -> String {
    load(sources).expect_err("must be refused").to_string()
}

#[test]
fn nothing_set_is_the_default() {
    assert_eq!(load(Sources::default()).expect("valid"), Config::default());
}

#[test]
fn defaults_are_those_that_are_documented() {
    let config = Config::default();
    assert_eq!(config.kafka_listen, "127.0.0.1:9092".parse().expect("addr"));
    assert_eq!(config.mqtt_ws_listen.port(), 8083);
    assert_eq!(config.data_dir, PathBuf::from("./data"));
    assert_eq!(config.kafka.request_bytes_max, 100 << 20);
    assert_eq!(
        config.storage.index_interval_bytes,
        config.topic.index_interval_bytes
    );
    assert_eq!(
        config.value_of("group.max.size").as_deref(),
        Some("2147483647")
    );
    assert_eq!(config.value_of("no.such.key"), None);
}

#[test]
fn later_layers_win() {
    let mut sources = file("num.partitions = 2\nnode.id = 2\nmqtt.receive.maximum = 2\n");
    sources.env = pairs(&[
        ("MAINSTEM_NODE_ID", "3"),
        ("MAINSTEM_MQTT_RECEIVE_MAXIMUM", "3"),
        ("HOME", "/root"),
    ]);
    sources.flags = pairs(&[("node.id", "9"), ("node.id", "4")]);
    let config = load(sources).expect("valid");
    assert_eq!(config.kafka.num_partitions, 2);
    assert_eq!(config.mqtt.receive_maximum, 3);
    assert_eq!(config.node_id, 4);
}

#[test]
fn variables_that_kubernetes_makes_of_a_service_are_left_aside() {
    let made = [
        "MAINSTEM_PORT",
        "MAINSTEM_PORT_9092_TCP",
        "MAINSTEM_PORT_9092_TCP_ADDR",
        "MAINSTEM_PORT_9092_TCP_PORT",
        "MAINSTEM_PORT_9092_TCP_PROTO",
        "MAINSTEM_PORT_1883_UDP",
        "MAINSTEM_SERVICE_HOST",
        "MAINSTEM_SERVICE_PORT",
        "MAINSTEM_SERVICE_PORT_MQTT_WS",
    ];
    for name in made {
        assert!(broker_keys().iter().all(|key| env_name(key.name) != name));
    }
    let mut sources = Sources {
        env: made
            .map(|name| (name.into(), "tcp://10.0.0.7:1".into()))
            .to_vec(),
        ..Sources::default()
    };
    sources.env.extend(pairs(&[("MAINSTEM_NODE_ID", "3")]));
    assert_eq!(load(sources).expect("valid").node_id, 3);
    for typo in [
        "MAINSTEM_PORTS",
        "MAINSTEM_PORT_",
        "MAINSTEM_PORT_KAFKA",
        "MAINSTEM_PORT_99999_TCP",
        "MAINSTEM_PORT_9092",
        "MAINSTEM_PORT_9092_TCP_",
        "MAINSTEM_PORT_9092_TCP_ADDR_X",
        "MAINSTEM_SERVICE",
        "MAINSTEM_SERVICE_PORT_",
        "MAINSTEM_SERVICE_PORT_mqtt",
        "MAINSTEM_MQTT_SERVICE_HOST",
    ] {
        let sources = Sources {
            env: pairs(&[(typo, "1")]),
            ..Sources::default()
        };
        assert!(failure(sources).contains("there is no such key"), "{typo}");
    }
}

#[test]
fn a_default_of_no_replicas_is_refused() {
    for legal in ["-1", "1", "3"] {
        assert!(load(flags(&[("default.replication.factor", legal)])).is_ok());
    }
    assert_eq!(
        failure(flags(&[("default.replication.factor", "0")])),
        "command line: default.replication.factor: \"0\" is not allowed: expected -1, or from 1 to 32767"
    );
}

#[test]
fn tables_dots_and_quoted_dots_are_the_same() {
    let forms = [
        "mqtt.ws.listen = \"127.0.0.1:1\"",
        "\"mqtt.ws.listen\" = \"127.0.0.1:1\"",
        "[mqtt]\nws.listen = \"127.0.0.1:1\"",
        "[mqtt.ws]\nlisten = \"127.0.0.1:1\"",
        "[mqtt]\n\"ws.listen\" = \"127.0.0.1:1\"",
        "mqtt = { ws = { listen = \"127.0.0.1:1\" } }",
    ];
    for form in forms {
        let config = load(file(form)).expect(form);
        assert_eq!(config.mqtt_ws_listen.port(), 1, "{form}");
    }
}

#[test]
fn toml_values_of_each_kind_are_taken() {
    let config = load(file(
        "log.segment.bytes = 0x10_0000\n\"num.partitions\" = \"7\"\n\
         log.cleaner.min.cleanable.ratio = 0.25\ndelete.topic.enable = false\n\
         log.cleanup.policy = [\"compact\", \"delete\"]\nlog.flush.interval.messages = 1\n",
    ))
    .expect("valid");
    assert_eq!(config.topic.segment_bytes, 1 << 20);
    assert_eq!(config.kafka.num_partitions, 7);
    assert_eq!(config.topic.min_cleanable_dirty_ratio, 0.25);
    assert!(!config.kafka.delete_topic_enable);
    assert!(config.topic.cleanup.compact && config.topic.cleanup.delete);
    assert_eq!(config.topic.flush_policy(3), crate::FlushPolicy::Always);
}

#[test]
fn kafkas_flush_interval_counts_where_ours_is_not_set() {
    let interval = |text: &str| {
        let topic = load(file(text)).expect(text).topic;
        (topic.flush_policy(1), topic.flush_interval_ms)
    };
    use crate::FlushPolicy::{Always, Interval};
    assert_eq!(interval(""), (Always, 50));
    assert_eq!(interval("log.flush.interval.ms = 700"), (Interval, 700));
    let both = "log.flush.interval.ms = 700\nmainstem.flush.interval.ms = 50";
    assert_eq!(interval(both), (Interval, 50));
}

#[test]
fn everything_wrong_is_reported_at_once_with_its_place() {
    let mut sources = file(
        "num.partitions = 0\n\n[mqtt]\nreceive.maximum = 70000\nrecieve.maximum = 5\n\
         max.queued.bytes = true\n[kafka]\nlisten = 9092\n[[route]]\nfilter = 1\n",
    );
    sources.env = pairs(&[
        ("MAINSTEM_TYPO", "1"),
        ("MAINSTEM_LOG_LEVEL", "debug"),
        ("MAINSTEM_NODE_ID", "-1"),
    ]);
    sources.flags = pairs(&[("log.retention.hours", "5"), ("insecure", "yes")]);
    let expected = "\
m.toml:1: num.partitions: \"0\" is not allowed: expected an integer from 1 to 10000
m.toml:4: mqtt.receive.maximum: \"70000\" is not allowed: expected an integer from 1 to 65535
m.toml:5: mqtt.recieve.maximum: there is no such key; did you mean mqtt.receive.maximum?
m.toml:6: mqtt.max.queued.bytes: \"true\" is not allowed: expected an integer of 1024 or more, up to 9223372036854775807
m.toml:8: kafka.listen: \"9092\" is not allowed: expected an IP address and a port, for instance 127.0.0.1:9092 or [::1]:9092; port 0 takes a free one, in quotes; this is a TOML integer
m.toml:9: route: there is no such key
environment variable MAINSTEM_LOG_LEVEL: there is no such key; did you mean MAINSTEM_MAINSTEM_LOG_LEVEL?
environment variable MAINSTEM_NODE_ID: node.id: \"-1\" is not allowed: expected an integer of 0 or more, up to 2147483647
environment variable MAINSTEM_TYPO: there is no such key
command line: log.retention.hours: there is no such key; did you mean log.retention.ms?
command line: insecure: \"yes\" is not allowed: expected true or false";
    assert_eq!(failure(sources), expected);
}

#[test]
fn broken_toml_names_the_line() {
    let message = failure(file("node.id = 1\nnum.partitions = = 3\n"));
    assert!(message.starts_with("m.toml:2: "), "{message}");
    let message = failure(file("node.id = 1\nnode.id = 2\n"));
    assert!(message.starts_with("m.toml:2: "), "{message}");
}

#[test]
fn one_key_in_two_forms_is_a_duplicate() {
    let message = failure(file("node.id = 1\n\n\"node.id\" = 2\n"));
    assert_eq!(message, "m.toml:3: node.id: it is already set on line 1");
}

#[test]
fn listeners_that_others_reach_need_insecure() {
    let message = failure(flags(&[("mqtt.listen", "192.0.2.1:1883")]));
    assert_eq!(
        message,
        "command line: mqtt.listen: listen on 192.0.2.1:1883 is reachable from other machines \
         and there is no authentication yet: add --insecure to allow it"
    );
    let open = [("mqtt.listen", "192.0.2.1:1883"), ("insecure", "true")];
    assert!(load(flags(&open)).is_ok());
    for loopback in ["127.8.8.8:1", "[::1]:1", "[::ffff:127.0.0.1]:1"] {
        assert!(
            load(flags(&[("kafka.listen", loopback)])).is_ok(),
            "{loopback}"
        );
    }
}

#[test]
fn listening_everywhere_needs_an_address_to_advertise() {
    let open = [("kafka.listen", "0.0.0.0:9092"), ("insecure", "true")];
    let message = failure(flags(&open));
    assert!(message.contains("set kafka.advertise"), "{message}");
    let told = [
        open[0],
        open[1],
        ("kafka.advertise", "broker-1.example:9092"),
    ];
    let config = load(flags(&told)).expect("valid");
    assert_eq!(
        config.kafka_advertise.as_deref(),
        Some("broker-1.example:9092")
    );
}

#[test]
fn only_what_clients_can_connect_to_is_advertised() {
    let told = |text| load(flags(&[("kafka.advertise", text)]));
    for fine in [
        "h:1",
        "10.0.0.1:9092",
        "[2001:db8::1]:9092",
        "a_b.c-d:65535",
    ] {
        assert!(told(fine).is_ok(), "{fine}");
    }
    assert_eq!(told("").expect("none").kafka_advertise, None);
    let long = format!("{}:1", "h".repeat(254));
    for wrong in [
        "h",
        "h:",
        ":1",
        "h:0",
        "h:65536",
        "a b:1",
        "2001:db8::1:9092",
        "[h]:1",
        &long,
    ] {
        assert!(told(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn two_listeners_cannot_share_an_address() {
    let message = failure(flags(&[("admin.listen", "127.0.0.1:1883")]));
    assert_eq!(
        message,
        "command line: admin.listen: 127.0.0.1:1883 is already taken by mqtt.listen"
    );
    let free = [
        ("admin.listen", "127.0.0.1:0"),
        ("mqtt.listen", "127.0.0.1:0"),
    ];
    assert!(load(flags(&free)).is_ok());
}

#[test]
fn limits_must_not_cross() {
    let message = failure(flags(&[("group.max.session.timeout.ms", "5000")]));
    assert_eq!(
        message,
        "default: group.min.session.timeout.ms: 6000 is more than group.max.session.timeout.ms, which is 5000"
    );
}

#[test]
fn every_key_can_be_set_by_every_layer() {
    let mut names = BTreeSet::new();
    for key in broker_keys() {
        assert!(
            names.insert(env_name(key.name)),
            "{} is ambiguous",
            key.name
        );
        let sources = [
            file(&format!("\"{}\" = \"{}\"", key.name, key.default)),
            Sources {
                env: vec![(env_name(key.name), key.default.clone())],
                ..Sources::default()
            },
            flags(&[(key.name, &key.default)]),
        ];
        for source in sources {
            assert_eq!(load(source).expect(key.name), Config::default());
        }
        assert_eq!(
            Config::default().value_of(key.name).as_ref(),
            Some(&key.default)
        );
    }
}

#[test]
fn integers_are_taken_within_their_bounds_only() {
    for key in broker_keys() {
        let Allowed::Int { min, max } = key.allowed else {
            continue;
        };
        for (value, fine) in [(min - 1, false), (min, true), (max, true), (max + 1, false)] {
            let mut config = Config::default();
            let result = (key.set)(&mut config, &value.to_string());
            assert_eq!(result.is_ok(), fine, "{} = {value}: {result:?}", key.name);
            let expected = if fine {
                value.to_string()
            } else {
                key.default.clone()
            };
            assert_eq!((key.get)(&config), expected, "{}", key.name);
        }
    }
}

#[test]
fn files_that_cannot_be_read_are_refused_with_their_name() {
    let dir = tempfile::tempdir().expect("temp dir");
    let path = dir.path().join("m.toml");
    let refused = |path: &Path| load_file(path).expect_err("refused").to_string();
    assert!(refused(&path).contains("m.toml: cannot be read: "));
    fs::write(&path, b"\xff\xfe").expect("write");
    assert!(refused(&path).contains("cannot be read"));
    fs::write(&path, vec![b'#'; FILE_BYTES_MAX as usize + 1]).expect("write");
    assert!(refused(&path).contains("cannot be read"));
    fs::write(&path, "node.id = 5\n").expect("write");
    let source = load_file(&path).expect("fine");
    assert_eq!(load(file(&source.contents)).expect("valid").node_id, 5);
}

#[test]
fn every_hint_is_a_key() {
    for (theirs, ours) in KAFKA_NAMES {
        assert!(broker_key(theirs).is_none() && broker_key(ours).is_some());
        assert_eq!(nearest(theirs), Some(ours));
    }
    assert_eq!(nearest("retention.ms"), Some("log.retention.ms"));
    assert_eq!(nearest("max.keepalive"), Some("mqtt.max.keepalive"));
    assert_eq!(nearest("zzzzzzzz"), None);
}

#[test]
fn distance_counts_edits() {
    let cases = [
        ("", "", 0),
        ("abc", "", 3),
        ("kitten", "sitting", 3),
        ("ab", "ba", 2),
    ];
    for (a, b, expected) in cases {
        assert_eq!((distance(a, b), distance(b, a)), (expected, expected));
    }
}

proptest! {
    #[test]
    fn no_input_panics(
        contents in "([a-z\\.\"\\[\\]{}=, 0-9\n#]{0,60}|(mqtt|kafka|node|\\.|id|listen| = |1|\"|\n){0,30}|\\PC{0,40})",
        name in "MAINSTEM_.{0,20}",
        key in ".{0,200}",
        value in ".{0,20}",
    ) {
        let mut sources = file(&contents);
        sources.env = vec![(name, value.clone())];
        sources.flags = vec![(key, value)];
        if let Err(errors) = load(sources) {
            prop_assert!(!errors.0.is_empty());
            prop_assert!(!errors.to_string().is_empty());
        }
    }

    #[test]
    fn any_loopback_address_is_listened_on(last in 1u8..255, port: u16) {
        let address = SocketAddr::from(([127, 0, 0, last], port));
        let result = load(flags(&[
            ("kafka.listen", &address.to_string()),
            ("mqtt.listen", "127.0.0.1:0"),
            ("mqtt.ws.listen", "127.0.0.1:0"),
            ("admin.listen", "127.0.0.1:0"),
        ]));
        prop_assert_eq!(result.expect("valid").kafka_listen, address);
    }
}

#[test]
fn a_cluster_that_other_machines_reach_needs_a_secret_and_an_address() {
    let wrong = |pairs: &[(&str, &str)]| load(flags(pairs)).expect_err("wrong").to_string();
    let secret = "0123456789abcdef";
    let seeds = ("cluster.seeds", "10.0.0.1:9301,10.0.0.2:9301");
    assert!(wrong(&[seeds]).contains("cluster.secret"));
    assert!(wrong(&[("cluster.listen", "10.0.0.1:9301")]).contains("cluster.secret"));
    let all = [
        ("cluster.listen", "0.0.0.0:9301"),
        ("cluster.secret", secret),
    ];
    assert!(wrong(&all).contains("cluster.advertise"));
    assert!(wrong(&[("cluster.advertise", "a:1")]).contains("cluster.listen"));
    for seeds in ["a", "a:0", "a:1,a:1", "a:1,", &"a:1,".repeat(16)] {
        assert!(
            wrong(&[("cluster.seeds", seeds)]).contains("cluster.seeds"),
            "{seeds}"
        );
    }
    let good = [
        seeds,
        ("cluster.secret", secret),
        ("cluster.listen", "0.0.0.0:9301"),
        ("cluster.advertise", "node-1:9301"),
        ("process.roles", "broker"),
    ];
    let cluster = load(flags(&good)).expect("good").cluster;
    assert_eq!(cluster.seeds, ["10.0.0.1:9301", "10.0.0.2:9301"]);
    assert_eq!(cluster.secret.bytes(), Some(secret.as_bytes()));
    let local = [("cluster.seeds", "localhost:9301,127.0.0.2:9301,[::1]:9301")];
    let cluster = load(flags(&local)).expect("loopback").cluster;
    assert_eq!(cluster.listen_address(), Some(crate::value::loopback(9301)));
    assert_eq!(Config::default().cluster.listen_address(), None);
}

#[test]
fn the_secret_is_shown_nowhere() {
    let secret = "0123456789abcdef";
    let config = load(flags(&[("cluster.secret", secret)])).expect("good");
    assert!(!format!("{config:?}").contains(secret));
    assert_eq!(config.value_of("cluster.secret").as_deref(), Some(""));
    let short = load(flags(&[("cluster.secret", "hunter2")])).expect_err("short");
    assert!(!short.to_string().contains("hunter2"), "{short}");
}
