//! A bound on the bytes of what is being worked on.

use std::{fmt, sync::Arc};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Bytes that may be in use at a time, shared by its clones. Waiters are served in the order in
/// which they came, so that a large request is not starved by small ones.
#[derive(Clone)]
pub struct ByteBudget {
    shared: Arc<Shared>,
}

struct Shared {
    semaphore: Arc<Semaphore>,
    /// The permits in all: at most `u32::MAX`, because that is what one request can take.
    permits: u32,
    /// Bytes that one permit stands for: 1 for every budget below 4 GiB.
    permit_bytes: usize,
}

/// Bytes taken from a [`ByteBudget`]; given back when dropped.
#[must_use = "the bytes are given back when the lease is dropped"]
pub struct ByteLease {
    permit: OwnedSemaphorePermit,
    permit_bytes: usize,
}

// === impl ByteBudget ===

impl ByteBudget {
    /// A budget of `bytes_max` bytes (at least one).
    pub fn new(bytes_max: usize) -> Self {
        let bytes_max = bytes_max.max(1);
        let permit_bytes = bytes_max.div_ceil(u32::MAX as usize);
        let permits = u32::try_from(bytes_max / permit_bytes).unwrap_or(u32::MAX);
        Self {
            shared: Arc::new(Shared {
                semaphore: Arc::new(Semaphore::new(permits as usize)),
                permits,
                permit_bytes,
            }),
        }
    }

    /// Takes `bytes`, waiting until they are free. More than the whole budget counts as the whole:
    /// such a request passes, but alone. Cancel safe: a dropped future has taken nothing.
    pub async fn acquire(&self, bytes: usize) -> ByteLease {
        let permits = self.permits_for(bytes);
        let permit = Arc::clone(&self.shared.semaphore)
            .acquire_many_owned(permits)
            .await
            .expect("the semaphore of a budget is never closed");
        self.lease(permit)
    }

    /// Takes `bytes` if they are free and nobody waits for them; else `None`.
    pub fn try_acquire(&self, bytes: usize) -> Option<ByteLease> {
        let permits = self.permits_for(bytes);
        let permit = Arc::clone(&self.shared.semaphore)
            .try_acquire_many_owned(permits)
            .ok()?;
        Some(self.lease(permit))
    }

    /// Bytes that are taken now.
    pub fn in_use(&self) -> usize {
        let free = self.shared.semaphore.available_permits();
        let taken = (self.shared.permits as usize).saturating_sub(free);
        taken * self.shared.permit_bytes
    }

    /// Bytes that can be taken in all.
    pub fn bytes_max(&self) -> usize {
        self.shared.permits as usize * self.shared.permit_bytes
    }

    fn permits_for(&self, bytes: usize) -> u32 {
        u32::try_from(bytes.div_ceil(self.shared.permit_bytes))
            .unwrap_or(u32::MAX)
            .min(self.shared.permits)
    }

    fn lease(&self, permit: OwnedSemaphorePermit) -> ByteLease {
        ByteLease {
            permit,
            permit_bytes: self.shared.permit_bytes,
        }
    }
}

impl fmt::Debug for ByteBudget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ByteBudget")
            .field("in_use", &self.in_use())
            .field("bytes_max", &self.bytes_max())
            .finish()
    }
}

// === impl ByteLease ===

impl ByteLease {
    /// The bytes that it holds: what was asked for, cut to the whole budget.
    pub fn bytes(&self) -> usize {
        self.permit.num_permits() * self.permit_bytes
    }
}

impl fmt::Debug for ByteLease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ByteLease").field(&self.bytes()).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::{
        future::Future,
        pin::pin,
        task::{Context, Poll, Waker},
    };

    use proptest::prelude::*;

    use super::*;

    fn poll<F: Future>(future: std::pin::Pin<&mut F>) -> Poll<F::Output> {
        future.poll(&mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn larger_than_the_budget_passes_alone() {
        let budget = ByteBudget::new(100);
        let small = budget.try_acquire(1).expect("free");
        let mut large = pin!(budget.acquire(1_000_000));
        assert!(poll(large.as_mut()).is_pending());
        drop(small);
        let Poll::Ready(large) = poll(large) else {
            panic!("the budget is free");
        };
        assert_eq!((large.bytes(), budget.in_use()), (100, 100));
        assert!(budget.try_acquire(1).is_none());
        drop(large);
        assert_eq!(budget.in_use(), 0);
    }

    #[test]
    fn large_requests_are_not_overtaken() {
        let budget = ByteBudget::new(100);
        let half = budget.try_acquire(50).expect("free");
        let mut large = pin!(budget.acquire(80));
        assert!(poll(large.as_mut()).is_pending());
        let mut small = pin!(budget.acquire(10));
        assert!(poll(small.as_mut()).is_pending());
        drop(half);
        let large = poll(large);
        assert!(large.is_ready());
        assert!(poll(small).is_ready());
    }

    #[test]
    fn cancelled_waiters_leave_nothing_behind() {
        let budget = ByteBudget::new(10);
        let all = budget.try_acquire(10).expect("free");
        {
            let mut waiting = pin!(budget.acquire(10));
            assert!(poll(waiting.as_mut()).is_pending());
        }
        drop(all);
        assert_eq!(budget.in_use(), 0);
        assert!(budget.try_acquire(10).is_some());
    }

    #[test]
    fn budgets_above_four_gib_are_not_exceeded() {
        let budget = ByteBudget::new(10 << 32);
        let lease = budget.try_acquire(5 << 32).expect("free");
        assert!(lease.bytes() >= 5 << 32);
        assert!(budget.bytes_max() <= 10 << 32);
        assert!(budget.try_acquire((5 << 32) + 100).is_none());
        assert!(budget.try_acquire(4 << 32).is_some());
    }

    proptest! {
        #[test]
        fn in_use_is_the_sum_of_the_leases_and_never_above_the_budget(
            bytes_max in 0usize..5000,
            steps in proptest::collection::vec((any::<bool>(), 0usize..6000), 0..60),
        ) {
            let budget = ByteBudget::new(bytes_max);
            let mut leases: Vec<ByteLease> = Vec::new();
            for (take, bytes) in steps {
                if take {
                    let free = budget.bytes_max() - budget.in_use();
                    let wanted = bytes.min(budget.bytes_max());
                    let lease = budget.try_acquire(bytes);
                    prop_assert_eq!(lease.is_some(), wanted <= free);
                    leases.extend(lease);
                } else if !leases.is_empty() {
                    drop(leases.swap_remove(bytes % leases.len()));
                }
                let sum: usize = leases.iter().map(ByteLease::bytes).sum();
                prop_assert_eq!(budget.in_use(), sum);
                prop_assert!(sum <= bytes_max.max(1));
            }
        }
    }
}
