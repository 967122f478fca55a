//! Topic names and topic filters (4.7, 4.8): what is legal, and what matches what.

use std::fmt;

use super::{DecodeError, Utf8Str};

/// The first level of a shared subscription.
const SHARE: &[u8] = b"$share";

/// Why a string is no topic name or filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TopicError {
    /// No character at all.
    #[error("topic is empty")]
    Empty,
    /// `+` or `#` in a topic name.
    #[error("topic name contains a wildcard")]
    WildcardInName,
    /// `+` beside other characters of its level, or `#` not alone in the last level.
    #[error("wildcard does not stand alone in its level, or # is not last")]
    WildcardPlace,
    /// `$share` without a group, with an illegal group, or without a filter.
    #[error("shared subscription is not $share/group/filter")]
    Share,
}

impl From<TopicError> for DecodeError {
    fn from(error: TopicError) -> Self {
        DecodeError::malformed(match error {
            TopicError::Empty => "topic is empty",
            TopicError::WildcardInName => "topic name contains a wildcard",
            TopicError::WildcardPlace => "misplaced wildcard in topic filter",
            TopicError::Share => "shared subscription is not $share/group/filter",
        })
    }
}

/// A legal topic name: not empty, no wildcard. `$` topics are legal here.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TopicName(Utf8Str);

impl TopicName {
    /// Checks a string; no copy.
    ///
    /// # Errors
    /// See [`TopicError`].
    pub fn parse(text: Utf8Str) -> Result<Self, TopicError> {
        check_name(text.as_bytes())?;
        Ok(Self(text))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }

    /// Levels of the name: one more than it has slashes.
    pub fn levels(&self) -> usize {
        levels(self.0.as_bytes())
    }

    /// The name as the protocol string that it is; its bytes are free to look at.
    pub fn text(&self) -> &Utf8Str {
        &self.0
    }

    /// A copy in memory of its own.
    #[must_use]
    pub fn detached(&self) -> Self {
        Self(self.0.detached())
    }
}

/// A legal topic filter, with or without `$share/group/` in front.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TopicFilter(Utf8Str);

impl TopicFilter {
    /// Checks a string; no copy.
    ///
    /// # Errors
    /// See [`TopicError`].
    pub fn parse(text: Utf8Str) -> Result<Self, TopicError> {
        check_filter(text.as_bytes())?;
        Ok(Self(text))
    }

    /// The whole filter, as the client wrote it.
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }

    /// Levels of the filter, a share prefix not counted.
    pub fn levels(&self) -> usize {
        let shared = if self.is_shared() { 2 } else { 0 };
        levels(self.0.as_bytes()).saturating_sub(shared)
    }

    /// The whole filter as the protocol string that it is.
    pub fn text(&self) -> &Utf8Str {
        &self.0
    }

    /// Group and inner filter of a shared subscription, or `None` for an ordinary one.
    pub fn share(&self) -> Option<(&str, &str)> {
        self.as_str()
            .strip_prefix("$share/")
            .and_then(|rest| rest.split_once('/'))
    }

    /// Whether this is a shared subscription.
    pub fn is_shared(&self) -> bool {
        split_share(self.0.as_bytes()).is_some()
    }

    /// What topics are matched against: the filter without a share prefix.
    pub fn matched(&self) -> &str {
        self.share()
            .map_or_else(|| self.as_str(), |(_, filter)| filter)
    }

    /// A copy in memory of its own.
    #[must_use]
    pub fn detached(&self) -> Self {
        Self(self.0.detached())
    }
}

macro_rules! show_as_text {
    ($($name:ident),*) => {$(
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(self.as_str(), f)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }
    )*};
}

show_as_text!(TopicName, TopicFilter);

/// Whether `filter` (without a share prefix) matches `topic`. The reference for whatever index the
/// broker keeps; both are taken to be legal.
///
/// `+` stands for one level, `#` for any number of them, none included; neither stands at the start
/// for a level that begins with `$` (4.7.2).
pub fn matches(filter: &str, topic: &str) -> bool {
    if topic.starts_with('$') && filter.starts_with(['+', '#']) {
        return false;
    }
    let mut filter = filter.split('/');
    let mut topic = topic.split('/');
    loop {
        match (filter.next(), topic.next()) {
            (Some("#"), _) | (None, None) => return true,
            (Some("+"), Some(_)) => {}
            (Some(wanted), Some(level)) if wanted == level => {}
            _ => return false,
        }
    }
}

fn levels(bytes: &[u8]) -> usize {
    1 + bytes.iter().filter(|&&byte| byte == b'/').count()
}

/// The rules of topic names, on bytes that are a protocol string.
pub(crate) fn check_name(bytes: &[u8]) -> Result<(), TopicError> {
    if bytes.is_empty() {
        return Err(TopicError::Empty);
    }
    if bytes.iter().any(|&byte| byte == b'+' || byte == b'#') {
        return Err(TopicError::WildcardInName);
    }
    Ok(())
}

/// The rules of topic filters, on bytes that are a protocol string.
fn check_filter(bytes: &[u8]) -> Result<(), TopicError> {
    let filter = match split_share(bytes) {
        Some(shared) => {
            let at = shared
                .iter()
                .position(|&byte| byte == b'/')
                .ok_or(TopicError::Share)?;
            let (group, rest) = shared.split_at(at);
            let filter = rest.get(1..).unwrap_or_default();
            let legal = !group.is_empty() && !group.iter().any(|byte| b"+#".contains(byte));
            if !legal || filter.is_empty() {
                return Err(TopicError::Share);
            }
            filter
        }
        None => bytes,
    };
    if filter.is_empty() {
        return Err(TopicError::Empty);
    }
    let mut levels = filter.split(|&byte| byte == b'/').peekable();
    while let Some(level) = levels.next() {
        let legal = match level {
            b"+" => true,
            b"#" => levels.peek().is_none(),
            _ => !level.iter().any(|byte| b"+#".contains(byte)),
        };
        if !legal {
            return Err(TopicError::WildcardPlace);
        }
    }
    Ok(())
}

/// What follows `$share/`; the empty slice for a bare `$share`, which is then refused: as an
/// ordinary filter it could match nothing that anyone can publish.
fn split_share(bytes: &[u8]) -> Option<&[u8]> {
    match bytes.strip_prefix(SHARE) {
        Some([]) => Some(&[]),
        Some([b'/', rest @ ..]) => Some(rest),
        _ => None,
    }
}
