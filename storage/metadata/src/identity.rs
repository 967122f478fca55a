//! Who a data directory belongs to: `<data.dir>/mainstem.json`.
//!
//! Written before anything else in the directory, so a directory with data but without it is not
//! ours to use. `store_made` is set once the metadata store has its first commit: from then on a
//! store that is missing is a loss to report, not a store to make.
//!
//! ```json
//! { "identity": { "format": 2, "cluster_id": "…22 chars…", "node_id": 1,
//!                 "directory_id": "…uuid…", "store_made": true },
//!   "crc32c": 123 }
//! ```
//! The checksum is over `identity` as compact JSON with the fields in this order.

use std::path::{Path, PathBuf};

use mainstem_env::Env;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{
    apply::is_cluster_id,
    error::{IdentityDamage, MetadataError},
    service::STORE_DIR,
};

/// The name of the file in the data directory.
pub const IDENTITY_FILE: &str = "mainstem.json";
/// The format that this build writes. In format 2 the cluster's id is there once it is committed;
/// format 1 names one from the beginning, which counts only if `store_made` is set.
pub const IDENTITY_FORMAT: u64 = 2;
/// The oldest format that this build reads.
const IDENTITY_FORMAT_MIN: u64 = 1;
/// A larger file cannot be ours.
const IDENTITY_BYTES_MAX: usize = 64 * 1024;
/// 6 bits each, RFC 4648 section 5.
const BASE64URL: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// Who a data directory belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The cluster's id, 22 characters of base64url; empty until the cluster has committed it.
    pub cluster_id: String,
    /// The node's id.
    pub node_id: u64,
    /// The directory's own id, made with it.
    pub directory_id: Uuid,
    /// Whether the metadata store has been made in this directory.
    pub store_made: bool,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Body {
    format: u64,
    cluster_id: String,
    node_id: u64,
    directory_id: Uuid,
    store_made: bool,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document<T> {
    identity: T,
    crc32c: u32,
}

/// Read first, since another format may have other fields.
#[derive(Deserialize)]
struct Format {
    format: u64,
}

// === impl Identity ===

impl Identity {
    /// The identity of the data directory `dir`, which is made, with a fresh one, if it is not there.
    ///
    /// # Errors
    /// The file is damaged, of another format or another node's, or it is missing though there is a
    /// metadata store. Nothing is changed or deleted then.
    pub async fn load_or_create(
        env: &Env,
        dir: &Path,
        node_id: u64,
    ) -> Result<Self, MetadataError> {
        let (world, dir) = (env.clone(), dir.to_owned());
        env.blocking("identity", move || load_or_create(&world, &dir, node_id))
            .await
            .unwrap_or(Err(MetadataError::ShuttingDown))
    }

    /// Records durably that the metadata store has been made, and of which cluster.
    pub(crate) async fn set_known(
        mut self,
        env: &Env,
        dir: &Path,
        cluster_id: String,
    ) -> Result<(), MetadataError> {
        self.cluster_id = cluster_id;
        self.store_made = true;
        let (world, path) = (env.clone(), dir.join(IDENTITY_FILE));
        env.blocking("identity", move || store(&world, &path, &self))
            .await
            .unwrap_or(Err(MetadataError::ShuttingDown))
    }
}

/// A fresh cluster id, in the form that Kafka prints: base64url of a random UUID. As in Kafka it does
/// not begin with `-`, which a command line would take for an option.
pub(crate) fn random_cluster_id(env: &Env) -> String {
    let mut bytes = env.random_uuid();
    if bytes[0] >> 2 == 62 {
        bytes[0] &= 0x7f;
    }
    base64url(&bytes)
}

fn base64url(bytes: &[u8; 16]) -> String {
    let digit = |bits: u128| char::from(BASE64URL[(bits & 63) as usize]);
    let value = u128::from_be_bytes(*bytes);
    // 128 bits are 21 digits of 6 bits and one of 2 bits, filled up with zeros on the right.
    let mut text: String = (0..21)
        .map(|index| digit(value >> (122 - 6 * index)))
        .collect();
    text.push(digit(value << 4));
    text
}

fn load_or_create(env: &Env, dir: &Path, node_id: u64) -> Result<Identity, MetadataError> {
    let path = dir.join(IDENTITY_FILE);
    if env.fs.exists(&path).map_err(|error| failed(&path, error))? {
        return load(env, &path, node_id);
    }
    let metadata = dir.join(STORE_DIR);
    if env
        .fs
        .exists(&metadata)
        .map_err(|error| failed(&metadata, error))?
    {
        return Err(MetadataError::IdentityMissing {
            path,
            store: metadata,
        });
    }
    env.fs
        .create_dir_all(dir)
        .map_err(|error| failed(dir, error))?;
    if let Some(parent) = dir.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        env.fs
            .sync_dir(parent)
            .map_err(|error| failed(parent, error))?;
    }
    let identity = Identity {
        cluster_id: String::new(),
        node_id,
        directory_id: Uuid::from_bytes(env.random_uuid()),
        store_made: false,
    };
    store(env, &path, &identity)?;
    Ok(identity)
}

fn load(env: &Env, path: &Path, node_id: u64) -> Result<Identity, MetadataError> {
    let damaged = |damage| MetadataError::IdentityDamaged {
        path: path.to_owned(),
        damage,
    };
    let json = |error| damaged(IdentityDamage::Json(error));
    let bytes = env
        .fs
        .read(path, IDENTITY_BYTES_MAX)
        .map_err(|error| failed(path, error))?;
    let Document {
        identity: Format { format },
        ..
    } = serde_json::from_slice(&bytes).map_err(json)?;
    if !(IDENTITY_FORMAT_MIN..=IDENTITY_FORMAT).contains(&format) {
        return Err(MetadataError::IdentityFormat {
            path: path.to_owned(),
            found: format,
            known: IDENTITY_FORMAT,
        });
    }
    let document: Document<Body> = serde_json::from_slice(&bytes).map_err(json)?;
    let body = document.identity;
    let computed = checksum(&body).map_err(json)?;
    if computed != document.crc32c {
        return Err(damaged(IdentityDamage::Checksum {
            stored: document.crc32c,
            computed,
        }));
    }
    let cluster_id = if body.store_made {
        body.cluster_id
    } else {
        String::new()
    };
    if body.store_made && !is_cluster_id(&cluster_id) {
        return Err(damaged(IdentityDamage::ClusterId));
    }
    if body.node_id != node_id {
        return Err(MetadataError::IdentityOfOther {
            path: path.to_owned(),
            found: body.node_id,
            configured: node_id,
        });
    }
    Ok(Identity {
        cluster_id,
        node_id,
        directory_id: body.directory_id,
        store_made: body.store_made,
    })
}

fn store(env: &Env, path: &Path, identity: &Identity) -> Result<(), MetadataError> {
    let body = Body {
        format: IDENTITY_FORMAT,
        cluster_id: identity.cluster_id.clone(),
        node_id: identity.node_id,
        directory_id: identity.directory_id,
        store_made: identity.store_made,
    };
    let encoded = checksum(&body).and_then(|crc32c| {
        serde_json::to_vec_pretty(&Document {
            identity: body,
            crc32c,
        })
    });
    let bytes = encoded.map_err(|error| failed(path, error.into()))?;
    env.fs
        .write_atomic(path, &bytes)
        .map_err(|error| failed(path, error))
}

fn checksum(body: &Body) -> Result<u32, serde_json::Error> {
    serde_json::to_vec(body).map(|bytes| crc32c::crc32c(&bytes))
}

fn failed(path: &Path, error: std::io::Error) -> MetadataError {
    MetadataError::Io {
        path: PathBuf::from(path),
        error,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use mainstem_env::{MemFs, OpenMode};

    use super::*;

    fn world() -> Env {
        Env::real().with_fs(Arc::new(MemFs::default()))
    }

    fn overwrite(env: &Env, text: &str) {
        let file = env
            .fs
            .open(Path::new("/data/mainstem.json"), OpenMode::Truncate)
            .expect("open");
        let slices = [std::io::IoSlice::new(text.as_bytes())];
        file.write_all_vectored_at(&slices, 0).expect("write");
    }

    fn text(env: &Env) -> String {
        let bytes = env
            .fs
            .read(Path::new("/data/mainstem.json"), 1 << 16)
            .expect("read");
        String::from_utf8(bytes).expect("utf-8")
    }

    #[test]
    fn base64url_is_rfc_4648() {
        assert_eq!(base64url(&[0; 16]), "A".repeat(22));
        assert_eq!(base64url(&[0xff; 16]), format!("{}w", "_".repeat(21)));
        assert_eq!(base64url(b"0123456789abcdef"), "MDEyMzQ1Njc4OWFiY2RlZg");
    }

    #[tokio::test]
    async fn what_was_made_is_loaded_again() {
        let env = world();
        let dir = Path::new("/data");
        let made = Identity::load_or_create(&env, dir, 3).await.expect("make");
        assert!(made.cluster_id.is_empty() && !made.store_made);
        assert_eq!(
            Identity::load_or_create(&env, dir, 3).await.expect("load"),
            made
        );
        let cluster_id = random_cluster_id(&env);
        let known = made.clone().set_known(&env, dir, cluster_id.clone());
        known.await.expect("store");
        let loaded = Identity::load_or_create(&env, dir, 3).await.expect("load");
        assert_eq!(
            loaded,
            Identity {
                store_made: true,
                cluster_id,
                ..made
            }
        );
    }

    #[tokio::test]
    async fn any_changed_byte_is_refused_and_kept() {
        let env = world();
        let dir = Path::new("/data");
        Identity::load_or_create(&env, dir, 3).await.expect("make");
        let good = text(&env);
        for at in 0..good.len() {
            let mut bad = good.clone().into_bytes();
            bad[at] = if bad[at] == b'5' { b'6' } else { b'5' };
            let bad = String::from_utf8(bad).expect("ascii");
            // White space between tokens carries nothing.
            if good.as_bytes()[at].is_ascii_whitespace() {
                continue;
            }
            overwrite(&env, &bad);
            let error = Identity::load_or_create(&env, dir, 3)
                .await
                .expect_err("changed byte");
            assert!(error.to_string().contains("/data/mainstem.json"), "{error}");
            assert_eq!(text(&env), bad);
        }
        overwrite(&env, "");
        assert!(Identity::load_or_create(&env, dir, 3).await.is_err());
    }

    #[tokio::test]
    async fn other_nodes_and_formats_are_refused() {
        let env = world();
        let dir = Path::new("/data");
        Identity::load_or_create(&env, dir, 3).await.expect("make");
        let other = Identity::load_or_create(&env, dir, 4).await;
        assert!(matches!(
            other,
            Err(MetadataError::IdentityOfOther {
                found: 3,
                configured: 4,
                ..
            })
        ));
        overwrite(&env, r#"{"identity":{"format":3,"new":true},"crc32c":0}"#);
        let newer = Identity::load_or_create(&env, dir, 3).await;
        assert!(matches!(
            newer,
            Err(MetadataError::IdentityFormat { found: 3, .. })
        ));
    }

    #[tokio::test]
    async fn format_1_is_read() {
        let env = world();
        let dir = Path::new("/data");
        Identity::load_or_create(&env, dir, 3).await.expect("make");
        for store_made in [false, true] {
            let body = Body {
                format: 1,
                cluster_id: random_cluster_id(&env),
                node_id: 3,
                directory_id: Uuid::from_u128(7),
                store_made,
            };
            let crc32c = checksum(&body).expect("encode");
            let cluster_id = body.cluster_id.clone();
            let document = Document {
                identity: body,
                crc32c,
            };
            overwrite(&env, &serde_json::to_string(&document).expect("encode"));
            let loaded = Identity::load_or_create(&env, dir, 3).await.expect("load");
            assert_eq!((loaded.store_made, loaded.node_id), (store_made, 3));
            let expected = if store_made {
                cluster_id
            } else {
                String::new()
            };
            assert_eq!(loaded.cluster_id, expected);
        }
    }

    #[tokio::test]
    async fn a_store_without_identity_is_refused() {
        let env = world();
        let dir = Path::new("/data");
        env.fs.create_dir_all(&dir.join(STORE_DIR)).expect("make");
        let error = Identity::load_or_create(&env, dir, 3).await;
        assert!(matches!(error, Err(MetadataError::IdentityMissing { .. })));
        assert!(!env.fs.exists(&dir.join(IDENTITY_FILE)).expect("exists"));
    }
}
