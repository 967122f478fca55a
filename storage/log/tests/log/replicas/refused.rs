//! Appends that a replica must refuse, with nothing changed.

use bytes::{Bytes, BytesMut};
use mainstem_log::{AppendError, PartitionError, Role};
use mainstem_record::{LeaderEpoch, Offset, stamp};

use super::cluster::{Cluster, REPLICAS, finish};
use crate::support::{append, batch};

// === impl Cluster ===

impl Cluster {
    /// Everything that is not the next of the leader's batches is refused.
    pub(super) async fn refused(&mut self) {
        let follower = (self.leader + 1) % REPLICAS;
        let (end, epoch) = (self.end_of(follower), self.active().epoch);
        let before = self.replicas[follower].partition.ends();
        let producers = self.replicas[follower].partition.producers();
        let made = |offset: i64, epoch: LeaderEpoch| {
            let mut bytes = BytesMut::from(&batch(&["refused"])[..]);
            stamp(&mut bytes, Offset(offset), epoch);
            bytes.freeze()
        };
        let good = made(end, epoch);
        for wrong in [end + 1, end - 1].into_iter().filter(|at| *at >= 0) {
            let refused = self.give(follower, wrong, made(wrong, epoch)).await;
            let end = Offset(end);
            assert_eq!(refused, Err(AppendError::NotAtEnd { end }));
        }
        for epoch in [LeaderEpoch(epoch.0 + 1), LeaderEpoch(epoch.0 - 1)] {
            let refused = self.give(follower, end, made(end, epoch)).await;
            assert_eq!(refused, Err(AppendError::WrongSegment));
        }
        let mut spoilt = good.to_vec();
        let bit = 21 + self.dice.index(spoilt.len() - 21);
        spoilt[bit] ^= 1;
        for bad in [
            Bytes::from(spoilt),
            good.slice(..good.len() - 1),
            Bytes::new(),
            made(end + 5, epoch),
        ] {
            let refused = self.give(follower, end, bad).await;
            assert_eq!(refused, Err(AppendError::InvalidBatch));
        }
        // It follows: only its leader is listened to.
        let refused = self.give_copied(follower, end, good.clone()).await;
        assert_eq!(refused, Err(AppendError::NotFollower));
        let refused = self.give(self.leader, self.end_of(self.leader), good.clone());
        let refused = refused.await;
        let is_refused = matches!(
            refused,
            Err(AppendError::NotFollower | AppendError::InvalidBatch)
        );
        assert!(is_refused, "{refused:?}");
        let replica = &self.replicas[self.leader];
        let cut = replica.partition.cut(Offset(self.hw));
        let cut = finish(&replica.process, cut).await;
        let at_end = self.hw == self.end_of(self.leader);
        assert!(at_end || cut == Err(PartitionError::Leading), "{cut:?}");
        let replica = &self.replicas[follower];
        let append = replica.partition.append(append(batch(&["refused"])));
        let ticket = finish(&replica.process, append).await.unwrap();
        let refused = finish(&replica.process, ticket).await;
        assert_eq!(refused, Err(AppendError::NotLeader));
        let fenced = replica.partition.set_role(Role::Fenced);
        finish(&replica.process, fenced).await.unwrap();
        self.refused_while_fenced(follower, good).await;
        let replica = &self.replicas[follower];
        let again = replica.partition.set_role(Role::Follower);
        finish(&replica.process, again).await.unwrap();
        let after = replica.partition.ends();
        assert_eq!(
            (before.log_end, before.log_start),
            (after.log_end, after.log_start)
        );
        assert_eq!(producers, replica.partition.producers());
        self.check(follower).await;
    }
}
