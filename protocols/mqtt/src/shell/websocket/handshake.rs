//! The opening handshake (RFC 6455, section 4.2; MQTT 5.0, chapter 6).

use std::io;

use mainstem_env::Stream;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_tungstenite::tungstenite::{
    handshake::{
        machine::TryParse,
        server::{Request, Response, create_response, write_response},
    },
    http::{HeaderValue, header::SEC_WEBSOCKET_PROTOCOL},
};

use super::WebSocket;

/// Bytes of the request, headers included; cookies of a browser are among them.
const REQUEST_BYTES_MAX: usize = 16 << 10;
/// Bytes of one read of it.
const READ_BYTES: usize = 1024;

/// The names that MQTT goes by, the better one first.
const PROTOCOLS: [&str; 2] = ["mqtt", "mqttv3.1"];
/// Where it is found. Clients that are given no path ask for `/`.
const PATHS: [&str; 2] = ["/mqtt", "/"];

/// What a request that is none of ours is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Refusal {
    /// No WebSocket, or none of MQTT.
    BadRequest,
    /// Another path.
    NotFound,
    /// Too many bytes of headers.
    TooLarge,
}

/// Makes a WebSocket of a stream that has just been accepted. The time that this may take is the
/// caller's to limit. The request's origin is not looked at: authorisation is not by cookies.
///
/// # Errors
/// The stream broke, or the request was refused, which the client was told.
pub(crate) async fn upgrade(
    mut stream: Box<dyn Stream>,
    frame_bytes_max: usize,
) -> io::Result<Box<dyn Stream>> {
    match read_request(&mut *stream).await? {
        Ok((response, ahead)) => {
            let mut bytes = Vec::new();
            write_response(&mut bytes, &response).map_err(io::Error::other)?;
            stream.write_all(&bytes).await?;
            stream.flush().await?;
            Ok(Box::new(WebSocket::new(stream, ahead, frame_bytes_max)))
        }
        Err(refusal) => {
            stream.write_all(refusal.response()).await?;
            stream.shutdown().await?;
            Err(io::ErrorKind::InvalidData.into())
        }
    }
}

/// The response, and the bytes that came after the request.
async fn read_request(stream: &mut dyn Stream) -> io::Result<Result<(Response, Vec<u8>), Refusal>> {
    let mut bytes = Vec::new();
    let mut scratch = [0; READ_BYTES];
    loop {
        let count = stream.read(&mut scratch).await?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        bytes.extend_from_slice(scratch.get(..count).unwrap_or_default());
        match Request::try_parse(&bytes) {
            Ok(Some((request_bytes, request))) => {
                let ahead = bytes.split_off(request_bytes);
                return Ok(answer(&request).map(|response| (response, ahead)));
            }
            Ok(None) if bytes.len() >= REQUEST_BYTES_MAX => return Ok(Err(Refusal::TooLarge)),
            Ok(None) => {}
            Err(_) => return Ok(Err(Refusal::BadRequest)),
        }
    }
}

fn answer(request: &Request) -> Result<Response, Refusal> {
    let mut response = create_response(request).map_err(|_| Refusal::BadRequest)?;
    if !PATHS.contains(&request.uri().path()) {
        return Err(Refusal::NotFound);
    }
    let offered = request.headers().get_all(SEC_WEBSOCKET_PROTOCOL);
    let offered: Vec<&str> = offered
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(',').map(str::trim))
        .collect();
    let chosen = PROTOCOLS
        .into_iter()
        .find(|protocol| offered.contains(protocol))
        .ok_or(Refusal::BadRequest)?;
    response
        .headers_mut()
        .insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(chosen));
    Ok(response)
}

// === impl Refusal ===

impl Refusal {
    fn response(self) -> &'static [u8] {
        match self {
            Self::BadRequest => {
                b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
            }
            Self::NotFound => {
                b"HTTP/1.1 404 Not Found\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
            }
            Self::TooLarge => {
                b"HTTP/1.1 431 Request Header Fields Too Large\r\nConnection: close\r\n\
                  Content-Length: 0\r\n\r\n"
            }
        }
    }
}
