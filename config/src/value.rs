//! How the text of a value becomes a typed one, and what is allowed.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
};

/// The type of a key, with the codes of Kafka's DescribeConfigs response (KIP-569).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i8)]
pub enum ConfigKind {
    /// `true` or `false`.
    Boolean = 1,
    /// Text.
    String = 2,
    /// A signed 32-bit integer.
    Int = 3,
    /// A signed 16-bit integer.
    Short = 4,
    /// A signed 64-bit integer.
    Long = 5,
    /// A floating point number.
    Double = 6,
    /// Texts, separated by commas.
    List = 7,
    /// The name of a Java class; none of ours.
    Class = 8,
    /// A secret, never shown.
    Password = 9,
}

/// What a key accepts.
#[derive(Debug, Clone, Copy)]
pub enum Allowed {
    /// Whatever the type accepts; the text describes it.
    Any(&'static str),
    /// An integer within bounds, both included.
    Int {
        /// The smallest value.
        min: i128,
        /// The largest value.
        max: i128,
    },
    /// A number from 0 to 1.
    Ratio,
    /// One of these words.
    OneOf(&'static [&'static str]),
    /// What the function accepts; the text describes it.
    Matching(fn(&str) -> bool, &'static str),
    /// One value only, because of what is not built yet.
    Only(&'static str, &'static str),
}

/// A type that a key can have.
pub(crate) trait Setting: Sized {
    /// The typed value of a trimmed text; `None` if it has none.
    fn parse(text: &str) -> Option<Self>;
    /// The text that [`Self::parse`] turns into this value.
    fn show(&self) -> String;
}

// === impl ConfigKind ===

impl ConfigKind {
    /// The code in a DescribeConfigs response.
    pub fn code(self) -> i8 {
        self as i8
    }
}

// === impl Allowed ===

/// An integer from `min` to `max`.
pub(crate) const fn ints(min: i128, max: i128) -> Allowed {
    Allowed::Int { min, max }
}

/// A 32-bit integer from `min` on.
pub(crate) const fn int_from(min: i128) -> Allowed {
    ints(min, i32::MAX as i128)
}

/// A 64-bit integer from `min` on.
pub(crate) const fn long_from(min: i128) -> Allowed {
    ints(min, i64::MAX as i128)
}

impl Allowed {
    /// Whether a trimmed text is within. Types parse on top of it.
    pub(crate) fn permits(&self, text: &str) -> bool {
        match *self {
            Self::Any(_) => true,
            Self::Int { min, max } => text
                .parse::<i128>()
                .is_ok_and(|value| (min..=max).contains(&value)),
            Self::Ratio => text
                .parse::<f64>()
                .is_ok_and(|value| (0.0..=1.0).contains(&value)),
            Self::OneOf(words) => words.contains(&text),
            Self::Matching(matches, _) => matches(text),
            Self::Only(word, _) => word.eq_ignore_ascii_case(text),
        }
    }
}

impl fmt::Display for Allowed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Any(what) | Self::Matching(_, what) => f.write_str(what),
            Self::Int { min, max } if max == i32::MAX.into() || max == i64::MAX.into() => {
                write!(f, "an integer of {min} or more, up to {max}")
            }
            Self::Int { min, max } => write!(f, "an integer from {min} to {max}"),
            Self::Ratio => f.write_str("a number from 0 to 1"),
            Self::OneOf(words) => write!(f, "one of {}", words.join(", ")),
            Self::Only(word, why) => write!(f, "{word} ({why})"),
        }
    }
}

/// Sets `slot` from a text, or tells what is allowed.
pub(crate) fn assign<T: Setting>(
    slot: &mut T,
    text: &str,
    allowed: &Allowed,
) -> Result<(), String> {
    let text = text.trim();
    match T::parse(text).filter(|_| allowed.permits(text)) {
        Some(value) => {
            *slot = value;
            Ok(())
        }
        None => Err(format!("expected {allowed}")),
    }
}

// === impl Setting ===

macro_rules! number_settings {
    ($($type:ty),*) => {$(
        impl Setting for $type {
            fn parse(text: &str) -> Option<Self> {
                text.parse().ok()
            }

            fn show(&self) -> String {
                self.to_string()
            }
        }
    )*};
}

number_settings!(i16, i32, i64, u8, u16, u32, u64, usize);

impl Setting for f64 {
    fn parse(text: &str) -> Option<Self> {
        text.parse().ok().filter(|value: &f64| value.is_finite())
    }

    fn show(&self) -> String {
        // The form of Java's `Double.toString` for such values: 1.0, not 1.
        format!("{self:?}")
    }
}

impl Setting for bool {
    fn parse(text: &str) -> Option<Self> {
        // As Kafka: any case, no other words.
        if text.eq_ignore_ascii_case("true") {
            Some(true)
        } else if text.eq_ignore_ascii_case("false") {
            Some(false)
        } else {
            None
        }
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

impl Setting for String {
    fn parse(text: &str) -> Option<Self> {
        Some(text.to_owned())
    }

    fn show(&self) -> String {
        self.clone()
    }
}

/// An empty text is none.
impl Setting for Option<String> {
    fn parse(text: &str) -> Option<Self> {
        Some((!text.is_empty()).then(|| text.to_owned()))
    }

    fn show(&self) -> String {
        self.clone().unwrap_or_default()
    }
}

/// Separated by commas; an empty text is no item.
impl Setting for Vec<String> {
    fn parse(text: &str) -> Option<Self> {
        if text.is_empty() {
            return Some(Self::new());
        }
        let items = text.split(',').map(|item| item.trim().to_owned());
        Some(items.collect())
    }

    fn show(&self) -> String {
        self.join(",")
    }
}

/// An empty text is none.
impl Setting for Option<SocketAddr> {
    fn parse(text: &str) -> Option<Self> {
        if text.is_empty() {
            return Some(None);
        }
        text.parse().ok().map(Some)
    }

    fn show(&self) -> String {
        self.map(|address| address.to_string()).unwrap_or_default()
    }
}

impl Setting for PathBuf {
    fn parse(text: &str) -> Option<Self> {
        (!text.is_empty()).then(|| Self::from(text))
    }

    fn show(&self) -> String {
        self.to_string_lossy().into_owned()
    }
}

impl Setting for SocketAddr {
    fn parse(text: &str) -> Option<Self> {
        text.parse().ok()
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

/// Implements [`Setting`] for an enum of words.
macro_rules! words {
    ($type:ty { $($word:literal => $value:expr),* $(,)? }) => {
        impl $crate::value::Setting for $type {
            fn parse(text: &str) -> Option<Self> {
                $(if text == $word {
                    return Some($value);
                })*
                None
            }

            fn show(&self) -> String {
                $(if *self == $value {
                    return $word.to_owned();
                })*
                String::new()
            }
        }
    };
}

pub(crate) use words;

// === what several keys allow ===

/// A boolean.
pub(crate) const BOOLEAN: Allowed = Allowed::Any("true or false");
/// An address to listen on.
pub(crate) const LISTEN: Allowed = Allowed::Any(
    "an IP address and a port, for instance 127.0.0.1:9092 or [::1]:9092; port 0 takes a free one",
);
/// A path.
pub(crate) const PATH: Allowed = Allowed::Any("a path that is not empty");
/// Text.
pub(crate) const TEXT: Allowed = Allowed::Matching(|text| !text.is_empty(), "text, not empty");

/// An address of loopback, for defaults.
pub(crate) const fn loopback(port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port)
}
