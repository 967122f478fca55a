//! The rule: the bytes of a record were in a write to a file; a sync of that file began after the
//! write had ended, and succeeded; and only then the acknowledgement began to be sent.

use super::Call;

/// An acknowledgement that a client has got.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Acknowledged {
    /// Bytes that stand in this record and nowhere else.
    pub marker: Vec<u8>,
    /// The client's end of the connection, as the trace shows it: `127.0.0.1:4321`.
    pub client: String,
    /// Bytes of the acknowledgement that this connection got for this record only.
    pub answer: Vec<u8>,
}

/// An acknowledgement that the trace does not bear out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Violation {
    /// The record is in no write to a file.
    NotWritten(Acknowledged),
    /// The answer is in no write to the connection.
    NotSent(Acknowledged),
    /// No sync lies between a write of the record and the answer.
    NotSynced(Acknowledged),
}

/// What is wrong; nothing if every acknowledgement was right.
pub fn check(calls: &[Call], acknowledged: &[Acknowledged]) -> Vec<Violation> {
    let violation = |one: &Acknowledged| judge(calls, one).err();
    acknowledged.iter().filter_map(violation).collect()
}

fn judge(calls: &[Call], one: &Acknowledged) -> Result<(), Violation> {
    let answered = calls
        .iter()
        .find(|call| call.file.contains(&format!("->{}]", one.client)) && call.holds(&one.answer))
        .ok_or_else(|| Violation::NotSent(one.clone()))?;
    let written: Vec<&Call> = calls
        .iter()
        .filter(|call| call.is_file() && call.result > 0 && call.holds(&one.marker))
        .collect();
    if written.is_empty() {
        return Err(Violation::NotWritten(one.clone()));
    }
    let is_synced = written.iter().any(|write| {
        calls.iter().any(|sync| {
            sync.is_sync()
                && sync.file == write.file
                && sync.result == 0
                && write.end.is_some_and(|end| end < sync.begin)
                && sync.end.is_some_and(|end| end < answered.begin)
        })
    });
    if is_synced {
        Ok(())
    } else {
        Err(Violation::NotSynced(one.clone()))
    }
}

// === impl Call ===

impl Call {
    fn is_file(&self) -> bool {
        self.file.starts_with('/')
    }

    fn is_sync(&self) -> bool {
        matches!(self.name.as_str(), "fdatasync" | "fsync")
    }

    fn holds(&self, bytes: &[u8]) -> bool {
        let first = bytes.first();
        let mut rest = self.bytes.as_slice();
        while let Some(at) = rest.iter().position(|byte| Some(byte) == first) {
            rest = &rest[at..];
            if rest.starts_with(bytes) {
                return true;
            }
            rest = &rest[1..];
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::parse;

    const CLIENT: &str = "127.0.0.1:2";
    const WRITE: &str =
        r#"7 pwritev(11<\x2f\x61>, [{iov_base="\x00\x41\x42", iov_len=3}], 1, 9) = 3"#;
    const SYNC: &str = r"8 fdatasync(11<\x2f\x61>) = 0";
    const ACK: &str =
        r#"9 sendto(5<TCP:[127.0.0.1:1->127.0.0.1:2]>, "\x40\x02", 2, 0, NULL, 0) = 2"#;

    fn violations(lines: &[&str]) -> Vec<Violation> {
        check(&parse(&lines.join("\n")), &[acknowledged()])
    }

    fn acknowledged() -> Acknowledged {
        Acknowledged {
            marker: b"AB".to_vec(),
            client: CLIENT.to_owned(),
            answer: vec![0x40, 2],
        }
    }

    fn not_synced() -> Vec<Violation> {
        vec![Violation::NotSynced(acknowledged())]
    }

    #[test]
    fn write_then_sync_then_answer_is_right() {
        assert_eq!(violations(&[WRITE, SYNC, ACK]), []);
        assert_eq!(violations(&[SYNC, WRITE, SYNC, ACK, SYNC]), []);
    }

    #[test]
    fn answer_without_a_sync_before_it_is_caught() {
        assert_eq!(violations(&[WRITE, ACK]), not_synced());
        assert_eq!(violations(&[WRITE, ACK, SYNC]), not_synced());
        let begun = r"8 fdatasync(11<\x2f\x61> <unfinished ...>";
        let done = "8 <... fdatasync resumed>) = 0";
        assert_eq!(violations(&[WRITE, begun, ACK, done]), not_synced());
    }

    #[test]
    fn sync_that_began_before_the_write_had_ended_is_caught() {
        assert_eq!(violations(&[SYNC, WRITE, ACK]), not_synced());
        let begun = r"8 fdatasync(11<\x2f\x61> <unfinished ...>";
        let done = "8 <... fdatasync resumed>) = 0";
        assert_eq!(violations(&[begun, WRITE, done, ACK]), not_synced());
        let write =
            r#"7 pwritev(11<\x2f\x61>, [{iov_base="\x41\x42", iov_len=2}], 1, 9 <unfinished ...>"#;
        let written = "7 <... pwritev resumed>) = 2";
        assert_eq!(violations(&[write, SYNC, written, ACK]), not_synced());
    }

    #[test]
    fn failed_sync_and_sync_of_another_file_are_caught() {
        let failed = r"8 fdatasync(11<\x2f\x61>) = -1 EIO (Input/output error)";
        assert_eq!(violations(&[WRITE, failed, ACK]), not_synced());
        let other = r"8 fdatasync(12<\x2f\x62>) = 0";
        assert_eq!(violations(&[WRITE, other, ACK]), not_synced());
    }

    #[test]
    fn what_is_not_in_the_trace_is_no_evidence() {
        let missing = [Violation::NotWritten(acknowledged())];
        assert_eq!(violations(&[SYNC, ACK]), missing);
        let missing = [Violation::NotSent(acknowledged())];
        assert_eq!(violations(&[WRITE, SYNC]), missing);
    }
}
