//! Sessions of brokers, in the memory of the controller. Only transitions are committed: a broker
//! whose session ends is fenced, one that is heard again in the same life is unfenced.

use std::{collections::BTreeMap, time::Duration};

use mainstem_record::{BrokerId, Incarnation, Member};

/// What is to be committed about a broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transition {
    /// Its session is over: evict it from ISRs (R20), seal what it leads (R21).
    Fence(Member),
    /// It was heard again.
    Unfence(Member),
}

/// A broker as the image has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Registered {
    /// Its current life.
    pub member: Member,
    /// Whether it is fenced.
    pub fenced: bool,
}

#[derive(Clone, Copy, Debug)]
struct Session {
    incarnation: Incarnation,
    /// Since when it is known of: it gets a whole session from then.
    since: Duration,
    /// The last heartbeat; `None` if none came yet.
    heard: Option<Duration>,
    /// It refuses connections since.
    refused: bool,
}

/// The sessions that one controller sees.
#[derive(Clone, Debug)]
pub struct Liveness {
    timeout: Duration,
    /// When it was looked at last; when it began at first.
    looked: Duration,
    sessions: BTreeMap<BrokerId, Session>,
}

impl Liveness {
    /// A controller that begins: it has heard nobody, and gives everybody a whole session.
    pub fn new(timeout: Duration, now: Duration) -> Self {
        Self {
            timeout,
            looked: now,
            sessions: BTreeMap::new(),
        }
    }

    /// A heartbeat. One of an earlier life is late and says nothing.
    pub fn heartbeat(&mut self, member: Member, now: Duration) {
        let session = self.session(member, now);
        if session.incarnation == member.incarnation {
            session.heard = session.heard.max(Some(now));
            session.refused = false;
        }
    }

    /// Others report that the broker refuses connections: its session ends now, unless it is heard
    /// again. Also that of a life that this controller has not heard: its node may have been the
    /// controller before.
    pub fn refused(&mut self, member: Member) {
        let session = self.session(member, self.looked);
        if session.incarnation == member.incarnation {
            session.refused = true;
        }
    }

    /// The session of the newest life that was spoken of.
    fn session(&mut self, member: Member, now: Duration) -> &mut Session {
        let fresh = Session {
            incarnation: member.incarnation,
            since: now,
            heard: None,
            refused: false,
        };
        let session = self.sessions.entry(member.broker).or_insert(fresh);
        if session.incarnation < member.incarnation {
            *session = fresh;
        }
        session
    }

    fn of(&self, member: Member) -> Option<&Session> {
        let session = self.sessions.get(&member.broker);
        session.filter(|it| it.incarnation == member.incarnation)
    }

    /// When that life was heard last by this controller.
    pub fn heard(&self, member: Member) -> Option<Duration> {
        self.of(member).and_then(|session| session.heard)
    }

    /// Whether that life of a broker has a session.
    pub fn is_live(&self, member: Member, now: Duration) -> bool {
        let is_refused = self.of(member).is_some_and(|session| session.refused);
        !is_refused && self.silent_for(member, now) < self.timeout
    }

    /// Since when a life has not been heard of; one that was never heard gets a whole session from
    /// when this controller first knew of it.
    pub fn silent_for(&self, member: Member, now: Duration) -> Duration {
        let session = self.of(member);
        let last = session.map_or(self.looked, |it| it.heard.unwrap_or(it.since));
        now.saturating_sub(last)
    }

    /// What has changed, against what the image says of all brokers.
    pub fn tick(&mut self, brokers: &[Registered], now: Duration) -> Vec<Transition> {
        // A life that has come up since the last look.
        for broker in brokers {
            self.session(broker.member, self.looked);
        }
        self.looked = now;
        let changed = brokers.iter().filter_map(|broker| {
            let live = self.is_live(broker.member, now);
            let heard = self.heard(broker.member).is_some();
            match (broker.fenced, live) {
                (false, false) => Some(Transition::Fence(broker.member)),
                (true, true) if heard => Some(Transition::Unfence(broker.member)),
                _ => None,
            }
        });
        changed.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(3);

    fn member(incarnation: u64) -> Member {
        Member::new(BrokerId(1), Incarnation(incarnation))
    }

    fn known(incarnation: u64, fenced: bool) -> [Registered; 1] {
        [Registered {
            member: member(incarnation),
            fenced,
        }]
    }

    #[test]
    fn a_new_controller_gives_everybody_a_whole_session() {
        let began = Duration::from_secs(100);
        let mut liveness = Liveness::new(TIMEOUT, began);
        assert_eq!(liveness.tick(&known(1, false), began + TIMEOUT / 2), []);
        let fence = [Transition::Fence(member(1))];
        assert_eq!(liveness.tick(&known(1, false), began + TIMEOUT), fence);
    }

    #[test]
    fn a_broker_that_registers_gets_a_whole_session_before_its_first_heartbeat() {
        let mut liveness = Liveness::new(TIMEOUT, Duration::ZERO);
        let now = Duration::from_secs(100);
        assert_eq!(liveness.tick(&[], now), []);
        assert_eq!(liveness.tick(&known(1, false), now + TIMEOUT / 2), []);
        let fence = [Transition::Fence(member(1))];
        assert_eq!(liveness.tick(&known(1, false), now + TIMEOUT), fence);
    }

    #[test]
    fn a_fenced_broker_is_unfenced_only_when_that_life_is_heard() {
        let mut liveness = Liveness::new(TIMEOUT, Duration::ZERO);
        let now = Duration::from_secs(10);
        liveness.heartbeat(member(1), now);
        assert_eq!(liveness.tick(&known(2, true), now), []);
        liveness.heartbeat(member(2), now);
        let unfence = [Transition::Unfence(member(2))];
        assert_eq!(liveness.tick(&known(2, true), now), unfence);
        // What an earlier life sent says nothing.
        liveness.heartbeat(member(1), now + TIMEOUT);
        let fence = [Transition::Fence(member(2))];
        assert_eq!(liveness.tick(&known(2, false), now + TIMEOUT), fence);
    }

    #[test]
    fn refused_connections_end_a_session_early() {
        let mut liveness = Liveness::new(TIMEOUT, Duration::ZERO);
        let now = Duration::from_secs(10);
        liveness.heartbeat(member(1), now);
        liveness.refused(member(1));
        assert!(!liveness.is_live(member(1), now));
        liveness.heartbeat(member(1), now);
        assert!(liveness.is_live(member(1), now));
        // Of a life that was never heard here, too; not of one that is over.
        liveness.refused(member(2));
        assert!(!liveness.is_live(member(2), now));
        liveness.heartbeat(member(3), now);
        liveness.refused(member(2));
        assert!(liveness.is_live(member(3), now));
    }
}
