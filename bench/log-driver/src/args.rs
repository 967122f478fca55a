//! The command line: a measure, a directory, and numbers or words by name.

use std::{collections::BTreeMap, path::PathBuf, str::FromStr, time::Duration};

use mainstem_log::Flush;

use crate::Outcome;

/// As the broker has it by default.
const INTERVAL: Flush = Flush::Interval {
    bytes: 1 << 20,
    time: Duration::from_millis(50),
};

/// What a measure is told. Every measure ends reading it with [`Args::all_read`].
pub(crate) struct Args {
    measure: String,
    dir: PathBuf,
    values: BTreeMap<String, String>,
}

/// The flush policy of partitions.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Policy {
    /// The same one for all.
    One(Flush),
    /// Each in turn.
    Mixed,
}

// === impl Args ===

impl Args {
    pub(crate) fn from_command_line() -> Outcome<Self> {
        let mut words = std::env::args().skip(1);
        let measure = words.next().ok_or("no measure")?;
        let dir = words.next().ok_or("no directory")?.into();
        let mut values = BTreeMap::new();
        for word in words {
            let (key, value) = word.split_once('=').ok_or("not key=value")?;
            values.insert(key.to_owned(), value.to_owned());
        }
        Ok(Self {
            measure,
            dir,
            values,
        })
    }

    pub(crate) fn measure(&self) -> &str {
        &self.measure
    }

    pub(crate) fn dir(&self) -> PathBuf {
        self.dir.clone()
    }

    /// The value of `key` if it is given.
    pub(crate) fn optional<T: FromStr>(&mut self, key: &str) -> Outcome<Option<T>> {
        let Some(value) = self.values.remove(key) else {
            return Ok(None);
        };
        match value.parse() {
            Ok(value) => Ok(Some(value)),
            Err(_) => Err(format!("{key}={value} cannot be read").into()),
        }
    }

    /// The value of `key`, or else `default`.
    pub(crate) fn get<T: FromStr>(&mut self, key: &str, default: T) -> Outcome<T> {
        Ok(self.optional(key)?.unwrap_or(default))
    }

    /// Nothing may be left over: a misspelt key would measure something else.
    pub(crate) fn all_read(self) -> Outcome<()> {
        match self.values.into_keys().next() {
            Some(key) => Err(format!("this measure has no {key}").into()),
            None => Ok(()),
        }
    }
}

// === impl Policy ===

impl FromStr for Policy {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "os" => Ok(Self::One(Flush::Os)),
            "interval" => Ok(Self::One(INTERVAL)),
            "always" => Ok(Self::One(Flush::Always)),
            "mixed" => Ok(Self::Mixed),
            _ => Err(()),
        }
    }
}

impl Policy {
    /// That of partition `index`.
    pub(crate) fn of(self, index: i32) -> Flush {
        match self {
            Self::One(flush) => flush,
            Self::Mixed => match index % 3 {
                0 => Flush::Os,
                1 => INTERVAL,
                _ => Flush::Always,
            },
        }
    }
}
