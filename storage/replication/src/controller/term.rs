//! What a controller does while it leads the metadata quorum: sessions, seals, and what is to be
//! moved. Pure: it is told what happened and what time it is, and says what to send and propose.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use mainstem_metadata::{Command, Image, SealReason, SegmentFlush, Topic};
use mainstem_record::{BrokerId, Member, PartitionId, SegmentId};

use super::{
    census::{Census, Counts},
    moves::Moves,
    seals::{Outside, Sealed, Seals, Work},
};
use crate::{
    machine::{
        Timers,
        liveness::{Liveness, Registered, Transition},
    },
    wire::{Heartbeat, HeartbeatAnswer, SealAnswer, SealQuestion, Session},
};

/// Seals of one command.
const SEALS_PER_COMMAND: usize = 512;
/// Segments of one message.
const SEGMENTS_PER_MESSAGE: usize = 2_048;
/// The same of one that asks for copies: the answer comes when all of them are made.
const COPIES_PER_MESSAGE: usize = 64;
/// What a broker says of another one counts for so long.
const REPORT_LIFE: Duration = Duration::from_secs(2);
/// Brokers that must say so where the controller itself sees nothing.
const REPORTERS_MIN: usize = 2;
/// A broker that is still opening what it holds counts as one that leads so many segments: it leads
/// a new one only where all others do, too.
const UNREADY_LEADS: u32 = 1 << 30;
/// How often it is said why a broker is not declared lost.
const TOLD_AGAIN_AFTER: Duration = Duration::from_secs(30);

/// What the controller is to do.
#[derive(Debug, PartialEq)]
pub(crate) enum Effect {
    /// Ask a broker.
    Ask(Member, SealQuestion),
    /// Propose.
    Propose(Command),
}

/// What a term knows of topics that metadata does not.
pub(crate) struct Known<'a> {
    /// A fresh id of a segment.
    pub(crate) fresh: &'a mut dyn FnMut() -> SegmentId,
    /// When the replicas of a topic sync.
    pub(crate) flush: &'a dyn Fn(&Topic) -> SegmentFlush,
    /// Whether `unclean.leader.election.enable` holds for it.
    pub(crate) unclean: &'a dyn Fn(&Image, &Topic) -> bool,
}

/// One broker says that it cannot reach another.
#[derive(Clone, Copy)]
struct Report {
    /// When the refused life did so last.
    refused: Duration,
    /// When that was told.
    told: Duration,
}

/// What was proposed about a broker.
#[derive(Clone, Copy)]
struct Proposed {
    at: Duration,
    /// Its outcome is not known.
    is_open: bool,
}

/// One term of office.
pub(crate) struct Term {
    timers: Timers,
    interval: Duration,
    census: Census,
    liveness: Liveness,
    /// Who refuses whom, by the one that refuses.
    reports: BTreeMap<Member, BTreeMap<BrokerId, Report>>,
    /// Lives that have opened all that they hold.
    ready: BTreeSet<Member>,
    /// Transitions that were proposed.
    proposed: BTreeMap<Member, Proposed>,
    /// Of whom it was said that they are not declared lost, and when.
    told: BTreeMap<Member, Duration>,
    seals: Seals,
    sealed: Vec<Sealed>,
    ticked: Duration,
    moves: Moves,
}

// === impl Term ===

impl Term {
    /// A controller that begins: it has heard nobody.
    pub(crate) fn new(
        timers: Timers,
        interval: Duration,
        image: &Arc<Image>,
        now: Duration,
    ) -> Self {
        let mut term = Self {
            timers,
            interval,
            census: Census::default(),
            liveness: Liveness::new(timers.session_timeout, now),
            reports: BTreeMap::new(),
            ready: BTreeSet::new(),
            proposed: BTreeMap::new(),
            told: BTreeMap::new(),
            seals: Seals::new(timers),
            sealed: Vec::new(),
            ticked: now,
            moves: Moves::new(now),
        };
        term.image(image, now);
        term
    }

    pub(crate) fn counts(&self) -> Counts {
        self.census.counts()
    }

    pub(crate) fn seals(&self) -> &Seals {
        &self.seals
    }

    /// The seals that are over since this was asked last.
    pub(crate) fn sealed(&mut self) -> Vec<Sealed> {
        std::mem::take(&mut self.sealed)
    }

    /// Takes a newer image.
    pub(crate) fn image(&mut self, image: &Arc<Image>, now: Duration) {
        if Arc::ptr_eq(image, self.census.image()) {
            return;
        }
        for id in self.census.take(image) {
            let over = self.seals.image(image, id, now);
            self.sealed.extend(over);
        }
    }

    /// The broker of this node lives while its controller does, which is the same process: a late
    /// heartbeat says only that the node was busy.
    pub(crate) fn lives(&mut self, me: Member, now: Duration) {
        self.liveness.heartbeat(me, now);
    }

    /// A broker says that it lives, and whom it cannot reach.
    pub(crate) fn heartbeat(&mut self, heartbeat: &Heartbeat, now: Duration) -> HeartbeatAnswer {
        let member = heartbeat.member;
        let image = Arc::clone(self.census.image());
        let broker = image.brokers.get(&member.broker);
        let current = broker.filter(|it| it.incarnation == member.incarnation && !it.lost);
        // Of a life that the image does not show yet, too: it may be newer than the image.
        self.liveness.heartbeat(member, now);
        match heartbeat.ready {
            true => self.ready.insert(member),
            false => self.ready.remove(&member),
        };
        self.reports.remove(&member);
        for suspect in &heartbeat.refused {
            let ago = Duration::from_millis(u64::from(suspect.ago_ms));
            let report = Report {
                refused: now.saturating_sub(ago),
                told: now,
            };
            self.report(suspect.member, member.broker, report);
        }
        let rolls = current.map(|_| self.moves.take_rolls(member.broker, now));
        HeartbeatAnswer {
            image: image.version,
            session: match current {
                Some(broker) if broker.fenced => Session::Fenced,
                Some(_) => Session::Live,
                None => Session::Unknown,
            },
            interval_ms: u32::try_from(self.interval.as_millis()).unwrap_or(u32::MAX),
            rolls: rolls.unwrap_or_default(),
        }
    }

    fn report(&mut self, refusing: Member, by: BrokerId, report: Report) {
        let is_known = self.census.image().is_current(refusing);
        if is_known && refusing.broker != by {
            self.reports.entry(refusing).or_default().insert(by, report);
        }
    }

    /// Brings the fence of those forward that refuse connections: the controller saw it itself, or
    /// several others say so, and nothing was heard since.
    pub(crate) fn suspect(&mut self, own: impl Iterator<Item = (Member, Duration)>, now: Duration) {
        for (member, refused) in own {
            let heard = self.liveness.heard(member);
            if self.census.image().is_current(member) && heard.is_none_or(|it| it < refused) {
                self.liveness.refused(member);
            }
        }
        self.reports.retain(|_, reports| {
            reports.retain(|_, it| now < it.told.saturating_add(REPORT_LIFE));
            !reports.is_empty()
        });
        for (member, reports) in &self.reports {
            let heard = self.liveness.heard(*member);
            let since = reports.values();
            let since = since.filter(|it| heard.is_none_or(|heard| heard < it.refused));
            if since.count() >= REPORTERS_MIN {
                self.liveness.refused(*member);
            }
        }
    }

    /// What a broker has answered.
    pub(crate) fn answered(&mut self, answer: SealAnswer, now: Duration) {
        match answer {
            SealAnswer::Fenced { answers, .. } => {
                for fenced in answers {
                    if let Ok(answer) = fenced.outcome {
                        self.seals.answer(answer, now);
                    }
                }
            }
            SealAnswer::Digests { member, answers } => {
                for digest in answers {
                    self.seals.digest(member, digest);
                }
            }
        }
    }

    /// A command that was proposed has an outcome, whichever: if it was applied, an image tells.
    pub(crate) fn settled(&mut self, command: &Command) {
        match command {
            Command::FenceBroker { member }
            | Command::UnfenceBroker { member }
            | Command::DeclareLost { member } => {
                if let Some(proposed) = self.proposed.get_mut(member) {
                    proposed.is_open = false;
                }
            }
            Command::CommitSeal { commits } => {
                for commit in commits {
                    self.seals.settled(commit);
                }
            }
            Command::UncleanRecover { recoveries } => {
                for recovery in recoveries {
                    self.seals.settled(recovery);
                }
            }
            _ => {}
        }
    }

    /// What is to be done now.
    pub(crate) fn tick(&mut self, known: &mut Known<'_>, now: Duration) -> Vec<Effect> {
        self.notice_own_absence(now);
        let image = Arc::clone(self.census.image());
        let registered = registered(&image);
        let mut effects = self.transitions(&registered, now);
        let live: BTreeSet<Member> = registered
            .iter()
            .map(|broker| broker.member)
            .filter(|member| self.liveness.is_live(*member, now))
            .collect();
        let mut healthy = self.census.healthy(|member| live.contains(&member));
        self.ready.retain(|member| live.contains(member));
        for (member, load) in &mut healthy {
            if !self.ready.contains(member) {
                load.leads = load.leads.saturating_add(UNREADY_LEADS);
            }
        }
        let seals = self.moves.look(&image, &healthy, now);
        effects.extend(seals.chunks(SEALS_PER_COMMAND).map(|seals| {
            Effect::Propose(Command::BeginSeal {
                seals: seals.to_vec(),
                reason: SealReason::Requested,
            })
        }));
        let mut outside = Outside {
            image: &image,
            live: &live,
            healthy,
            fresh: &mut *known.fresh,
            flush: known.flush,
        };
        let work = self.seals.tick(&mut outside, now);
        effects.extend(asked(image.version, work));
        effects.extend(self.declare_lost(&image, &live, known, now));
        effects
    }

    /// A controller that was stopped, or had no time, could hear nobody meanwhile: it gives everybody
    /// a whole session again.
    fn notice_own_absence(&mut self, now: Duration) {
        let away = now.saturating_sub(self.ticked);
        self.ticked = now;
        if away >= self.timers.session_timeout / 2 {
            tracing::warn!(?away, "the controller was away; sessions begin anew");
            self.liveness = Liveness::new(self.timers.session_timeout, now);
            self.reports.clear();
        }
    }

    fn transitions(&mut self, registered: &[Registered], now: Duration) -> Vec<Effect> {
        let transitions = self.liveness.tick(registered, now);
        let retry = self.timers.retry;
        self.proposed
            .retain(|_, it| it.is_open || now < it.at.saturating_add(retry));
        let mut effects = Vec::new();
        for transition in transitions {
            let (Transition::Fence(member) | Transition::Unfence(member)) = transition;
            if self.proposed.contains_key(&member) {
                continue;
            }
            self.proposed.insert(member, Proposed::new(now));
            let silent = self.liveness.silent_for(member, now);
            effects.push(Effect::Propose(match transition {
                Transition::Fence(_) => {
                    tracing::warn!(%member, ?silent, "a broker is fenced");
                    Command::FenceBroker { member }
                }
                Transition::Unfence(_) => {
                    tracing::info!(%member, "a broker is heard again");
                    Command::UnfenceBroker { member }
                }
            }));
        }
        effects
    }

    /// R38: gives up the data of brokers that are away for too long, where that was allowed before;
    /// not while another topic, which does not allow it, waits for the same broker.
    fn declare_lost(
        &mut self,
        image: &Arc<Image>,
        live: &BTreeSet<Member>,
        known: &Known<'_>,
        now: Duration,
    ) -> Vec<Effect> {
        let may = |id: PartitionId| {
            let topic = image.topic_by_id(id.topic);
            topic.is_some_and(|topic| (known.unclean)(image, topic))
        };
        let missing = self.seals.missing(image, live, may, now);
        let mut effects = Vec::new();
        for member in missing {
            let broker = image.brokers.get(&member.broker);
            let is_away = broker.is_some_and(|broker| broker.fenced && !broker.lost);
            if !is_away || self.proposed.contains_key(&member) {
                continue;
            }
            if let Some(topic) = waits_for(image, member, known.unclean) {
                let told = self.told.get(&member);
                if told.is_none_or(|told| now >= told.saturating_add(TOLD_AGAIN_AFTER)) {
                    self.told.insert(member, now);
                    tracing::warn!(%member, topic,
                        "a broker is not declared lost: a topic without \
                         unclean.leader.election.enable waits for it");
                }
                continue;
            }
            self.proposed.insert(member, Proposed::new(now));
            tracing::error!(%member, "a broker that is away for too long is declared lost");
            effects.push(Effect::Propose(Command::DeclareLost { member }));
        }
        effects
    }
}

// === impl Proposed ===

impl Proposed {
    fn new(at: Duration) -> Self {
        Self { at, is_open: true }
    }
}

/// All brokers, as sessions see them.
fn registered(image: &Image) -> Vec<Registered> {
    let brokers = image.brokers.values();
    let brokers = brokers.filter(|broker| !broker.lost && broker.roles.broker);
    let registered = brokers.map(|broker| Registered {
        member: Member::new(broker.id, broker.incarnation),
        fenced: broker.fenced,
    });
    registered.collect()
}

/// A topic that does not allow unclean recovery, and of which the broker may hold what others lack.
fn waits_for<'a>(
    image: &'a Image,
    member: Member,
    unclean: &dyn Fn(&Image, &Topic) -> bool,
) -> Option<&'a str> {
    let mut topics = image
        .topics
        .values()
        .filter_map(|id| image.topic_by_id(*id));
    let topic = topics.find(|topic| {
        let open = topic.partitions.iter().filter_map(|record| record.active());
        let mut eligible = open.flat_map(|open| open.isr.iter().chain(&open.elr));
        !unclean(image, topic) && eligible.any(|it| *it == member)
    });
    topic.map(|topic| topic.name.as_str())
}

/// Work as messages and commands.
fn asked(image: u64, work: Work) -> Vec<Effect> {
    let mut effects = Vec::new();
    for (to, orders) in work.fences {
        for orders in orders.chunks(SEGMENTS_PER_MESSAGE) {
            let question = SealQuestion::Fence {
                image,
                orders: orders.to_vec(),
            };
            effects.push(Effect::Ask(to, question));
        }
    }
    for (to, orders) in work.copies {
        for orders in orders.chunks(COPIES_PER_MESSAGE) {
            effects.push(Effect::Ask(to, SealQuestion::CopyTail(orders.to_vec())));
        }
    }
    for (to, questions) in work.digests {
        for questions in questions.chunks(SEGMENTS_PER_MESSAGE) {
            effects.push(Effect::Ask(to, SealQuestion::DigestAt(questions.to_vec())));
        }
    }
    let commits = work.commits.chunks(SEALS_PER_COMMAND);
    effects.extend(commits.map(|commits| {
        Effect::Propose(Command::CommitSeal {
            commits: commits.to_vec(),
        })
    }));
    let recoveries = work.recoveries.chunks(SEALS_PER_COMMAND);
    effects.extend(recoveries.map(|recoveries| {
        for lossy in recoveries {
            tracing::error!(partition = %lossy.partition, segment = %lossy.segment.0,
                end = %lossy.end, answers = ?lossy.answers,
                "unclean recovery: acknowledged records may be lost");
        }
        Effect::Propose(Command::UncleanRecover {
            recoveries: recoveries.to_vec(),
        })
    }));
    effects
}
