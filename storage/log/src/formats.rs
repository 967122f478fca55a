//! `docs/formats.md` speaks of every magic, version and tag that the code knows.

use crate::{checkpoint, dir, index_file, journal, trash, upkeep};

const PAGE: &str = include_str!("../../../docs/formats.md");

#[test]
fn page_names_every_file_with_its_version() {
    let rings = journal::FORMATS.map(|(magic, version, _)| (magic, version));
    let files = [
        (dir::FORMAT_MAGIC, dir::FORMAT_VERSION),
        (checkpoint::MAGIC, checkpoint::VERSION),
        (index_file::MAGIC, index_file::VERSION),
        (upkeep::SCRUB_MAGIC, upkeep::SCRUB_VERSION),
        (trash::MAGIC, trash::VERSION),
    ];
    for (magic, version) in files.into_iter().chain(rings) {
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

/// The bytes that the table below `title` adds up to.
fn bytes_of(title: &str) -> usize {
    let at = PAGE.find(title).expect("the page has the table");
    let rows = PAGE.get(at..).unwrap_or_default().lines().skip(2);
    let cells = rows.map_while(|row| row.strip_prefix("| ")?.split(" |").next());
    let numbers = cells.flat_map(|cell| cell.split(" + "));
    numbers
        .map(|number| number.parse::<usize>().expect("bytes"))
        .sum()
}

#[test]
fn tables_of_the_journal_have_as_many_bytes_as_the_code() {
    let [(_, _, slot), (_, _, head)] = journal::FORMATS;
    assert_eq!(bytes_of("| bytes of a slot |"), slot);
    assert_eq!(bytes_of("| bytes of the head |"), head);
    assert_eq!(bytes_of("| bytes of an entry |"), journal::ENTRY_BYTES);
}
