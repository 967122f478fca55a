//! Topic names, topic filters, and matching.

use proptest::prelude::*;

use crate::codec::{
    TopicFilter, TopicName, Utf8Str,
    topic::{TopicError, matches},
};

fn filter(text: &str) -> Result<TopicFilter, TopicError> {
    TopicFilter::parse(Utf8Str::copy_from(text).unwrap())
}

fn name(text: &str) -> Result<TopicName, TopicError> {
    TopicName::parse(Utf8Str::copy_from(text).unwrap())
}

#[test]
fn names_have_characters_and_no_wildcards() {
    for legal in [
        "a",
        "/",
        "//",
        "a/b",
        "/a",
        "a/",
        " ",
        "$SYS/x",
        "é/1",
        "😀",
        "\u{FEFF}a",
    ] {
        assert!(name(legal).is_ok(), "{legal}");
    }
    assert_eq!(name(""), Err(TopicError::Empty));
    for illegal in ["+", "#", "a/+", "a/#", "a+", "#a"] {
        assert_eq!(name(illegal), Err(TopicError::WildcardInName), "{illegal}");
    }
}

#[test]
fn wildcards_stand_alone_and_the_multi_level_one_is_last() {
    for legal in [
        "#", "+", "a/#", "+/#", "/+", "+/+", "a/+/b", "/", "$SYS/#", "+/a/#",
    ] {
        assert!(filter(legal).is_ok(), "{legal}");
    }
    assert_eq!(filter(""), Err(TopicError::Empty));
    for illegal in [
        "a/#/b", "a+", "+a", "a+/b", "a#", "#/", "#/a", "##", "++", "a/b#", "a/#b",
    ] {
        assert_eq!(filter(illegal), Err(TopicError::WildcardPlace), "{illegal}");
    }
}

#[test]
fn shared_subscriptions_have_a_group_and_a_filter() {
    for (whole, group, inner) in [
        ("$share/g/a", "g", "a"),
        ("$share/g/#", "g", "#"),
        ("$share/g//", "g", "/"),
        ("$share/$x/+/b", "$x", "+/b"),
    ] {
        let filter = filter(whole).unwrap();
        assert_eq!(filter.share(), Some((group, inner)));
        assert_eq!(filter.matched(), inner);
        assert!(filter.is_shared());
        assert_eq!(filter.levels(), inner.split('/').count());
    }
    for illegal in [
        "$share",
        "$share/",
        "$share/g",
        "$share/g/",
        "$share//x",
        "$share/a+b/x",
        "$share/#/x",
    ] {
        assert_eq!(filter(illegal), Err(TopicError::Share), "{illegal}");
    }
    assert_eq!(filter("$share/g/a#"), Err(TopicError::WildcardPlace));
    let ordinary = filter("$shared/g/a").unwrap();
    assert_eq!(
        (ordinary.share(), ordinary.matched()),
        (None, "$shared/g/a")
    );
}

#[test]
fn matching_follows_the_examples_of_the_standard() {
    let table = [
        ("sport/tennis/player1/#", "sport/tennis/player1", true),
        (
            "sport/tennis/player1/#",
            "sport/tennis/player1/ranking",
            true,
        ),
        (
            "sport/tennis/player1/#",
            "sport/tennis/player1/score/wimbledon",
            true,
        ),
        ("sport/#", "sport", true),
        ("sport/#", "sports", false),
        ("sport/tennis/+", "sport/tennis/player1", true),
        ("sport/tennis/+", "sport/tennis/player1/ranking", false),
        ("sport/+", "sport", false),
        ("sport/+", "sport/", true),
        ("+/+", "/finance", true),
        ("/+", "/finance", true),
        ("+", "/finance", false),
        ("#", "$SYS/x", false),
        ("+/monitor/Clients", "$SYS/monitor/Clients", false),
        ("$SYS/#", "$SYS/", true),
        ("$SYS/#", "$SYS", true),
        ("$SYS/monitor/+", "$SYS/monitor/Clients", true),
        ("#", "é/1", true),
        ("+/1", "é/1", true),
        ("a/$x/#", "a/$x/b", true),
        ("a/+", "a/$x", true),
        ("A", "a", false),
        ("/a", "a", false),
        ("a", "a/", false),
    ];
    for (filter, topic, expected) in table {
        assert_eq!(matches(filter, topic), expected, "{filter} {topic}");
    }
}

fn topic() -> impl Strategy<Value = String> {
    prop::collection::vec("[ab$é]{0,2}", 1..6).prop_map(|levels| match levels.join("/") {
        empty if empty.is_empty() => "/".to_owned(),
        topic => topic,
    })
}

proptest! {
    #[test]
    fn a_topic_is_matched_by_itself(topic in topic()) {
        prop_assert!(matches(&topic, &topic));
    }

    /// Replacing a level by `+`, or a tail (also an empty one) by `#`, never loses the topic,
    /// unless the wildcard is first and the topic begins with `$`.
    #[test]
    fn a_wildcard_matches_more(topic in topic(), at in 0usize..6) {
        let levels: Vec<&str> = topic.split('/').collect();
        let at = at.min(levels.len() - 1);
        let hidden = at == 0 && topic.starts_with('$');
        let mut single = levels.clone();
        single[at] = "+";
        prop_assert_eq!(matches(&single.join("/"), &topic), !hidden);
        let mut multi = levels[..at].to_vec();
        multi.push("#");
        prop_assert_eq!(matches(&multi.join("/"), &topic), !hidden);
        let parent = [topic.as_str(), "#"].join("/");
        prop_assert!(matches(&parent, &topic));
        let sibling = [topic.as_str(), "+"].join("/");
        prop_assert!(!matches(&sibling, &topic));
    }

    #[test]
    fn no_string_panics(text in any::<String>()) {
        if let Ok(text) = Utf8Str::copy_from(&text) {
            let _ = TopicName::parse(text.clone());
            if let Ok(filter) = TopicFilter::parse(text.clone()) {
                let shared = filter.share().is_some();
                prop_assert_eq!(shared, filter.is_shared());
            }
            let _ = matches(text.as_str(), "é/1");
        }
    }
}
