//! The controller: on whichever node leads the metadata quorum, and on that one only.
//!
//! ```text
//!   brokers ── Heartbeat ──> Term ── FenceBroker, UnfenceBroker ──> metadata
//!                             │  <── image
//!                             ├── Fence, CopyTail, DigestAt ──> brokers ── certificates, digests ──┐
//!                             └── CommitSeal, UncleanRecover, BeginSeal, DeclareLost ──> metadata  │
//!                                      ^───────────────────────────────────────────────────────────┘
//! ```
//!
//! [`term`] is what it decides, without I/O; the rest is the shell around it. What it knows besides
//! the image it keeps in memory: the next controller finds it out again. Two of them may act at once
//! for a moment, which is harmless, since whatever they propose is conditioned on lives and versions
//! and decided when it is applied (R15, R21, R26, R27). A term begins when this node leads, its image
//! holds all that was committed before, and a majority has answered it
//! ([`mainstem_metadata::Leadership::leads`]).
//!
//! The node's own broker is asked without a socket ([`party`]), so a cluster of one takes the same
//! way. Each node sends heartbeats and watches who refuses its connections ([`heartbeat`],
//! [`suspects`]), and knows what each broker carries, to place new segments ([`place`]).

mod census;
mod heartbeat;
mod metrics;
mod moves;
mod party;
mod place;
mod seals;
mod suspects;
mod term;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use mainstem_env::Env;
use mainstem_metadata::{Command, Image, Leadership, Metadata, SegmentFlush, Topic};
use mainstem_peers::{Peers, Service};
use mainstem_record::{Member, SegmentId};
use parking_lot::Mutex;
use prometheus::Registry;
use tokio::sync::{Notify, watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use uuid::Uuid;

pub use self::{
    census::Counts,
    place::{NewPartitions, PlaceError},
};
use self::{
    heartbeat::LivenessService,
    metrics::Metrics,
    party::{Parties, SealService},
    suspects::Suspects,
    term::{Effect, Known, Term},
};
pub(crate) use self::{party::Party, place::Placer};
use crate::{machine::Timers, wire::SealQuestion};

/// The pause between two looks while seals are under way.
const BUSY_PAUSE: Duration = Duration::from_millis(50);
/// The same while none is; a session that ends is noticed so late at most.
const IDLE_PAUSE: Duration = Duration::from_millis(250);
/// Questions to one broker that have no answer yet. What is not asked now is asked again soon.
const QUESTIONS_MAX: usize = 16;
/// How often metrics are brought up to date.
const SHOWN_EVERY: Duration = Duration::from_millis(250);
/// How often it is said what seals wait for.
const TOLD_EVERY: Duration = Duration::from_secs(10);
/// Kafka's name of the topic and broker config that allows unclean recovery.
const UNCLEAN_CONFIG: &str = "unclean.leader.election.enable";

/// What the controller and the heartbeats are started with.
pub(crate) struct ControllerDeps {
    /// The outside world.
    pub(crate) env: Env,
    /// The metadata service.
    pub(crate) metadata: Metadata,
    /// The connections to other nodes, if there are any.
    pub(crate) peers: Option<Peers>,
    /// This node's broker, as it has registered.
    pub(crate) me: Member,
    /// What it does when a controller asks.
    pub(crate) local: Arc<dyn Party>,
    /// When the replicas of a topic sync.
    pub(crate) flush: Arc<dyn Fn(&Topic) -> SegmentFlush + Send + Sync>,
    /// Whether unclean recovery is allowed where neither a topic nor the cluster says so.
    pub(crate) unclean: bool,
    /// The protocol's timers.
    pub(crate) timers: Timers,
    /// `broker.heartbeat.interval.ms`.
    pub(crate) interval: Duration,
    /// Where metrics are registered.
    pub(crate) registry: Registry,
}

/// The controller of this node, at work or not. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Controller {
    inner: Arc<Inner>,
}

struct Inner {
    env: Env,
    metadata: Metadata,
    peers: Option<Peers>,
    parties: Parties,
    flush: Arc<dyn Fn(&Topic) -> SegmentFlush + Send + Sync>,
    unclean: bool,
    timers: Timers,
    interval: Duration,
    metrics: Metrics,
    suspects: Mutex<Suspects>,
    /// The term, while this node is the controller, and its number.
    term: Mutex<Option<(u64, Term)>>,
    /// Something happened that the controller should look at.
    wake: Notify,
    /// The next heartbeat should be sent at once.
    hurry: Notify,
    /// Questions that have no answer yet.
    asked: Mutex<BTreeMap<Member, usize>>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

// === impl Controller ===

impl Controller {
    /// Begins to send heartbeats, to answer controllers, and to be one whenever this node leads the
    /// metadata quorum.
    ///
    /// # Errors
    /// The metrics are registered already.
    pub(crate) fn start(deps: ControllerDeps) -> Result<Self, prometheus::Error> {
        let metrics = Metrics::register(&deps.registry)?;
        let parties = Parties {
            env: deps.env.clone(),
            me: deps.me,
            local: Arc::clone(&deps.local),
            peers: deps.peers.clone(),
        };
        let inner = Arc::new(Inner {
            env: deps.env,
            metadata: deps.metadata,
            peers: deps.peers,
            parties,
            flush: deps.flush,
            unclean: deps.unclean,
            timers: deps.timers,
            interval: deps.interval,
            metrics,
            suspects: Mutex::default(),
            term: Mutex::default(),
            wake: Notify::new(),
            hurry: Notify::new(),
            asked: Mutex::default(),
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
        });
        if let Some(peers) = &inner.peers {
            let liveness = LivenessService(Arc::clone(&inner));
            peers.serve(Service::LIVENESS, Arc::new(liveness));
            peers.serve(Service::SEAL, Arc::new(SealService(deps.local)));
        }
        inner.spawn("controller", Arc::clone(&inner).run());
        inner.spawn("heartbeats", Arc::clone(&inner).send_heartbeats());
        Ok(Self { inner })
    }

    /// Stops to be the controller, and sends no more heartbeats.
    pub(crate) async fn close(&self) {
        self.inner.stop.cancel();
        self.inner.tasks.close();
        self.inner.tasks.wait().await;
    }
}

// === impl Inner ===

impl Inner {
    /// Runs until stopped; what is started ends with it.
    fn spawn(&self, name: &'static str, work: impl Future<Output = ()> + Send + 'static) {
        let stop = self.stop.clone();
        let work = async move {
            // Stopped in the middle or not makes no difference to the protocol.
            stop.run_until_cancelled(work).await;
        };
        self.env.spawn(name, self.tasks.track_future(work));
    }

    /// With the term, if this node is the controller.
    fn with_term<T>(&self, work: impl FnOnce(&mut Term, Duration) -> T) -> Option<T> {
        let now = self.env.now();
        let mut term = self.term.lock();
        term.as_mut().map(|(_, term)| work(term, now))
    }

    /// The same if it is still that term.
    fn in_term(&self, number: u64, work: impl FnOnce(&mut Term, Duration)) {
        let now = self.env.now();
        if let Some((_, term)) = self.term.lock().as_mut().filter(|(it, _)| *it == number) {
            work(term, now);
        }
        self.wake.notify_one();
    }

    async fn run(self: Arc<Self>) {
        let mut leadership = self.metadata.leadership();
        loop {
            let now = *leadership.borrow_and_update();
            if now.leads {
                self.serve(now.term, &mut leadership).await;
                *self.term.lock() = None;
                self.metrics.resigned();
                tracing::info!(term = now.term, "no longer the controller");
            } else if leadership.changed().await.is_err() {
                return;
            }
        }
    }

    /// One term of office.
    async fn serve(self: &Arc<Self>, number: u64, leadership: &mut watch::Receiver<Leadership>) {
        let term = Term::new(
            self.timers,
            self.interval,
            &self.metadata.image(),
            self.env.now(),
        );
        let seals = term.seals().len();
        tracing::info!(term = number, seals, "this node is the controller");
        *self.term.lock() = Some((number, term));
        // The heartbeat of its own broker is the first that it hears.
        self.hurry.notify_one();
        let mut images = self.metadata.changes();
        let mut shown = Shown::default();
        loop {
            let now = *leadership.borrow_and_update();
            if !now.leads || now.term != number {
                return;
            }
            images.borrow_and_update();
            let (effects, pause) = self.tick(&mut shown);
            for effect in effects {
                self.perform(number, effect);
            }
            tokio::select! {
                biased;
                changed = leadership.changed() => if changed.is_err() {
                    return;
                },
                () = self.wake.notified() => {}
                changed = images.changed() => if changed.is_err() {
                    return;
                },
                () = self.env.sleep(pause) => {}
            }
        }
    }

    /// Has the term look at everything; returns what is to be done, and when to look again.
    fn tick(&self, shown: &mut Shown) -> (Vec<Effect>, Duration) {
        let image = self.metadata.image();
        let refusing: Vec<_> = self.suspects.lock().refusing().collect();
        let ticked = self.with_term(|term, now| {
            term.image(&image, now);
            term.lives(self.parties.me, now);
            term.suspect(refusing.into_iter(), now);
            let mut known = Known {
                fresh: &mut || SegmentId(Uuid::from_bytes(self.env.random_uuid())),
                flush: &*self.flush,
                unclean: &|image, topic| self.is_unclean_allowed(image, topic),
            };
            let effects = term.tick(&mut known, now);
            self.show(term, shown, now);
            let pause = match term.seals().is_empty() {
                true => IDLE_PAUSE.min(self.timers.session_timeout / 4),
                false => BUSY_PAUSE,
            };
            (effects, pause)
        });
        ticked.unwrap_or_default()
    }

    fn is_unclean_allowed(&self, image: &Image, topic: &Topic) -> bool {
        let text = topic.configs.get(UNCLEAN_CONFIG);
        let text = text.or_else(|| image.broker_configs.get(UNCLEAN_CONFIG));
        text.map_or(self.unclean, |text| text == "true")
    }

    /// Metrics and log lines of what the term has done.
    fn show(&self, term: &mut Term, shown: &mut Shown, now: Duration) {
        let sealed = term.sealed();
        for sealed in &sealed {
            self.metrics.sealed(sealed);
        }
        let left = term.seals().len();
        if let Some(longest) = sealed.iter().map(|sealed| sealed.took).max() {
            tracing::info!(count = sealed.len(), ?longest, left, "segments sealed");
        }
        if now >= shown.metrics + SHOWN_EVERY || !sealed.is_empty() {
            shown.metrics = now;
            self.metrics.shown(term.counts(), term.seals());
        }
        if left == 0 {
            shown.told = now;
        } else if now >= shown.told + TOLD_EVERY {
            shown.told = now;
            let waits = term.seals().waits();
            tracing::warn!(?waits, "partitions have no leader");
        }
    }

    fn perform(self: &Arc<Self>, number: u64, effect: Effect) {
        match effect {
            Effect::Ask(to, question) => self.ask(number, to, question),
            Effect::Propose(command) => {
                let inner = Arc::clone(self);
                self.spawn("controller-proposes", async move {
                    inner.propose(number, command).await;
                });
            }
        }
    }

    fn ask(self: &Arc<Self>, number: u64, to: Member, question: SealQuestion) {
        {
            let mut asked = self.asked.lock();
            let count = asked.entry(to).or_default();
            if *count >= QUESTIONS_MAX {
                return;
            }
            *count += 1;
        }
        let inner = Arc::clone(self);
        self.spawn("controller-asks", async move {
            let answer = inner.parties.ask(to, question).await;
            {
                let mut asked = inner.asked.lock();
                if let Some(count) = asked.get_mut(&to) {
                    *count -= 1;
                }
                asked.retain(|_, count| *count > 0);
            }
            if let Some(answer) = answer {
                inner.in_term(number, |term, now| term.answered(answer, now));
            }
        });
    }

    async fn propose(&self, number: u64, command: Command) {
        let outcome = self.metadata.propose(command.clone()).await;
        match outcome {
            Ok(applied) => tracing::debug!(?applied, "a command of the controller was applied"),
            Err(error) => tracing::debug!(%error, "a command of the controller was not applied"),
        }
        self.in_term(number, |term, _| term.settled(&command));
    }
}

/// When what was shown last.
#[derive(Default)]
struct Shown {
    metrics: Duration,
    told: Duration,
}
