//! When the log asks for the next segment, and what waits for it.

use std::{collections::VecDeque, sync::Arc};

use mainstem_env::{Fs, MemFs};
use mainstem_log::{Flush, LogEvent, PartitionSettings, RollReason};
use mainstem_record::Offset;

use crate::support::{append, batch, options, partition_id, run, segment_spec, spec, start};

fn memory() -> Arc<dyn Fs> {
    Arc::new(MemFs::new())
}

#[test]
fn wish_to_roll_is_told_once_per_segment() {
    run(async {
        let fs = memory();
        let (log, mut events) = start(&fs, options()).await;
        let mut spec = spec(Flush::Os);
        spec.settings.segment_bytes = 3 * batch(&["a"]).len() as u64;
        let partition = log.open_partition(spec).await.unwrap();
        for _ in 0..3 {
            assert!(events.try_recv().is_err());
            partition
                .append(append(batch(&["a"])))
                .await
                .unwrap()
                .await
                .unwrap();
        }
        let wish = LogEvent::RollWanted {
            partition: partition_id(0),
            segment: segment_spec(0, 0).id,
            reason: RollReason::Size,
        };
        assert_eq!(events.try_recv(), Ok(wish));
        assert!(events.try_recv().is_err());
        partition.seal_begin().await.unwrap();
        partition.seal_commit(segment_spec(1, 3)).await.unwrap();
        assert!(events.try_recv().is_err());
        let larger = append(batch(&["a"; 100]));
        let ticket = partition.append(larger).await.unwrap();
        ticket.await.unwrap();
        assert!(events.try_recv().is_ok());
    });
}

/// What does not fit waits for the next segment, in its order, and only then.
#[test]
fn segment_does_not_grow_above_its_size_while_the_roll_is_under_way() {
    run(async {
        let fs = memory();
        let (log, mut events) = start(&fs, options()).await;
        let mut spec = spec(Flush::Os);
        let size = batch(&["a"]).len() as u64;
        spec.settings.segment_bytes = 3 * size + 1;
        let settings = spec.settings;
        let partition = log.open_partition(spec).await.unwrap();
        let mut tickets = VecDeque::new();
        for _ in 0..12 {
            let ticket = partition.append(append(batch(&["a"]))).await.unwrap();
            tickets.push_back(ticket);
        }
        for segment in 0..3 {
            let wish = LogEvent::RollWanted {
                partition: partition_id(0),
                segment: segment_spec(segment, 0).id,
                reason: RollReason::Size,
            };
            assert_eq!(events.recv().await, Some(wish));
            let info = partition.seal_begin().await.unwrap();
            assert_eq!(
                (info.bytes, info.end.0),
                (3 * size, 3 * i64::from(segment) + 3)
            );
            let next = segment_spec(segment + 1, info.end.0);
            partition.seal_commit(next).await.unwrap();
        }
        for (offset, ticket) in (0..).zip(tickets.drain(..)) {
            assert_eq!(ticket.await.unwrap().base_offset, Offset(offset));
        }
        let ticket = partition.append(append(batch(&["a"]))).await.unwrap();
        assert!(events.recv().await.is_some());
        assert_eq!(partition.ends().log_end, Offset(12));
        let segment_bytes = 100 * size;
        let larger = PartitionSettings {
            segment_bytes,
            ..settings
        };
        partition.update_settings(larger).await;
        assert_eq!(ticket.await.unwrap().base_offset, Offset(12));
        // The roll is refused: what has waited is appended where it is.
        partition.update_settings(settings).await;
        let ticket = partition.append(append(batch(&["a"]))).await.unwrap();
        assert!(events.recv().await.is_some());
        partition.seal_abort().await;
        assert_eq!(ticket.await.unwrap().base_offset, Offset(13));
        // An append that is larger than a segment has one for itself.
        assert!(events.recv().await.is_some());
        let info = partition.seal_begin().await.unwrap();
        let next = segment_spec(4, info.end.0);
        partition.seal_commit(next).await.unwrap();
        let values = ["v"; 100];
        let ticket = partition.append(append(batch(&values))).await.unwrap();
        assert_eq!(ticket.await.unwrap().base_offset, Offset(14));
    });
}
