//! What is wrong with a configuration, and where.

use std::{fmt, io, path::PathBuf};

/// Where a value was set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// Nowhere: it is the default.
    Default,
    /// A line of the file, from 1 on.
    File {
        /// The file as it was named.
        path: PathBuf,
        /// The line.
        line: usize,
    },
    /// A variable of the environment.
    Env {
        /// The name of the variable.
        name: String,
    },
    /// The command line.
    CommandLine,
}

/// What is wrong.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// There is no such key.
    #[error("there is no such key{}", suggestion.as_ref().map(|s| format!("; did you mean {s}?")).unwrap_or_default())]
    UnknownKey {
        /// The nearest key, written as it would be in this place.
        suggestion: Option<String>,
    },
    /// The value is not allowed.
    #[error("{value:?} is not allowed: {reason}")]
    Invalid {
        /// The value as given.
        value: String,
        /// What is allowed.
        reason: String,
    },
    /// The same key twice in the file, in two ways of writing it.
    #[error("it is already set on line {first_line}")]
    Duplicate {
        /// Where it was set first.
        first_line: usize,
    },
    /// The listener can be reached from outside.
    #[error(
        "listen on {address} is reachable from other machines and there is no authentication yet: add --insecure to allow it"
    )]
    Exposed {
        /// The address.
        address: std::net::SocketAddr,
    },
    /// Other machines reach nodes that prove nothing.
    #[error("{address} is reachable from other machines: nodes there need cluster.secret")]
    SecretNeeded {
        /// The address.
        address: String,
    },
    /// Nodes cannot connect to what would be advertised.
    #[error(
        "other nodes cannot connect to {address}: set cluster.advertise to the host:port they use"
    )]
    NotReachable {
        /// The listening address.
        address: std::net::SocketAddr,
    },
    /// There is nothing to advertise.
    #[error("cluster.advertise needs cluster.listen or cluster.seeds")]
    NotListening,
    /// Two listeners want the same address.
    #[error("{address} is already taken by {other}")]
    SameAddress {
        /// The address.
        address: std::net::SocketAddr,
        /// The key of the other listener.
        other: &'static str,
    },
    /// No client can connect to what would be advertised.
    #[error(
        "Kafka clients cannot connect to {address}: set kafka.advertise to the host:port they use"
    )]
    NotAdvertisable {
        /// The listening address.
        address: std::net::SocketAddr,
    },
    /// A value is larger than another that bounds it.
    #[error("{value} is more than {other}, which is {bound}")]
    AboveOther {
        /// The value.
        value: i128,
        /// The key that bounds it.
        other: &'static str,
        /// The value of that key.
        bound: i128,
    },
    /// The file is no TOML.
    #[error("{0}")]
    Syntax(String),
    /// The file cannot be read.
    #[error("cannot be read: {0}")]
    Unreadable(#[source] io::Error),
}

/// One thing that is wrong.
#[derive(Debug, thiserror::Error)]
#[error("{place}: {}{problem}", if key.is_empty() { String::new() } else { format!("{key}: ") })]
pub struct ConfigError {
    /// Where the value was set.
    pub place: Place,
    /// The key; empty if it concerns the whole file.
    pub key: String,
    /// What is wrong.
    pub problem: Problem,
}

/// Everything that is wrong. Shown one a line: `place: key: what is wrong, what is allowed`.
#[derive(Debug, thiserror::Error)]
pub struct ConfigErrors(pub Vec<ConfigError>);

// === impl Place ===

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { path, line } if *line == 0 => path.display().fmt(f),
            Self::File { path, line } => write!(f, "{}:{line}", path.display()),
            Self::Env { name } => write!(f, "environment variable {name}"),
            Self::CommandLine => f.write_str("command line"),
        }
    }
}

// === impl ConfigErrors ===

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            error.fmt(f)?;
        }
        Ok(())
    }
}
