//! The envelope in which commands are stored.

use serde::{Deserialize, Serialize};

use super::{COMMAND_FORMAT, Command};

/// The oldest format that this build reads.
const COMMAND_FORMAT_MIN: u16 = 1;

/// The first format whose [`Command::SealAndOpen`] names the next segment's replicas; before it, the
/// name stood for what is [`Command::SealAndOpenSingle`] now.
const PLACED_SEALS: u16 = 3;

/// A command as it is stored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "EnvelopeForm")]
pub(crate) struct Envelope {
    format: u16,
    pub(crate) command: Command,
}

/// What is read before the format is checked.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EnvelopeForm {
    format: u16,
    command: serde_json::Value,
}

/// Why a stored command cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EnvelopeError {
    #[error("metadata command of format {0}; this build reads formats up to {COMMAND_FORMAT}")]
    Format(u16),
    #[error("metadata command: {0}")]
    Command(serde_json::Error),
}

// === impl Envelope ===

impl Envelope {
    pub(crate) fn new(command: Command) -> Self {
        Self {
            format: COMMAND_FORMAT,
            command,
        }
    }
}

impl TryFrom<EnvelopeForm> for Envelope {
    type Error = EnvelopeError;

    fn try_from(form: EnvelopeForm) -> Result<Self, EnvelopeError> {
        if !(COMMAND_FORMAT_MIN..=COMMAND_FORMAT).contains(&form.format) {
            return Err(EnvelopeError::Format(form.format));
        }
        let mut command = form.command;
        if form.format < PLACED_SEALS
            && let Some(fields) = command.as_object_mut()
            && let Some(seals) = fields.remove("SealAndOpen")
        {
            fields.insert("SealAndOpenSingle".to_owned(), seals);
        }
        let command = serde_json::from_value(command).map_err(EnvelopeError::Command)?;
        Ok(Self::new(command))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stored_form_is_pinned() {
        let envelope = Envelope::new(Command::AllocateProducerIds { count: 5 });
        let text = serde_json::to_string(&envelope).expect("encode");
        assert_eq!(
            text,
            r#"{"format":3,"command":{"AllocateProducerIds":{"count":5}}}"#
        );
        let earlier = text.replace("\"format\":3", "\"format\":1");
        for text in [text, earlier] {
            assert_eq!(
                serde_json::from_str::<Envelope>(&text).expect("decode"),
                envelope
            );
        }
    }

    #[test]
    fn seal_of_one_replica_keeps_its_meaning() {
        let text = r#"{"format":2,"command":{"SealAndOpen":{"seals":[]}}}"#;
        let read: Envelope = serde_json::from_str(text).expect("decode");
        assert_eq!(read.command, Command::SealAndOpenSingle { seals: vec![] });
        let text = text.replace("\"format\":2", "\"format\":3");
        let read: Envelope = serde_json::from_str(&text).expect("decode");
        assert_eq!(read.command, Command::SealAndOpen { seals: vec![] });
        let text = r#"{"format":2,"command":{"RegisterBroker":{"broker":1,
            "directory_id":"00000000-0000-0000-0000-000000000007","expected":null,
            "listeners":{}}}}"#;
        let read: Envelope = serde_json::from_str(text).expect("decode");
        let text = serde_json::to_string(&read).expect("encode");
        assert!(
            text.ends_with(
                r#""peer":null,"roles":{"controller":true,"broker":true},"intact":null,"directory_life":null,"request":"00000000-0000-0000-0000-000000000000"}}}"#
            ),
            "{text}"
        );
    }

    #[test]
    fn other_formats_commands_and_fields_are_refused() {
        for text in [
            r#"{"format":4,"command":"Barrier"}"#,
            r#"{"format":0,"command":"Barrier"}"#,
            r#"{"format":1,"command":"Unheard"}"#,
            r#"{"format":1,"command":{"AllocateProducerIds":{"count":5,"more":1}}}"#,
            r#"{"format":1,"command":"Barrier","more":1}"#,
        ] {
            assert!(serde_json::from_str::<Envelope>(text).is_err(), "{text}");
        }
        let error = serde_json::from_str::<Envelope>(r#"{"format":4,"command":{"X":1}}"#)
            .expect_err("format 4");
        assert!(error.to_string().contains("format 4"), "{error}");
    }
}
