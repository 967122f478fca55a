//! What the network knows; what programs do with listeners, and what becomes of hosts.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fmt, io, mem,
    net::SocketAddr,
    task::{Context, Poll, Waker},
    time::Duration,
};

use super::{
    HostId, NetOptions,
    link::{Links, Path},
    stream::{Phase, Socket},
};
use crate::{Dice, Trace};

/// The first port that is given where none is asked for.
const FIRST_FREE_PORT: u16 = 32_768;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct SocketId(pub(super) u64);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ListenerId(u64);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ProcessId(u64);

/// A packet that arrives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Event {
    /// The request of a client.
    Syn(SocketId),
    /// The answer of its server, whose socket it is; none: refused.
    Answer(SocketId, Option<SocketId>),
    /// The client's answer to that, at the server's socket.
    Established(SocketId),
    /// The first of the bytes that a socket has sent.
    Deliver(SocketId),
    /// Word of what the program behind a socket has read.
    Ack(SocketId),
    /// A reset of a socket, from a host.
    Reset(SocketId, HostId),
}

#[derive(Debug)]
pub(super) struct Listening {
    host: HostId,
    owner: ProcessId,
    address: SocketAddr,
    pub(super) accepted: VecDeque<SocketId>,
    pub(super) acceptors: Vec<Waker>,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) now: Duration,
    pub(super) options: NetOptions,
    pub(super) links: Links,
    pub(super) dice: Dice,
    trace: Trace,
    agenda: BTreeMap<(Duration, u64), Event>,
    /// When the clock wakes us.
    armed: Option<Duration>,
    ids_made: u64,
    powered: BTreeSet<HostId>,
    ports: BTreeMap<HostId, u16>,
    ended: BTreeSet<ProcessId>,
    pub(super) listeners: BTreeMap<ListenerId, Listening>,
    pub(super) sockets: BTreeMap<SocketId, Socket>,
    woken: Vec<Waker>,
}

// === impl State: time ===

impl State {
    pub(super) fn new(dice: Dice, trace: Trace) -> Self {
        Self {
            now: Duration::ZERO,
            options: NetOptions::default(),
            links: Links::default(),
            dice,
            trace,
            agenda: BTreeMap::new(),
            armed: None,
            ids_made: 0,
            powered: BTreeSet::new(),
            ports: BTreeMap::new(),
            ended: BTreeSet::new(),
            listeners: BTreeMap::new(),
            sockets: BTreeMap::new(),
            woken: Vec::new(),
        }
    }

    pub(super) fn note(&self, what: fmt::Arguments<'_>) {
        self.trace.add(self.now, what);
    }

    /// Has `event` happen after `delay`.
    pub(super) fn plan(&mut self, delay: Duration, event: Event) {
        let id = self.next_id();
        self.agenda.insert((self.now + delay, id), event);
    }

    pub(super) fn run_due(&mut self) {
        while let Some(first) = self.agenda.first_entry() {
            if first.key().0 > self.now {
                return;
            }
            let event = first.remove();
            self.happen(event);
        }
    }

    /// When the clock has to wake us, if it does not yet.
    pub(super) fn next_wake(&mut self) -> Option<Duration> {
        let (next, _) = *self.agenda.first_key_value()?.0;
        if self.armed.is_some_and(|armed| armed <= next) {
            return None;
        }
        self.armed = Some(next);
        self.armed
    }

    /// The clock has woken us.
    pub(super) fn disarm(&mut self) {
        if self.armed.is_some_and(|armed| armed <= self.now) {
            self.armed = None;
        }
    }

    pub(super) fn take_woken(&mut self) -> Vec<Waker> {
        mem::take(&mut self.woken)
    }

    pub(super) fn wake(&mut self, wakers: impl IntoIterator<Item = Waker>) {
        self.woken.extend(wakers);
    }

    /// Whoever waits for this socket looks again.
    pub(super) fn wake_socket(&mut self, id: SocketId) {
        if let Some(socket) = self.sockets.get_mut(&id) {
            let wakers = [socket.reader.take(), socket.writer.take()];
            self.wake(wakers.into_iter().flatten());
        }
    }

    pub(super) fn next_id(&mut self) -> u64 {
        self.ids_made += 1;
        self.ids_made
    }

    /// What becomes of a packet from a host to another, or to none.
    pub(super) fn path(&mut self, from: HostId, to: Option<HostId>) -> Path {
        match to {
            Some(to) if self.powered.contains(&from) && self.powered.contains(&to) => {
                self.links.path(from, to, &mut self.dice)
            }
            _ => Path::Lost,
        }
    }

    pub(super) fn delay(&mut self, from: HostId, to: Option<HostId>) -> Duration {
        to.map_or(Duration::ZERO, |to| {
            self.links.delay(from, to, &mut self.dice)
        })
    }
}

// === impl State: hosts and processes ===

impl State {
    pub(super) fn start_process(&mut self, host: HostId) -> ProcessId {
        self.powered.insert(host);
        ProcessId(self.next_id())
    }

    pub(super) fn end_process(&mut self, process: ProcessId) {
        if !self.ended.insert(process) {
            return;
        }
        self.note(format_args!("process {} ends", process.0));
        let listeners = self.listeners.iter();
        let own = listeners.filter(|(_, listener)| listener.owner == process);
        for id in own.map(|(id, _)| *id).collect::<Vec<_>>() {
            self.close_listener(id);
        }
        let sockets = self.sockets.iter();
        let own = sockets.filter(|(_, socket)| socket.owner == Some(process));
        for id in own.map(|(id, _)| *id).collect::<Vec<_>>() {
            self.wake_socket(id);
            self.close(id);
        }
    }

    pub(super) fn power_off(&mut self, host: HostId) {
        self.note(format_args!("power off {}", host.0));
        self.powered.remove(&host);
        let (gone, left) = mem::take(&mut self.listeners)
            .into_iter()
            .partition(|(_, listener)| listener.host == host);
        self.listeners = left;
        for listener in gone.into_values() {
            self.wake(listener.acceptors);
        }
        let sockets = self.sockets.iter();
        let own = sockets.filter(|(_, socket)| socket.host == host);
        for id in own.map(|(id, _)| *id).collect::<Vec<_>>() {
            self.wake_socket(id);
            self.sockets.remove(&id);
        }
    }

    pub(super) fn power_on(&mut self, host: HostId) {
        self.note(format_args!("power on {}", host.0));
        self.powered.insert(host);
    }

    pub(super) fn release(&mut self, from: HostId, to: HostId) {
        let held = self.links.release(from, to);
        self.go_on(held);
    }

    pub(super) fn heal_all(&mut self) {
        self.note(format_args!("heal all"));
        let held = self.links.heal_all();
        self.go_on(held);
    }

    /// What was held arrives, the streams in any order.
    fn go_on(&mut self, held: VecDeque<Event>) {
        let mut held = Vec::from(held);
        while !held.is_empty() {
            let next = self.dice.index(held.len());
            let event = held.swap_remove(next);
            self.plan(Duration::ZERO, event);
        }
    }
}

// === impl State: listeners ===

impl State {
    pub(super) fn listen(
        &mut self,
        host: HostId,
        process: ProcessId,
        mut address: SocketAddr,
    ) -> io::Result<(ListenerId, SocketAddr)> {
        self.alive(host, process)?;
        let ip = address.ip();
        if !ip.is_unspecified() && HostId::of(ip, host) != Some(host) {
            return Err(io::ErrorKind::AddrNotAvailable.into());
        }
        if address.port() == 0 {
            address.set_port(self.free_port(host));
        }
        let in_use = self.listeners.values().any(|other| {
            let same_ip = other.address.ip() == address.ip()
                || other.address.ip().is_unspecified()
                || address.ip().is_unspecified();
            other.host == host && other.address.port() == address.port() && same_ip
        });
        if in_use {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        let id = ListenerId(self.next_id());
        let listener = Listening {
            host,
            owner: process,
            address,
            accepted: VecDeque::new(),
            acceptors: Vec::new(),
        };
        self.listeners.insert(id, listener);
        self.note(format_args!("{} listens on {address}", host.0));
        Ok((id, address))
    }

    pub(super) fn poll_accept(
        &mut self,
        id: ListenerId,
        context: &Context<'_>,
    ) -> Poll<io::Result<(SocketId, SocketAddr)>> {
        let Some(listener) = self.listeners.get_mut(&id) else {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        };
        while let Some(accepted) = listener.accepted.pop_front() {
            if let Some(socket) = self.sockets.get_mut(&accepted) {
                socket.phase = Phase::Open;
                return Poll::Ready(Ok((accepted, socket.remote)));
            }
        }
        listener.acceptors.push(context.waker().clone());
        Poll::Pending
    }

    pub(super) fn close_listener(&mut self, id: ListenerId) {
        let Some(listener) = self.listeners.remove(&id) else {
            return;
        };
        self.wake(listener.acceptors);
        let sockets = self.sockets.iter();
        let waiting = sockets.filter(|(_, socket)| socket.phase == Phase::Waiting(id));
        for id in waiting.map(|(id, _)| *id).collect::<Vec<_>>() {
            self.reset_peer(id);
        }
    }

    /// The listener of an address, and how many connections wait at it.
    pub(super) fn listener_at(
        &self,
        host: HostId,
        address: SocketAddr,
    ) -> Option<(ListenerId, ProcessId, usize)> {
        let mut all = self.listeners.iter();
        let (id, listener) = all.find(|(_, listener)| {
            let bound = listener.address;
            let takes = bound.ip().is_unspecified() || bound.ip() == address.ip();
            listener.host == host && bound.port() == address.port() && takes
        })?;
        let waits = |socket: &&Socket| socket.phase == Phase::Waiting(*id);
        let waiting = self.sockets.values().filter(waits).count();
        Some((*id, listener.owner, waiting))
    }

    pub(super) fn free_port(&mut self, host: HostId) -> u16 {
        let next = self.ports.entry(host).or_insert(FIRST_FREE_PORT);
        let port = *next;
        *next = next.checked_add(1).unwrap_or(FIRST_FREE_PORT);
        port
    }

    pub(super) fn alive(&self, host: HostId, process: ProcessId) -> io::Result<()> {
        if self.ended.contains(&process) || !self.powered.contains(&host) {
            return Err(io::ErrorKind::NetworkDown.into());
        }
        Ok(())
    }
}
