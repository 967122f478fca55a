//! The `$SYS` topics: what a node tells of itself to those who subscribe, by the names that clients
//! know from other brokers. Not retained and not in the log: said every `mqtt.sys.interval`.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use super::Context;

/// Says the `$SYS` topics until the protocol is dropped.
pub(crate) fn start(context: &Arc<Context>) {
    let interval = Duration::from_secs(context.config.mqtt.sys_interval_s);
    if interval.is_zero() {
        return;
    }
    let run = run(context.env.clone(), Arc::downgrade(context), interval);
    context.env.spawn("mqtt $SYS", run);
}

async fn run(env: mainstem_env::Env, context: Weak<Context>, interval: Duration) {
    let began = env.now();
    loop {
        env.sleep(interval).await;
        let Some(context) = context.upgrade() else {
            return;
        };
        let mqtt = context.broker.mqtt();
        let stats = mqtt.stats();
        let uptime_s = env.now().saturating_sub(began).as_secs();
        let version = concat!("mainstem version ", env!("CARGO_PKG_VERSION"));
        for (topic, value) in [
            ("$SYS/broker/version", version.to_owned()),
            ("$SYS/broker/uptime", format!("{uptime_s} seconds")),
            (
                "$SYS/broker/clients/connected",
                stats.sessions_online.to_string(),
            ),
            (
                "$SYS/broker/clients/disconnected",
                stats.sessions_offline.to_string(),
            ),
            (
                "$SYS/broker/subscriptions/count",
                stats.subscriptions.to_string(),
            ),
            (
                "$SYS/broker/retained messages/count",
                stats.retained.to_string(),
            ),
        ] {
            mqtt.broadcast(topic, value.into());
        }
    }
}
