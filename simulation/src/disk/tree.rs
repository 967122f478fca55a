//! Directories: what is seen, what is on the medium, and the changes between.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::{Component, Path},
};

use super::faults::{Counts, FaultKind};
use crate::Dice;

/// Directory or file, by number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Node {
    File(usize),
    Dir(usize),
}

/// The directory that all paths begin in.
const ROOT: usize = 0;

/// Directory -> name -> what is there.
type Names = BTreeMap<usize, BTreeMap<String, Node>>;

#[derive(Debug, Clone)]
pub(super) struct Tree {
    visible: Names,
    durable: Names,
    /// Changes that are not durable, oldest first. Each survives a power cut whole or not at all.
    pending: Vec<Change>,
    next: usize,
}

#[derive(Debug, Clone)]
struct Change {
    what: What,
    entries: Vec<(usize, String, Option<Node>)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum What {
    Creation,
    Rename,
    Removal,
}

impl Default for Tree {
    fn default() -> Self {
        let names: Names = BTreeMap::from([(ROOT, BTreeMap::new())]);
        Self {
            visible: names.clone(),
            durable: names,
            pending: Vec::new(),
            next: ROOT + 1,
        }
    }
}

// === impl Tree ===

impl Tree {
    pub(super) fn find(&self, path: &Path) -> Option<Node> {
        let mut node = Node::Dir(ROOT);
        for name in names_of(path) {
            let Node::Dir(dir) = node else {
                return None;
            };
            node = *self.visible.get(&dir)?.get(name)?;
        }
        Some(node)
    }

    pub(super) fn find_dir(&self, path: &Path) -> io::Result<usize> {
        match self.find(path) {
            Some(Node::Dir(dir)) => Ok(dir),
            Some(Node::File(_)) => Err(io::ErrorKind::NotADirectory.into()),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    /// The directory and the name in it.
    fn place(&self, path: &Path) -> io::Result<(usize, String)> {
        let name = names_of(path).last().ok_or(io::ErrorKind::InvalidInput)?;
        let parent = path.parent().unwrap_or(Path::new("/"));
        Ok((self.find_dir(parent)?, name.to_owned()))
    }

    pub(super) fn entries(&self, dir: usize) -> impl Iterator<Item = (&String, &Node)> {
        self.visible.get(&dir).into_iter().flatten()
    }

    pub(super) fn create_file(&mut self, path: &Path) -> io::Result<usize> {
        let (dir, name) = self.place(path)?;
        let inode = self.next;
        self.next += 1;
        let entries = vec![(dir, name, Some(Node::File(inode)))];
        self.change(What::Creation, entries);
        Ok(inode)
    }

    pub(super) fn create_dir(&mut self, path: &Path) -> io::Result<()> {
        let (dir, name) = self.place(path)?;
        let made = self.next;
        self.next += 1;
        self.visible.insert(made, BTreeMap::new());
        self.durable.insert(made, BTreeMap::new());
        let entries = vec![(dir, name, Some(Node::Dir(made)))];
        self.change(What::Creation, entries);
        Ok(())
    }

    pub(super) fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        let node = self.find(from).ok_or(io::ErrorKind::NotFound)?;
        match (node, self.find(to)) {
            (Node::Dir(_), Some(Node::Dir(there))) if self.entries(there).next().is_some() => {
                return Err(io::ErrorKind::DirectoryNotEmpty.into());
            }
            (Node::Dir(_), Some(Node::File(_))) => {
                return Err(io::ErrorKind::NotADirectory.into());
            }
            (Node::File(_), Some(Node::Dir(_))) => return Err(io::ErrorKind::IsADirectory.into()),
            _ => {}
        }
        let (from_dir, from_name) = self.place(from)?;
        let (to_dir, to_name) = self.place(to)?;
        let gone = (from_dir, from_name, None);
        let entries = vec![gone, (to_dir, to_name, Some(node))];
        self.change(What::Rename, entries);
        Ok(())
    }

    pub(super) fn remove(&mut self, path: &Path) -> io::Result<()> {
        let (dir, name) = self.place(path)?;
        self.change(What::Removal, vec![(dir, name, None)]);
        Ok(())
    }

    fn change(&mut self, what: What, entries: Vec<(usize, String, Option<Node>)>) {
        let change = Change { what, entries };
        apply(&mut self.visible, &change);
        self.pending.push(change);
    }

    /// Makes the changes that touch this directory durable.
    pub(super) fn sync(&mut self, dir: usize) {
        let durable = &mut self.durable;
        self.pending.retain(|change| {
            let touches = change.entries.iter().any(|(other, _, _)| *other == dir);
            if touches {
                apply(durable, change);
            }
            !touches
        });
    }

    /// Of the changes that are not durable none, all, the first or any survive.
    pub(super) fn after_power_cut(&self, dice: &mut Dice, counts: &mut Counts) -> Self {
        let mut names = self.durable.clone();
        let count = self.pending.len();
        let (first, each) = match dice.below(4) {
            0 => (0, false),
            1 => (count, false),
            2 => (dice.index(count + 1), false),
            _ => (0, true),
        };
        for (at, change) in self.pending.iter().enumerate() {
            if at < first || (each && dice.one_in(2)) {
                apply(&mut names, change);
            } else {
                counts.count(match change.what {
                    What::Creation => FaultKind::LostEntry,
                    What::Rename => FaultKind::LostRename,
                    What::Removal => FaultKind::LostRemoval,
                });
            }
        }
        Self {
            visible: names.clone(),
            durable: names,
            pending: Vec::new(),
            next: self.next,
        }
    }

    /// All files that can be reached, on the medium or as it is seen, or could be after a power cut.
    pub(super) fn files(&self) -> BTreeSet<usize> {
        let pending = self.pending.iter().flat_map(|change| &change.entries);
        let pending = pending.filter_map(|(_, _, node)| node.as_ref());
        let named = self.visible.values().chain(self.durable.values());
        let all = named.flat_map(BTreeMap::values).chain(pending);
        all.filter_map(|node| match node {
            Node::File(inode) => Some(*inode),
            Node::Dir(_) => None,
        })
        .collect()
    }

    /// Every file as it is seen, with its path.
    pub(super) fn walk(&self) -> Vec<(String, usize)> {
        let mut found = Vec::new();
        let mut open = vec![(String::new(), ROOT)];
        while let Some((path, dir)) = open.pop() {
            for (name, node) in self.entries(dir) {
                let path = format!("{path}/{name}");
                match node {
                    Node::File(inode) => found.push((path, *inode)),
                    Node::Dir(dir) => open.push((path, *dir)),
                }
            }
        }
        found.sort_unstable();
        found
    }
}

fn apply(names: &mut Names, change: &Change) {
    for (dir, name, node) in &change.entries {
        let Some(entries) = names.get_mut(dir) else {
            continue;
        };
        match node {
            Some(node) => entries.insert(name.clone(), *node),
            None => entries.remove(name),
        };
    }
}

fn names_of(path: &Path) -> impl Iterator<Item = &str> {
    path.components().filter_map(|part| match part {
        Component::Normal(name) => name.to_str(),
        _ => None,
    })
}
