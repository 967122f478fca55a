//! What must hold between several keys.

use std::net::SocketAddr;

use crate::{
    error::{ConfigError, Place, Problem},
    load::Places,
    node::Config,
};

/// Adds every contradiction to `errors`.
pub(crate) fn check(config: &Config, places: &Places, errors: &mut Vec<ConfigError>) {
    let mut fail = |key: &'static str, problem: Problem| {
        errors.push(ConfigError {
            place: places.get(key).cloned().unwrap_or(Place::Default),
            key: key.to_owned(),
            problem,
        });
    };
    check_cluster(config, &mut fail);
    let mut listeners = vec![
        ("kafka.listen", config.kafka_listen),
        ("mqtt.listen", config.mqtt_listen),
        ("mqtt.ws.listen", config.mqtt_ws_listen),
        ("admin.listen", config.admin_listen),
    ];
    let clients = listeners.len();
    // What protects it is the secret.
    listeners.extend(
        config
            .cluster
            .listen_address()
            .map(|address| ("cluster.listen", address)),
    );
    for (index, (key, address)) in listeners.iter().enumerate() {
        if index < clients && !config.insecure && !is_loopback(address) {
            fail(key, Problem::Exposed { address: *address });
        }
        let mut earlier = listeners.iter().take(index);
        if let Some((other, _)) = earlier.find(|(_, other)| collide(other, address)) {
            let address = *address;
            fail(key, Problem::SameAddress { address, other });
        }
    }
    if config.kafka_advertise.is_none() && config.kafka_listen.ip().is_unspecified() {
        let address = config.kafka_listen;
        fail("kafka.listen", Problem::NotAdvertisable { address });
    }
    for (key, value, other, bound) in bounds(config) {
        if value > bound {
            fail(
                key,
                Problem::AboveOther {
                    value,
                    other,
                    bound,
                },
            );
        }
    }
}

fn check_cluster(config: &Config, fail: &mut impl FnMut(&'static str, Problem)) {
    let cluster = &config.cluster;
    let Some(listen) = cluster.listen_address() else {
        if cluster.advertise.is_some() {
            fail("cluster.advertise", Problem::NotListening);
        }
        return;
    };
    if cluster.advertise.is_none() && listen.ip().is_unspecified() {
        fail("cluster.listen", Problem::NotReachable { address: listen });
    }
    if cluster.secret.bytes().is_some() {
        return;
    }
    let addresses = [("cluster.listen", listen.to_string())]
        .into_iter()
        .chain(
            cluster
                .seeds
                .iter()
                .map(|seed| ("cluster.seeds", seed.clone())),
        )
        .chain(
            cluster
                .advertise
                .iter()
                .map(|own| ("cluster.advertise", own.clone())),
        );
    for (key, address) in addresses {
        if !is_loopback_text(&address) {
            fail(key, Problem::SecretNeeded { address });
        }
    }
}

/// Whether a `host:port` is one of loopback whoever resolves it.
fn is_loopback_text(text: &str) -> bool {
    match text.parse() {
        Ok(address) => is_loopback(&address),
        Err(_) => text
            .rsplit_once(':')
            .is_some_and(|(host, _)| host.eq_ignore_ascii_case("localhost")),
    }
}

/// Pairs of which the first must not exceed the second.
fn bounds(config: &Config) -> [(&'static str, i128, &'static str, i128); 3] {
    [
        (
            "broker.heartbeat.interval.ms",
            config.cluster.heartbeat_interval_ms.into(),
            "broker.session.timeout.ms",
            config.cluster.session_timeout_ms.into(),
        ),
        (
            "group.min.session.timeout.ms",
            config.group.session_timeout_ms_min.into(),
            "group.max.session.timeout.ms",
            config.group.session_timeout_ms_max.into(),
        ),
        (
            "log.cleaner.min.compaction.lag.ms",
            config.topic.min_compaction_lag_ms.into(),
            "log.cleaner.max.compaction.lag.ms",
            config.topic.max_compaction_lag_ms.into(),
        ),
    ]
}

fn is_loopback(address: &SocketAddr) -> bool {
    // An IPv4 address written as IPv6 is what it maps to.
    address.ip().to_canonical().is_loopback()
}

/// Whether both cannot be bound: the same port, and the same address or one that means all.
fn collide(a: &SocketAddr, b: &SocketAddr) -> bool {
    let same_ip = a.ip() == b.ip() || a.ip().is_unspecified() || b.ip().is_unspecified();
    a.port() != 0 && a.port() == b.port() && same_ip
}
