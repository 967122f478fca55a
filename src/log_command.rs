//! `mainstem log`: reads the files of a node's log without being the node.
//!
//! Exit codes: 0 nothing is damaged, 1 something could not be read, 2 a wrong command line (as
//! everywhere), 3 damage.

use std::{
    io::{self, BufWriter, Write},
    path::Path,
    process::ExitCode,
};

use mainstem_env::RealFs;
use mainstem_log::{
    LogError,
    verify::{DumpOptions, Finding, Item, Severity, Summary, Value, dump, verify},
};
use mainstem_record::{PartitionId, PartitionIndex, TopicId};
use serde_json::{Map, json};

use crate::cli::{DumpArguments, LogCommand, VerifyArguments};

/// Exit code for damage.
const DAMAGED: u8 = 3;

/// The most bytes of one batch that is unpacked to show its records.
const DECOMPRESSED_BYTES_MAX: usize = 256 << 20;

pub(crate) fn run(command: &LogCommand) -> ExitCode {
    let result = match command {
        LogCommand::Verify(arguments) => run_verify(arguments),
        LogCommand::Dump(arguments) => run_dump(arguments),
    };
    result.unwrap_or_else(|error| {
        if !is_closed_pipe(&error) {
            eprintln!("mainstem: {error}");
        }
        ExitCode::FAILURE
    })
}

/// `<topic id>/<index>`, as the directories are called.
pub(crate) fn parse_partition(text: &str) -> Result<PartitionId, String> {
    let wrong = || "expected <topic id>/<index>, as the directories are called".to_owned();
    let (topic, index) = text.split_once('/').ok_or_else(wrong)?;
    Ok(PartitionId {
        topic: TopicId(topic.parse().map_err(|_| wrong())?),
        index: PartitionIndex(index.parse().map_err(|_| wrong())?),
    })
}

fn run_verify(arguments: &VerifyArguments) -> Result<ExitCode, LogError> {
    let mut out = BufWriter::new(io::stdout().lock());
    let mut printed = Ok(());
    let mut print = |finding: &Finding| {
        if printed.is_err() {
            return;
        }
        printed = if arguments.json {
            writeln!(out, "{}", finding_json(finding))
        } else {
            writeln!(out, "{finding}")
        };
    };
    let summary = verify(&RealFs, &arguments.dir, &mut print)?;
    let last = if arguments.json {
        writeln!(out, "{}", summary_json(&summary))
    } else {
        writeln!(out, "{}", summary_text(&summary))
    };
    printed
        .and(last)
        .and_then(|()| out.flush())
        .map_err(|error| io_error(&arguments.dir, error))?;
    Ok(if summary.damage > 0 {
        ExitCode::from(DAMAGED)
    } else if summary.unreadable > 0 {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

fn run_dump(arguments: &DumpArguments) -> Result<ExitCode, LogError> {
    let mut out = BufWriter::new(io::stdout().lock());
    let options = DumpOptions {
        partition: arguments.partition,
        batches: !arguments.no_batches,
        records: arguments.records,
        index: arguments.index,
        decompressed_bytes_max: DECOMPRESSED_BYTES_MAX,
    };
    let mut print = |item: &Item| {
        if arguments.json {
            writeln!(out, "{}", item_json(item))
        } else {
            writeln!(out, "{item}")
        }
    };
    dump(&RealFs, &arguments.dir, &options, &mut print)?;
    out.flush()
        .map_err(|error| io_error(&arguments.dir, error))?;
    Ok(ExitCode::SUCCESS)
}

fn io_error(path: &Path, source: io::Error) -> LogError {
    LogError::Io {
        path: path.to_owned(),
        source,
    }
}

/// Whoever read the output has had enough.
fn is_closed_pipe(error: &LogError) -> bool {
    matches!(error, LogError::Io { source, .. } if source.kind() == io::ErrorKind::BrokenPipe)
}

fn finding_json(finding: &Finding) -> serde_json::Value {
    let severity = finding.problem.severity();
    json!({
        "severity": severity.to_string(),
        "file": finding.path,
        "position": finding.position,
        "base_offset": finding.offsets.map(|(base, _)| base.0),
        "end_offset": finding.offsets.map(|(_, end)| end.0),
        "problem": finding.problem.to_string(),
    })
}

fn summary_json(summary: &Summary) -> serde_json::Value {
    json!({
        "severity": "summary",
        "partitions": summary.partitions,
        "segments": summary.segments,
        "sealed": summary.sealed,
        "batches": summary.batches,
        "records": summary.records,
        "bytes": summary.bytes,
        "notes": summary.notes,
        "unreadable": summary.unreadable,
        "damage": summary.damage,
    })
}

fn summary_text(summary: &Summary) -> String {
    let worst = if summary.damage > 0 {
        Severity::Damage
    } else if summary.unreadable > 0 {
        Severity::Unreadable
    } else {
        Severity::Note
    };
    let verdict = match worst {
        Severity::Damage => "DAMAGED",
        Severity::Unreadable => "not everything could be read",
        Severity::Note => "good",
    };
    format!(
        "{verdict}: {} partitions, {} segments ({} sealed), {} batches, {} records, {} bytes; \
         {} damaged, {} unreadable, {} notes",
        summary.partitions,
        summary.segments,
        summary.sealed,
        summary.batches,
        summary.records,
        summary.bytes,
        summary.damage,
        summary.unreadable,
        summary.notes,
    )
}

fn item_json(item: &Item) -> serde_json::Value {
    let mut object = Map::new();
    object.insert("kind".to_owned(), json!(item.kind));
    for (name, value) in &item.fields {
        let value = match value {
            Value::Number(number) => json!(number),
            Value::Flag(flag) => json!(flag),
            Value::Text(text) => json!(text),
            Value::Null => serde_json::Value::Null,
        };
        object.insert((*name).to_owned(), value);
    }
    serde_json::Value::Object(object)
}
