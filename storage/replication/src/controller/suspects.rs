//! Which nodes refuse connections, and in which life: a killed process is noticed by that long before
//! its session ends.
//!
//! A refusal is a hint and never a proof: it brings a fence forward, which costs a seal if it was
//! wrong. So that a late one does not hit the next life, it is put down to the life that the image
//! named when it came, and only if that life was named before.

use std::{collections::BTreeMap, time::Duration};

use mainstem_metadata::Image;
use mainstem_record::{BrokerId, Incarnation, Member};

#[derive(Clone, Copy, Debug)]
struct Known {
    incarnation: Incarnation,
    /// How many refusals in a row were seen.
    attempts: u64,
    /// When one came last in that life.
    refused: Option<Duration>,
}

/// What one node sees of the others.
#[derive(Clone, Debug, Default)]
pub(crate) struct Suspects {
    nodes: BTreeMap<BrokerId, Known>,
}

// === impl Suspects ===

impl Suspects {
    /// Takes an image and the refusals in a row of each node ([`mainstem_peers::Peers::refused`]).
    /// Returns whether another refusal came in a known life.
    pub(crate) fn look(
        &mut self,
        image: &Image,
        attempts: impl Fn(BrokerId) -> Option<u64>,
        now: Duration,
    ) -> bool {
        self.nodes.retain(|id, _| image.brokers.contains_key(id));
        let mut has_news = false;
        for broker in image.brokers.values() {
            let attempts = attempts(broker.id).unwrap_or(0);
            let fresh = Known {
                incarnation: broker.incarnation,
                attempts,
                refused: None,
            };
            let known = self.nodes.entry(broker.id).or_insert(fresh);
            if known.incarnation != broker.incarnation {
                *known = fresh;
                continue;
            }
            if attempts == 0 {
                known.refused = None;
            } else if attempts != known.attempts {
                known.refused = Some(now);
                has_news = true;
            }
            known.attempts = attempts;
        }
        has_news
    }

    /// The lives that refuse connections, and when each did last.
    pub(crate) fn refusing(&self) -> impl Iterator<Item = (Member, Duration)> {
        let refusing = self.nodes.iter();
        refusing.filter_map(|(id, known)| {
            let refused = known.refused?;
            Some((Member::new(*id, known.incarnation), refused))
        })
    }
}

#[cfg(test)]
mod tests {
    use mainstem_metadata::{Command, apply};
    use uuid::Uuid;

    use super::*;

    fn registered(image: &mut Image, expected: Option<u64>) {
        let command = Command::RegisterBroker {
            broker: BrokerId(1),
            directory_id: Uuid::from_u128(1),
            expected: expected.map(Incarnation),
            listeners: BTreeMap::new(),
            peer: None,
            roles: mainstem_metadata::Roles::default(),
            intact: None,
            directory_life: None,
            request: Uuid::from_u128(u128::from(expected.unwrap_or(0)) + 7),
        };
        let index = image.version + 1;
        apply(image, index, &command).expect("registered");
    }

    fn refusing(suspects: &Suspects) -> Vec<(u64, Duration)> {
        let refusing = suspects.refusing();
        refusing
            .map(|(member, at)| (member.incarnation.0, at))
            .collect()
    }

    #[test]
    fn a_refusal_counts_for_the_life_that_was_known_before_it() {
        let at = Duration::from_secs;
        let mut image = Image::default();
        registered(&mut image, None);
        let mut suspects = Suspects::default();
        assert!(!suspects.look(&image, |_| None, at(1)));
        assert!(suspects.look(&image, |_| Some(1), at(2)));
        assert_eq!(refusing(&suspects), [(1, at(2))]);
        // Nothing new came.
        assert!(!suspects.look(&image, |_| Some(1), at(3)));
        assert_eq!(refusing(&suspects), [(1, at(2))]);
        // The next life is not guilty of what the one before did.
        registered(&mut image, Some(1));
        assert!(!suspects.look(&image, |_| Some(4), at(4)));
        assert_eq!(refusing(&suspects), []);
        assert!(!suspects.look(&image, |_| Some(4), at(5)));
        assert!(suspects.look(&image, |_| Some(5), at(6)));
        assert_eq!(refusing(&suspects), [(2, at(6))]);
        // It was reached.
        assert!(!suspects.look(&image, |_| None, at(7)));
        assert_eq!(refusing(&suspects), []);
    }
}
