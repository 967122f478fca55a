//! A network between the hosts of a world: TCP as programs see it.
//!
//! Every host has one address ([`HostId::ip`]) and a loopback of its own. The bytes of one stream
//! arrive in order and whole, or the stream ends; what a bad network does to them is delay: a packet
//! that is lost is sent again, later and later, and a stream that gets nothing through for
//! [`NetOptions::give_up`] times out. Packets of different streams overtake each other.
//!
//! Who ends how, as a kernel does it:
//! - A process that ends, or a program that drops a stream: the other side reads what was sent and
//!   then the end; it is reset at once if bytes had come that were not read, and later if it sends.
//! - A host that loses power or is cut off says nothing: the other side learns of it only by its own
//!   time-outs, or, once the host is back, by the reset that answers what it sends.
//! - A process that is stopped keeps its streams, and its host goes on taking connections and bytes
//!   for it until their buffers are full.
//!
//! The network has no task: it works while somebody calls it and when a timer of the world comes due,
//! so its history depends on nothing but the calls, the world's clock and its dice.

mod chaos;
mod link;
mod packets;
mod socket;
mod state;
mod stream;

use std::{
    future::poll_fn,
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{Arc, Weak},
    task::{Wake, Waker},
    time::Duration,
};

use mainstem_env::{BoxFuture, Clock as _, Listener, Net, Stream};
use parking_lot::Mutex;

pub use self::{
    chaos::{ChaosOptions, Fault, FaultClass, Step, schedule},
    link::LinkOptions,
};
use self::{
    socket::{SimListener, SimStream},
    state::{ProcessId, State},
};
use crate::{Dice, SimClock, Trace};

/// Bytes of one direction of a stream that were written and not yet read; a writer waits for more.
pub const SOCKET_BUFFER_BYTES: usize = 64 << 10;

/// A host of the world.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostId(pub u16);

/// What holds for all streams.
#[derive(Debug, Clone)]
pub struct NetOptions {
    /// Connections that wait to be accepted at one listener; the requests of others get lost.
    pub backlog: usize,
    /// How long a stream whose bytes do not get through goes on trying, as Linux does.
    pub give_up: Duration,
    /// How long a connection is asked for without any answer, as Linux does.
    pub connect_give_up: Duration,
}

/// The network of a world. Clones are the same network.
#[derive(Debug, Clone)]
pub struct SimNet {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    clock: SimClock,
    state: Mutex<State>,
}

/// Lets the network go on when a timer comes due.
struct Driver(Weak<Shared>);

/// The network as one process sees it.
#[derive(Debug, Clone)]
pub(crate) struct ProcessNet {
    net: SimNet,
    host: HostId,
    process: ProcessId,
}

// === impl HostId ===

impl HostId {
    /// The host's address.
    pub fn ip(self) -> IpAddr {
        let [high, low] = self.0.to_be_bytes();
        IpAddr::V4(Ipv4Addr::new(10, 0, high, low))
    }

    /// Whose address it is; `None` if it is none of a host's. A loopback is `on`'s.
    fn of(ip: IpAddr, on: Self) -> Option<Self> {
        match ip {
            ip if ip.is_loopback() => Some(on),
            IpAddr::V4(ip) => match ip.octets() {
                [10, 0, high, low] => Some(Self(u16::from_be_bytes([high, low]))),
                _ => None,
            },
            IpAddr::V6(_) => None,
        }
    }
}

// === impl NetOptions ===

impl Default for NetOptions {
    fn default() -> Self {
        Self {
            backlog: 128,
            give_up: Duration::from_secs(15 * 60),
            connect_give_up: Duration::from_secs(127),
        }
    }
}

// === impl SimNet ===

impl SimNet {
    pub(crate) fn new(clock: SimClock, dice: Dice, trace: Trace) -> Self {
        let shared = Shared {
            state: Mutex::new(State::new(dice, trace)),
            clock,
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    /// Sets what holds for all streams.
    pub fn set_options(&self, options: NetOptions) {
        self.with(|state| state.options = options);
    }

    /// How packets of all links travel that have no options of their own. A loopback is no link: it
    /// takes no time and loses nothing.
    pub fn set_links(&self, options: LinkOptions) {
        self.with(|state| state.links.set_default(options));
    }

    /// How packets from one host to another travel from now on; `None`: as on all links.
    pub fn set_link(&self, from: HostId, to: HostId, options: Option<LinkOptions>) {
        self.with(|state| state.links.set(from, to, options));
    }

    /// Drops all packets from one host to another until [`heal`](Self::heal): a partition, one way.
    pub fn cut(&self, from: HostId, to: HostId) {
        self.with(|state| {
            state.note(format_args!("cut {} -> {}", from.0, to.0));
            state.links.cut(from, to);
        });
    }

    /// Undoes one [`cut`](Self::cut). What waits gets through when it is sent again.
    pub fn heal(&self, from: HostId, to: HostId) {
        self.with(|state| {
            state.note(format_args!("heal {} -> {}", from.0, to.0));
            state.links.heal(from, to);
        });
    }

    /// Drops all packets to and from a host until [`rejoin`](Self::rejoin).
    pub fn isolate(&self, host: HostId) {
        self.with(|state| {
            state.note(format_args!("isolate {}", host.0));
            state.links.isolate(host);
        });
    }

    /// Undoes one [`isolate`](Self::isolate).
    pub fn rejoin(&self, host: HostId) {
        self.with(|state| {
            state.note(format_args!("rejoin {}", host.0));
            state.links.rejoin(host);
        });
    }

    /// Holds all packets from one host to another back; none is lost.
    pub fn hold(&self, from: HostId, to: HostId) {
        self.with(|state| {
            state.note(format_args!("hold {} -> {}", from.0, to.0));
            state.links.hold(from, to);
        });
    }

    /// Undoes one [`hold`](Self::hold): what was held arrives now, the streams in random order.
    pub fn release(&self, from: HostId, to: HostId) {
        self.with(|state| {
            state.note(format_args!("release {} -> {}", from.0, to.0));
            state.release(from, to);
        });
    }

    /// Takes a host's power: its streams and listeners are gone, and nobody is told.
    pub fn power_off(&self, host: HostId) {
        self.with(|state| state.power_off(host));
    }

    /// Gives it back.
    pub fn power_on(&self, host: HostId) {
        self.with(|state| state.power_on(host));
    }

    /// Ends whatever cuts, isolates, holds or slows packets. Hosts without power stay so.
    pub fn heal_all(&self) {
        self.with(State::heal_all);
    }

    /// A process on a host; the host is powered on if it was not.
    pub(crate) fn process(&self, host: HostId) -> ProcessNet {
        let process = self.with(|state| state.start_process(host));
        ProcessNet {
            net: self.clone(),
            host,
            process,
        }
    }

    /// Works with the state, does what is due, and wakes whom that concerns.
    fn with<T>(&self, work: impl FnOnce(&mut State) -> T) -> T {
        let (done, woken) = {
            let mut state = self.shared.state.lock();
            state.now = self.shared.clock.now();
            let done = work(&mut state);
            state.run_due();
            if let Some(deadline) = state.next_wake() {
                let driver = Arc::new(Driver(Arc::downgrade(&self.shared)));
                self.shared.clock.wake_at(deadline, Waker::from(driver));
            }
            (done, state.take_woken())
        };
        // Without the lock: what is woken may drop a stream.
        woken.into_iter().for_each(Waker::wake);
        done
    }
}

// === impl Driver ===

impl Wake for Driver {
    fn wake(self: Arc<Self>) {
        if let Some(shared) = self.0.upgrade() {
            SimNet { shared }.with(State::disarm);
        }
    }
}

// === impl ProcessNet ===

impl ProcessNet {
    /// Ends the process: the host closes what it had open.
    pub(crate) fn end(&self) {
        self.net.with(|state| state.end_process(self.process));
    }
}

impl Net for ProcessNet {
    fn listen(&self, address: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn Listener>>> {
        Box::pin(async move {
            let (host, process) = (self.host, self.process);
            let (id, address) = self
                .net
                .with(|state| state.listen(host, process, address))?;
            let listener = SimListener::new(self.net.clone(), id, address);
            Ok(Box::new(listener) as Box<dyn Listener>)
        })
    }

    fn connect(&self, address: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn Stream>>> {
        Box::pin(async move {
            let (host, process) = (self.host, self.process);
            let id = self
                .net
                .with(|state| state.connect(host, process, address))?;
            // Closes it if this is dropped while it waits.
            let stream = SimStream::new(self.net.clone(), id);
            poll_fn(|context| self.net.with(|state| state.poll_connected(id, context))).await?;
            Ok(Box::new(stream) as Box<dyn Stream>)
        })
    }
}
