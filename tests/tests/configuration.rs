//! The configuration from outside: everything wrong is reported at once with its place, and what is
//! dangerous needs to be asked for.

use std::fs;

use mainstem_tests::{Node, NodeOptions, run_to_end};

#[test]
fn everything_wrong_is_reported_at_once_with_its_place() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("mainstem.toml");
    let text = "num.partitions = 0\n[mqtt]\nlistne = \"127.0.0.1:1\"\n\n[no.such]\nkey = 1\n";
    fs::write(&file, text).expect("write");
    let name = file.to_str().expect("a path");
    let arguments = [
        "serve",
        "--config",
        name,
        "--set",
        "flag.unknown=1",
        "--set",
        "group.min.session.timeout.ms=soon",
        "--kafka-listen",
        "nowhere",
    ];
    let environment = [
        ("MAINSTEM_MQTT_RECEIVE_MAXIMUM", "0"),
        ("MAINSTEM_NO_SUCH_KEY", "1"),
    ];
    let ended = run_to_end(&arguments, &environment);
    assert_eq!(ended.status.code(), Some(2), "{}", ended.text());
    for text in [
        &format!("{name}:1"),
        "num.partitions",
        &format!("{name}:3"),
        "mqtt.listne",
        &format!("{name}:6"),
        "no.such.key",
        "flag.unknown",
        "group.min.session.timeout.ms",
        "kafka.listen",
        "MAINSTEM_MQTT_RECEIVE_MAXIMUM",
        "MAINSTEM_NO_SUCH_KEY",
    ] {
        assert!(
            ended.stderr.contains(text),
            "{text} is not in:\n{}",
            ended.stderr
        );
    }
}

#[test]
fn a_file_that_is_no_toml_or_not_there_is_named() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("broken.toml");
    fs::write(&file, "num.partitions = = 3\n").expect("write");
    let missing = directory.path().join("missing.toml");
    for path in [&file, &missing] {
        let name = path.to_str().expect("a path");
        let ended = run_to_end(&["serve", "--config", name], &[]);
        assert_eq!(ended.status.code(), Some(2), "{}", ended.text());
        assert!(ended.stderr.contains(name), "{}", ended.stderr);
    }
}

#[test]
fn config_check_says_valid_or_what_is_wrong() {
    let directory = tempfile::tempdir().expect("a directory");
    let good = directory.path().join("good.toml");
    fs::write(&good, "num.partitions = 3\n[mqtt]\nmax.keepalive = 60\n").expect("write");
    let ended = run_to_end(&["config", "check", good.to_str().expect("a path")], &[]);
    assert_eq!(ended.status.code(), Some(0), "{}", ended.text());
    let bad = directory.path().join("bad.toml");
    fs::write(&bad, "num.partitions = \"many\"\nunknown = 1\n").expect("write");
    let ended = run_to_end(&["config", "check", bad.to_str().expect("a path")], &[]);
    assert_eq!(ended.status.code(), Some(2), "{}", ended.text());
    for text in ["num.partitions", "unknown"] {
        assert!(
            ended.stderr.contains(text),
            "{text} is not in:\n{}",
            ended.stderr
        );
    }
}

#[test]
fn the_documented_configuration_is_valid() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the workspace");
    let file = root.join("config/mainstem.toml");
    let ended = run_to_end(&["config", "check", file.to_str().expect("a path")], &[]);
    assert_eq!(ended.status.code(), Some(0), "{}", ended.text());
    // And with every default written out, as a user would uncomment them.
    let text = fs::read_to_string(&file).expect("read");
    let open: String = text
        .lines()
        .map(|line| {
            line.strip_prefix('#')
                .filter(|rest| !rest.starts_with(' '))
                .unwrap_or(line)
                .to_owned()
                + "\n"
        })
        .collect();
    let directory = tempfile::tempdir().expect("a directory");
    let written_out = directory.path().join("open.toml");
    fs::write(&written_out, open).expect("write");
    let ended = run_to_end(
        &["config", "check", written_out.to_str().expect("a path")],
        &[],
    );
    assert_eq!(ended.status.code(), Some(0), "{}", ended.text());
}

#[test]
fn a_listener_that_others_can_reach_needs_insecure() {
    let directory = tempfile::tempdir().expect("a directory");
    let data = directory.path().join("data");
    for flag in [
        "--kafka-listen",
        "--mqtt-listen",
        "--mqtt-ws-listen",
        "--admin-listen",
    ] {
        for address in ["0.0.0.0:0", "[::]:0", "192.0.2.1:0"] {
            let arguments = [
                "serve",
                "--data-dir",
                data.to_str().expect("a path"),
                flag,
                address,
            ];
            let ended = run_to_end(&arguments, &[]);
            assert_eq!(
                ended.status.code(),
                Some(2),
                "{flag} {address}:\n{}",
                ended.text()
            );
            assert!(ended.stderr.contains("--insecure"), "{}", ended.stderr);
        }
    }
    assert!(
        !data.exists(),
        "something was made before the configuration was checked"
    );
}

#[test]
fn insecure_says_so_loudly() {
    let node = Node::start_with(NodeOptions {
        settings: vec![("insecure".to_owned(), "true".to_owned())],
        ..NodeOptions::default()
    });
    assert!(node.banner().contains("WARNING"), "{}", node.banner());
    assert!(node.log().contains("WARN"), "{}", node.log());
}

#[test]
fn flags_win_over_the_environment_which_wins_over_the_file() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("mainstem.toml");
    // Each layer alone is invalid, so what is reported tells which one counts.
    fs::write(&file, "num.partitions = -1\n").expect("write");
    let name = file.to_str().expect("a path");
    let environment = [("MAINSTEM_NUM_PARTITIONS", "-2")];
    let check = |arguments: &[&str], environment: &[(&str, &str)], wanted: &str| {
        let ended = run_to_end(arguments, environment);
        assert_eq!(ended.status.code(), Some(2), "{}", ended.text());
        assert!(
            ended.stderr.contains(wanted),
            "{wanted} is not in:\n{}",
            ended.stderr
        );
    };
    check(&["serve", "--config", name], &[], "-1");
    check(&["serve", "--config", name], &environment, "-2");
    check(
        &["serve", "--config", name, "--set", "num.partitions=-3"],
        &environment,
        "-3",
    );
}

#[test]
fn help_and_version_are_there() {
    let help = run_to_end(&["serve", "--help"], &[]);
    assert_eq!(help.status.code(), Some(0));
    for flag in [
        "--config",
        "--data-dir",
        "--kafka-advertise",
        "--insecure",
        "--set",
    ] {
        assert!(
            help.stdout.contains(flag),
            "{flag} is not in:\n{}",
            help.stdout
        );
    }
    let version = run_to_end(&["--version"], &[]);
    assert!(
        version.stdout.starts_with("mainstem "),
        "{}",
        version.stdout
    );
    assert_ne!(
        run_to_end(&["serve", "--no-such-flag"], &[]).status.code(),
        Some(0)
    );
}
