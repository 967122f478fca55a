//! Streams and listeners as a process holds them.

use std::{
    future::poll_fn,
    io,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll},
};

use mainstem_env::{BoxFuture, Listener, Stream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{
    SimNet,
    state::{ListenerId, SocketId},
};

/// One end of a stream. Dropped, it is closed.
#[derive(Debug)]
pub(super) struct SimStream {
    net: SimNet,
    id: SocketId,
}

/// A listener. Dropped, it takes no more, and who waits to be accepted is reset.
#[derive(Debug)]
pub(super) struct SimListener {
    net: SimNet,
    id: ListenerId,
    address: SocketAddr,
}

// === impl SimStream ===

impl SimStream {
    pub(super) fn new(net: SimNet, id: SocketId) -> Self {
        Self { net, id }
    }
}

impl AsyncRead for SimStream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let id = self.id;
        self.net.with(|state| state.poll_read(id, context, buffer))
    }
}

impl AsyncWrite for SimStream {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let id = self.id;
        self.net.with(|state| state.poll_write(id, context, bytes))
    }

    fn poll_flush(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let id = self.id;
        Poll::Ready(self.net.with(|state| state.shut_down(id)))
    }
}

impl Drop for SimStream {
    fn drop(&mut self) {
        let id = self.id;
        self.net.with(|state| state.close(id));
    }
}

// === impl SimListener ===

impl SimListener {
    pub(super) fn new(net: SimNet, id: ListenerId, address: SocketAddr) -> Self {
        Self { net, id, address }
    }
}

impl Listener for SimListener {
    fn accept(&self) -> BoxFuture<'_, io::Result<(Box<dyn Stream>, SocketAddr)>> {
        Box::pin(async move {
            let accept = |context: &mut Context<'_>| {
                self.net.with(|state| state.poll_accept(self.id, context))
            };
            let (id, peer) = poll_fn(accept).await?;
            let stream = SimStream::new(self.net.clone(), id);
            Ok((Box::new(stream) as Box<dyn Stream>, peer))
        })
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.address)
    }
}

impl Drop for SimListener {
    fn drop(&mut self) {
        self.net.with(|state| state.close_listener(self.id));
    }
}
