//! What a blank node does, from what its seeds say: pure.

use std::collections::{BTreeMap, BTreeSet};

use super::{Hello, Standing};
use crate::raft::{NodeId, QuorumNode};

/// What a seed said; `Err` if it could not be asked, with the reason.
pub(super) type Said = Result<Hello, Silence>;

/// Why a seed said nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Silence {
    /// The address is this node's own.
    Myself,
    /// It may answer later.
    Unreachable(String),
    /// It will not.
    Refused(String),
}

/// What to do next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Ask again later.
    Wait(String),
    /// Join the cluster of the node that answers at this seed address.
    Join(String),
    /// Make a cluster of these founders.
    Found(BTreeMap<NodeId, QuorumNode>),
    /// Nothing will come of it.
    Refuse(String),
}

/// The next step of the blank node `own`, whose seeds said `said`.
pub(super) fn next(own: &Hello, said: &BTreeMap<String, Said>) -> Step {
    if let Some(step) = standing_cluster(said) {
        return step;
    }
    let mut founders: BTreeMap<NodeId, (String, QuorumNode)> = BTreeMap::new();
    let mut waiting = None;
    let mut is_seed = false;
    for (seed, said) in said {
        let hello = match said {
            Ok(hello) if hello.me.directory_id == own.me.directory_id => own,
            Ok(hello) => hello,
            Err(Silence::Myself) => own,
            Err(Silence::Refused(why)) => return Step::Refuse(format!("seed {seed}: {why}")),
            Err(Silence::Unreachable(why)) => {
                waiting.get_or_insert_with(|| format!("seed {seed} cannot be reached: {why}"));
                continue;
            }
        };
        is_seed |= hello == own;
        if let Some(why) = contradiction(own, seed, hello, &founders) {
            return Step::Refuse(why);
        }
        if hello.standing == Standing::Starting {
            waiting.get_or_insert_with(|| format!("seed {seed} is starting"));
        }
        founders.insert(hello.node, (seed.clone(), hello.me.clone()));
    }
    if let Some(why) = waiting {
        return Step::Wait(why);
    }
    if !is_seed {
        return Step::Wait("the seeds have not made their cluster yet".to_owned());
    }
    match founders.first_key_value() {
        Some((first, _)) if *first == own.node => {
            let founders = founders.into_iter().map(|(id, (_, node))| (id, node));
            Step::Found(founders.collect())
        }
        Some((first, _)) => Step::Wait(format!("node {first} is to make the cluster")),
        None => Step::Refuse("there are no seeds".to_owned()),
    }
}

/// A cluster that is there is joined, never made anew.
fn standing_cluster(said: &BTreeMap<String, Said>) -> Option<Step> {
    let members: Vec<(&String, &String)> = said
        .iter()
        .filter_map(|(seed, said)| match said {
            Ok(Hello {
                standing: Standing::Member { cluster_id },
                ..
            }) => Some((seed, cluster_id)),
            _ => None,
        })
        .collect();
    let clusters: BTreeSet<&String> = members.iter().map(|(_, cluster_id)| *cluster_id).collect();
    match members.first() {
        Some(_) if clusters.len() > 1 => Some(Step::Refuse(format!(
            "the seeds belong to different clusters: {}",
            list(members.iter().map(|(seed, id)| format!("{seed} to {id}")))
        ))),
        Some((seed, _)) => Some(Step::Join((*seed).clone())),
        None => None,
    }
}

/// What makes a founding impossible until somebody changes a configuration.
fn contradiction(
    own: &Hello,
    seed: &str,
    hello: &Hello,
    founders: &BTreeMap<NodeId, (String, QuorumNode)>,
) -> Option<String> {
    let (id, theirs, ours) = (hello.node, &hello.seeds, &own.seeds);
    if theirs != ours && hello.standing == Standing::Blank {
        return Some(format!(
            "node {id} at seed {seed} has other seeds ({}) than this node ({})",
            list(theirs),
            list(ours)
        ));
    }
    let same_id = founders.get(&id).filter(|(_, node)| *node != hello.me);
    if same_id.is_some() || (id == own.node && hello != own) {
        return Some(format!(
            "node id {id} is used twice, by the node at seed {seed} too"
        ));
    }
    let mut others = founders.values();
    if let Some((other, _)) = others.find(|(_, node)| node.directory_id == hello.me.directory_id) {
        return Some(format!("seeds {other} and {seed} are the same node, {id}"));
    }
    if !hello.me.controller {
        return Some(format!(
            "node {id} at seed {seed} has not the role controller, and seeds are the first voters"
        ));
    }
    None
}

fn list<T: AsRef<str>>(parts: impl IntoIterator<Item = T>) -> String {
    let parts: Vec<T> = parts.into_iter().collect();
    let parts: Vec<&str> = parts.iter().map(AsRef::as_ref).collect();
    parts.join(", ")
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    const SEEDS: [&str; 3] = ["a:1", "b:1", "c:1"];

    fn node(id: NodeId) -> Hello {
        Hello {
            node: id,
            me: QuorumNode {
                addr: format!("node-{id}:1"),
                directory_id: Uuid::from_u128(id.into()),
                controller: true,
            },
            seeds: SEEDS.map(str::to_owned).to_vec(),
            standing: Standing::Blank,
        }
    }

    fn said(nodes: [Said; 3]) -> BTreeMap<String, Said> {
        SEEDS.map(str::to_owned).into_iter().zip(nodes).collect()
    }

    fn all_blank(own: NodeId) -> [Said; 3] {
        [1, 2, 3].map(|id| match id == own {
            true => Err(Silence::Myself),
            false => Ok(node(id)),
        })
    }

    fn refusal(step: Step) -> String {
        match step {
            Step::Refuse(why) => why,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn only_the_lowest_founds_and_only_with_all_of_them() {
        let Step::Found(founders) = next(&node(1), &said(all_blank(1))) else {
            panic!("node 1 founds")
        };
        assert_eq!(founders.keys().copied().collect::<Vec<_>>(), [1, 2, 3]);
        for id in [2, 3] {
            assert!(matches!(
                next(&node(id), &said(all_blank(id))),
                Step::Wait(_)
            ));
        }
        assert!(matches!(next(&node(4), &said(all_blank(4))), Step::Wait(_)));
        for missing in 0..3 {
            let mut nodes = all_blank(1);
            nodes[missing] = Err(Silence::Unreachable("refused".to_owned()));
            assert!(matches!(next(&node(1), &said(nodes)), Step::Wait(_)));
            let mut nodes = all_blank(1);
            if missing > 0 {
                nodes[missing].as_mut().expect("said").standing = Standing::Starting;
                assert!(matches!(next(&node(1), &said(nodes)), Step::Wait(_)));
            }
        }
    }

    #[test]
    fn a_cluster_that_stands_is_joined_whoever_is_missing() {
        let member = |id: NodeId, cluster: &str| Hello {
            standing: Standing::Member {
                cluster_id: cluster.to_owned(),
            },
            seeds: Vec::new(),
            ..node(id)
        };
        let away = || Err(Silence::Unreachable("refused".to_owned()));
        let step = next(
            &node(1),
            &said([Err(Silence::Myself), away(), Ok(member(3, "C"))]),
        );
        assert_eq!(step, Step::Join("c:1".to_owned()));
        let two = said([Err(Silence::Myself), Ok(member(2, "D")), Ok(member(3, "C"))]);
        assert!(refusal(next(&node(1), &two)).contains("different clusters"));
    }

    #[test]
    fn contradictions_are_refused_with_a_reason() {
        let with = |change: fn(&mut Hello)| {
            let mut nodes = all_blank(1);
            change(nodes[1].as_mut().expect("said"));
            refusal(next(&node(1), &said(nodes)))
        };
        assert!(with(|other| other.seeds = vec!["x:1".to_owned()]).contains("other seeds"));
        assert!(with(|other| other.node = 1).contains("used twice"));
        assert!(with(|other| other.node = 3).contains("used twice"));
        assert!(with(|other| other.me.controller = false).contains("role controller"));
        let twice = said([Err(Silence::Myself), Ok(node(2)), Ok(node(2))]);
        assert!(refusal(next(&node(1), &twice)).contains("the same node"));
        let refused = Err(Silence::Refused("wrong secret".to_owned()));
        let step = next(
            &node(1),
            &said([Err(Silence::Myself), refused, Ok(node(3))]),
        );
        assert!(refusal(step).contains("wrong secret"));
    }
}
