//! What a data directory proves of the last life of its broker: `<data.dir>/life.json` (seal
//! protocol R2).
//!
//! ```text
//!              prepare(request)        begin(incarnation)           end()
//!  last life ──────────────────> asked ─────────────────> running ─────────> clean
//!                                                            └─ doubt() ──> doubtful
//! ```
//! Each step replaces the file, synced, before the next thing happens: a life is noted before it
//! acknowledges anything, and a clean end after everything is synced. So the file of a directory that
//! was restored from a copy names another life than the one that registered last, and a stale clean
//! end cannot stand beside a newer life. A registration of which the answer was lost is recognised by
//! its request: a life that was never noted has acknowledged nothing.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use mainstem_env::{Env, OpenMode};
use mainstem_record::Incarnation;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{error::MetadataError, image::Broker};

/// The name of the file in the data directory.
pub const LIFE_FILE: &str = "life.json";
/// Where Linux tells which boot this is.
pub const BOOT_ID_PATH: &str = "/proc/sys/kernel/random/boot_id";
/// The format that this build writes; it reads no other.
const LIFE_FORMAT: u64 = 1;
/// A larger file cannot be ours.
const LIFE_BYTES_MAX: usize = 64 * 1024;
/// A boot id is a UUID as text.
const BOOT_ID_BYTES_MAX: usize = 64;

/// What the directory says of lives. Cheap to clone.
#[derive(Clone)]
pub struct Life {
    env: Env,
    path: PathBuf,
    boot_id: Option<String>,
    /// Held while the file is written: the file is never older than what is in here.
    note: Arc<Mutex<Note>>,
}

/// What a registration may say about the life before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Claim {
    /// The life whose every acknowledged record is there.
    pub intact: Option<Incarnation>,
    /// The life that this directory was last used by.
    pub directory_life: Option<Incarnation>,
}

/// The content of the file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Note {
    format: u64,
    /// The last life that may have acknowledged something.
    incarnation: Option<Incarnation>,
    /// The boot that it ran in.
    boot_id: Option<String>,
    /// It stopped with everything synced.
    clean: bool,
    /// The disk failed in it, so what is in the page cache may be less than was acknowledged.
    doubtful: bool,
    /// The request of the registration that may have followed it.
    request: Option<Uuid>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document<T> {
    life: T,
    crc32c: u32,
}

// === impl Life ===

impl Life {
    /// Reads the file in `dir`. One that is missing or damaged proves nothing.
    ///
    /// # Errors
    /// The file cannot be read, or the runtime stops.
    pub async fn load(env: &Env, dir: &Path) -> Result<Self, MetadataError> {
        let (world, dir) = (env.clone(), dir.to_owned());
        let load = move || {
            let path = dir.join(LIFE_FILE);
            let note = read(&world, &path)?.unwrap_or(Note::EMPTY);
            Ok(Self {
                boot_id: boot_id(&world),
                note: Arc::new(Mutex::new(note)),
                env: world,
                path,
            })
        };
        let loaded = env.blocking("life", load).await;
        loaded.unwrap_or(Err(MetadataError::ShuttingDown))
    }

    /// What the registration that follows `current` may say.
    pub fn claim(&self, current: Option<&Broker>) -> Claim {
        let note = self.note.lock();
        let Some((current, noted)) = current.zip(note.incarnation) else {
            return Claim::default();
        };
        // The life that our own request made has acknowledged nothing, or it would be noted.
        let was_asked_for = note
            .request
            .is_some_and(|request| request == current.request)
            && Some(current.incarnation.0) == noted.0.checked_add(1);
        if current.incarnation != noted && !was_asked_for {
            return Claim::default();
        }
        let same_boot = self.boot_id.is_some() && self.boot_id == note.boot_id;
        let is_intact = !note.doubtful && (note.clean || same_boot);
        Claim {
            intact: is_intact.then_some(current.incarnation),
            directory_life: Some(current.incarnation),
        }
    }

    /// Notes durably that a registration with this request is about to be sent.
    ///
    /// # Errors
    /// The file cannot be written, or the runtime stops.
    pub async fn prepare(&self, request: Uuid) -> Result<(), MetadataError> {
        self.store(move |note, _| note.request = Some(request))
            .await
    }

    /// Notes durably the life that has begun; before it acknowledges anything.
    ///
    /// # Errors
    /// The file cannot be written, or the runtime stops.
    pub async fn begin(&self, incarnation: Incarnation) -> Result<(), MetadataError> {
        self.store(move |note, boot_id| {
            *note = Note {
                incarnation: Some(incarnation),
                boot_id: boot_id.clone(),
                ..Note::EMPTY
            };
        })
        .await
    }

    /// Notes durably that the disk has failed: that the process dies proves nothing any more.
    ///
    /// # Errors
    /// The file cannot be written, or the runtime stops.
    pub async fn doubt(&self) -> Result<(), MetadataError> {
        if self.note.lock().doubtful {
            return Ok(());
        }
        self.store(|note, _| note.doubtful = true).await
    }

    /// Notes durably a clean end; after everything was synced.
    ///
    /// # Errors
    /// The file cannot be written, or the runtime stops.
    pub async fn end(&self) -> Result<(), MetadataError> {
        self.store(|note, _| note.clean = true).await
    }

    async fn store(
        &self,
        change: impl FnOnce(&mut Note, &Option<String>) + Send + 'static,
    ) -> Result<(), MetadataError> {
        let life = self.clone();
        let store = move || {
            let mut note = life.note.lock();
            let before = note.clone();
            change(&mut note, &life.boot_id);
            let written = write(&life.env, &life.path, &note);
            if written.is_err() && !note.doubtful {
                *note = before;
            }
            written
        };
        let stored = self.env.blocking("life", store).await;
        stored.unwrap_or(Err(MetadataError::ShuttingDown))
    }
}

impl std::fmt::Debug for Life {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Life")
            .field("path", &self.path)
            .field("note", &self.note)
            .finish_non_exhaustive()
    }
}

// === impl Note ===

impl Note {
    /// Nothing is known.
    const EMPTY: Self = Self {
        format: LIFE_FORMAT,
        incarnation: None,
        boot_id: None,
        clean: false,
        doubtful: false,
        request: None,
    };
}

/// The note in the file, if there is one that can be believed.
fn read(env: &Env, path: &Path) -> Result<Option<Note>, MetadataError> {
    if !env.fs.exists(path).map_err(|error| failed(path, error))? {
        return Ok(None);
    }
    let bytes = env
        .fs
        .read(path, LIFE_BYTES_MAX)
        .map_err(|error| failed(path, error))?;
    let document: Option<Document<Note>> = serde_json::from_slice(&bytes).ok();
    let believed = document.filter(|document| {
        document.life.format == LIFE_FORMAT
            && checksum(&document.life).is_ok_and(|sum| sum == document.crc32c)
    });
    if believed.is_none() {
        tracing::warn!(path = %path.display(), "note of the last life is damaged; it proves nothing");
    }
    Ok(believed.map(|document| document.life))
}

fn write(env: &Env, path: &Path, note: &Note) -> Result<(), MetadataError> {
    let encoded = checksum(note)
        .and_then(|crc32c| serde_json::to_vec_pretty(&Document { life: note, crc32c }));
    let bytes = encoded.map_err(|error| failed(path, error.into()))?;
    if let Some(dir) = path.parent() {
        env.fs
            .create_dir_all(dir)
            .map_err(|error| failed(dir, error))?;
    }
    env.fs
        .write_atomic(path, &bytes)
        .map_err(|error| failed(path, error))
}

fn checksum(note: &Note) -> Result<u32, serde_json::Error> {
    serde_json::to_vec(note).map(|bytes| crc32c::crc32c(&bytes))
}

/// Which boot of the machine this is; `None` where it cannot be told.
fn boot_id(env: &Env) -> Option<String> {
    let file = env.fs.open(Path::new(BOOT_ID_PATH), OpenMode::Read).ok()?;
    // The kernel gives such a file no length.
    let mut bytes = vec![0; BOOT_ID_BYTES_MAX];
    let mut filled = 0;
    while let Some(rest) = bytes.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, filled as u64) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return None,
        }
    }
    bytes.truncate(filled);
    let text = String::from_utf8(bytes).ok()?.trim().to_owned();
    (!text.is_empty()).then_some(text)
}

fn failed(path: &Path, error: io::Error) -> MetadataError {
    MetadataError::Io {
        path: path.to_owned(),
        error,
    }
}

#[cfg(test)]
mod tests;
