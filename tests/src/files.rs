//! The files of a node, as tests find and spoil them.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Every file below `dir` with this extension, sorted.
///
/// # Panics
/// If a directory cannot be read.
pub fn with_extension(dir: &Path, extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).expect("a directory") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            found.extend(with_extension(&path, extension));
        } else if path.extension().is_some_and(|e| e == extension) {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// Whether a file holds these bytes.
///
/// # Panics
/// If it cannot be read.
pub fn holds(path: &Path, bytes: &[u8]) -> bool {
    let content = fs::read(path).expect("a file");
    content.windows(bytes.len()).any(|part| part == bytes)
}
