//! What the handlers of all connections share, and what one request carries.

use std::sync::Arc;

use mainstem_broker::{Broker, Caller, ErrorCode};
use mainstem_config::Config;
use mainstem_env::Env;
use mainstem_net::ByteBudget;
use tokio_util::sync::CancellationToken;

use crate::{
    api::{APIS, Api},
    fetch::session::FetchSessions,
    frame::MemoryPool,
    metrics::Metrics,
};

/// What all connections share.
pub(crate) struct Context {
    pub(crate) env: Env,
    pub(crate) config: Arc<Config>,
    pub(crate) broker: Broker,
    pub(crate) metrics: Metrics,
    pub(crate) sessions: FetchSessions,
    /// The memory of requests that are being read or worked on.
    pub(crate) requests: MemoryPool,
    /// The memory of records that are read for fetches and not yet written to the socket.
    pub(crate) responses: ByteBudget,
}

/// One request, as its handler sees it.
pub(crate) struct Call<'a> {
    pub(crate) context: &'a Context,
    pub(crate) caller: &'a Caller,
    /// The place of the API in the table.
    pub(crate) api: usize,
    pub(crate) version: i16,
    /// Cancelled when the node drains: whoever waits answers at once.
    pub(crate) drain: &'a CancellationToken,
}

// === impl Call ===

impl Call<'_> {
    /// The broker.
    pub(crate) fn broker(&self) -> &Broker {
        &self.context.broker
    }

    /// The API of the request.
    pub(crate) fn api(&self) -> &'static Api {
        &APIS[self.api]
    }

    /// The number of an error code for the response; errors are counted on the way.
    pub(crate) fn code(&self, code: ErrorCode) -> i16 {
        if !code.is_ok() {
            self.context.metrics.error(self.api, code);
        }
        code.code()
    }
}
