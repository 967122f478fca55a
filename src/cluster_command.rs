//! `mainstem cluster`: asks a running node, over its admin address, what it knows of the cluster.

use std::{fmt::Write as _, net::SocketAddr, process::ExitCode, time::Duration};

use mainstem_env::Env;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::cli::{AskArguments, ClusterCommand};

/// Bytes of the largest answer that is read.
const ANSWER_BYTES_MAX: u64 = 16 << 20;
/// How long the node has.
const ANSWER_WAIT: Duration = Duration::from_secs(10);

/// Why there is nothing to show.
#[derive(Debug, thiserror::Error)]
enum AskError {
    #[error("{address}: {source}; is the node running, and is this its admin.listen?")]
    Io {
        address: SocketAddr,
        source: std::io::Error,
    },
    #[error("{0}: no answer in {ANSWER_WAIT:?}")]
    Slow(SocketAddr),
    #[error("{address}: what answers is no Mainstem: {what}")]
    Answer { address: SocketAddr, what: String },
    #[error("runtime: {0}")]
    Runtime(std::io::Error),
}

/// Exit codes: 0 shown, 1 the node cannot be asked.
pub(crate) fn run(command: &ClusterCommand) -> ExitCode {
    let (path, arguments) = match command {
        ClusterCommand::Status(arguments) => ("/cluster/status", arguments),
        ClusterCommand::Nodes(arguments) => ("/cluster/nodes", arguments),
    };
    match ask(arguments, path) {
        Ok(answer) if arguments.json => println!("{answer:#}"),
        Ok(answer) => print!("{}", shown(&answer)),
        Err(error) => {
            eprintln!("mainstem: {error}");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

fn ask(arguments: &AskArguments, path: &str) -> Result<Value, AskError> {
    let address = arguments.admin;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(AskError::Runtime)?;
    let answer = runtime.block_on(async {
        let env = Env::real();
        let asked = get(&env, address, path);
        env.timeout(ANSWER_WAIT, asked).await
    });
    let bytes = answer
        .map_err(|_| AskError::Slow(address))?
        .map_err(|source| AskError::Io { address, source })?;
    let wrong = |what: String| AskError::Answer { address, what };
    let text = String::from_utf8(bytes).map_err(|error| wrong(error.to_string()))?;
    let (head, body) = text
        .split_once("\r\n\r\n")
        .ok_or_else(|| wrong("no HTTP".to_owned()))?;
    let status = head.lines().next().unwrap_or_default();
    if status.split(' ').nth(1) != Some("200") {
        return Err(wrong(status.to_owned()));
    }
    serde_json::from_str(body).map_err(|error| wrong(error.to_string()))
}

/// HTTP/1.0, so that the answer comes in one piece and the connection ends with it.
async fn get(env: &Env, address: SocketAddr, path: &str) -> std::io::Result<Vec<u8>> {
    let mut stream = env.net.connect(address).await?;
    let request = format!("GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream
        .take(ANSWER_BYTES_MAX)
        .read_to_end(&mut answer)
        .await?;
    Ok(answer)
}

/// One line per value of an object, one line per item of a list.
fn shown(answer: &Value) -> String {
    let mut text = String::new();
    let line = |value: &Value| match value {
        Value::String(text) => text.clone(),
        Value::Null => "-".to_owned(),
        Value::Array(items) => {
            let items: Vec<String> = items.iter().map(ToString::to_string).collect();
            items.join(",")
        }
        other => other.to_string(),
    };
    // Writing to a string does not fail.
    match answer {
        Value::Array(items) => {
            for item in items.iter().filter_map(Value::as_object) {
                let pairs = item
                    .iter()
                    .map(|(name, value)| format!("{name}={}", line(value)));
                let _ = writeln!(text, "{}", pairs.collect::<Vec<_>>().join(" "));
            }
        }
        Value::Object(values) => {
            for (name, value) in values {
                let _ = writeln!(text, "{name:<20} {}", line(value));
            }
        }
        other => {
            let _ = writeln!(text, "{}", line(other));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn answers_are_lines() {
        let status = json!({ "leader": 1, "voters": [1, 2, 3], "cluster_id": "C" });
        let text = shown(&status);
        assert!(text.contains("voters               1,2,3\n"), "{text}");
        assert!(text.contains("cluster_id           C\n"), "{text}");
        let nodes = json!([{ "node": 1, "address": "a:1" }, { "node": 2, "address": null }]);
        assert_eq!(shown(&nodes), "address=a:1 node=1\naddress=- node=2\n");
    }
}
