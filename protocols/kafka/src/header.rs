//! Request headers (versions 1 and 2) and response headers (0 and 1).

use std::ops::Range;

use crate::{
    api::Api,
    wire::{DecodeError, Reader},
};

/// What every request begins with, whatever its version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Prefix {
    /// The API key.
    pub(crate) key: i16,
    /// Its version.
    pub(crate) version: i16,
    /// What the response carries back.
    pub(crate) correlation: i32,
}

/// The rest of a request header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Header<'a> {
    /// What the client calls itself; empty if it says nothing.
    pub(crate) client_id: &'a str,
    /// Where the body is in the frame.
    pub(crate) body: Range<usize>,
}

// === impl Prefix ===

impl Prefix {
    /// Reads the part of the header that all versions share.
    pub(crate) fn parse(frame: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(frame);
        Ok(Self {
            key: reader.i16()?,
            version: reader.i16()?,
            correlation: reader.i32()?,
        })
    }
}

// === impl Header ===

impl<'a> Header<'a> {
    /// Reads the header of a request of `api`.
    pub(crate) fn parse(api: &Api, version: i16, frame: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(frame);
        reader.take(8)?;
        // The client id keeps its old form in flexible headers, so that a broker of any age can
        // read it (KIP-482).
        let client_id = reader.string(false)?.unwrap_or("");
        if version >= api.flexible_from {
            reader.skip_tags()?;
        }
        Ok(Self {
            client_id,
            body: reader.position()..frame.len(),
        })
    }
}

#[cfg(test)]
mod tests {
    use bytes::{BufMut, BytesMut};
    use kafka_protocol::{
        messages::RequestHeader,
        protocol::{Encodable, StrBytes},
    };

    use super::*;
    use crate::api::APIS;

    #[test]
    fn headers_of_the_codec_are_read_in_every_version() {
        for api in APIS {
            for version in api.min..=api.max {
                let flexible = version >= api.flexible_from;
                let header = RequestHeader::default()
                    .with_request_api_key(api.key as i16)
                    .with_request_api_version(version)
                    .with_correlation_id(77)
                    .with_client_id(Some(StrBytes::from_static_str("device-7")));
                let mut frame = BytesMut::new();
                header
                    .encode(&mut frame, if flexible { 2 } else { 1 })
                    .expect("encode");
                let start = frame.len();
                frame.put_slice(b"body");
                let prefix = Prefix::parse(&frame).expect("prefix");
                assert_eq!((prefix.key, prefix.version), (api.key as i16, version));
                assert_eq!(prefix.correlation, 77);
                let parsed = Header::parse(api, version, &frame).expect("header");
                assert_eq!(parsed.client_id, "device-7");
                assert_eq!(parsed.body, start..start + 4);
            }
        }
    }
}
