//! What programs do with streams.

use std::{
    collections::VecDeque,
    io, mem,
    net::SocketAddr,
    task::{Context, Poll, Waker},
    time::Duration,
};

use tokio::io::ReadBuf;

use super::{
    HostId, SOCKET_BUFFER_BYTES,
    state::{Event, ListenerId, ProcessId, SocketId, State},
};

/// What a socket sends.
#[derive(Debug)]
pub(super) enum Payload {
    Data(Vec<u8>),
    End,
}

/// Whether a socket can be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    Connecting,
    /// At the server: in this listener's backlog.
    Waiting(ListenerId),
    Open,
}

/// One end of a stream.
#[derive(Debug)]
pub(super) struct Socket {
    /// `None` once the program has closed it: the host sends what is left.
    pub(super) owner: Option<ProcessId>,
    pub(super) host: HostId,
    /// `None` if no host has the address.
    pub(super) remote_host: Option<HostId>,
    local: SocketAddr,
    pub(super) remote: SocketAddr,
    pub(super) peer: Option<SocketId>,
    pub(super) phase: Phase,
    /// Why it is no more.
    pub(super) error: Option<io::ErrorKind>,
    /// Not yet at the other side, each with the time when it arrives.
    pub(super) outgoing: VecDeque<(Duration, Payload)>,
    /// Whether a [`Event::Deliver`] is on its way.
    pub(super) is_sending: bool,
    /// Bytes sent of which we do not know yet that they were read.
    pub(super) unread_there: usize,
    has_shut_down: bool,
    /// When the first try was made that has not got through, and the tries since.
    pub(super) failing_since: Option<Duration>,
    pub(super) tries: u32,
    pub(super) received: VecDeque<u8>,
    pub(super) has_ended: bool,
    /// Bytes that were read and not yet told.
    pub(super) to_tell: usize,
    is_telling: bool,
    pub(super) tell_tries: u32,
    pub(super) reader: Option<Waker>,
    pub(super) writer: Option<Waker>,
}

// === impl State ===

impl State {
    pub(super) fn connect(
        &mut self,
        host: HostId,
        process: ProcessId,
        remote: SocketAddr,
    ) -> io::Result<SocketId> {
        self.alive(host, process)?;
        let remote_host = HostId::of(remote.ip(), host);
        let ip = if remote.ip().is_loopback() {
            remote.ip()
        } else {
            host.ip()
        };
        let local = SocketAddr::new(ip, self.free_port(host));
        let id = SocketId(self.next_id());
        let socket = Socket {
            failing_since: Some(self.now),
            ..Socket::new(process, host, local, Phase::Connecting)
        };
        let socket = Socket {
            remote_host,
            remote,
            ..socket
        };
        self.sockets.insert(id, socket);
        self.note(format_args!("{} connects {local} -> {remote}", id.0));
        let delay = self.delay(host, remote_host);
        self.plan(delay, Event::Syn(id));
        Ok(id)
    }

    /// The server's socket of a client that asks for a connection.
    pub(super) fn answer_socket(
        &mut self,
        client: SocketId,
        (listener, process): (ListenerId, ProcessId),
    ) -> Option<SocketId> {
        let asking = self.sockets.get(&client)?;
        let (from, remote, local, host) = (
            asking.host,
            asking.local,
            asking.remote,
            asking.remote_host?,
        );
        let id = SocketId(self.next_id());
        let socket = Socket {
            remote_host: Some(from),
            remote,
            peer: Some(client),
            ..Socket::new(process, host, local, Phase::Waiting(listener))
        };
        self.sockets.insert(id, socket);
        Some(id)
    }

    pub(super) fn poll_connected(
        &mut self,
        id: SocketId,
        context: &Context<'_>,
    ) -> Poll<io::Result<()>> {
        let Some(socket) = self.sockets.get_mut(&id) else {
            return Poll::Ready(Err(io::ErrorKind::NetworkDown.into()));
        };
        if let Some(error) = socket.error {
            return Poll::Ready(Err(error.into()));
        }
        if socket.phase == Phase::Open {
            return Poll::Ready(Ok(()));
        }
        socket.reader = Some(context.waker().clone());
        Poll::Pending
    }

    pub(super) fn poll_read(
        &mut self,
        id: SocketId,
        context: &Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let socket = match self.open(id) {
            Ok(socket) => socket,
            Err(error) => return Poll::Ready(Err(error)),
        };
        if socket.received.is_empty() {
            if let Some(error) = socket.error {
                return Poll::Ready(Err(error.into()));
            }
            if socket.has_ended || buffer.remaining() == 0 {
                return Poll::Ready(Ok(()));
            }
            socket.reader = Some(context.waker().clone());
            return Poll::Pending;
        }
        let read = buffer.remaining().min(socket.received.len());
        let (first, second) = socket.received.as_slices();
        let of_first = read.min(first.len());
        buffer.put_slice(&first[..of_first]);
        buffer.put_slice(&second[..read - of_first]);
        socket.received.drain(..read);
        socket.to_tell += read;
        if !socket.is_telling {
            socket.is_telling = true;
            let (host, remote) = (socket.host, socket.remote_host);
            let delay = self.delay(host, remote);
            self.plan(delay, Event::Ack(id));
        }
        Poll::Ready(Ok(()))
    }

    pub(super) fn poll_write(
        &mut self,
        id: SocketId,
        context: &Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let socket = match self.open(id) {
            Ok(socket) => socket,
            Err(error) => return Poll::Ready(Err(error)),
        };
        if let Some(error) = socket.error {
            return Poll::Ready(Err(error.into()));
        }
        if socket.has_shut_down {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let len = bytes.len().min(SOCKET_BUFFER_BYTES - socket.unread_there);
        if len == 0 && !bytes.is_empty() {
            socket.writer = Some(context.waker().clone());
            return Poll::Pending;
        }
        socket.unread_there += len;
        self.send(id, Payload::Data(bytes[..len].to_vec()));
        Poll::Ready(Ok(len))
    }

    pub(super) fn shut_down(&mut self, id: SocketId) -> io::Result<()> {
        let socket = self.open(id)?;
        if socket.error.is_none() && !mem::replace(&mut socket.has_shut_down, true) {
            self.send(id, Payload::End);
        }
        Ok(())
    }

    /// The program lets go of it, or ends.
    pub(super) fn close(&mut self, id: SocketId) {
        let Ok(socket) = self.open(id) else {
            return;
        };
        if socket.phase == Phase::Connecting || socket.error.is_some() {
            self.sockets.remove(&id);
        } else if socket.received.is_empty() {
            socket.owner = None;
            if !mem::replace(&mut socket.has_shut_down, true) {
                self.send(id, Payload::End);
            } else if socket.outgoing.is_empty() {
                self.remove_closed(id);
            }
        } else {
            self.reset_peer(id);
        }
    }

    /// The socket of a program that has not closed it.
    fn open(&mut self, id: SocketId) -> io::Result<&mut Socket> {
        let socket = self.sockets.get_mut(&id);
        let socket = socket.filter(|socket| socket.owner.is_some());
        // The process has ended, or its host has.
        socket.ok_or_else(|| io::ErrorKind::ConnectionAborted.into())
    }

    /// What was read has been told.
    pub(super) fn told(&mut self, id: SocketId) {
        let Some(socket) = self.sockets.get_mut(&id) else {
            return;
        };
        socket.is_telling = false;
        socket.tell_tries = 0;
        let (told, peer) = (mem::take(&mut socket.to_tell), socket.peer);
        if let Some(peer) = peer.and_then(|peer| self.sockets.get_mut(&peer)) {
            peer.unread_there = peer.unread_there.saturating_sub(told);
            let writer = peer.writer.take();
            self.wake(writer);
        }
    }
}

// === impl Socket ===

impl Socket {
    fn new(owner: ProcessId, host: HostId, local: SocketAddr, phase: Phase) -> Self {
        Self {
            owner: Some(owner),
            host,
            remote_host: None,
            local,
            remote: local,
            peer: None,
            phase,
            error: None,
            outgoing: VecDeque::new(),
            is_sending: false,
            unread_there: 0,
            has_shut_down: false,
            failing_since: None,
            tries: 0,
            received: VecDeque::new(),
            has_ended: false,
            to_tell: 0,
            is_telling: false,
            tell_tries: 0,
            reader: None,
            writer: None,
        }
    }
}
