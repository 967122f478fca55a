//! What happens when packets arrive, or do not.

use std::{io, time::Duration};

use super::{
    HostId,
    link::Path,
    state::{Event, SocketId, State},
    stream::{Payload, Phase},
};
use crate::trace::hash;

/// When what got lost is sent again the first time; each further time it takes twice as long.
const RETRY_FIRST: Duration = Duration::from_millis(200);
/// The longest that it takes.
const RETRY_MAX: Duration = Duration::from_secs(120);
/// The same for the request of a connection.
const CONNECT_RETRY_FIRST: Duration = Duration::from_secs(1);
/// Tries of a server to finish a connection.
const ESTABLISH_TRIES: u32 = 6;

// === impl State ===

impl State {
    pub(super) fn happen(&mut self, event: Event) {
        match event {
            Event::Syn(client) => self.syn(client),
            Event::Answer(client, server) => self.answer(client, server),
            Event::Established(server) => self.established(server),
            Event::Deliver(sender) => self.deliver(sender),
            Event::Ack(reader) => self.ack(reader),
            Event::Reset(id, from) => self.reset(id, from),
        }
    }

    /// Sends something after what was sent before.
    pub(super) fn send(&mut self, id: SocketId, payload: Payload) {
        let Some(socket) = self.sockets.get(&id) else {
            return;
        };
        let (host, remote) = (socket.host, socket.remote_host);
        let mut arrives = self.now + self.delay(host, remote);
        let now = self.now;
        let Some(socket) = self.sockets.get_mut(&id) else {
            return;
        };
        if let Some((last, _)) = socket.outgoing.back() {
            arrives = arrives.max(*last);
        }
        socket.outgoing.push_back((arrives, payload));
        if !socket.is_sending {
            socket.is_sending = true;
            self.plan(arrives.saturating_sub(now), Event::Deliver(id));
        }
    }

    /// Removes a socket whose other side is to be told that it is gone.
    pub(super) fn reset_peer(&mut self, id: SocketId) {
        let Some(socket) = self.sockets.remove(&id) else {
            return;
        };
        self.wake([socket.reader, socket.writer].into_iter().flatten());
        if let Some(peer) = socket.peer {
            let delay = self.delay(socket.host, socket.remote_host);
            self.plan(delay, Event::Reset(peer, socket.host));
        }
    }

    /// Removes a socket that is closed and has sent all.
    pub(super) fn remove_closed(&mut self, id: SocketId) {
        // With the end the other side learns what was read.
        self.told(id);
        self.sockets.remove(&id);
    }

    fn syn(&mut self, client: SocketId) {
        let Some(socket) = self.sockets.get(&client) else {
            return;
        };
        let (from, to, address) = (socket.host, socket.remote_host, socket.remote);
        match (self.path(from, to), to) {
            (Path::Held, Some(to)) => self.links.keep(from, to, Event::Syn(client)),
            (Path::Open, Some(to)) => {
                let server = match self.listener_at(to, address) {
                    None => None,
                    // As a kernel does: the request is dropped, and comes again.
                    Some((.., waiting)) if waiting >= self.options.backlog => {
                        return self.retry_connect(client);
                    }
                    Some((id, process, _)) => self.answer_socket(client, (id, process)),
                };
                let delay = self.delay(to, Some(from));
                self.plan(delay, Event::Answer(client, server));
            }
            _ => self.retry_connect(client),
        }
    }

    fn retry_connect(&mut self, client: SocketId) {
        let (now, give_up) = (self.now, self.options.connect_give_up);
        let Some(socket) = self.sockets.get_mut(&client) else {
            return;
        };
        let since = socket.failing_since.unwrap_or(now);
        if now.saturating_sub(since) >= give_up {
            return self.fail(client, io::ErrorKind::TimedOut);
        }
        let pause = backoff(CONNECT_RETRY_FIRST, socket.tries);
        socket.tries += 1;
        let left = (since + give_up).saturating_sub(now);
        self.plan(pause.min(left), Event::Syn(client));
    }

    fn answer(&mut self, client: SocketId, server: Option<SocketId>) {
        let asking = self.sockets.get(&client);
        let Some((to, from)) = asking.and_then(|socket| Some((socket.host, socket.remote_host?)))
        else {
            // Nobody waits for it any more: a reset is the answer.
            if let Some(server) = server {
                self.sockets.remove(&server);
            }
            return;
        };
        match self.path(from, Some(to)) {
            Path::Held => return self.links.keep(from, to, Event::Answer(client, server)),
            Path::Lost => {
                if let Some(server) = server {
                    self.sockets.remove(&server);
                }
                return self.retry_connect(client);
            }
            Path::Open => {}
        }
        let Some(server) = server else {
            self.note(format_args!("{} refused", client.0));
            return self.fail(client, io::ErrorKind::ConnectionRefused);
        };
        if let Some(socket) = self.sockets.get_mut(&client) {
            socket.phase = Phase::Open;
            socket.peer = Some(server);
            socket.failing_since = None;
            socket.tries = 0;
        }
        self.note(format_args!("{} connected to {}", client.0, server.0));
        self.wake_socket(client);
        let delay = self.delay(to, Some(from));
        self.plan(delay, Event::Established(server));
    }

    fn established(&mut self, server: SocketId) {
        let Some(socket) = self.sockets.get(&server) else {
            return;
        };
        let (Phase::Waiting(listener), Some(from)) = (socket.phase, socket.remote_host) else {
            return;
        };
        let to = socket.host;
        match self.path(from, Some(to)) {
            Path::Held => self.links.keep(from, to, Event::Established(server)),
            Path::Lost => {
                let tries = self.sockets.get_mut(&server).map_or(0, |socket| {
                    socket.tries += 1;
                    socket.tries
                });
                if tries > ESTABLISH_TRIES {
                    self.sockets.remove(&server);
                } else {
                    let pause = backoff(CONNECT_RETRY_FIRST, tries - 1);
                    self.plan(pause, Event::Established(server));
                }
            }
            Path::Open => {
                if let Some(socket) = self.sockets.get_mut(&server) {
                    socket.tries = 0;
                }
                if let Some(listener) = self.listeners.get_mut(&listener) {
                    listener.accepted.push_back(server);
                    let acceptors = std::mem::take(&mut listener.acceptors);
                    self.wake(acceptors);
                }
            }
        }
    }

    fn deliver(&mut self, sender: SocketId) {
        let Some(socket) = self.sockets.get_mut(&sender) else {
            return;
        };
        socket.is_sending = false;
        if socket.outgoing.is_empty() {
            return;
        }
        let (from, to) = (socket.host, socket.remote_host);
        match (self.path(from, to), to) {
            (Path::Held, Some(to)) => {
                self.keep_sending(sender);
                self.links.keep(from, to, Event::Deliver(sender));
            }
            (Path::Open, Some(to)) => self.arrive(sender, to),
            _ => self.retry(sender),
        }
    }

    /// Sends again later, or gives up.
    fn retry(&mut self, sender: SocketId) {
        let (now, give_up) = (self.now, self.options.give_up);
        let Some(socket) = self.sockets.get_mut(&sender) else {
            return;
        };
        let since = *socket.failing_since.get_or_insert(now);
        if now.saturating_sub(since) >= give_up {
            self.note(format_args!("{} gives up", sender.0));
            return self.fail(sender, io::ErrorKind::TimedOut);
        }
        let pause = backoff(RETRY_FIRST, socket.tries);
        socket.tries += 1;
        socket.is_sending = true;
        let left = (since + give_up).saturating_sub(now);
        self.plan(pause.min(left), Event::Deliver(sender));
    }

    fn keep_sending(&mut self, sender: SocketId) {
        if let Some(socket) = self.sockets.get_mut(&sender) {
            socket.is_sending = true;
        }
    }

    /// The first of what a socket sends is there.
    fn arrive(&mut self, sender: SocketId, to: HostId) {
        let Some(socket) = self.sockets.get_mut(&sender) else {
            return;
        };
        socket.failing_since = None;
        socket.tries = 0;
        let peer = socket.peer;
        let Some((_, payload)) = socket.outgoing.pop_front() else {
            return;
        };
        let Some((peer, there)) = peer.and_then(|peer| Some((peer, self.sockets.get_mut(&peer)?)))
        else {
            // The host knows nothing of the stream.
            return self.answer_with_reset(sender, to);
        };
        match &payload {
            Payload::Data(_) if there.owner.is_none() => {
                // Nobody will read it.
                self.sockets.remove(&peer);
                return self.answer_with_reset(sender, to);
            }
            Payload::Data(bytes) => {
                there.received.extend(bytes);
                let digest = hash(bytes);
                self.note(format_args!("{} -> {}: {digest:x}", sender.0, peer.0));
            }
            Payload::End => {
                there.has_ended = true;
                self.note(format_args!("{} -> {}: end", sender.0, peer.0));
            }
        }
        if let Some(there) = self.sockets.get_mut(&peer) {
            let reader = there.reader.take();
            self.wake(reader);
        }
        self.send_next(sender);
    }

    fn send_next(&mut self, sender: SocketId) {
        let now = self.now;
        let Some(socket) = self.sockets.get_mut(&sender) else {
            return;
        };
        if let Some((arrives, _)) = socket.outgoing.front() {
            let delay = arrives.saturating_sub(now);
            socket.is_sending = true;
            self.plan(delay, Event::Deliver(sender));
        } else if socket.owner.is_none() {
            self.remove_closed(sender);
        }
    }

    fn answer_with_reset(&mut self, sender: SocketId, from: HostId) {
        let Some(socket) = self.sockets.get_mut(&sender) else {
            return;
        };
        let host = socket.host;
        if socket.owner.is_none() {
            self.sockets.remove(&sender);
            return;
        }
        let delay = self.delay(from, Some(host));
        self.plan(delay, Event::Reset(sender, from));
    }

    fn ack(&mut self, reader: SocketId) {
        let Some(socket) = self.sockets.get(&reader) else {
            return;
        };
        let (from, to) = (socket.host, socket.remote_host);
        match (self.path(from, to), to) {
            (Path::Held, Some(to)) => self.links.keep(from, to, Event::Ack(reader)),
            (Path::Open, _) => self.told(reader),
            _ => {
                if let Some(socket) = self.sockets.get_mut(&reader) {
                    let pause = backoff(RETRY_FIRST, socket.tell_tries);
                    socket.tell_tries += 1;
                    self.plan(pause, Event::Ack(reader));
                }
            }
        }
    }

    /// A reset is sent once: if it is lost, the next one answers the next bytes.
    fn reset(&mut self, id: SocketId, from: HostId) {
        let Some(socket) = self.sockets.get(&id) else {
            return;
        };
        let to = socket.host;
        match self.path(from, Some(to)) {
            Path::Held => self.links.keep(from, to, Event::Reset(id, from)),
            Path::Lost => self.send_next(id),
            Path::Open => {
                self.note(format_args!("{} reset", id.0));
                self.fail(id, io::ErrorKind::ConnectionReset);
            }
        }
    }

    /// A socket is no more; what has come can still be read.
    fn fail(&mut self, id: SocketId, error: io::ErrorKind) {
        let Some(socket) = self.sockets.get_mut(&id) else {
            return;
        };
        if socket.owner.is_none() {
            self.sockets.remove(&id);
            return;
        }
        socket.error.get_or_insert(error);
        socket.outgoing.clear();
        self.wake_socket(id);
    }
}

/// The pause before the next try, after so many of them.
fn backoff(first: Duration, tries: u32) -> Duration {
    first
        .saturating_mul(2_u32.saturating_pow(tries))
        .min(RETRY_MAX)
}
