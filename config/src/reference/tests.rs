use std::path::Path;

use super::*;
use crate::{Config, FileSource, Sources, load};

/// Set to write the file anew after the table of keys changed.
const UPDATE: &str = "UPDATE_REFERENCE";

#[test]
fn reference_file_is_what_the_table_says() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("mainstem.toml");
    if std::env::var_os(UPDATE).is_some() {
        std::fs::write(&path, reference_toml()).expect("write");
    }
    let file = std::fs::read_to_string(&path).expect("config/mainstem.toml");
    assert!(
        file == reference_toml(),
        "config/mainstem.toml differs from the table of keys: run this test with {UPDATE}=1"
    );
}

#[test]
fn reference_file_with_every_key_uncommented_is_the_default() {
    let lines = reference_toml();
    let is_key = |line: &&str| line.starts_with('#') && !line.starts_with("# ");
    let keys: Vec<&str> = lines
        .lines()
        .filter(is_key)
        .filter(|line| *line != "#")
        .collect();
    assert_eq!(keys.len(), broker_keys().len());
    let contents = keys
        .iter()
        .map(|line| format!("{}\n", &line[1..]))
        .collect();
    let config = load(Sources {
        file: Some(FileSource {
            path: "reference.toml".into(),
            contents,
        }),
        ..Sources::default()
    });
    assert_eq!(config.expect("valid"), Config::default());
}

#[test]
fn reference_file_fits_its_columns() {
    let is_long = |line: &&str| line.starts_with("# ") && line.len() > WIDTH;
    assert_eq!(reference_toml().lines().find(is_long), None);
}
