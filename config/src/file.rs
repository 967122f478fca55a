//! A TOML file becomes a list of keys with their texts and lines.

use std::path::Path;

use toml::{
    Spanned,
    de::{DeInteger, DeTable, DeValue},
};

use crate::{
    error::{ConfigError, Place, Problem},
    table::broker_key,
    value::{Allowed, ConfigKind},
};

/// Deeper tables than this hold no keys: the longest key has fewer parts.
const DEPTH_MAX: usize = 16;

/// A key of a file and its value as text.
pub(crate) struct Entry {
    pub(crate) key: String,
    pub(crate) text: String,
    pub(crate) line: usize,
}

/// All entries of a document, and everything that is wrong with its form.
pub(crate) struct Document {
    pub(crate) entries: Vec<Entry>,
    pub(crate) errors: Vec<ConfigError>,
}

struct Reader<'a> {
    path: &'a Path,
    contents: &'a str,
    document: Document,
}

/// Reads a document; what parses is read even where something else does not.
pub(crate) fn read(path: &Path, contents: &str) -> Document {
    let mut reader = Reader {
        path,
        contents,
        document: Document {
            entries: Vec::new(),
            errors: Vec::new(),
        },
    };
    let (table, errors) = DeTable::parse_recoverable(contents);
    let is_whole = errors.is_empty();
    for error in errors {
        let line = error.span().map_or(0, |span| reader.line_of(span.start));
        reader.fail(line, "", Problem::Syntax(error.message().to_owned()));
    }
    // Of a torn document only the syntax is reported: what was recovered may be misleading.
    if is_whole {
        reader.table(table.get_ref(), "", 0);
    }
    let mut document = reader.document;
    document.entries.sort_by_key(|entry| entry.line);
    document
}

// === impl Reader ===

impl Reader<'_> {
    fn line_of(&self, position: usize) -> usize {
        let before = self.contents.as_bytes().iter().take(position);
        before.filter(|byte| **byte == b'\n').count() + 1
    }

    fn fail(&mut self, line: usize, key: &str, problem: Problem) {
        let path = self.path.to_owned();
        self.document.errors.push(ConfigError {
            place: Place::File { path, line },
            key: key.to_owned(),
            problem,
        });
    }

    fn table(&mut self, table: &DeTable<'_>, prefix: &str, depth: usize) {
        for (name, value) in table {
            let key = if prefix.is_empty() {
                name.get_ref().to_string()
            } else {
                format!("{prefix}.{}", name.get_ref())
            };
            let line = self.line_of(name.span().start);
            match value.get_ref() {
                DeValue::Table(inner) if depth < DEPTH_MAX => self.table(inner, &key, depth + 1),
                _ => self.value(key, value, line),
            }
        }
    }

    fn value(&mut self, key: String, value: &Spanned<DeValue<'_>>, line: usize) {
        let known = broker_key(&key);
        let kind = known.map(|key| key.kind);
        let allowed = known.map(|key| key.allowed);
        match text_of(value.get_ref(), kind) {
            Some(text) => self.document.entries.push(Entry { key, text, line }),
            None => {
                let problem = match allowed {
                    Some(allowed) => Problem::Invalid {
                        value: source_of(self.contents, value),
                        reason: wrong_type(&allowed, kind, value.get_ref()),
                    },
                    None => Problem::UnknownKey {
                        suggestion: crate::load::nearest(&key).map(str::to_owned),
                    },
                };
                self.fail(line, &key, problem);
            }
        }
    }
}

/// The text of a value, if a key of that type can be written so in TOML. A number or a boolean may
/// be quoted; text may not be left unquoted.
fn text_of(value: &DeValue<'_>, kind: Option<ConfigKind>) -> Option<String> {
    let is_text = matches!(
        kind,
        Some(ConfigKind::String | ConfigKind::Class | ConfigKind::Password)
    );
    match value {
        DeValue::String(text) => Some(text.to_string()),
        DeValue::Integer(integer) if !is_text => decimal(integer),
        DeValue::Float(float) if !is_text => Some(float.as_str().to_owned()),
        DeValue::Boolean(boolean) if !is_text => Some(boolean.to_string()),
        DeValue::Array(items) if kind == Some(ConfigKind::List) => {
            let texts: Option<Vec<&str>> =
                items.iter().map(|item| item.get_ref().as_str()).collect();
            texts.map(|texts| texts.join(","))
        }
        _ => None,
    }
}

fn decimal(integer: &DeInteger<'_>) -> Option<String> {
    let value = i128::from_str_radix(integer.as_str(), integer.radix()).ok()?;
    Some(value.to_string())
}

fn wrong_type(allowed: &Allowed, kind: Option<ConfigKind>, value: &DeValue<'_>) -> String {
    let quoted = if kind == Some(ConfigKind::String) {
        ", in quotes"
    } else {
        ""
    };
    format!(
        "expected {allowed}{quoted}; this is a TOML {}",
        value.type_str()
    )
}

/// How the value is written, cut to one short line.
fn source_of(contents: &str, value: &Spanned<DeValue<'_>>) -> String {
    const SHOWN_CHARS_MAX: usize = 80;
    let source = contents.get(value.span()).unwrap_or_default();
    source
        .lines()
        .next()
        .unwrap_or_default()
        .chars()
        .take(SHOWN_CHARS_MAX)
        .collect()
}
