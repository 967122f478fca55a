//! What the tests of the machine share: a machine with a clock, its stores in the tests' hands, and
//! every answer noted.

use std::{collections::HashMap, time::Duration};

use bytes::Bytes;

use super::{Effect, GroupState, Machine, Now, Settings, Snapshot, StoreId, Token};
use crate::{
    ErrorCode,
    groups::requests::{JoinAnswer, JoinRequest, SyncAnswer, SyncRequest},
};

pub(super) const SETTINGS: Settings = Settings {
    initial_rebalance_delay: Duration::from_secs(3),
    session_timeout_ms_min: 6_000,
    session_timeout_ms_max: 60_000,
    size_max: 5,
};

pub(super) struct Bench {
    pub(super) machine: Machine,
    pub(super) now: Duration,
    next_token: Token,
    next_id: u32,
    pub(super) joins: HashMap<Token, JoinAnswer>,
    pub(super) syncs: HashMap<Token, SyncAnswer>,
    /// Asked for and not done yet, oldest first.
    pub(super) stores: Vec<(StoreId, Snapshot)>,
}

/// A consumer that subscribes to `topics` and speaks `range`.
pub(super) fn request(member_id: &str, topics: &[&str]) -> JoinRequest {
    JoinRequest {
        group: "g".to_owned(),
        member_id: member_id.to_owned(),
        instance_id: None,
        session_timeout_ms: 10_000,
        rebalance_timeout_ms: 30_000,
        protocol_type: "consumer".to_owned(),
        protocols: vec![("range".to_owned(), subscription(topics, b""))],
        require_member_id: false,
        client_id: "client".to_owned(),
        client_host: "/127.0.0.1".to_owned(),
        reason: None,
        supports_skip_assignment: true,
    }
}

pub(super) fn static_request(instance: &str, topics: &[&str]) -> JoinRequest {
    JoinRequest {
        instance_id: Some(instance.to_owned()),
        ..request("", topics)
    }
}

/// A consumer's metadata, with something behind the topics.
pub(super) fn subscription(topics: &[&str], rest: &[u8]) -> Bytes {
    let mut bytes = vec![0, 1];
    bytes.extend((topics.len() as u32).to_be_bytes());
    for topic in topics {
        bytes.extend((topic.len() as u16).to_be_bytes());
        bytes.extend(topic.as_bytes());
    }
    bytes.extend(rest);
    Bytes::from(bytes)
}

impl Bench {
    pub(super) fn new(settings: Settings) -> Self {
        Self {
            machine: Machine::new(settings, 0),
            now: Duration::ZERO,
            next_token: 0,
            next_id: 0,
            joins: HashMap::new(),
            syncs: HashMap::new(),
            stores: Vec::new(),
        }
    }

    pub(super) fn now(&self) -> Now {
        Now {
            mono: self.now,
            wall_ms: self.now.as_millis() as i64,
        }
    }

    /// Notes what the machine gives out; an answer to an answered request is a failure.
    pub(super) fn drain(&mut self) {
        for effect in self.machine.take_output().effects {
            match effect {
                Effect::Join(token, answer) => {
                    assert!(token < self.next_token, "an answer that nobody asked for");
                    assert!(self.joins.insert(token, answer).is_none(), "answered twice");
                }
                Effect::Sync(token, answer) => {
                    assert!(token < self.next_token, "an answer that nobody asked for");
                    assert!(self.syncs.insert(token, answer).is_none(), "answered twice");
                }
                Effect::Store(id, snapshot) => self.stores.push((id, snapshot)),
            }
        }
    }

    fn token(&mut self) -> Token {
        self.next_token += 1;
        self.next_token - 1
    }

    /// The id that the next member without one gets.
    pub(super) fn coming_id(&self) -> String {
        format!("m{}", self.next_id)
    }

    pub(super) fn join(&mut self, request: &JoinRequest) -> Token {
        let token = self.token();
        let id = self.coming_id();
        self.next_id += 1;
        self.machine.join(self.now(), token, request, id);
        self.drain();
        token
    }

    pub(super) fn sync(
        &mut self,
        member: (&str, Option<&str>),
        generation: i32,
        assignments: &[(String, Bytes)],
    ) -> Token {
        let token = self.token();
        let request = SyncRequest {
            group: "g".to_owned(),
            generation,
            member_id: member.0.to_owned(),
            instance_id: member.1.map(str::to_owned),
            protocol_type: None,
            protocol: None,
            assignments: assignments.to_vec(),
        };
        self.machine.sync(self.now(), token, &request);
        self.drain();
        token
    }

    pub(super) fn heartbeat(&mut self, id: &str, generation: i32) -> ErrorCode {
        let error = self.machine.heartbeat(self.now(), generation, id, None);
        self.drain();
        error
    }

    /// Lets time pass, and the machine act at each of its deadlines.
    pub(super) fn advance(&mut self, duration: Duration) {
        let target = self.now + duration;
        while let Some(next) = self.machine.next_deadline().filter(|next| *next <= target) {
            self.now = self.now.max(next);
            self.machine.tick(self.now());
            self.drain();
        }
        self.now = target;
    }

    /// The oldest store comes back.
    pub(super) fn store_done(&mut self, result: Result<(), ErrorCode>) -> Option<Snapshot> {
        if self.stores.is_empty() {
            return None;
        }
        let (id, snapshot) = self.stores.remove(0);
        self.machine.stored(self.now(), id, result);
        self.drain();
        Some(snapshot)
    }

    pub(super) fn joined(&self, token: Token) -> &JoinAnswer {
        let answer = self.joins.get(&token).expect("the join is answered");
        assert_eq!(answer.error, ErrorCode::None);
        answer
    }

    /// A stable group of these members; their ids, the leader's first.
    pub(super) fn stable(&mut self, requests: &[JoinRequest]) -> Vec<String> {
        let tokens: Vec<Token> = requests.iter().map(|request| self.join(request)).collect();
        for _ in 0..60 {
            if tokens.iter().all(|token| self.joins.contains_key(token)) {
                break;
            }
            self.advance(Duration::from_secs(1));
        }
        let mut ids = Vec::new();
        let mut assignments = Vec::new();
        for (request, token) in requests.iter().zip(tokens) {
            let id = self.joined(token).member_id.clone();
            assignments.push((id.clone(), Bytes::from(format!("part of {id}"))));
            ids.push((id, request.instance_id.clone()));
        }
        let generation = self.machine.generation();
        let leader = self.machine.leader.clone().expect("members have a leader");
        for (id, instance) in &ids {
            let given: &[_] = if *id == leader { &assignments } else { &[] };
            self.sync((id, instance.as_deref()), generation, given);
        }
        assert!(self.store_done(Ok(())).is_some());
        assert_eq!(self.machine.state(), GroupState::Stable);
        let mut ids: Vec<String> = ids.into_iter().map(|(id, _)| id).collect();
        ids.sort_by_key(|id| *id != leader);
        ids
    }
}
