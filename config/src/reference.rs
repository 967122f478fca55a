//! The reference file, `config/mainstem.toml`.

use crate::{
    load::env_name,
    table::{BrokerKey, broker_keys},
    value::ConfigKind,
};

/// Columns of a comment.
const WIDTH: usize = 96;

const HEAD: &str = "\
# Every key of Mainstem with its default, commented out: a node needs none of them.
#
# Written by the program from its own table of keys (a test compares them): change the table,
# not this file. A key can be set here, in the environment (the name is given with each key), or
# on the command line (--set key=value); the later of these wins. A TOML table is a dot:
#     [mqtt]
#     listen = \"127.0.0.1:1884\"
# is the same as mqtt.listen = \"127.0.0.1:1884\". Unknown keys are errors.
";

/// The text of the reference file: every broker key with its documentation, what is allowed, the
/// variable of the environment and the default, commented out.
pub fn reference_toml() -> String {
    let mut text = HEAD.to_owned();
    let mut section = "";
    for key in broker_keys() {
        if key.section != section {
            section = key.section;
            text.push_str(&format!("\n\n# ==== {section} ====\n"));
        }
        text.push('\n');
        comment(&mut text, key.doc);
        let allowed = format!(
            "Allowed: {}. Environment: {}",
            key.allowed,
            env_name(key.name)
        );
        comment(&mut text, &allowed);
        text.push_str(&format!(
            "#{} = {}\n",
            written_name(key),
            written_default(key)
        ));
    }
    text
}

/// Quoted where another key goes on after a dot: a bare one would be a table and a value at once.
fn written_name(key: &BrokerKey) -> String {
    let table = format!("{}.", key.name);
    if broker_keys()
        .iter()
        .any(|other| other.name.starts_with(&table))
    {
        format!("\"{}\"", key.name)
    } else {
        key.name.to_owned()
    }
}

fn written_default(key: &BrokerKey) -> String {
    match key.kind {
        ConfigKind::Boolean
        | ConfigKind::Int
        | ConfigKind::Short
        | ConfigKind::Long
        | ConfigKind::Double => key.default.clone(),
        // No default holds a quote or a backslash; the test that parses the file would tell.
        _ => format!("\"{}\"", key.default),
    }
}

/// Adds comment lines, broken between words.
fn comment(text: &mut String, sentence: &str) {
    let mut line = String::from("#");
    for word in sentence.split_whitespace() {
        if line.len() + 1 + word.len() > WIDTH {
            text.push_str(&line);
            text.push('\n');
            line = String::from("#");
        }
        line.push(' ');
        line.push_str(word);
    }
    text.push_str(&line);
    text.push('\n');
}

#[cfg(test)]
mod tests;
