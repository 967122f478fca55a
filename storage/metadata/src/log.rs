//! The one way in which the service sees consensus.

use mainstem_env::BoxFuture;
use tokio::sync::watch;

use crate::{
    command::{Applied, Command},
    error::{MetadataError, ProposeError},
    quorum::{Leadership, QuorumStatus},
    service::MetadataHealth,
};

/// A replicated log of commands. Every command that it commits is applied, in the same order on every
/// replica, and visible in the local image before its proposer gets the answer.
pub(crate) trait MetadataLog: Send + Sync {
    /// Commits and applies one command.
    fn propose(&self, command: Command) -> BoxFuture<'_, Result<Applied, ProposeError>>;
    /// Waits until the local image holds everything that was committed before the call.
    fn barrier(&self) -> BoxFuture<'_, Result<(), ProposeError>>;
    /// Who leads, and every change of it.
    fn leadership(&self) -> watch::Receiver<Leadership>;
    /// The quorum as this node sees it.
    fn status(&self) -> QuorumStatus;
    /// How the log is.
    fn health(&self) -> MetadataHealth;
    /// Stops, writes everything out and releases the store. Again: does nothing.
    fn close(&self) -> BoxFuture<'_, Result<(), MetadataError>>;
}
