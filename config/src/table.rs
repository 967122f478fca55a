//! The table of broker keys, put together from those of the sections.

use std::{collections::HashMap, sync::LazyLock};

use crate::{
    cluster, kafka, mqtt,
    node::{self, Config},
    storage, topic,
    value::{Allowed, ConfigKind},
};

/// One setting of the process.
#[derive(Debug, Clone)]
pub struct BrokerKey {
    /// The dotted name.
    pub name: &'static str,
    /// The type that DescribeConfigs reports.
    pub kind: ConfigKind,
    /// One sentence or two, for people.
    pub doc: &'static str,
    /// The default, as text.
    pub default: String,
    /// What is accepted.
    pub allowed: Allowed,
    /// Whether it can change only with a restart: so far, every one.
    pub read_only: bool,
    /// The heading in the reference file.
    pub(crate) section: &'static str,
    pub(crate) set: fn(&mut Config, &str) -> Result<(), String>,
    pub(crate) get: fn(&Config) -> String,
}

/// Declares a section: the struct, its defaults and its keys.
///
/// `at root` puts the fields into [`Config`] itself, `at x` into its field `x`. `also` lists fields
/// that are no keys; they start at their own default.
macro_rules! section {
    (
        $(#[doc = $about:literal])*
        pub struct $name:ident, at $at:ident, titled $title:literal {
            $(
                $(#[doc = $doc:literal])*
                $key:literal => $field:ident: $type:ty = $default:expr, $kind:ident, $allowed:expr;
            )*
        }
        also {
            $(
                $(#[doc = $also_doc:literal])*
                $also:ident: $also_type:ty,
            )*
        }
    ) => {
        $(#[doc = $about])*
        #[derive(Debug, Clone, PartialEq)]
        pub struct $name {
            $(
                $(#[doc = $doc])*
                #[doc = concat!("\n\nKey `", $key, "`.")]
                pub $field: $type,
            )*
            $(
                $(#[doc = $also_doc])*
                pub $also: $also_type,
            )*
        }

        impl Default for $name {
            fn default() -> Self {
                Self {
                    $($field: $default,)*
                    $($also: Default::default(),)*
                }
            }
        }

        /// The keys of this section.
        pub(crate) fn keys(defaults: &$crate::node::Config) -> Vec<$crate::table::BrokerKey> {
            vec![$({
                let get: fn(&$crate::node::Config) -> String = |config| {
                    $crate::value::Setting::show(&$crate::table::field!(config, $at, $field))
                };
                $crate::table::BrokerKey {
                    name: $key,
                    kind: $crate::value::ConfigKind::$kind,
                    doc: concat!($($doc),*).trim_ascii(),
                    default: get(defaults),
                    allowed: $allowed,
                    read_only: true,
                    section: $title,
                    set: |config, text| {
                        $crate::value::assign(
                            &mut $crate::table::field!(config, $at, $field),
                            text,
                            &$allowed,
                        )
                    },
                    get,
                }
            }),*]
        }
    };
}

/// A field of a section, as a place.
macro_rules! field {
    ($config:ident, root, $field:ident) => {
        $config.$field
    };
    ($config:ident, $at:ident, $field:ident) => {
        $config.$at.$field
    };
}

pub(crate) use {field, section};

static KEYS: LazyLock<Vec<BrokerKey>> = LazyLock::new(|| {
    let defaults = Config::default();
    let mut keys = node::keys(&defaults);
    keys.extend(cluster::keys(&defaults));
    keys.extend(kafka::keys(&defaults));
    keys.extend(kafka::group::keys(&defaults));
    keys.extend(mqtt::keys(&defaults));
    keys.extend(storage::keys(&defaults));
    let of_topics = topic::synonym_keys(&defaults);
    // A synonym that the storage section declares too is that section's key; `Config::settle`
    // copies it to the topic defaults.
    let own: Vec<BrokerKey> = of_topics
        .into_iter()
        .filter(|of_topic| keys.iter().all(|key| key.name != of_topic.name))
        .collect();
    keys.extend(own);
    keys
});

static BY_NAME: LazyLock<HashMap<&'static str, usize>> = LazyLock::new(|| {
    let entries = KEYS.iter().enumerate();
    entries.map(|(index, key)| (key.name, index)).collect()
});

/// Every broker key, in the order of the reference file.
pub fn broker_keys() -> &'static [BrokerKey] {
    &KEYS
}

/// The broker key of that name.
pub fn broker_key(name: &str) -> Option<&'static BrokerKey> {
    BY_NAME.get(name).and_then(|index| KEYS.get(*index))
}
