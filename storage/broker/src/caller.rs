//! Who asks.

use std::{net::SocketAddr, sync::Arc};

/// A principal in Kafka's notation, `Type:name`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Principal(pub Arc<str>);

/// Who asks: every call of the broker's API carries one. Everyone is allowed until authorisation
/// exists.
#[derive(Debug, Clone)]
pub struct Caller {
    /// Who the connection has proved to be.
    pub principal: Principal,
    /// The peer's address.
    pub address: SocketAddr,
    /// What the client calls itself: Kafka's client id or MQTT's client identifier.
    pub client_id: Arc<str>,
}

// === impl Principal ===

impl Principal {
    /// Who has proved nothing (Kafka's name for it).
    pub fn anonymous() -> Self {
        Self(Arc::from("User:ANONYMOUS"))
    }
}

// === impl Caller ===

impl Caller {
    /// A caller who has proved nothing.
    pub fn anonymous(address: SocketAddr, client_id: &str) -> Self {
        Self {
            principal: Principal::anonymous(),
            address,
            client_id: Arc::from(client_id),
        }
    }
}
