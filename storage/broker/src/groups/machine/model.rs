//! Random clients against the machine. Whatever they do, in whatever order:
//!
//! - each request is answered exactly once, and none for ever not;
//! - who gets an assignment gets exactly what the leader of that generation gave;
//! - generations only grow, and each has at most one leader that assigns;
//! - who is unknown, fenced or of another generation changes nothing;
//! - who is silent for its session timeout is gone;
//! - afterwards the group still works.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use bytes::Bytes;
use proptest::prelude::*;

use super::{
    GroupState, Machine, Settings, Token,
    bench::{Bench, SETTINGS, request},
};
use crate::{
    ErrorCode,
    groups::requests::{JoinRequest, LeaveMember},
};

const CLIENTS: usize = 6;

#[derive(Clone, Debug)]
enum Op {
    Join {
        client: usize,
        topics: usize,
    },
    Restart {
        client: usize,
    },
    Sync {
        client: usize,
    },
    Heartbeat {
        client: usize,
        generation_off: i32,
    },
    Commit {
        client: usize,
    },
    Leave {
        client: usize,
    },
    /// Somebody who is not a member, or not any more, tries something.
    Intrude {
        action: usize,
        ghost: usize,
        instance: bool,
    },
    Stored {
        succeeds: bool,
    },
    Advance {
        ms: u64,
    },
}

/// One client: even ones demand a member id first, the last two are static.
#[derive(Clone, Debug, Default)]
struct Client {
    member_id: String,
    generation: i32,
    /// The members that it must assign to.
    assigns: Vec<String>,
    waits_join: Option<Token>,
    waits_sync: Option<Token>,
}

struct World {
    bench: Bench,
    clients: Vec<Client>,
    /// Whose request a token is, the member id in it, and the generation of a sync.
    joins: BTreeMap<Token, usize>,
    syncs: BTreeMap<Token, (usize, String, i32)>,
    /// What the leader of a generation gave.
    given: HashMap<i32, HashMap<String, Bytes>>,
    leaders: HashMap<i32, String>,
    /// The id that a static member had before this one.
    replaced: HashMap<String, String>,
    ghosts: Vec<String>,
    contacts: HashMap<String, Duration>,
    generation: i32,
    parts: u32,
}

fn op() -> impl Strategy<Value = Op> {
    let client = 0..CLIENTS;
    prop_oneof![
        6 => (client.clone(), 0..2usize).prop_map(|(client, topics)| Op::Join { client, topics }),
        1 => client.clone().prop_map(|client| Op::Restart { client }),
        6 => client.clone().prop_map(|client| Op::Sync { client }),
        4 => (client.clone(), prop_oneof![9 => Just(0), 1 => -1..2i32])
            .prop_map(|(client, generation_off)| Op::Heartbeat { client, generation_off }),
        2 => client.clone().prop_map(|client| Op::Commit { client }),
        1 => client.prop_map(|client| Op::Leave { client }),
        2 => (0..5usize, any::<usize>(), any::<bool>())
            .prop_map(|(action, ghost, instance)| Op::Intrude { action, ghost, instance }),
        4 => prop_oneof![5 => Just(true), 1 => Just(false)]
            .prop_map(|succeeds| Op::Stored { succeeds }),
        4 => (0..12_000u64).prop_map(|ms| Op::Advance { ms }),
    ]
}

fn instance(client: usize) -> Option<&'static str> {
    match client {
        4 => Some("i4"),
        5 => Some("i5"),
        _ => None,
    }
}

fn is_refusal(error: ErrorCode) -> bool {
    matches!(
        error,
        ErrorCode::UnknownMemberId | ErrorCode::FencedInstanceId | ErrorCode::IllegalGeneration
    )
}

impl World {
    fn new(settings: Settings) -> Self {
        Self {
            bench: Bench::new(settings),
            clients: vec![
                Client {
                    generation: -1,
                    ..Client::default()
                };
                CLIENTS
            ],
            joins: BTreeMap::new(),
            syncs: BTreeMap::new(),
            given: HashMap::new(),
            leaders: HashMap::new(),
            replaced: HashMap::new(),
            ghosts: vec!["ghost".to_owned()],
            contacts: HashMap::new(),
            generation: 0,
            parts: 0,
        }
    }

    fn apply(&mut self, op: &Op) {
        match op {
            Op::Join { client, topics } => self.join(*client, *topics),
            Op::Restart { client } => {
                // A static member forgets its id and joins anew; another is just gone.
                let old = std::mem::take(&mut self.clients[*client]);
                self.ghosts.push(old.member_id);
                self.clients[*client].generation = -1;
                self.join(*client, 0);
            }
            Op::Sync { client } => self.sync(*client),
            Op::Heartbeat {
                client,
                generation_off,
            } => {
                let Client {
                    member_id,
                    generation,
                    ..
                } = self.clients[*client].clone();
                let before = self.bench.machine.clone();
                let now = self.bench.now();
                let generation = generation + generation_off;
                let error =
                    self.bench
                        .machine
                        .heartbeat(now, generation, &member_id, instance(*client));
                self.after(before, &member_id, error);
            }
            Op::Commit { client } => {
                let Client {
                    member_id,
                    generation,
                    ..
                } = self.clients[*client].clone();
                let before = self.bench.machine.clone();
                let now = self.bench.now();
                let result =
                    self.bench
                        .machine
                        .check_commit(now, generation, &member_id, instance(*client));
                self.after(before, &member_id, result.err().unwrap_or(ErrorCode::None));
            }
            Op::Leave { client } => {
                let member_id = self.clients[*client].member_id.clone();
                self.leave(&member_id, instance(*client));
            }
            Op::Intrude {
                action,
                ghost,
                instance,
            } => self.intrude(*action, *ghost, *instance),
            Op::Stored { succeeds } => {
                let result = if *succeeds {
                    Ok(())
                } else {
                    Err(ErrorCode::NotCoordinator)
                };
                let before = self.bench.machine.members.clone();
                self.bench.store_done(result);
                // Whoever gets its place back from a replacement that was not stored begins anew.
                for id in self.bench.machine.members.keys() {
                    if !before.contains_key(id) {
                        self.contacts.insert(id.clone(), self.bench.now);
                    }
                }
            }
            Op::Advance { ms } => self.bench.advance(Duration::from_millis(*ms)),
        }
        self.read_answers();
        self.check();
    }

    /// A refused request left no trace; an accepted one was a sign of life.
    fn after(&mut self, before: Machine, member_id: &str, error: ErrorCode) {
        self.bench.drain();
        self.machine_took_output();
        if is_refusal(error) {
            assert_eq!(self.bench.machine, before, "{error:?} changed something");
        } else if matches!(error, ErrorCode::None | ErrorCode::RebalanceInProgress) {
            self.contacts.insert(member_id.to_owned(), self.bench.now);
        }
    }

    /// Machines are compared with empty outboxes.
    fn machine_took_output(&self) {
        assert!(self.bench.machine.out.effects.is_empty());
    }

    fn request(&self, client: usize, topics: usize) -> JoinRequest {
        let topics: &[&str] = if topics == 0 { &["t"] } else { &["t", "u"] };
        JoinRequest {
            instance_id: instance(client).map(str::to_owned),
            require_member_id: client.is_multiple_of(2),
            supports_skip_assignment: client == 4,
            ..request(&self.clients[client].member_id, topics)
        }
    }

    fn join(&mut self, client: usize, topics: usize) {
        let request = self.request(client, topics);
        let new_id = self.bench.coming_id();
        let holder = request
            .instance_id
            .as_ref()
            .and_then(|instance| self.bench.machine.static_members.get(instance))
            .filter(|_| request.member_id.is_empty())
            .cloned();
        let before = self.bench.machine.clone();
        let token = self.bench.join(&request);
        if let Some(holder) = holder {
            self.ghosts.push(holder.clone());
            self.replaced.insert(new_id.clone(), holder);
        }
        self.joins.insert(token, client);
        self.clients[client].waits_join = Some(token);
        match self.bench.joins.get(&token) {
            Some(answer) if is_refusal(answer.error) => assert_eq!(self.bench.machine, before),
            _ => {
                let id = if request.member_id.is_empty() {
                    new_id
                } else {
                    request.member_id
                };
                self.contacts.insert(id, self.bench.now);
            }
        }
    }

    fn sync(&mut self, client: usize) {
        let Client {
            member_id,
            generation,
            assigns,
            ..
        } = self.clients[client].clone();
        let mut given = Vec::new();
        for id in assigns {
            self.parts += 1;
            given.push((id, Bytes::from(format!("part {}", self.parts))));
        }
        let machine = &self.bench.machine;
        let counts = machine.state() == GroupState::CompletingRebalance
            && machine.generation() == generation
            && machine.is_leader(&member_id)
            && machine.check_member(&member_id, instance(client)).is_ok();
        if counts {
            self.given
                .entry(generation)
                .or_insert_with(|| given.iter().cloned().collect());
        }
        let before = self.bench.machine.clone();
        let token = self
            .bench
            .sync((&member_id, instance(client)), generation, &given);
        self.syncs
            .insert(token, (client, member_id.clone(), generation));
        self.clients[client].waits_sync = Some(token);
        let error = self
            .bench
            .syncs
            .get(&token)
            .map_or(ErrorCode::None, |answer| answer.error);
        if is_refusal(error) {
            assert_eq!(self.bench.machine, before);
        }
    }

    fn leave(&mut self, member_id: &str, instance: Option<&str>) {
        let leaving = LeaveMember {
            member_id: member_id.to_owned(),
            instance_id: instance.map(str::to_owned),
            reason: None,
        };
        let before = self.bench.machine.clone();
        let results = self
            .bench
            .machine
            .leave(self.bench.now(), &[leaving])
            .expect("not dead");
        self.bench.drain();
        if is_refusal(results[0]) {
            assert_eq!(self.bench.machine, before);
        }
    }

    fn intrude(&mut self, action: usize, ghost: usize, with_instance: bool) {
        let id = self.ghosts[ghost % self.ghosts.len()].clone();
        let machine = &self.bench.machine;
        if id.is_empty() || machine.members.contains_key(&id) || machine.pending.contains_key(&id) {
            return;
        }
        let instance = with_instance.then_some("i4");
        let generation = machine.generation();
        let before = machine.clone();
        let now = self.bench.now();
        let error = match action {
            0 => self.bench.machine.heartbeat(now, generation, &id, instance),
            1 => {
                let token = self.bench.sync((&id, instance), generation, &[]);
                self.bench
                    .syncs
                    .remove(&token)
                    .map_or(ErrorCode::None, |answer| answer.error)
            }
            2 => {
                let request = JoinRequest {
                    instance_id: instance.map(str::to_owned),
                    ..request(&id, &["t"])
                };
                let token = self.bench.join(&request);
                self.bench
                    .joins
                    .remove(&token)
                    .map_or(ErrorCode::None, |answer| answer.error)
            }
            3 => {
                self.leave(&id, instance);
                ErrorCode::UnknownMemberId
            }
            _ => {
                let result = self
                    .bench
                    .machine
                    .check_commit(now, generation, &id, instance);
                result.err().unwrap_or(ErrorCode::None)
            }
        };
        assert!(is_refusal(error), "a stranger was let in: {error:?}");
        assert_eq!(self.bench.machine, before);
    }

    fn read_answers(&mut self) {
        let answered: Vec<Token> = self.bench.joins.keys().copied().collect();
        for token in answered {
            let answer = self.bench.joins.remove(&token).expect("just listed");
            let client = self
                .joins
                .remove(&token)
                .expect("asked for, and answered once");
            self.contacts
                .insert(answer.member_id.clone(), self.bench.now);
            if answer.error == ErrorCode::None
                && !answer.members.is_empty()
                && !answer.skip_assignment
            {
                let leader = self
                    .leaders
                    .entry(answer.generation)
                    .or_insert_with(|| answer.member_id.clone());
                assert_eq!(*leader, answer.member_id, "two leaders in one generation");
                assert_eq!(answer.leader, answer.member_id);
            }
            if self.clients[client].waits_join != Some(token) {
                continue;
            }
            let state = &mut self.clients[client];
            state.waits_join = None;
            match answer.error {
                ErrorCode::None => {
                    state.member_id = answer.member_id;
                    state.generation = answer.generation;
                    let members = answer.members.into_iter().map(|member| member.member_id);
                    state.assigns = members.filter(|_| !answer.skip_assignment).collect();
                }
                ErrorCode::MemberIdRequired => state.member_id = answer.member_id,
                ErrorCode::UnknownMemberId | ErrorCode::FencedInstanceId => {
                    self.ghosts.push(std::mem::take(&mut state.member_id));
                    state.generation = -1;
                }
                _ => {}
            }
        }
        let answered: Vec<Token> = self.bench.syncs.keys().copied().collect();
        for token in answered {
            let answer = self.bench.syncs.remove(&token).expect("just listed");
            let (client, id, generation) =
                self.syncs.remove(&token).expect("asked for, answered once");
            if !is_refusal(answer.error) {
                self.contacts.insert(id.clone(), self.bench.now);
            }
            if answer.error == ErrorCode::None {
                let expected = self.expected_part(generation, &id);
                assert_eq!(
                    answer.assignment, expected,
                    "{id} in generation {generation}"
                );
            }
            if self.clients[client].waits_sync == Some(token) {
                self.clients[client].waits_sync = None;
            }
        }
    }

    /// What the leader gave to this member, or to the one whose place it took.
    fn expected_part(&self, generation: i32, id: &str) -> Bytes {
        let given = self.given.get(&generation).expect("somebody has assigned");
        let mut id = id;
        loop {
            if let Some(part) = given.get(id) {
                return part.clone();
            }
            match self.replaced.get(id) {
                Some(before) => id = before,
                None => return Bytes::new(),
            }
        }
    }

    fn check(&mut self) {
        let machine = &self.bench.machine;
        assert!(
            machine.generation() >= self.generation,
            "a generation went back"
        );
        self.generation = machine.generation();
        let is_member = |id: &String| machine.members.contains_key(id);
        assert_eq!(machine.leader.is_some(), !machine.members.is_empty());
        assert!(machine.leader.iter().all(is_member));
        assert!(machine.static_members.values().all(is_member));
        assert!(!machine.pending.keys().any(is_member));
        assert_eq!(
            machine.join_phase.is_some(),
            machine.state() == GroupState::PreparingRebalance
        );
        if machine.state() == GroupState::Empty {
            assert!(machine.members.is_empty());
        }
        let waiting = machine
            .members
            .values()
            .filter(|member| member.awaiting_join.is_some() || member.awaiting_sync.is_some());
        let waiting = waiting.count();
        assert!(waiting <= self.joins.len() + self.syncs.len());
        assert!(
            waiting == 0 || machine.next_deadline().is_some() || !machine.stores.is_empty(),
            "somebody waits and nothing will happen"
        );
        for member in machine.members.values() {
            let contact = *self
                .contacts
                .entry(member.id.clone())
                .or_insert(self.bench.now);
            let waits = member.awaiting_join.is_some() || member.awaiting_sync.is_some();
            assert!(
                waits || contact + member.session_timeout > self.bench.now,
                "{} is dead and still a member",
                member.id
            );
        }
    }

    /// Everybody falls silent: in the end nobody waits and the group is empty.
    fn wind_down(&mut self) {
        for _ in 0..100 {
            self.apply(&Op::Stored { succeeds: true });
            self.apply(&Op::Advance { ms: 10_000 });
        }
        assert!(
            self.joins.is_empty() && self.syncs.is_empty(),
            "a request was never answered"
        );
        assert!(self.bench.stores.is_empty());
        assert_eq!(self.bench.machine.state(), GroupState::Empty);
        assert_eq!(self.bench.machine.next_deadline(), None);
    }

    /// Clients that do as they should come together again.
    fn work_again(&mut self) {
        for client in 0..3 {
            self.clients[client] = Client {
                generation: -1,
                ..Client::default()
            };
            self.apply(&Op::Join { client, topics: 0 });
            if self.clients[client].waits_join.is_none() {
                self.apply(&Op::Join { client, topics: 0 });
            }
        }
        for _ in 0..30 {
            if (0..3).all(|client| self.clients[client].waits_join.is_none()) {
                break;
            }
            self.apply(&Op::Advance { ms: 1_000 });
        }
        for client in 0..3 {
            self.apply(&Op::Sync { client });
        }
        self.apply(&Op::Stored { succeeds: true });
        assert_eq!(self.bench.machine.state(), GroupState::Stable);
        assert!(self.joins.is_empty() && self.syncs.is_empty());
        assert_eq!(self.bench.machine.members.len(), 3);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn whatever_clients_do_the_group_keeps_its_promises(
        ops in prop::collection::vec(op(), 1..120),
        size_max in 3..7usize,
        delay_ms in prop_oneof![Just(0u64), Just(3_000)],
    ) {
        let initial_rebalance_delay = Duration::from_millis(delay_ms);
        let mut world = World::new(Settings { size_max, initial_rebalance_delay, ..SETTINGS });
        for op in &ops {
            world.apply(op);
        }
        world.wind_down();
        world.bench.machine.settings = SETTINGS;
        world.work_again();
    }
}
