//! The handshake on a stream of bytes.

use bytes::BytesMut;
use mainstem_env::Stream;
use mainstem_record::BrokerId;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{
    HandshakeError, Lane,
    admission::Admission,
    connection::Side,
    handshake::{self, Dialler, Listener, Local, PREFIX_BYTES, Remote, rest_bytes},
    shared::Shared,
};

/// One message, and no byte more.
async fn read(stream: &mut dyn Stream) -> Result<Vec<u8>, HandshakeError> {
    let ended = |_| HandshakeError::Ended;
    let mut prefix = [0; PREFIX_BYTES];
    stream.read_exact(&mut prefix).await.map_err(ended)?;
    let rest = rest_bytes(&prefix)?;
    let mut message = BytesMut::zeroed(PREFIX_BYTES + rest);
    let (head, tail) = message.split_at_mut(PREFIX_BYTES);
    head.copy_from_slice(&prefix);
    stream.read_exact(tail).await.map_err(ended)?;
    Ok(message.into())
}

async fn write(stream: &mut dyn Stream, message: &[u8]) -> Result<(), HandshakeError> {
    let ended = |_| HandshakeError::Ended;
    stream.write_all(message).await.map_err(ended)?;
    stream.flush().await.map_err(ended)
}

/// The dialler's side.
pub(crate) async fn dialled(
    shared: &Shared,
    stream: &mut dyn Stream,
    lane: Lane,
    expected: Option<BrokerId>,
    id: u64,
) -> Result<(Remote, Admission), HandshakeError> {
    let local = shared.local();
    let (mut dialler, hello) = Dialler::start(local, lane, expected, shared.nonce());
    write(stream, &hello).await?;
    let challenge = read(stream).await?;
    let proof = dialler.challenge(&challenge)?;
    write(stream, &proof).await?;
    let accept = read(stream).await?;
    let remote = dialler.accepted(&accept)?;
    let admission = shared
        .admissions
        .admit(&remote.identity, Side::Dialled, id)?;
    Ok((remote, admission))
}

/// The listener's side. A dialler that is not wanted is told why.
pub(crate) async fn accepted(
    shared: &Shared,
    stream: &mut dyn Stream,
    id: u64,
) -> Result<(Remote, Admission), HandshakeError> {
    let result = accept(shared, stream, id).await;
    if let Err(error) = &result
        && !matches!(error, HandshakeError::Ended)
    {
        // It may be gone.
        let _ = write(stream, &handshake::refuse(error)).await;
        let _ = stream.shutdown().await;
    }
    result
}

async fn accept(
    shared: &Shared,
    stream: &mut dyn Stream,
    id: u64,
) -> Result<(Remote, Admission), HandshakeError> {
    let local: Local = shared.local();
    let hello = read(stream).await?;
    let (mut listener, challenge) = Listener::hello(local, &hello, shared.nonce())?;
    write(stream, &challenge).await?;
    let proof = read(stream).await?;
    let remote = listener.proof(&proof)?;
    let admission = shared
        .admissions
        .admit(&remote.identity, Side::Accepted, id)?;
    write(stream, &listener.accept()).await?;
    Ok((remote, admission))
}
