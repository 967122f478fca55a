//! `docs/formats.md` speaks of every magic, version and tag that the code knows.

use crate::{checkpoint, dir, index_file, upkeep};

const PAGE: &str = include_str!("../../../docs/formats.md");

#[test]
fn page_names_every_file_with_its_version() {
    for (magic, version) in [
        (dir::FORMAT_MAGIC, dir::FORMAT_VERSION),
        (checkpoint::MAGIC, checkpoint::VERSION),
        (index_file::MAGIC, index_file::VERSION),
        (upkeep::SCRUB_MAGIC, upkeep::SCRUB_VERSION),
    ] {
        let magic = String::from_utf8_lossy(&magic).into_owned();
        let at = PAGE.find(&format!("`{magic}`")).expect("the page names it");
        let after = PAGE.get(at..at + 200).unwrap_or_default();
        assert!(after.contains(&format!("u32 = {version}")), "{magic}");
    }
}

#[test]
fn page_describes_every_section_and_no_other() {
    let described: Vec<u32> = PAGE
        .lines()
        .filter_map(|line| {
            line.strip_prefix("### Tag ")?
                .split(':')
                .next()?
                .parse()
                .ok()
        })
        .collect();
    assert_eq!(described, index_file::TAGS);
}
