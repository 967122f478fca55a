//! The topics in a consumer's subscription (`ConsumerProtocolSubscription`, versions 0 on).
//!
//! The metadata of a member is opaque to the coordinator; only its beginning is looked at, to know
//! which offsets are still in use and whether a static member came back with other topics:
//!
//! ```text
//! i16 version | i32 count | count x (i16 length | name) | user data, owned partitions, …
//! ```

use std::collections::BTreeSet;

use super::wire::Reader;

/// The topics, or none when the bytes are not a subscription.
pub(crate) fn topics(metadata: &[u8]) -> Option<BTreeSet<String>> {
    let mut reader = Reader::new(metadata);
    let version = reader.i16().ok()?;
    if version < 0 {
        return None;
    }
    let count = reader.i32().ok()?;
    let mut topics = BTreeSet::new();
    // A count that the bytes cannot hold ends at the first name that is missing.
    for _ in 0..u32::try_from(count).ok()? {
        topics.insert(reader.string().ok()?);
    }
    Some(topics)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics_of_a_subscription_are_found_and_rubbish_is_not() {
        let bytes = b"\0\x01\0\0\0\x02\0\x01a\0\x02bc\xff\xff\xff\xff";
        let expected = ["a", "bc"].map(str::to_owned).into_iter().collect();
        assert_eq!(topics(bytes), Some(expected));
        assert_eq!(topics(b"\0\0\0\0\0\0"), Some(BTreeSet::new()));
        assert_eq!(topics(b""), None);
        assert_eq!(topics(b"\0\0\x7f\xff\xff\xff\0\x01a"), None);
        assert_eq!(topics(b"\0\0\xff\xff\xff\xff"), None);
    }
}
