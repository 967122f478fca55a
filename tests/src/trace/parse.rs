//! Reading what `strace -f -yy -xx` prints.

use std::collections::HashMap;

/// A system call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// Its name.
    pub name: String,
    /// What its file descriptor is: a path, or `TCP:[local->remote]`.
    pub file: String,
    /// The bytes of its buffers, one after the other.
    pub bytes: Vec<u8>,
    /// The line at which it began.
    pub begin: usize,
    /// The line at which it had ended; `None` if it had not when the trace ends.
    pub end: Option<usize>,
    /// What it returned; -1 is a failure.
    pub result: i64,
}

/// The calls of a trace, in the order in which they began.
///
/// # Panics
/// At a line of another shape, or a buffer that strace has cut short.
pub fn parse(trace: &str) -> Vec<Call> {
    let mut calls: Vec<Call> = Vec::new();
    // Thread -> its call that has not ended.
    let mut open: HashMap<&str, usize> = HashMap::new();
    for (line, text) in trace.lines().enumerate() {
        let (thread, rest) = text.split_once(' ').expect("a thread and a call");
        let rest = rest.trim_start();
        if rest.starts_with("+++") || rest.starts_with("---") {
            continue;
        }
        if let Some(resumed) = rest.strip_prefix("<... ") {
            let index = open.remove(thread).expect("a call that began");
            let (name, _) = resumed.split_once(' ').expect("a name");
            assert_eq!(calls[index].name, name, "line {line}");
            (calls[index].end, calls[index].result) = (Some(line), result(resumed));
            continue;
        }
        let mut call = began(rest, line);
        if rest.ends_with("<unfinished ...>") {
            open.insert(thread, calls.len());
        } else {
            (call.end, call.result) = (Some(line), result(rest));
        }
        calls.push(call);
    }
    calls
}

fn began(text: &str, line: usize) -> Call {
    let (name, arguments) = text.split_once('(').expect("a call");
    let (_, described) = arguments.split_once('<').unwrap_or(("", ""));
    // `->` stands between the two addresses of a connection.
    let end = described
        .match_indices('>')
        .find(|(at, _)| !described[..*at].ends_with('-'))
        .map_or(0, |(at, _)| at);
    Call {
        name: name.to_owned(),
        file: String::from_utf8_lossy(&unescape(&described[..end])).into_owned(),
        bytes: buffers(&described[end..], line),
        begin: line,
        end: None,
        result: -1,
    }
}

/// The quoted strings.
fn buffers(text: &str, line: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (number, part) in text.split('"').enumerate() {
        if number % 2 == 1 {
            bytes.extend(unescape(part));
        } else {
            let is_cut = number > 0 && part.starts_with("...");
            assert!(!is_cut, "line {line}: a buffer is cut short");
        }
    }
    bytes
}

/// `\x41` is a byte; everything else is itself.
fn unescape(text: &str) -> Vec<u8> {
    let mut parts = text.split("\\x");
    let mut bytes = parts.next().unwrap_or("").as_bytes().to_vec();
    for part in parts {
        let (digits, rest) = part.split_at(2);
        bytes.push(u8::from_str_radix(digits, 16).expect("two hexadecimal digits"));
        bytes.extend(rest.as_bytes());
    }
    bytes
}

/// What stands after the last `= `; -1 if nothing is known.
fn result(text: &str) -> i64 {
    let (_, after) = text.rsplit_once("= ").expect("a result");
    let number = after.split(' ').next().unwrap_or("");
    number.parse().unwrap_or(-1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = concat!(
        r#"7 pwritev(11<\x2f\x61>, [{iov_base="\x41\x42", iov_len=2}, {iov_base="\x43", iov_len=1}], 2, 9) = 3"#,
        "\n",
        r"8 fdatasync(11<\x2f\x61> <unfinished ...>",
        "\n",
        r#"7 sendto(5<TCP:[127.0.0.1:1->127.0.0.1:2]>, "\x40\x02", 2, MSG_NOSIGNAL, NULL, 0) = 2"#,
        "\n",
        "7 --- SIGCHLD {si_signo=SIGCHLD} ---\n",
        "8 <... fdatasync resumed>)            = -1 EIO (Input/output error)\n",
        r"9 fsync(4<\x2f> <unfinished ...>",
        "\n",
        "7 +++ exited with 0 +++",
    );

    #[test]
    fn calls_are_read_with_their_files_buffers_and_ends() {
        let calls = parse(TRACE);
        let names: Vec<&str> = calls.iter().map(|call| call.name.as_str()).collect();
        assert_eq!(names, ["pwritev", "fdatasync", "sendto", "fsync"]);
        assert_eq!(
            (calls[0].file.as_str(), calls[0].bytes.as_slice()),
            ("/a", b"ABC".as_slice())
        );
        assert_eq!(
            (calls[0].begin, calls[0].end, calls[0].result),
            (0, Some(0), 3)
        );
        assert_eq!(
            (calls[1].begin, calls[1].end, calls[1].result),
            (1, Some(4), -1)
        );
        assert_eq!(calls[2].file, "TCP:[127.0.0.1:1->127.0.0.1:2]");
        assert_eq!(calls[2].bytes, [0x40, 2]);
        assert_eq!((calls[3].end, calls[3].result), (None, -1));
    }

    #[test]
    #[should_panic(expected = "cut short")]
    fn buffer_that_is_cut_short_is_no_evidence() {
        parse(r#"7 sendto(5<x>, "\x40"..., 2, 0, NULL, 0) = 2"#);
    }
}
