//! Who is who: addresses, identities and the secret.

use std::{fmt, net::SocketAddr, sync::Arc};

use mainstem_record::BrokerId;
use uuid::Uuid;

use crate::PeersError;

/// The longest address: the longest name of DNS (RFC 1035, 2.3.4), a colon and a port.
pub const ADDRESS_BYTES_MAX: usize = 255 + 1 + 5;
/// The longest cluster id.
pub const CLUSTER_ID_BYTES_MAX: usize = 64;
/// The shortest secret. Whoever records one handshake may try secrets against it at leisure.
pub const SECRET_BYTES_MIN: usize = 16;
/// The longest secret.
pub const SECRET_BYTES_MAX: usize = 1024;

/// Where a node listens for its peers: `host:port`, the host a name or an IP address (IPv6 in
/// brackets). Resolved each time that a connection is made.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PeerAddress(Arc<str>);

/// The other end of a connection, as the handshake proved it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerIdentity {
    /// Its node id.
    pub node: BrokerId,
    /// The id of its data directory: another one under the same node id is another node.
    pub directory_id: Uuid,
    /// The id of its cluster; empty while it does not know one.
    pub cluster_id: String,
    /// Where its bytes come from or go to.
    pub address: SocketAddr,
}

/// What all nodes of a cluster know and nobody else: [`SECRET_BYTES_MIN`] to [`SECRET_BYTES_MAX`]
/// bytes. Never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Arc<[u8]>);

// === impl PeerAddress ===

impl PeerAddress {
    /// Reads `host:port`.
    ///
    /// # Errors
    /// It is no such text, or longer than [`ADDRESS_BYTES_MAX`].
    pub fn parse(text: &str) -> Result<Self, PeersError> {
        let wrong = || PeersError::Address {
            text: text.chars().take(ADDRESS_BYTES_MAX).collect(),
        };
        let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
        let port: u16 = port.parse().map_err(|_| wrong())?;
        let inner = host
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'));
        let is_host = match inner {
            Some(v6) => v6.parse::<std::net::Ipv6Addr>().is_ok(),
            None => {
                !host.is_empty()
                    && host
                        .bytes()
                        .all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
            }
        };
        if text.len() > ADDRESS_BYTES_MAX || !is_host || port == 0 {
            return Err(wrong());
        }
        Ok(Self(text.into()))
    }

    /// `host:port`.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for PeerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<SocketAddr> for PeerAddress {
    fn from(address: SocketAddr) -> Self {
        Self(address.to_string().into())
    }
}

// === impl PeerIdentity ===

impl fmt::Display for PeerIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "node {} (directory {}) at {}",
            self.node, self.directory_id, self.address
        )
    }
}

// === impl Secret ===

impl Secret {
    /// Takes the bytes of a secret.
    ///
    /// # Errors
    /// It is too short or too long.
    pub fn new(bytes: &[u8]) -> Result<Self, PeersError> {
        if !(SECRET_BYTES_MIN..=SECRET_BYTES_MAX).contains(&bytes.len()) {
            return Err(PeersError::SecretLength { bytes: bytes.len() });
        }
        Ok(Self(bytes.into()))
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}
