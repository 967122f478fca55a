//! Sessions as KIP-227 describes them.

use super::*;

fn sessions(slots_max: usize) -> FetchSessions {
    let gauge = IntGauge::new("g", "g").expect("gauge");
    FetchSessions::new(Env::real(), slots_max, gauge)
}

fn name(topic: &str) -> TopicKey {
    TopicKey::Name(Arc::from(topic))
}

fn wanted(topic: &str, index: i32) -> Wanted {
    Wanted {
        topic: name(topic),
        index,
        offset: 0,
        bytes_max: 1 << 20,
        current_epoch: -1,
        last_epoch: -1,
    }
}

fn request(id: i32, epoch: i32) -> SessionRequest {
    SessionRequest {
        id,
        epoch,
        by_id: false,
    }
}

/// Answers everything that is wanted with this watermark; partition 0 gets `records`.
fn answer(checkout: Checkout, high_watermark: i64, records: bool) -> (i32, Vec<i32>) {
    let told = checkout
        .wanted()
        .map(|(place, wanted)| {
            let mut response = PartitionResponse::failed(wanted.index, 0);
            response.high_watermark = high_watermark;
            response.log_start = 0;
            if records && wanted.index == 0 {
                response.records = vec![bytes::Bytes::from_static(b"batch")];
            }
            (place, wanted.topic.clone(), response)
        })
        .collect();
    let (id, told) = checkout.finish(told);
    (
        id,
        told.into_iter()
            .map(|(_, _, response)| response.index)
            .collect(),
    )
}

#[test]
fn incremental_responses_carry_only_news() {
    let sessions = sessions(10);
    let all = vec![wanted("t", 0), wanted("t", 1), wanted("t", 2)];
    let checkout = sessions.open(request(0, 0), all, &[]).expect("open");
    let (id, told) = answer(checkout, 5, false);
    assert_ne!(id, 0);
    assert_eq!(told, [0, 1, 2]);

    let checkout = sessions.open(request(id, 1), vec![], &[]).expect("open");
    assert_eq!(answer(checkout, 5, false), (id, vec![]));
    let checkout = sessions.open(request(id, 2), vec![], &[]).expect("open");
    assert_eq!(answer(checkout, 6, false), (id, vec![0, 1, 2]));
    let checkout = sessions.open(request(id, 3), vec![], &[]).expect("open");
    assert_eq!(answer(checkout, 6, true), (id, vec![0]));
    // The one that had records is served last now.
    let checkout = sessions.open(request(id, 4), vec![], &[]).expect("open");
    let order: Vec<i32> = checkout.wanted().map(|(_, wanted)| wanted.index).collect();
    assert_eq!(order, [1, 2, 0]);
}

#[test]
fn partitions_are_added_changed_and_forgotten() {
    let sessions = sessions(10);
    let checkout = sessions
        .open(request(0, 0), vec![wanted("t", 0), wanted("t", 1)], &[])
        .expect("open");
    let (id, _) = answer(checkout, 5, false);
    let moved = Wanted {
        offset: 77,
        ..wanted("t", 1)
    };
    let changes = vec![moved.clone(), wanted("u", 0)];
    let checkout = sessions
        .open(request(id, 1), changes, &[(name("t"), 0)])
        .expect("open");
    let now: Vec<Wanted> = checkout
        .wanted()
        .map(|(_, wanted)| wanted.clone())
        .collect();
    assert_eq!(now, [moved, wanted("u", 0)]);
}

#[test]
fn errors_are_always_told_and_so_is_what_follows_them() {
    let sessions = sessions(10);
    let checkout = sessions
        .open(request(0, 0), vec![wanted("t", 0)], &[])
        .expect("open");
    let (id, _) = answer(checkout, 5, false);
    for epoch in 1..3 {
        let checkout = sessions
            .open(request(id, epoch), vec![], &[])
            .expect("open");
        let place = checkout
            .wanted()
            .map(|(place, _)| place)
            .next()
            .expect("one");
        let failed = PartitionResponse::failed(0, 3);
        assert_eq!(checkout.finish(vec![(place, name("t"), failed)]).1.len(), 1);
    }
    let checkout = sessions.open(request(id, 3), vec![], &[]).expect("open");
    assert_eq!(answer(checkout, 5, false).1, [0]);
}

#[test]
fn wrong_ids_epochs_and_kinds_of_names_are_refused() {
    let sessions = sessions(10);
    let refused = |request| sessions.open(request, vec![], &[]).err();
    assert_eq!(
        refused(request(9, 1)),
        Some(ErrorCode::FetchSessionIdNotFound)
    );
    let checkout = sessions
        .open(request(0, 0), vec![wanted("t", 0)], &[])
        .expect("open");
    let (id, _) = answer(checkout, 5, false);
    assert_eq!(
        refused(request(id, 2)),
        Some(ErrorCode::InvalidFetchSessionEpoch)
    );
    assert_eq!(
        refused(request(id, -5)),
        Some(ErrorCode::InvalidFetchSessionEpoch)
    );
    let by_id = SessionRequest {
        by_id: true,
        ..request(id, 1)
    };
    assert_eq!(refused(by_id), Some(ErrorCode::FetchSessionTopicIdError));
    // None of this has harmed it; but two requests can't have it at once.
    let first = sessions.open(request(id, 1), vec![], &[]).expect("open");
    assert_eq!(
        refused(request(id, 1)),
        Some(ErrorCode::InvalidFetchSessionEpoch)
    );
    assert_eq!(
        refused(request(id, 2)),
        Some(ErrorCode::InvalidFetchSessionEpoch)
    );
    assert_eq!(answer(first, 5, false).0, id);
    // A full request with the id ends it.
    let again = sessions
        .open(request(id, -1), vec![wanted("t", 0)], &[])
        .expect("open");
    assert_eq!(answer(again, 5, false).0, 0);
    assert_eq!(
        refused(request(id, 2)),
        Some(ErrorCode::FetchSessionIdNotFound)
    );
}

#[test]
fn a_full_cache_gives_no_session_and_an_abandoned_one_ends() {
    let sessions = sessions(2);
    let open = || {
        sessions
            .open(request(0, 0), vec![wanted("t", 0)], &[])
            .expect("open")
    };
    let first = open();
    let second = open();
    assert_eq!(answer(open(), 1, false), (0, vec![0]));
    drop(first);
    let (id, _) = answer(second, 1, false);
    assert_ne!(id, 0);
    assert_ne!(answer(open(), 1, false).0, 0);
    assert_eq!(sessions.gauge.get(), 2);
}

#[test]
fn a_session_without_partitions_ends() {
    let sessions = sessions(2);
    let checkout = sessions
        .open(request(0, 0), vec![wanted("t", 0)], &[])
        .expect("open");
    let (id, _) = answer(checkout, 1, false);
    let checkout = sessions
        .open(request(id, 1), vec![], &[(name("t"), 0)])
        .expect("open");
    assert_eq!(answer(checkout, 1, false), (0, vec![]));
    assert_eq!(sessions.gauge.get(), 0);
    assert_eq!(sessions.cache.lock().partitions, 0);
}
