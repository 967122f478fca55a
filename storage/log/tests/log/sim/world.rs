//! The world of one seed: a disk, a node on it, what metadata and clients know, and how the node
//! ends and comes back.

use std::{
    collections::hash_map::DefaultHasher,
    hash::{Hash, Hasher},
};

use mainstem_log::{Flush, LogOptions};
use mainstem_simulation::{Chances, Counts, Dice, SimFs, World};

use super::{
    copies,
    model::Model,
    node::{Content, Node, finish, read_from},
    writer::{KINDS, Kind, Verdict, Writer},
};
use crate::support::options;

/// How often a start may fail because of the disk before it is left alone.
const BAD_STARTS_MAX: u32 = 3;

/// What a seed has done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Report {
    pub(crate) faults: Counts,
    pub(crate) operations: u64,
    pub(crate) crashes: u64,
    pub(crate) records: u64,
    /// Of every call of the disk, of what was left on it, and of every offset.
    pub(crate) history: u64,
}

pub(crate) struct Sim {
    pub(crate) world: World,
    pub(crate) fs: SimFs,
    pub(crate) dice: Dice,
    pub(crate) options: LogOptions,
    pub(crate) node: Node,
    pub(crate) models: Vec<Model>,
    pub(crate) clients: Vec<Vec<Writer>>,
    pub(crate) report: Report,
    /// A shard or a partition has failed: only a restart helps.
    pub(crate) must_restart: bool,
    pub(crate) numbers: u64,
    /// Writes and syncs may fail in this life.
    pub(crate) errors: bool,
    incarnation: u64,
    transcript: DefaultHasher,
}

// === impl Sim ===

impl Sim {
    pub(crate) async fn new(world: World) -> Self {
        let mut dice = world.dice(0);
        let fs = world.disk();
        let models: Vec<Model> = (0..1 + dice.index(4))
            .map(|index| Model::new(index, any_flush(&mut dice)))
            .collect();
        let clients = (0..models.len()).map(Writer::all).collect();
        let caches = [0, 4000, 1 << 20];
        let options = LogOptions {
            tail_cache_bytes: caches[dice.index(caches.len())],
            shards: 1 + dice.index(2),
            journal_bytes: any_journal(&mut dice),
            ..options()
        };
        let process = world.process(&fs, 0);
        let node = Node::start(process, &options, &models).await;
        Self {
            world,
            fs,
            dice,
            options,
            node: node.expect("an empty disk that works"),
            models,
            clients,
            report: Report::default(),
            must_restart: false,
            numbers: 0,
            errors: false,
            incarnation: 0,
            transcript: DefaultHasher::new(),
        }
    }

    /// What the seed has done, after a last look at everything.
    pub(crate) async fn end(mut self) -> Report {
        self.fs.set_chances(Chances::default(), Dice::new(0));
        let image = self.fs.power_cut(self.dice.next_u64());
        self.restart(image, Ending::PowerCut).await;
        self.fs.history().hash(&mut self.transcript);
        self.fs.image_digest().hash(&mut self.transcript);
        Report {
            faults: self.fs.counts(),
            history: self.transcript.finish(),
            ..self.report
        }
    }

    /// Sets what goes wrong by chance in the life that begins.
    pub(crate) fn set_mood(&mut self) {
        let chances = match self.dice.below(4) {
            0 => Chances::default(),
            1 => Chances {
                no_space: 100,
                ..self.nuisance()
            },
            2 => Chances {
                read_error: 50,
                write_error: 50,
                sync_error: 80,
                no_space: 50,
                ..self.nuisance()
            },
            _ => self.nuisance(),
        };
        self.errors = chances.write_error + chances.no_space > 0;
        self.fs.set_chances(chances, self.dice.fork());
    }

    /// What a correct log does not notice.
    fn nuisance(&self) -> Chances {
        Chances {
            short_read: 500,
            stall: 20,
            ..Chances::default()
        }
    }

    /// Takes note of what tickets have said; goes on from the image if the power was cut.
    pub(crate) async fn look(&mut self) {
        for (model, writers) in self.models.iter_mut().zip(&mut self.clients) {
            for writer in writers {
                if writer.collect(model) == Verdict::MustRestart {
                    self.must_restart = true;
                }
            }
        }
        if self.fs.is_cut() {
            self.goes_on_from_image().await;
            return;
        }
        if self.node.has_failed() {
            self.must_restart = true;
        }
        if self.models.iter().any(|model| model.always) {
            self.note_ends();
        }
    }

    /// What the log says to be durable.
    fn note_ends(&mut self) {
        for (model, partition) in self.models.iter_mut().zip(&self.node.partitions) {
            let ends = partition.ends();
            assert!(ends.log_start <= ends.committed_end && ends.committed_end <= ends.log_end);
            assert!(ends.synced_end <= ends.log_end);
            if model.always {
                assert!(
                    ends.committed_end <= ends.synced_end,
                    "readable, not synced"
                );
            }
            model.floor = model.floor.max(ends.synced_end.0);
            model.written = model.written.max(ends.committed_end.0);
        }
    }

    pub(crate) async fn goes_on_from_image(&mut self) {
        let image = self.fs.take_image().expect("the power was cut");
        self.restart(image, Ending::PowerCut).await;
    }

    /// Ends the node and starts it again on what is left.
    pub(crate) async fn restart(&mut self, fs: SimFs, ending: Ending) {
        self.report.crashes += 1;
        self.node.process.end();
        let mut survives: Vec<i64> = self
            .models
            .iter()
            .map(|model| match ending {
                Ending::PowerCut => model.floor,
                Ending::Death => model.written.max(model.floor),
            })
            .collect();
        let before = fs.copy();
        self.fs = fs;
        let mut bad_starts = 0;
        loop {
            self.incarnation += 1;
            self.options.shards = 1 + self.dice.index(3);
            self.options.journal_bytes = any_journal(&mut self.dice);
            let quiet = bad_starts >= BAD_STARTS_MAX;
            if quiet || self.dice.one_in(2) {
                self.fs.set_chances(self.nuisance(), self.dice.fork());
            } else {
                self.set_mood();
            }
            if !quiet && self.dice.one_in(4) {
                self.fs.crash_in(self.dice.below(40), self.dice.next_u64());
            }
            let process = self.world.process(&self.fs, self.incarnation);
            let started = Node::start(process.clone(), &self.options, &self.models).await;
            let cut = self.fs.take_image();
            match started {
                Ok(node) if cut.is_none() => {
                    self.node = node;
                    break;
                }
                Ok(_) => {}
                Err(error) => assert!(!quiet, "cannot start: {error}"),
            }
            process.end();
            bad_starts += 1;
            self.report.crashes += 1;
            self.fs = match cut {
                Some(image) => image,
                None if self.dice.one_in(2) => self.fs.process_death(),
                None => self.fs.power_cut(self.dice.next_u64()),
            };
            // What was in the page cache only may be gone now.
            let floors = self.models.iter().map(|model| model.floor);
            survives = floors.collect();
        }
        self.must_restart = false;
        self.came_back(&survives, bad_starts == 0).await;
        if self.dice.one_in(3) && bad_starts == 0 {
            let contents = self.contents().await;
            copies::rebuilt_from_batches(self, &before, &contents).await;
        }
        self.set_mood();
    }

    async fn came_back(&mut self, survives: &[i64], first: bool) {
        if let Ok(event) = self.node.events.try_recv() {
            panic!("the disk did no harm below a synced point: {event:?}");
        }
        let contents = self.contents().await;
        for (at, content) in contents.iter().enumerate() {
            let ends = self.node.partitions[at].ends();
            assert_eq!(ends.committed_end, ends.log_end);
            assert_eq!(ends.synced_end, ends.log_end);
            let model = &mut self.models[at];
            model.came_back(ends.log_end.0, &content.seen, survives[at]);
            model.check_order(|writer| KINDS[writer] != Kind::Qos2);
            assert_eq!(ends.log_start.0, model.log_start);
            for writer in &mut self.clients[at] {
                writer.came_back(model, ends.log_end.0);
            }
            self.check_producers(at, content);
            (ends.log_end.0, first).hash(&mut self.transcript);
        }
    }

    /// What the log remembers of producers is what their batches say.
    pub(crate) fn check_producers(&self, at: usize, content: &Content) {
        let known = self.node.partitions[at].producers();
        for (id, expected) in Model::producers(&content.batches) {
            let found = known.iter().find(|producer| producer.id.0 == id);
            let found = found.map(|p| (p.epoch.0, p.last_sequence.0, p.last_offset.0));
            assert_eq!(found, Some(expected), "partition {at}, producer {id}");
        }
    }

    /// Everything that can be read.
    pub(crate) async fn contents(&mut self) -> Vec<Content> {
        let mut all = Vec::new();
        for partition in &self.node.partitions {
            let bytes_max = 1 + self.dice.index(5000);
            let from = partition.ends().log_start.0;
            let read = read_from(partition, from, bytes_max);
            let content = finish(&self.node.process.env, read).await;
            all.push(content.unwrap_or_else(|error| panic!("{:?}: {error}", partition.id())));
        }
        all
    }
}

/// How a node ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    PowerCut,
    Death,
}

/// The shortest journal in most lives, in some none.
fn any_journal(dice: &mut Dice) -> u64 {
    if dice.one_in(5) {
        0
    } else {
        options().journal_bytes
    }
}

pub(crate) fn any_flush(dice: &mut Dice) -> Flush {
    match dice.below(5) {
        0 => Flush::Os,
        1 => Flush::Interval {
            bytes: 1 + dice.below(8000),
            time: std::time::Duration::from_millis(1 + dice.below(10_000)),
        },
        _ => Flush::Always,
    }
}
