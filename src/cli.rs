//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use mainstem_config::{Config, ConfigErrors, Sources};
use mainstem_record::PartitionId;

use crate::log_command;

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
    /// Look into the files of a node's log, whether the node runs or not. Nothing is changed.
    #[command(subcommand)]
    Log(LogCommand),
}

#[derive(Debug, Subcommand)]
pub(crate) enum LogCommand {
    /// Check every batch, index, digest and synced point, and name what is damaged.
    ///
    /// One line per finding, then a summary. `damage`: what was stored safely is not as it was
    /// stored, with the file, the byte position and the offsets. `unreadable`: the file system
    /// does not let us look. `note`: as it must be after a crash, or on a node that runs; a torn
    /// tail above the synced point is one, since the next start cuts it off. What a killed node
    /// leaves is no damage. Offsets that no segment has, between two that are there, are damage,
    /// and so is a segment that is missing although it is known to be synced.
    ///
    /// The metadata is not read: that the oldest segments of a partition are gone cannot be told
    /// from retention, nor a whole partition from a deleted topic.
    ///
    /// Exit codes: 0 nothing is damaged, 1 something could not be read, 2 a wrong command line,
    /// 3 damage.
    Verify(VerifyArguments),
    /// Print what the files hold: synced points, segments, index files, producers, batches.
    ///
    /// One line per item: what it is, then `name=value` pairs. Damaged batches are shown as such
    /// and passed over.
    ///
    /// Exit codes: 0 shown, 1 something could not be read, 2 a wrong command line.
    Dump(DumpArguments),
}

#[derive(Debug, Args)]
pub(crate) struct VerifyArguments {
    /// The data directory of a node, or the directory of its log.
    pub(crate) dir: PathBuf,
    /// One JSON object per line instead of text.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct DumpArguments {
    /// The data directory of a node, or the directory of its log.
    pub(crate) dir: PathBuf,
    /// Only this partition, named like its directory.
    #[arg(long, value_name = "TOPIC-ID/INDEX", value_parser = log_command::parse_partition)]
    pub(crate) partition: Option<PartitionId>,
    /// Do not print batches, nor the records of the journal.
    #[arg(long, conflicts_with = "records")]
    pub(crate) no_batches: bool,
    /// Print the records of each batch: offset, timestamp, key, sizes and names of headers.
    #[arg(long)]
    pub(crate) records: bool,
    /// Print every entry of the sections of index files.
    #[arg(long)]
    pub(crate) index: bool,
    /// One JSON object per line instead of text.
    #[arg(long)]
    pub(crate) json: bool,
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
