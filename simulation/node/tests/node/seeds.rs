//! Many seeds; a replay tells what the node says.

pub(crate) use mainstem_simulation::first_failure;

/// Runs `one` with every seed: `count` of them, or as many as `BROKER_SEEDS` says, or the one of
/// `BROKER_SEED`.
///
/// # Panics
/// With the seed of the first that fails, in a task or in the test itself.
pub(crate) fn all(name: &str, count: u64, one: impl Fn(u64) + Sync) {
    if std::env::var_os("BROKER_SEED").is_some() {
        let lines = tracing_subscriber::fmt().with_max_level(tracing::Level::WARN);
        // Another test may have done so already.
        let _ = lines.try_init();
    }
    mainstem_simulation::each_seed(name, count, one);
}
