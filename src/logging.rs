//! Logs, for people or as JSON lines, on standard error.

use mainstem_config::{Config, LogFormat};
use tracing_subscriber::EnvFilter;

pub(crate) fn start(config: &Config) -> Result<(), String> {
    // openraft warns of votes that are in order, and calls every attempt to reach a node that is away
    // an error, many a second, of which our connections tell once. Who wants to read them asks for it
    // by name.
    let directives = format!(
        "openraft=error,openraft::replication=off,{}",
        config.log_level
    );
    let filter = EnvFilter::try_new(directives)
        .map_err(|error| format!("mainstem.log.level '{}': {error}", config.log_level))?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_target(false);
    match config.log_format {
        LogFormat::Human => builder.with_ansi(false).init(),
        LogFormat::Json => builder.json().init(),
    }
    Ok(())
}
