//! Configs of topics and brokers: described with their source, changed one by one.

use std::collections::{BTreeMap, BTreeSet};

use mainstem_config::{ConfigKind, TopicConfig, TopicKey, topic_keys, validate_topic};
use mainstem_metadata::Command;

use crate::{Broker, Caller, TopicRef, core::Core, error_code::ErrorCode, topics::TopicError};

/// Whose configs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConfigResource {
    /// A topic, by name.
    Topic(String),
    /// A broker, by id in decimal; empty for the default of all brokers.
    Broker(String),
}

/// Where a value comes from; numbers as in `DescribeConfigs`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i8)]
pub enum ConfigSource {
    /// Set for this topic.
    DynamicTopic = 1,
    /// Set for this broker at run time.
    DynamicBroker = 2,
    /// Set for all brokers at run time.
    DynamicDefaultBroker = 3,
    /// From the node's file, environment or flags.
    StaticBroker = 4,
    /// Built in.
    Default = 5,
}

/// One config as it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigEntry {
    /// The key.
    pub name: String,
    /// The value in force.
    pub value: Option<String>,
    /// Whether it can't be changed at run time.
    pub read_only: bool,
    /// Where the value comes from.
    pub source: ConfigSource,
    /// Whether the value is hidden.
    pub sensitive: bool,
    /// Kafka's number of the value's type.
    pub kind: i8,
    /// One line of documentation.
    pub doc: &'static str,
    /// The same setting under the names and in the order in which it is looked up.
    pub synonyms: Vec<(String, Option<String>, ConfigSource)>,
}

/// How a config is changed (`IncrementalAlterConfigs`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AlterOp {
    /// Set it.
    Set,
    /// Back to the default.
    Delete,
    /// Add to a list.
    Append,
    /// Take from a list.
    Subtract,
}

/// Checks configs of a topic as a whole; the message names every fault.
pub(crate) fn check_topic_configs(configs: &BTreeMap<String, String>) -> Result<(), TopicError> {
    validate_topic(configs).map_err(|faults| {
        let faults: Vec<String> = faults
            .iter()
            .map(|fault| format!("{} = '{}': {}", fault.key, fault.value, fault.reason))
            .collect();
        TopicError::new(ErrorCode::InvalidConfig, faults.join("; "))
    })
}

// === impl Core ===

impl Core {
    /// Every config of a topic with these overrides.
    pub(crate) fn topic_config_entries(
        &self,
        overrides: &BTreeMap<String, String>,
    ) -> Vec<ConfigEntry> {
        let defaults = self.topic_defaults();
        let pairs = overrides
            .iter()
            .map(|(key, value)| (key.as_str(), value.as_str()));
        let resolved = TopicConfig::resolve(&defaults, pairs);
        topic_keys()
            .iter()
            .map(|key| self.topic_entry(key, overrides, &resolved, &defaults))
            .collect()
    }

    fn topic_entry(
        &self,
        key: &TopicKey,
        overrides: &BTreeMap<String, String>,
        resolved: &TopicConfig,
        defaults: &TopicConfig,
    ) -> ConfigEntry {
        let image = self.image();
        let built_in = TopicConfig::default().value_of(key.name);
        let mut synonyms = Vec::new();
        if let Some(value) = overrides.get(key.name) {
            synonyms.push((
                key.name.to_owned(),
                Some(value.clone()),
                ConfigSource::DynamicTopic,
            ));
        }
        if let Some(name) = key.broker_synonym {
            if let Some(value) = image.broker_configs.get(name) {
                let value = Some(value.clone());
                synonyms.push((name.to_owned(), value, ConfigSource::DynamicDefaultBroker));
            }
            let configured = self.config.topic.value_of(key.name);
            if configured != built_in {
                synonyms.push((name.to_owned(), configured, ConfigSource::StaticBroker));
            }
            synonyms.push((name.to_owned(), built_in, ConfigSource::Default));
        }
        let source = synonyms
            .first()
            .map_or(ConfigSource::Default, |(_, _, source)| *source);
        let value = match source {
            ConfigSource::DynamicTopic => resolved.value_of(key.name),
            _ => defaults.value_of(key.name),
        };
        ConfigEntry {
            name: key.name.to_owned(),
            value,
            read_only: false,
            source,
            sensitive: false,
            kind: key.kind as i8,
            doc: key.doc,
            synonyms,
        }
    }

    fn broker_entries(&self) -> Vec<ConfigEntry> {
        let image = self.image();
        let keys = mainstem_config::broker_keys().iter();
        keys.map(|key| {
            let configured = self.config.value_of(key.name);
            let built_in = Some(key.default.to_owned());
            let changed = image.broker_configs.get(key.name).cloned();
            let mut synonyms = Vec::new();
            if changed.is_some() {
                let source = ConfigSource::DynamicDefaultBroker;
                synonyms.push((key.name.to_owned(), changed.clone(), source));
            }
            if configured != built_in {
                let source = ConfigSource::StaticBroker;
                synonyms.push((key.name.to_owned(), configured.clone(), source));
            }
            synonyms.push((key.name.to_owned(), built_in, ConfigSource::Default));
            ConfigEntry {
                name: key.name.to_owned(),
                value: changed.or(configured),
                read_only: key.read_only,
                source: synonyms[0].2,
                sensitive: false,
                kind: key.kind as i8,
                doc: key.doc,
                synonyms,
            }
        })
        .collect()
    }

    fn check_broker_resource(&self, name: &str) -> Result<(), TopicError> {
        if name.is_empty() || name == self.config.node_id.to_string() {
            return Ok(());
        }
        let message = format!(
            "'{name}' is not the id of this broker, {}",
            self.config.node_id
        );
        Err(TopicError::new(ErrorCode::InvalidRequest, message))
    }
}

// === impl Broker ===

impl Broker {
    /// All configs of a resource, or those of `keys` that exist.
    pub fn describe_configs(
        &self,
        _caller: &Caller,
        resource: &ConfigResource,
        keys: Option<&[String]>,
    ) -> Result<Vec<ConfigEntry>, TopicError> {
        let mut entries = match resource {
            ConfigResource::Topic(name) => {
                let topic = self
                    .core
                    .find_topic(&self.core.image(), &TopicRef::Name(name))
                    .map_err(|code| TopicError::new(code, code.text()))?;
                let overrides = topic
                    .configs
                    .iter()
                    .map(|(k, v)| (k.clone(), v.clone()))
                    .collect();
                self.core.topic_config_entries(&overrides)
            }
            ConfigResource::Broker(name) => {
                self.core.check_broker_resource(name)?;
                self.core.broker_entries()
            }
        };
        if let Some(keys) = keys {
            entries.retain(|entry| keys.contains(&entry.name));
        }
        Ok(entries)
    }

    /// Changes configs, all or none.
    pub async fn alter_configs(
        &self,
        _caller: &Caller,
        resource: &ConfigResource,
        ops: Vec<(String, AlterOp, Option<String>)>,
        validate_only: bool,
    ) -> Result<(), TopicError> {
        let mut seen = BTreeSet::new();
        if let Some((twice, ..)) = ops.iter().find(|(name, ..)| !seen.insert(name.clone())) {
            let message = format!("config {twice} is named twice");
            return Err(TopicError::new(ErrorCode::InvalidRequest, message));
        }
        match resource {
            ConfigResource::Topic(name) => self.alter_topic(name, ops, validate_only).await,
            ConfigResource::Broker(name) => {
                self.core.check_broker_resource(name)?;
                self.alter_broker(ops, validate_only).await
            }
        }
    }

    async fn alter_topic(
        &self,
        name: &str,
        ops: Vec<(String, AlterOp, Option<String>)>,
        validate_only: bool,
    ) -> Result<(), TopicError> {
        let image = self.core.image();
        let topic = self
            .core
            .find_topic(&image, &TopicRef::Name(name))
            .map_err(|code| TopicError::new(code, code.text()))?;
        let defaults = self.core.topic_defaults();
        let (mut set, mut delete) = (BTreeMap::new(), Vec::new());
        for (key, op, value) in ops {
            let known = topic_keys()
                .iter()
                .find(|known| known.name == key)
                .ok_or_else(|| unknown_key(&key))?;
            let present = topic
                .configs
                .get(&key)
                .cloned()
                .or_else(|| defaults.value_of(known.name));
            match changed_value(&key, known.kind, op, value, present)? {
                Some(value) => {
                    set.insert(key, value);
                }
                None => delete.push(key),
            }
        }
        let mut after: BTreeMap<String, String> = topic
            .configs
            .iter()
            .map(|(k, v)| (k.clone(), v.clone()))
            .collect();
        after.retain(|key, _| !delete.contains(key));
        after.extend(set.clone());
        check_topic_configs(&after)?;
        if validate_only {
            return Ok(());
        }
        let command = Command::AlterTopicConfigs {
            topic: topic.id,
            set,
            delete,
        };
        self.alter(command).await
    }

    async fn alter_broker(
        &self,
        ops: Vec<(String, AlterOp, Option<String>)>,
        validate_only: bool,
    ) -> Result<(), TopicError> {
        let (mut set, mut delete) = (BTreeMap::new(), Vec::new());
        for (key, op, value) in ops {
            let topic_key = topic_keys()
                .iter()
                .find(|known| known.broker_synonym == Some(&key));
            let Some(topic_key) = topic_key else {
                let message = format!("{key} can't be changed at run time");
                return Err(TopicError::new(ErrorCode::InvalidRequest, message));
            };
            let present = self.core.topic_defaults().value_of(topic_key.name);
            match changed_value(&key, topic_key.kind, op, value, present)? {
                Some(value) => {
                    let as_topic = BTreeMap::from([(topic_key.name.to_owned(), value.clone())]);
                    check_topic_configs(&as_topic)?;
                    set.insert(key, value);
                }
                None => delete.push(key),
            }
        }
        if validate_only {
            return Ok(());
        }
        self.alter(Command::AlterBrokerConfigs { set, delete })
            .await
    }

    /// Commits a change of configs and tells the log, also if the caller goes away in between: a
    /// flush policy that is in the metadata must be in force.
    async fn alter(&self, command: Command) -> Result<(), TopicError> {
        let core = self.core.clone();
        let alter = async move {
            core.metadata.propose(command).await?;
            core.settle_configs().await;
            Ok(())
        };
        self.core.to_the_end("alter configs", alter).await
    }
}

fn unknown_key(key: &str) -> TopicError {
    TopicError::new(
        ErrorCode::InvalidConfig,
        format!("unknown topic config {key}"),
    )
}

/// The value after an operation; `None` goes back to the default.
fn changed_value(
    key: &str,
    kind: ConfigKind,
    op: AlterOp,
    value: Option<String>,
    present: Option<String>,
) -> Result<Option<String>, TopicError> {
    let value = match (op, value) {
        (AlterOp::Delete, _) => return Ok(None),
        (_, Some(value)) => value,
        (_, None) => {
            let message = format!("config {key} has no value");
            return Err(TopicError::new(ErrorCode::InvalidRequest, message));
        }
    };
    if op == AlterOp::Set {
        return Ok(Some(value));
    }
    if kind != ConfigKind::List {
        let message = format!("config {key} is not a list: it can only be set or deleted");
        return Err(TopicError::new(ErrorCode::InvalidConfig, message));
    }
    let split = |list: &str| -> Vec<String> {
        list.split(',')
            .map(str::trim)
            .filter(|item| !item.is_empty())
            .map(str::to_owned)
            .collect()
    };
    let mut items = split(&present.unwrap_or_default());
    for item in split(&value) {
        match op {
            AlterOp::Append if !items.contains(&item) => items.push(item),
            AlterOp::Subtract => items.retain(|present| *present != item),
            _ => {}
        }
    }
    Ok(Some(items.join(",")))
}
