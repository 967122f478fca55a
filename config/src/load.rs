//! The layers, put on top of one another.

use std::{
    collections::HashMap,
    fs,
    io::{self, Read},
    path::{Path, PathBuf},
};

use crate::{
    check,
    error::{ConfigError, ConfigErrors, Place, Problem},
    file,
    node::Config,
    table::{BrokerKey, broker_key, broker_keys},
    value::ConfigKind,
};

/// Every variable of the environment that begins so must be a key.
///
/// Those are left aside that Kubernetes sets in the pods beside a Service called `mainstem` and that
/// are nobody's wish: `MAINSTEM_PORT`, `MAINSTEM_PORT_<number>_<TCP|UDP|SCTP>` alone or with `_PROTO`,
/// `_PORT` or `_ADDR`, `MAINSTEM_SERVICE_HOST`, and `MAINSTEM_SERVICE_PORT` alone or with `_<NAME>`. A
/// Service whose name only begins with `mainstem-` needs `enableServiceLinks: false` in the pods.
pub const ENV_PREFIX: &str = "MAINSTEM_";
/// Bytes of the largest configuration file.
pub const FILE_BYTES_MAX: u64 = 1 << 20;

/// What Kafka calls some things in other units or another form, and what we call them.
const KAFKA_NAMES: [(&str, &str); 9] = [
    ("advertised.listeners", "kafka.advertise"),
    ("broker.id", "node.id"),
    ("listeners", "kafka.listen"),
    ("log.dir", "data.dir"),
    ("log.dirs", "data.dir"),
    ("log.retention.hours", "log.retention.ms"),
    ("log.retention.minutes", "log.retention.ms"),
    ("log.roll.hours", "log.roll.ms"),
    ("log.roll.jitter.hours", "log.roll.jitter.ms"),
];
/// Ours and Kafka's key of the time between syncs: Kafka's counts where ours is not set.
const INTERVAL_KEY: &str = "mainstem.flush.interval.ms";
const KAFKA_INTERVAL_KEY: &str = "log.flush.interval.ms";
/// Names further apart than this are no typing mistakes.
const SUGGESTION_DISTANCE_MAX: usize = 5;
/// No suggestion is sought for longer names than this: the work grows with the square.
const SUGGESTION_BYTES_MAX: usize = 128;

/// A configuration file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileSource {
    /// The path, for messages.
    pub path: PathBuf,
    /// The text.
    pub contents: String,
}

/// Where the values come from.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// The configuration file, if there is one.
    pub file: Option<FileSource>,
    /// Variables of the environment (name, value). Those without the prefix are not looked at.
    pub env: Vec<(String, String)>,
    /// Keys and values of the command line, `--set` and dedicated flags alike; later ones win.
    pub flags: Vec<(String, String)>,
}

/// Where each key that is not at its default was set last.
pub(crate) type Places = HashMap<&'static str, Place>;

#[derive(Default)]
struct Loader {
    config: Config,
    places: Places,
    errors: Vec<ConfigError>,
}

/// Puts the layers together: defaults, file, environment, command line.
///
/// # Errors
/// Every unknown key, every invalid value and every contradiction, at once.
pub fn load(sources: Sources) -> Result<Config, ConfigErrors> {
    let mut loader = Loader::default();
    if let Some(source) = &sources.file {
        loader.file(source);
    }
    loader.env(&sources.env);
    for (key, value) in &sources.flags {
        loader.set(key.trim(), value, Place::CommandLine);
    }
    let Loader {
        mut config,
        places,
        mut errors,
    } = loader;
    config.settle();
    if !places.contains_key(INTERVAL_KEY) && places.contains_key(KAFKA_INTERVAL_KEY) {
        config.topic.take_kafka_interval();
    }
    check::check(&config, &places, &mut errors);
    if errors.is_empty() {
        Ok(config)
    } else {
        Err(ConfigErrors(errors))
    }
}

/// Reads a configuration file.
///
/// # Errors
/// It cannot be read, is no UTF-8, or has more than [`FILE_BYTES_MAX`] bytes.
pub fn load_file(path: &Path) -> Result<FileSource, ConfigErrors> {
    match read_bounded(path) {
        Ok(contents) => Ok(FileSource {
            path: path.to_owned(),
            contents,
        }),
        Err(error) => Err(ConfigErrors(vec![ConfigError {
            place: Place::File {
                path: path.to_owned(),
                line: 0,
            },
            key: String::new(),
            problem: Problem::Unreadable(error),
        }])),
    }
}

/// The variables of this process that [`load`] looks at. Bytes that are no UTF-8 are replaced, so
/// that the value is refused with its place instead of ending the process.
pub fn process_env() -> Vec<(String, String)> {
    std::env::vars_os()
        .map(|(name, value)| {
            let text = |text: std::ffi::OsString| text.to_string_lossy().into_owned();
            (text(name), text(value))
        })
        .filter(|(name, _)| name.starts_with(ENV_PREFIX))
        .collect()
}

fn read_bounded(path: &Path) -> io::Result<String> {
    let mut contents = String::new();
    let file = fs::File::open(path)?;
    file.take(FILE_BYTES_MAX + 1)
        .read_to_string(&mut contents)?;
    if contents.len() as u64 > FILE_BYTES_MAX {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    Ok(contents)
}

// === impl Loader ===

impl Loader {
    fn file(&mut self, source: &FileSource) {
        let document = file::read(&source.path, &source.contents);
        self.errors.extend(document.errors);
        let mut lines: HashMap<String, usize> = HashMap::new();
        for entry in document.entries {
            let place = Place::File {
                path: source.path.clone(),
                line: entry.line,
            };
            if let Some(first_line) = lines.insert(entry.key.clone(), entry.line) {
                self.fail(entry.key, place, Problem::Duplicate { first_line });
                continue;
            }
            self.set(&entry.key, &entry.text, place);
        }
        self.errors.sort_by_key(|error| match error.place {
            Place::File { line, .. } => line,
            _ => 0,
        });
    }

    fn env(&mut self, variables: &[(String, String)]) {
        let by_variable: HashMap<String, &'static BrokerKey> = broker_keys()
            .iter()
            .map(|key| (env_name(key.name), key))
            .collect();
        let mut ours: Vec<&(String, String)> = variables
            .iter()
            .filter(|(name, _)| name.starts_with(ENV_PREFIX))
            .collect();
        // The environment has no order; messages should.
        ours.sort();
        for (name, value) in ours {
            let place = Place::Env { name: name.clone() };
            match by_variable.get(name) {
                Some(key) => self.set(key.name, value, place),
                None if is_service_link(name) => {}
                None => {
                    let bare = name.strip_prefix(ENV_PREFIX).unwrap_or(name);
                    let dotted = bare.to_ascii_lowercase().replace('_', ".");
                    let suggestion = nearest(&dotted).map(env_name);
                    self.fail(String::new(), place, Problem::UnknownKey { suggestion });
                }
            }
        }
    }

    fn set(&mut self, name: &str, value: &str, place: Place) {
        let Some(key) = broker_key(name) else {
            let suggestion = nearest(name).map(str::to_owned);
            self.fail(name.to_owned(), place, Problem::UnknownKey { suggestion });
            return;
        };
        match (key.set)(&mut self.config, value) {
            Ok(()) => {
                self.places.insert(key.name, place);
            }
            Err(reason) => {
                // A secret that is too short is one all the same.
                let value = match key.kind {
                    ConfigKind::Password => "(not shown)".to_owned(),
                    _ => value.to_owned(),
                };
                self.fail(name.to_owned(), place, Problem::Invalid { value, reason });
            }
        }
    }

    fn fail(&mut self, key: String, place: Place, problem: Problem) {
        self.errors.push(ConfigError {
            place,
            key,
            problem,
        });
    }
}

/// Whether Kubernetes makes a variable of this name for a Service called `mainstem`.
fn is_service_link(name: &str) -> bool {
    let Some(rest) = name.strip_prefix(ENV_PREFIX) else {
        return false;
    };
    let is_port_name = |text: &str| {
        let legal = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
        !text.is_empty() && text.chars().all(legal)
    };
    matches!(rest, "PORT" | "SERVICE_HOST" | "SERVICE_PORT")
        || rest.strip_prefix("SERVICE_PORT_").is_some_and(is_port_name)
        || rest.strip_prefix("PORT_").is_some_and(is_linked_port)
}

/// `<number>_<protocol>`, alone or with a detail.
fn is_linked_port(text: &str) -> bool {
    let mut parts = text.split('_');
    let number = parts.next().is_some_and(|part| part.parse::<u16>().is_ok());
    let protocol = matches!(parts.next(), Some("TCP" | "UDP" | "SCTP"));
    let detail = matches!(parts.next(), None | Some("PROTO" | "PORT" | "ADDR"));
    number && protocol && detail && parts.next().is_none()
}

/// The variable of the environment that sets a key.
pub(crate) fn env_name(key: &str) -> String {
    let upper = key.to_ascii_uppercase();
    format!("{ENV_PREFIX}{}", upper.replace(['.', '-'], "_"))
}

/// The key that someone who wrote `name` probably meant: the broker key of a topic config, Kafka's
/// other name of it, one that ends with it (the first part left out), or the nearest by spelling.
pub(crate) fn nearest(name: &str) -> Option<&'static str> {
    if name.is_empty() || name.len() > SUGGESTION_BYTES_MAX {
        return None;
    }
    if let Some(synonym) = crate::topic::topic_key(name).and_then(|key| key.broker_synonym) {
        return Some(synonym);
    }
    if let Some((_, ours)) = KAFKA_NAMES.iter().find(|(theirs, _)| *theirs == name) {
        return Some(ours);
    }
    let names = || broker_keys().iter().map(|key| key.name);
    let tail = format!(".{name}");
    names().find(|key| key.ends_with(&tail)).or_else(|| {
        names()
            .map(|key| (distance(key, name), key))
            .min()
            .filter(|(distance, _)| *distance <= SUGGESTION_DISTANCE_MAX.min(name.len() / 2))
            .map(|(_, key)| key)
    })
}

/// Levenshtein distance in bytes.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, left) in a.bytes().enumerate() {
        let mut diagonal = i;
        let mut last = i + 1;
        for (cell, right) in row.iter_mut().skip(1).zip(b.bytes()) {
            let changed = diagonal + usize::from(left != right);
            diagonal = *cell;
            last = changed.min(last + 1).min(diagonal + 1);
            *cell = last;
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests;
