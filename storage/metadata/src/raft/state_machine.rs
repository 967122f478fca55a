//! openraft's state machine: the image in memory, snapshots in the store.

use std::{io::Cursor, sync::Arc};

use arc_swap::ArcSwap;
use mainstem_env::Env;
use openraft::{
    EntryPayload, OptionalSend, RaftSnapshotBuilder, Snapshot, storage::RaftStateMachine,
};
use tokio::sync::watch;

use super::{
    Entry, LogId, Outcome, SnapshotMeta, StorageResult, StoredMembership, Types, Use, from_bytes,
    log_store::get, to_bytes,
};
use crate::{
    apply::apply,
    error::StoreError,
    image::Image,
    snapshot,
    store::{Key, Store, on_store},
};

/// Where requests find the image.
#[derive(Debug)]
pub(crate) struct Published {
    image: ArcSwap<Image>,
    version: watch::Sender<u64>,
}

/// The image as far as it was applied.
pub(crate) struct StateMachine {
    env: Env,
    store: Arc<dyn Store>,
    published: Arc<Published>,
    state: State,
}

/// What a snapshot holds. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(super) struct State {
    pub(super) image: Image,
    pub(super) applied: Option<LogId>,
    pub(super) membership: StoredMembership,
}

/// Makes one snapshot, while the state machine goes on.
pub(crate) struct SnapshotBuilder {
    env: Env,
    store: Arc<dyn Store>,
    state: State,
}

// === impl Published ===

impl Published {
    pub(crate) fn image(&self) -> Arc<Image> {
        self.image.load_full()
    }

    pub(crate) fn versions(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }

    fn publish(&self, image: &Image) {
        self.image.store(Arc::new(image.clone()));
        self.version.send_replace(image.version);
    }
}

impl Default for Published {
    fn default() -> Self {
        Self {
            image: ArcSwap::default(),
            version: watch::Sender::new(0),
        }
    }
}

// === impl State ===

impl State {
    /// The state in the stored snapshot; the empty one if there is none.
    pub(super) fn load(store: &dyn Store) -> Result<Self, StoreError> {
        let Some(meta) = get::<SnapshotMeta>(store, Key::SnapshotMeta, "snapshot's description")?
        else {
            return Ok(Self::default());
        };
        let data = store
            .get(Key::SnapshotData)?
            .ok_or(StoreError::Missing { what: "snapshot" })?;
        Ok(Self {
            image: snapshot::decode(&data)?,
            applied: meta.last_log_id,
            membership: meta.last_membership,
        })
    }

    /// Equal states have equal snapshots, so what it covers is its name.
    fn snapshot_meta(&self) -> SnapshotMeta {
        let snapshot_id = match self.applied {
            Some(id) => format!("{}-{}", id.leader_id, id.index),
            None => "empty".to_owned(),
        };
        SnapshotMeta {
            last_log_id: self.applied,
            last_membership: self.membership.clone(),
            snapshot_id,
        }
    }

    fn apply(&mut self, entry: Entry) -> Outcome {
        self.applied = Some(entry.log_id);
        Outcome(match entry.payload {
            EntryPayload::Blank => None,
            EntryPayload::Normal(envelope) => Some(apply(
                &mut self.image,
                entry.log_id.index,
                &envelope.command,
            )),
            EntryPayload::Membership(membership) => {
                self.membership = StoredMembership::new(Some(entry.log_id), membership);
                None
            }
        })
    }
}

// === impl StateMachine ===

impl StateMachine {
    /// A state machine that goes on from `state`.
    pub(super) fn new(
        env: Env,
        store: Arc<dyn Store>,
        published: Arc<Published>,
        state: State,
    ) -> Self {
        published.publish(&state.image);
        Self {
            env,
            store,
            published,
            state,
        }
    }
}

impl RaftStateMachine<Types> for StateMachine {
    type SnapshotBuilder = SnapshotBuilder;

    async fn applied_state(&mut self) -> StorageResult<(Option<LogId>, StoredMembership)> {
        Ok((self.state.applied, self.state.membership.clone()))
    }

    async fn apply<I>(&mut self, entries: I) -> StorageResult<Vec<Outcome>>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let before = self.state.image.version;
        let outcomes = entries
            .into_iter()
            .map(|entry| self.state.apply(entry))
            .collect();
        // Once per round: what a proposer waits for is visible before it gets its answer.
        if self.state.image.version != before {
            self.published.publish(&self.state.image);
        }
        Ok(outcomes)
    }

    async fn get_snapshot_builder(&mut self) -> SnapshotBuilder {
        SnapshotBuilder {
            env: self.env.clone(),
            store: Arc::clone(&self.store),
            state: self.state.clone(),
        }
    }

    async fn begin_receiving_snapshot(&mut self) -> StorageResult<Box<Cursor<Vec<u8>>>> {
        Ok(Box::default())
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        snapshot: Box<Cursor<Vec<u8>>>,
    ) -> StorageResult<()> {
        let (described, data) = (meta.clone(), snapshot.into_inner());
        let image = on_store(&self.env, &self.store, move |store| {
            let image = snapshot::decode(&data)?;
            store.put_snapshot(&to_bytes("snapshot's description", &described)?, &data)?;
            Ok(image)
        })
        .await
        .map_err(|error| Use::WriteSnapshot.failed(error))?;
        self.state = State {
            image,
            applied: meta.last_log_id,
            membership: meta.last_membership.clone(),
        };
        self.published.publish(&self.state.image);
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> StorageResult<Option<Snapshot<Types>>> {
        on_store(&self.env, &self.store, |store| {
            let Some(meta) = store.get(Key::SnapshotMeta)? else {
                return Ok(None);
            };
            let meta = from_bytes("snapshot's description", &meta)?;
            let data = store
                .get(Key::SnapshotData)?
                .ok_or(StoreError::Missing { what: "snapshot" })?;
            Ok(Some(Snapshot {
                meta,
                snapshot: Box::new(Cursor::new(data)),
            }))
        })
        .await
        .map_err(|error| Use::ReadSnapshot.failed(error))
    }
}

// === impl SnapshotBuilder ===

impl RaftSnapshotBuilder<Types> for SnapshotBuilder {
    async fn build_snapshot(&mut self) -> StorageResult<Snapshot<Types>> {
        let meta = self.state.snapshot_meta();
        let (described, image) = (meta.clone(), self.state.image.clone());
        let data = on_store(&self.env, &self.store, move |store| {
            let data = snapshot::encode(&image)?;
            store.put_snapshot(&to_bytes("snapshot's description", &described)?, &data)?;
            Ok(data)
        })
        .await
        .map_err(|error| Use::WriteSnapshot.failed(error))?;
        Ok(Snapshot {
            meta,
            snapshot: Box::new(Cursor::new(data)),
        })
    }
}
