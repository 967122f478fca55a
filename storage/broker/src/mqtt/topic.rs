//! Topic names and filters of MQTT: legality and matching (MQTT 5.0 section 4.7). Pure.

/// The longest topic name or filter, in bytes of UTF-8: MQTT's strings carry a 16-bit length.
pub(crate) const TOPIC_BYTES_MAX: usize = 65_535;

/// The prefix of a shared subscription (MQTT 5.0 section 4.8.2).
const SHARE_PREFIX: &str = "$share/";

/// Whether `topic` may name a message: not empty, at most 65,535 bytes, no wildcard, no NUL.
pub(crate) fn is_legal_name(topic: &str) -> bool {
    !topic.is_empty()
        && topic.len() <= TOPIC_BYTES_MAX
        && !topic.bytes().any(|byte| matches!(byte, b'+' | b'#' | 0))
}

/// Whether `filter` is a legal topic filter: `+` fills a level, `#` fills the last one.
pub(crate) fn is_legal_filter(filter: &str) -> bool {
    if filter.is_empty() || filter.len() > TOPIC_BYTES_MAX || filter.contains('\0') {
        return false;
    }
    let mut levels = filter.split('/').peekable();
    while let Some(level) = levels.next() {
        let is_last = levels.peek().is_none();
        let legal = match level {
            "+" => true,
            "#" => is_last,
            _ => !level.contains(['+', '#']),
        };
        if !legal {
            return false;
        }
    }
    true
}

/// The number of levels: one more than the number of `/`.
pub(crate) fn level_count(topic: &str) -> usize {
    topic.bytes().filter(|byte| *byte == b'/').count() + 1
}

/// What comes before the first `/`, and what comes after it if there is one.
pub(crate) fn split_first_level(topic: &str) -> (&str, Option<&str>) {
    match topic.split_once('/') {
        Some((first, rest)) => (first, Some(rest)),
        None => (topic, None),
    }
}

/// Whether `filter` (legal) matches the topic name `topic`.
pub(crate) fn matches(filter: &str, topic: &str) -> bool {
    if topic.starts_with('$') && filter.starts_with(['+', '#']) {
        return false;
    }
    let mut names = topic.split('/');
    for level in filter.split('/') {
        if level == "#" {
            return true;
        }
        match names.next() {
            Some(name) if level == "+" || level == name => {}
            _ => return false,
        }
    }
    names.next().is_none()
}

/// What a filter in SUBSCRIBE stands for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum ParsedFilter<'a> {
    /// An ordinary filter.
    Plain(&'a str),
    /// `$share/{group}/{filter}`.
    Shared {
        /// The name of the group.
        group: &'a str,
        /// The filter that the group shares.
        filter: &'a str,
    },
}

/// Parses a filter as SUBSCRIBE carries it; `None` if it is illegal.
pub(crate) fn parse_filter(filter: &str) -> Option<ParsedFilter<'_>> {
    let parsed = match filter.strip_prefix(SHARE_PREFIX) {
        None if filter == "$share" => return None,
        None => ParsedFilter::Plain(filter),
        Some(rest) => {
            let (group, filter) = rest.split_once('/')?;
            if group.is_empty() || group.contains(['+', '#']) {
                return None;
            }
            ParsedFilter::Shared { group, filter }
        }
    };
    let (ParsedFilter::Plain(plain) | ParsedFilter::Shared { filter: plain, .. }) = &parsed;
    is_legal_filter(plain).then_some(parsed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_match_as_the_specification_says() {
        for (filter, topic, expected) in [
            ("sport/tennis/player1/#", "sport/tennis/player1", true),
            (
                "sport/tennis/player1/#",
                "sport/tennis/player1/score/wimbledon",
                true,
            ),
            ("sport/tennis/+", "sport/tennis/player1/ranking", false),
            ("sport/+", "sport", false),
            ("sport/+", "sport/", true),
            ("+/+", "/finance", true),
            ("/+", "/finance", true),
            ("+", "/finance", false),
            ("#", "$SYS/x", false),
            ("+/x", "$SYS/x", false),
            ("$SYS/#", "$SYS/x", true),
            ("é/1", "é/1", true),
            ("a", "a/b", false),
        ] {
            assert_eq!(matches(filter, topic), expected, "{filter} {topic}");
        }
    }

    #[test]
    fn illegal_filters_are_refused() {
        for filter in [
            "",
            "a/#/b",
            "a+",
            "+a/b",
            "a#",
            "$share/g",
            "$share//x",
            "$share/a+b/x",
            "$share/g/",
            "a\0",
        ] {
            assert_eq!(parse_filter(filter), None, "{filter:?}");
        }
        assert_eq!(
            parse_filter("$share/g/a/+"),
            Some(ParsedFilter::Shared {
                group: "g",
                filter: "a/+"
            })
        );
        assert_eq!(parse_filter("+/a/#"), Some(ParsedFilter::Plain("+/a/#")));
        assert!(!is_legal_name("a/+") && !is_legal_name("") && is_legal_name("/"));
    }
}
