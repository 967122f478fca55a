//! The subscription trie: topic filters to values, matched by topic name. Pure.
//!
//! Nodes live in a slab, so that neither matching nor dropping recurses, however deep the filters
//! are. A node that holds nothing and leads nowhere is freed at once: a client that subscribes and
//! unsubscribes for ever costs no memory.
//!
//! A match visits at most the nodes that exist: a topic of `n` levels against literals and `+`
//! keeps a set of candidate nodes per level, each reached by one path only.

use std::collections::HashMap;

/// The node that the first level hangs from.
const ROOT: usize = 0;

/// Above this many values a node keeps an index of them, so that removal needs no search.
const INDEX_AT_VALUES: usize = 32;

/// Topic filters to values; each value has an id that is unique per filter.
#[derive(Debug)]
pub(crate) struct Trie<T> {
    nodes: Vec<Node<T>>,
    free: Vec<usize>,
    len: usize,
}

#[derive(Debug)]
struct Node<T> {
    parent: usize,
    /// The level by which `parent` leads here.
    level: Box<str>,
    children: HashMap<Box<str>, usize>,
    plus: Option<usize>,
    /// Values whose filter ends here.
    here: Values<T>,
    /// Values whose filter ends with `#` below this node.
    hash: Values<T>,
}

#[derive(Debug)]
struct Values<T> {
    entries: Vec<(u64, T)>,
    index: Option<HashMap<u64, usize>>,
}

/// Working memory of [`Trie::for_each_match`], kept by the caller so that a match allocates nothing.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    current: Vec<usize>,
    next: Vec<usize>,
}

// === impl Trie ===

impl<T> Default for Trie<T> {
    fn default() -> Self {
        Self {
            nodes: vec![Node::new(ROOT, "")],
            free: Vec::new(),
            len: 0,
        }
    }
}

impl<T> Trie<T> {
    /// The number of values.
    #[cfg(test)]
    fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no value.
    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Sets the value of (`filter`, `id`); returns the former one. `filter` is legal.
    pub(crate) fn insert(&mut self, filter: &str, id: u64, value: T) -> Option<T> {
        let mut node = ROOT;
        for level in filter.split('/') {
            if level == "#" {
                let former = self.nodes[node].hash.insert(id, value);
                self.len += usize::from(former.is_none());
                return former;
            }
            node = self.child_or_new(node, level);
        }
        let former = self.nodes[node].here.insert(id, value);
        self.len += usize::from(former.is_none());
        former
    }

    /// Removes the value of (`filter`, `id`), and the nodes that nothing needs any more.
    pub(crate) fn remove(&mut self, filter: &str, id: u64) -> Option<T> {
        let mut node = ROOT;
        let mut ends_with_hash = false;
        for level in filter.split('/') {
            if level == "#" {
                ends_with_hash = true;
                break;
            }
            node = self.child(node, level)?;
        }
        let values = match ends_with_hash {
            true => &mut self.nodes[node].hash,
            false => &mut self.nodes[node].here,
        };
        let removed = values.remove(id)?;
        self.len -= 1;
        self.prune(node);
        Some(removed)
    }

    /// Calls `visit` for each value whose filter matches the topic name `topic`, in no order.
    pub(crate) fn for_each_match<'a>(
        &'a self,
        topic: &str,
        scratch: &mut Scratch,
        mut visit: impl FnMut(&'a T),
    ) {
        let Scratch { current, next } = scratch;
        current.clear();
        current.push(ROOT);
        // Wildcards in the first level do not match topics that begin with `$`
        // (MQTT 5.0 section 4.7.2).
        let mut wildcards = !topic.starts_with('$');
        for level in topic.split('/') {
            next.clear();
            for &index in current.iter() {
                let node = &self.nodes[index];
                if wildcards {
                    node.hash.for_each(&mut visit);
                    next.extend(node.plus);
                }
                next.extend(node.children.get(level));
            }
            wildcards = true;
            std::mem::swap(current, next);
            if current.is_empty() {
                return;
            }
        }
        for &index in current.iter() {
            let node = &self.nodes[index];
            node.here.for_each(&mut visit);
            // `a/#` matches `a` too.
            node.hash.for_each(&mut visit);
        }
    }

    fn child(&self, node: usize, level: &str) -> Option<usize> {
        match level {
            "+" => self.nodes[node].plus,
            _ => self.nodes[node].children.get(level).copied(),
        }
    }

    fn child_or_new(&mut self, node: usize, level: &str) -> usize {
        if let Some(child) = self.child(node, level) {
            return child;
        }
        let fresh = Node::new(node, level);
        let child = match self.free.pop() {
            Some(index) => {
                self.nodes[index] = fresh;
                index
            }
            None => {
                self.nodes.push(fresh);
                self.nodes.len() - 1
            }
        };
        match level {
            "+" => self.nodes[node].plus = Some(child),
            _ => {
                self.nodes[node].children.insert(level.into(), child);
            }
        }
        child
    }

    fn prune(&mut self, mut node: usize) {
        while node != ROOT && self.nodes[node].is_unused() {
            let parent = self.nodes[node].parent;
            let level = std::mem::take(&mut self.nodes[node].level);
            match &*level {
                "+" => self.nodes[parent].plus = None,
                _ => {
                    let children = &mut self.nodes[parent].children;
                    children.remove(&level);
                    if children.is_empty() {
                        *children = HashMap::new();
                    }
                }
            }
            self.nodes[node] = Node::new(ROOT, "");
            self.free.push(node);
            node = parent;
        }
        self.shrink();
    }

    /// Gives memory back once most of the slab is free. Only a free tail can be cut: indexes of
    /// living nodes must stay.
    fn shrink(&mut self) {
        if self.free.len() < 1024 || self.free.len() * 2 < self.nodes.len() {
            return;
        }
        let mut is_free = vec![false; self.nodes.len()];
        for &index in &self.free {
            is_free[index] = true;
        }
        while is_free.last() == Some(&true) {
            is_free.pop();
            self.nodes.pop();
        }
        self.nodes.shrink_to_fit();
        let end = self.nodes.len();
        self.free.retain(|index| *index < end);
        self.free.shrink_to_fit();
    }

    #[cfg(test)]
    fn living_nodes(&self) -> usize {
        self.nodes.len() - self.free.len()
    }
}

// === impl Node ===

impl<T> Node<T> {
    fn new(parent: usize, level: &str) -> Self {
        Self {
            parent,
            level: level.into(),
            children: HashMap::new(),
            plus: None,
            here: Values::default(),
            hash: Values::default(),
        }
    }

    fn is_unused(&self) -> bool {
        self.children.is_empty()
            && self.plus.is_none()
            && self.here.entries.is_empty()
            && self.hash.entries.is_empty()
    }
}

// === impl Values ===

impl<T> Default for Values<T> {
    fn default() -> Self {
        Self {
            entries: Vec::new(),
            index: None,
        }
    }
}

impl<T> Values<T> {
    fn position(&self, id: u64) -> Option<usize> {
        match &self.index {
            Some(index) => index.get(&id).copied(),
            None => self.entries.iter().position(|(other, _)| *other == id),
        }
    }

    fn insert(&mut self, id: u64, value: T) -> Option<T> {
        if let Some(position) = self.position(id) {
            return Some(std::mem::replace(&mut self.entries[position].1, value));
        }
        self.entries.push((id, value));
        let last = self.entries.len() - 1;
        if let Some(index) = &mut self.index {
            index.insert(id, last);
        } else if self.entries.len() > INDEX_AT_VALUES {
            self.index = Some(
                self.entries
                    .iter()
                    .enumerate()
                    .map(|(at, (id, _))| (*id, at))
                    .collect(),
            );
        }
        None
    }

    fn remove(&mut self, id: u64) -> Option<T> {
        let position = self.position(id)?;
        let (_, value) = self.entries.swap_remove(position);
        if let Some(index) = &mut self.index {
            index.remove(&id);
            if let Some((moved, _)) = self.entries.get(position) {
                index.insert(*moved, position);
            }
        }
        if self.entries.len() <= INDEX_AT_VALUES / 2 {
            self.index = None;
            self.entries.shrink_to_fit();
        }
        Some(value)
    }

    fn for_each<'a>(&'a self, visit: &mut impl FnMut(&'a T)) {
        for (_, value) in &self.entries {
            visit(value);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::mqtt::topic;

    fn level() -> impl Strategy<Value = String> {
        prop_oneof![
            Just(String::new()),
            Just("a".into()),
            Just("b".into()),
            Just("é".into()),
            Just("$x".into())
        ]
    }

    fn name() -> impl Strategy<Value = String> {
        prop::collection::vec(level(), 1..5)
            .prop_map(|levels| levels.join("/"))
            .prop_filter("a topic name is not empty", |name| !name.is_empty())
    }

    fn filter() -> impl Strategy<Value = String> {
        let part = prop_oneof![3 => level(), 2 => Just("+".to_owned())];
        (prop::collection::vec(part, 0..5), any::<bool>())
            .prop_map(|(mut levels, hash)| {
                if hash || levels.is_empty() {
                    levels.push("#".into());
                }
                levels.join("/")
            })
            .prop_filter("a filter is not empty", |filter| !filter.is_empty())
    }

    fn found(trie: &Trie<u64>, name: &str) -> Vec<u64> {
        let mut found = Vec::new();
        trie.for_each_match(name, &mut Scratch::default(), |value| found.push(*value));
        found.sort_unstable();
        found
    }

    proptest! {
        #[test]
        fn matches_agree_with_the_reference_and_memory_is_freed(
            steps in prop::collection::vec((any::<bool>(), filter(), 0..40u64), 1..120),
            names in prop::collection::vec(name(), 1..20),
        ) {
            let mut trie = Trie::default();
            let mut reference = BTreeMap::new();
            for (insert, filter, id) in steps {
                let key = (filter.clone(), id);
                let value = id * 7;
                if insert {
                    prop_assert_eq!(trie.insert(&filter, id, value), reference.insert(key, value));
                } else {
                    prop_assert_eq!(trie.remove(&filter, id), reference.remove(&key));
                }
                prop_assert_eq!(trie.len(), reference.len());
            }
            for name in &names {
                let mut expected: Vec<u64> = reference
                    .iter()
                    .filter(|((filter, _), _)| topic::matches(filter, name))
                    .map(|(_, value)| *value)
                    .collect();
                expected.sort_unstable();
                prop_assert_eq!(found(&trie, name), expected);
            }
            for (filter, id) in reference.into_keys() {
                prop_assert!(trie.remove(&filter, id).is_some());
            }
            prop_assert!(trie.is_empty());
            prop_assert_eq!(trie.living_nodes(), 1);
        }
    }

    #[test]
    fn many_values_of_one_filter_are_found_and_removed() {
        let mut trie = Trie::default();
        for id in 0..1000 {
            assert_eq!(trie.insert("a/+", id, id), None);
        }
        for id in (0..1000).filter(|id| id % 3 != 0) {
            assert_eq!(trie.remove("a/+", id), Some(id));
        }
        assert_eq!(
            found(&trie, "a/x"),
            (0..1000).step_by(3).collect::<Vec<u64>>()
        );
    }

    #[test]
    fn deep_filters_neither_overflow_the_stack_nor_stay() {
        let mut trie = Trie::default();
        let deep = vec!["a"; 32_000].join("/");
        trie.insert(&deep, 1, 1);
        assert_eq!(found(&trie, &deep), vec![1]);
        assert_eq!(trie.remove(&deep, 1), Some(1));
        assert_eq!(trie.living_nodes(), 1);
        assert!(trie.nodes.len() < 1000);
    }
}
