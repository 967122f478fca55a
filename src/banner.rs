//! What a person sees when a node is ready.

use std::{fmt::Write as _, net::SocketAddr};

use mainstem_config::{Config, FlushPolicy};

/// Where a node listens; ports are the real ones where 0 was asked for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Addresses {
    /// For other nodes, if there are to be any.
    pub(crate) cluster: Option<SocketAddr>,
    pub(crate) kafka: SocketAddr,
    pub(crate) mqtt: SocketAddr,
    pub(crate) mqtt_ws: SocketAddr,
    pub(crate) admin: SocketAddr,
}

/// How acknowledged data is made safe, in words.
pub(crate) fn flush_policy(config: &Config) -> String {
    let interval = || {
        format!(
            "interval ({} bytes or {} ms)",
            config.topic.flush_interval_bytes, config.topic.flush_interval_ms
        )
    };
    match config.topic.flush {
        None => "always (one replica: acknowledged means synced to disk)".to_owned(),
        Some(FlushPolicy::Always) => "always (acknowledged means synced to disk)".to_owned(),
        Some(FlushPolicy::Interval) => interval(),
        Some(FlushPolicy::Os) => "os (acknowledged means in the page cache)".to_owned(),
    }
}

pub(crate) fn text(config: &Config, advertise: &str, addresses: &Addresses) -> String {
    let mut out = String::new();
    let mut rows = vec![
        (
            "Kafka",
            format!("{}  (clients are told {advertise})", addresses.kafka),
        ),
        ("MQTT", addresses.mqtt.to_string()),
        ("MQTT/WebSocket", format!("ws://{}/mqtt", addresses.mqtt_ws)),
        (
            "Admin",
            format!(
                "http://{}/metrics  /healthz  /readyz  /status",
                addresses.admin
            ),
        ),
        ("Data", config.data_dir.display().to_string()),
        ("Flush", flush_policy(config)),
    ];
    if let Some(address) = addresses.cluster {
        let nodes = format!(
            "{address}  (node {}; other nodes connect here)",
            config.node_id
        );
        rows.insert(0, ("Cluster", nodes));
    }
    // Writing to a string does not fail.
    let _ = writeln!(out, "\nMainstem {} is ready.\n", env!("CARGO_PKG_VERSION"));
    for (name, value) in rows {
        let _ = writeln!(out, "  {name:<15} {value}");
    }
    let (mqtt, kafka) = (addresses.mqtt, addresses.kafka);
    let _ = writeln!(
        out,
        "\nTry it:\n  \
         mosquitto_pub -h {} -p {} -q 1 -t sensors/kitchen/temp -m 21.5\n  \
         kcat -b {kafka} -C -t sensors -o beginning -e -f '%k %s\\n'\n",
        mqtt.ip(),
        mqtt.port(),
    );
    let _ = writeln!(
        out,
        "  An MQTT topic is the Kafka topic + '/' + the key. Topics whose first level is empty or\n  \
         no legal Kafka name go to the Kafka topic 'mqtt.messages' with the whole name as key.",
    );
    if config.insecure {
        let _ = writeln!(
            out,
            "\n  WARNING: --insecure: whoever reaches these addresses may read and write everything.",
        );
    }
    out
}
