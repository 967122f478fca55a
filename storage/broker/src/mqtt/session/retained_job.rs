//! The delivery of retained messages to a new subscription, in steps.

use std::sync::Arc;

use super::Subscription;

/// Retained messages that a subscription is still to get.
#[derive(Debug, Clone)]
pub(crate) struct RetainedJob {
    /// For whom.
    pub(crate) subscription: Arc<Subscription>,
    /// The last topic that was looked at; the view is walked in the order of topics.
    pub(crate) after: Option<Arc<str>>,
}
