//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use mainstem_config::{Config, ConfigErrors, Sources};

/// One broker for MQTT devices and Kafka clients, over one segment log.
#[derive(Debug, Parser)]
#[command(name = "mainstem", version, about, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a node until SIGTERM or SIGINT.
    Serve(Box<ServeArguments>),
    /// Work with configuration files.
    #[command(subcommand)]
    Config(ConfigCommand),
}

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Read a configuration file and report every unknown key and invalid value.
    Check {
        /// The file, in TOML.
        file: PathBuf,
    },
}

/// Flags win over the environment (`MAINSTEM_DATA_DIR` for data.dir and so on), which wins over the
/// file.
#[derive(Debug, Args)]
pub(crate) struct ServeArguments {
    /// Configuration file in TOML; every key is described in config/mainstem.toml.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Directory of the node's data, made on the first start [default: ./data].
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Where Kafka clients connect; port 0 takes a free one [default: 127.0.0.1:9092].
    #[arg(long, value_name = "ADDRESS")]
    kafka_listen: Option<String>,
    /// Where MQTT clients connect [default: 127.0.0.1:1883].
    #[arg(long, value_name = "ADDRESS")]
    mqtt_listen: Option<String>,
    /// Where MQTT clients connect over WebSocket [default: 127.0.0.1:8083].
    #[arg(long, value_name = "ADDRESS")]
    mqtt_ws_listen: Option<String>,
    /// Metrics, health and status over HTTP [default: 127.0.0.1:9404].
    #[arg(long, value_name = "ADDRESS")]
    admin_listen: Option<String>,
    /// Host and port that Kafka clients are told to use [default: the listening address].
    #[arg(long, value_name = "HOST:PORT")]
    kafka_advertise: Option<String>,
    /// Allow listeners that other machines can reach, though nobody has to authenticate yet.
    #[arg(long)]
    insecure: bool,
    /// Any configuration key, for instance --set num.partitions=4. May be repeated.
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
}

// === impl ServeArguments ===

impl ServeArguments {
    /// File, environment and flags together, or everything that is wrong with them.
    pub(crate) fn load_config(&self) -> Result<Config, ConfigErrors> {
        let mut flags: Vec<(String, String)> = Vec::new();
        for pair in &self.set {
            // Without `=` the key is kept and the empty value is reported with its place.
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            flags.push((key.trim().to_owned(), value.trim().to_owned()));
        }
        let data_dir = self
            .data_dir
            .as_ref()
            .map(|dir| dir.to_string_lossy().into_owned());
        let named = [
            ("data.dir", &data_dir),
            ("kafka.listen", &self.kafka_listen),
            ("mqtt.listen", &self.mqtt_listen),
            ("mqtt.ws.listen", &self.mqtt_ws_listen),
            ("admin.listen", &self.admin_listen),
            ("kafka.advertise", &self.kafka_advertise),
        ];
        for (key, value) in named {
            flags.extend(value.clone().map(|value| (key.to_owned(), value)));
        }
        if self.insecure {
            flags.push(("insecure".to_owned(), "true".to_owned()));
        }
        let file = self
            .config
            .as_deref()
            .map(mainstem_config::load_file)
            .transpose()?;
        mainstem_config::load(Sources {
            file,
            env: mainstem_config::process_env(),
            flags,
        })
    }
}
