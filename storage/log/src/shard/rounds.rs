//! The rounds of syncs of a shard: in the journal, in place, in place to make room in the journal.
//! The three run beside each other and beside the writes; each is one at a time.

use std::{future::pending, io, sync::Arc, time::Duration};

use tokio::sync::oneshot;

use super::Shard;
use crate::{
    event::ShardFailure,
    inbox::FailureReports,
    journal::{self, By, ENTRIES_MAX, Entry, Journal, RingFile, Round, RoundDone},
    planted::{Bug, planted},
    syncer::{self, CutSender, SyncDone, SyncKind},
};

/// Segments that are synced together to make room in the journal.
const TRIM_SEGMENTS: usize = 16;

/// How long until it is tried again to make a journal, in case the disk was full.
const JOURNAL_RETRY: Duration = Duration::from_secs(60);

/// For so long after an append that waited for no sync the shard leaves syncs to others: the next
/// one of that kind must not wait for one either.
const HASTE: Duration = Duration::from_secs(1);

/// A disk that takes longer for a record of the journal is not waited for by the shard: beside that
/// a hand-off between threads does not count.
const QUICK: Duration = Duration::from_millis(2);

/// What is under way.
pub(super) struct Rounds {
    /// Syncs of the shard's files that have failed elsewhere.
    reports: FailureReports,
    in_place: Option<(syncer::Round, Duration)>,
    trim: Option<syncer::Round>,
    /// The journal is being made.
    making: Option<oneshot::Receiver<io::Result<RingFile>>>,
    /// Until then it is not tried again.
    make_after: Duration,
    /// Who waits for the record that says that their segments are cut.
    pub(super) cutting: Vec<CutSender>,
    /// The last record of the journal held a single append.
    lone: bool,
    /// It took no longer than [`QUICK`].
    quick: bool,
    /// What the metric was told of the journal's use.
    used_bytes: u64,
}

/// What is over.
pub(super) enum Over {
    Journal(RoundDone),
    InPlace(Vec<SyncDone>),
    Trim(Vec<SyncDone>),
    Made(io::Result<RingFile>),
    /// Not a round: a sync that was made elsewhere.
    Failed(ShardFailure),
}

// === impl Rounds ===

impl Rounds {
    pub(super) fn new(reports: FailureReports) -> Self {
        Self {
            reports,
            in_place: None,
            trim: None,
            making: None,
            make_after: Duration::ZERO,
            cutting: Vec::new(),
            lone: false,
            quick: false,
            used_bytes: 0,
        }
    }

    /// Waits for the next one to be over; for ever if there is none.
    pub(super) async fn next(&mut self, journal: &mut Option<Journal>) -> Over {
        tokio::select! {
            biased;
            Some(failure) = self.reports.recv() => Over::Failed(failure),
            done = journal_done(journal) => Over::Journal(done),
            done = in_place_done(&mut self.in_place) => Over::InPlace(done),
            done = trim_done(&mut self.trim) => Over::Trim(done),
            made = made(&mut self.making) => Over::Made(made),
        }
    }

    fn is_idle(&self, journal: Option<&Journal>) -> bool {
        let writing = journal.is_some_and(Journal::is_writing);
        self.in_place.is_none() && self.trim.is_none() && !writing
    }
}

async fn journal_done(journal: &mut Option<Journal>) -> RoundDone {
    match journal {
        Some(journal) => journal.done().await,
        None => pending().await,
    }
}

async fn in_place_done(round: &mut Option<(syncer::Round, Duration)>) -> Vec<SyncDone> {
    match round {
        Some((round, _)) => round.await,
        None => pending().await,
    }
}

async fn trim_done(round: &mut Option<syncer::Round>) -> Vec<SyncDone> {
    match round {
        Some(round) => round.await,
        None => pending().await,
    }
}

async fn made(
    making: &mut Option<oneshot::Receiver<io::Result<RingFile>>>,
) -> io::Result<RingFile> {
    match making {
        Some(making) => match making.await {
            Ok(made) => made,
            // The runtime is shutting down.
            Err(_) => pending().await,
        },
        None => pending().await,
    }
}

// === impl Shard ===

impl Shard {
    /// Starts the rounds that are wanted, except those of which one is under way.
    pub(super) fn start_rounds(&mut self) {
        if self.core.health.has_failed() {
            return;
        }
        self.start_journal_round();
        self.start_in_place();
        self.start_trim();
        self.make_journal();
    }

    pub(super) fn over(&mut self, over: Over) {
        match over {
            Over::Journal(done) => self.journal_round_over(done),
            Over::InPlace(done) => self.in_place_over(done),
            Over::Trim(done) => self.trim_over(done),
            Over::Made(made) => self.journal_made(made),
            Over::Failed(failure) => self.fail(failure),
        }
    }

    // === in place ===

    fn start_in_place(&mut self) {
        if self.rounds.in_place.is_some() || self.core.syncs.in_place.is_empty() {
            return;
        }
        let (writers, core) = (&mut self.writers, &mut self.core);
        let wanted = std::mem::take(&mut core.syncs.in_place);
        let jobs: Vec<_> = wanted
            .into_iter()
            .filter_map(|slot| writers.get_mut(slot)?.as_mut()?.sync_job(core))
            .collect();
        if !jobs.is_empty() {
            let round = syncer::start(&core.env, jobs);
            self.rounds.in_place = Some((round, core.now));
        }
    }

    fn in_place_over(&mut self, done: Vec<SyncDone>) {
        if let Some((_, started)) = self.rounds.in_place.take() {
            let seconds = self.core.now.saturating_sub(started).as_secs_f64();
            self.core.metrics.sync_seconds.observe(seconds);
        }
        self.core.metrics.syncs.inc_by(done.len() as u64);
        let mut failure = None;
        for SyncDone { job, result } in done {
            match result {
                Ok(()) => {
                    if let Some(Some(writer)) = self.writers.get_mut(job.mark.slot) {
                        writer.synced(&mut self.core, &job.mark, SyncKind::InPlace);
                    }
                }
                Err(error) => failure = failure.or(Some((job, error))),
            }
        }
        self.fail_if(failure);
    }

    fn fail_if(&mut self, failure: Option<(syncer::SyncJob, io::Error)>) {
        if let Some((job, error)) = failure {
            self.fail(ShardFailure {
                path: job.segment.path.clone(),
                error: Arc::from(error.to_string()),
            });
        }
    }

    // === room in the journal ===

    fn start_trim(&mut self) {
        let Some(journal) = self
            .core
            .journal
            .as_mut()
            .filter(|_| self.rounds.trim.is_none())
        else {
            return;
        };
        let mut jobs = Vec::new();
        for (sequence, slot) in journal.in_the_way(TRIM_SEGMENTS) {
            let writer = self.writers.get_mut(slot).and_then(Option::as_mut);
            match writer.and_then(|writer| writer.trim_job(sequence)) {
                Some(_) if planted(Bug::TrimAhead) => journal.release(sequence, slot),
                Some(job) => jobs.push(job),
                // Nobody needs it any more.
                None => journal.release(sequence, slot),
            }
        }
        if !jobs.is_empty() {
            self.rounds.trim = Some(syncer::start(&self.core.env, jobs));
        }
    }

    fn trim_over(&mut self, done: Vec<SyncDone>) {
        self.rounds.trim = None;
        let count = done.len() as u64;
        self.core.metrics.journal_trim_syncs.inc_by(count);
        let mut failure = None;
        for SyncDone { job, result } in done {
            match result {
                Ok(()) => {
                    if let Some(Some(writer)) = self.writers.get_mut(job.mark.slot) {
                        writer.trimmed(&mut self.core, &job.mark);
                    }
                }
                Err(error) => failure = failure.or(Some((job, error))),
            }
        }
        self.fail_if(failure);
    }

    // === the journal ===

    fn make_journal(&mut self) {
        let core = &mut self.core;
        let rounds = &mut self.rounds;
        let wanted = core.journal_wanted && core.options.journal_bytes > 0;
        let busy = core.journal.is_some() || rounds.making.is_some() || self.closing.is_some();
        if !wanted || busy || core.now < rounds.make_after {
            return;
        }
        let (sender, receiver) = oneshot::channel();
        let (env, options, shard) = (core.env.clone(), core.options.clone(), core.health.shard);
        let work = move || {
            let made = journal::open(&env, &options, shard);
            // The shard is gone only when nobody needs it.
            let _ = sender.send(made);
        };
        core.env.tasks.blocking("log-journal", Box::new(work));
        rounds.making = Some(receiver);
    }

    fn journal_made(&mut self, made: io::Result<RingFile>) {
        self.rounds.making = None;
        let shard = self.core.health.shard;
        match made.and_then(|ring| Journal::start(&self.core.env, shard, ring)) {
            Ok(journal) => self.core.journal = Some(journal),
            Err(error) => {
                self.rounds.make_after = self.core.now + JOURNAL_RETRY;
                tracing::warn!(
                    shard, %error,
                    "no journal: small appends are synced in their segments' files until there is one"
                );
            }
        }
    }

    fn start_journal_round(&mut self) {
        let core = &mut self.core;
        let idle = core.journal.as_ref().is_some_and(|j| !j.is_writing());
        if !idle {
            return;
        }
        if let Some(round) = self.cut_round() {
            return self.write_journal(round);
        }
        let core = &mut self.core;
        if core.syncs.journal.is_empty() && core.syncs.notes.is_empty() {
            return;
        }
        let (picked, payload) = self.pick();
        let notes = self.take_notes();
        if picked.is_empty() && notes.is_empty() {
            return;
        }
        let core = &mut self.core;
        let Some(journal) = &mut core.journal else {
            return;
        };
        let sequence = journal.next_sequence();
        let mut round = None;
        if let Some(place) = journal.place(picked.len() + notes.len(), payload) {
            let writers = &mut self.writers;
            let jobs = picked
                .iter()
                .filter_map(|slot| {
                    writers
                        .get_mut(*slot)?
                        .as_mut()?
                        .journal_job(core, sequence)
                })
                .collect();
            round = Some(Round {
                jobs,
                notes,
                place,
                sync_notes: false,
            });
        } else if let Some(place) = journal.place_trim() {
            for slot in picked.into_iter().rev() {
                if let Some(Some(writer)) = self.writers.get_mut(slot) {
                    writer.unpick();
                    core.syncs.journal.push_front(slot);
                }
            }
            let (jobs, notes) = (Vec::new(), Vec::new());
            round = Some(Round {
                jobs,
                notes,
                place,
                sync_notes: false,
            });
        } else {
            for slot in picked {
                if let Some(Some(writer)) = self.writers.get_mut(slot) {
                    writer.want_in_place(core);
                }
            }
        }
        if let Some(round) = round {
            self.write_journal(round);
        }
    }

    /// The record that says which segments are cut, or one that makes room for it.
    fn cut_round(&mut self) -> Option<Round> {
        let cuts = &mut self.core.syncs.cuts;
        let journal = self.core.journal.as_mut().filter(|_| !cuts.is_empty())?;
        let count = cuts.len().min(ENTRIES_MAX);
        let mut notes = Vec::new();
        let place = match journal.place(count, 0) {
            Some(place) => {
                for (entry, reply) in cuts.drain(..count) {
                    notes.push(entry);
                    self.rounds.cutting.push(reply);
                }
                place
            }
            None => journal.place_trim()?,
        };
        Some(Round {
            jobs: Vec::new(),
            notes,
            place,
            sync_notes: true,
        })
    }

    fn write_journal(&mut self, round: Round) {
        let by = self.who_writes(&round);
        if by == By::Shard {
            // Whoever does not wait for this one must not wait for it.
            self.core.acks.deliver();
        }
        if let Some(journal) = &mut self.core.journal {
            journal.write(round, by, self.core.now);
        }
    }

    /// The shard itself, if one waiter follows the other: then nothing is to be done meanwhile, and
    /// handing over would be a good part of the wait.
    fn who_writes(&mut self, round: &Round) -> By {
        let appends: usize = round.jobs.iter().map(|job| job.payload.len()).sum();
        let lone = appends == 1;
        let follows = std::mem::replace(&mut self.rounds.lone, lone);
        let core = &self.core;
        let hasty = core
            .hasty_at
            .is_some_and(|at| core.now.saturating_sub(at) < HASTE);
        let busy = self.rounds.in_place.is_some() || self.rounds.trim.is_some();
        if lone && follows && self.rounds.quick && !hasty && !busy && self.receiver.is_empty() {
            By::Shard
        } else {
            By::Worker
        }
    }

    /// Who goes into the next record, and their bytes.
    fn pick(&mut self) -> (Vec<usize>, usize) {
        let core = &mut self.core;
        let bytes_max = core.journal.as_ref().map_or(0, Journal::payload_bytes_max);
        let (mut picked, mut payload) = (Vec::new(), 0);
        while let Some(slot) = core.syncs.journal.pop_front() {
            let Some(Some(writer)) = self.writers.get_mut(slot) else {
                continue;
            };
            let Some(bytes) = writer.pick(core) else {
                continue;
            };
            if bytes > bytes_max {
                writer.want_in_place(core);
                continue;
            }
            if payload + bytes > bytes_max || picked.len() == ENTRIES_MAX / 2 {
                writer.unpick();
                core.syncs.journal.push_front(slot);
                break;
            }
            payload += bytes;
            picked.push(slot);
        }
        (picked, payload)
    }

    fn take_notes(&mut self) -> Vec<Entry> {
        let notes = &mut self.core.syncs.notes;
        let count = notes.len().min(ENTRIES_MAX / 2);
        let slots: Vec<usize> = notes.drain(..count).collect();
        slots
            .into_iter()
            .filter_map(|slot| self.writers.get_mut(slot)?.as_mut()?.note())
            .collect()
    }

    fn journal_round_over(&mut self, done: RoundDone) {
        let core = &mut self.core;
        let took = core.now.saturating_sub(done.started);
        self.rounds.quick = took <= QUICK;
        core.metrics.journal_seconds.observe(took.as_secs_f64());
        core.metrics.journal_records.inc();
        core.metrics.journal_bytes.inc_by(done.bytes);
        let Some(journal) = &core.journal else {
            return;
        };
        let used = journal.used_bytes();
        let before = std::mem::replace(&mut self.rounds.used_bytes, used);
        core.metrics
            .journal_used_bytes
            .add(used as i64 - before as i64);
        if let Err(error) = done.result {
            let path = journal.path().clone();
            let error = Arc::from(error.to_string());
            return self.fail(ShardFailure { path, error });
        }
        for reply in self.rounds.cutting.drain(..) {
            let _ = reply.send(Ok(()));
        }
        for mark in &done.marks {
            if let Some(Some(writer)) = self.writers.get_mut(mark.slot) {
                writer.synced(core, mark, SyncKind::Journal);
            }
        }
    }

    // === the end ===

    /// Syncs everything in its own file. Says whether that has succeeded.
    pub(super) async fn sync_all(&mut self) -> bool {
        loop {
            if let Ok(failure) = self.rounds.reports.try_recv() {
                self.fail(failure);
            }
            self.start_rounds();
            if self.core.health.has_failed() {
                return false;
            }
            if !self.rounds.is_idle(self.core.journal.as_ref()) {
                let over = self.rounds.next(&mut self.core.journal).await;
                self.core.look_at_clock();
                self.over(over);
                self.core.acks.deliver();
                continue;
            }
            let mut left = false;
            for writer in self.writers.iter_mut().flatten() {
                if !writer.is_in_place() {
                    left = true;
                    writer.want_in_place(&mut self.core);
                }
            }
            if !left {
                return true;
            }
        }
    }

    /// Everything is synced in its own file: says so in the journal.
    pub(super) async fn close_journal(&mut self) -> io::Result<()> {
        let Some(journal) = self.core.journal.take() else {
            return Ok(());
        };
        let closed = self.core.env.blocking("log-journal", journal.closing());
        closed
            .await
            .unwrap_or_else(|| Err(io::ErrorKind::Other.into()))
    }
}
