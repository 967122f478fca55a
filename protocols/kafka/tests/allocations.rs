//! Hostile requests take no memory: every allocation of this process is counted while random bytes
//! and mutated requests go through everything that happens before a handler.
//!
//! One test function, since the counter is the process's.

use std::alloc::System;

use bytes::{BufMut, Bytes, BytesMut};
use mainstem_kafka::decode_request;
use proptest::{
    strategy::{Strategy, ValueTree},
    test_runner::TestRunner,
};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// API keys with their lowest and highest version.
const APIS: &[(i16, i16, i16)] = &[
    (0, 3, 12),
    (1, 4, 17),
    (2, 1, 10),
    (3, 0, 13),
    (8, 2, 9),
    (9, 1, 9),
    (10, 0, 6),
    (11, 0, 9),
    (12, 0, 4),
    (13, 0, 5),
    (14, 0, 5),
    (15, 0, 6),
    (16, 0, 5),
    (18, 0, 4),
    (19, 2, 7),
    (20, 1, 6),
    (21, 0, 2),
    (22, 0, 5),
    (23, 2, 4),
    (32, 1, 4),
    (33, 0, 2),
    (37, 0, 3),
    (42, 0, 2),
    (44, 0, 1),
    (47, 0, 0),
    (60, 0, 2),
];

/// What decoding may allocate for small requests, whatever they hold, in bytes.
const BYTES_FREE: usize = 1 << 20;
/// What decoding may allocate in all, as a multiple of the request. Vectors that grow by doubling
/// are counted at each step.
const BYTES_FACTOR: usize = 40;
/// A request that is large for what it says.
const LARGE_BYTES: usize = 256 << 10;
const ROUNDS: usize = 100;

fn frame(key: i16, version: i16, body: &[u8]) -> Bytes {
    let mut frame = BytesMut::new();
    frame.put_i16(key);
    frame.put_i16(version);
    frame.put_i32(7);
    frame.put_i16(-1); // no client id
    frame.put_slice(body);
    frame.freeze()
}

/// Decodes and returns what that allocated, and whether the request was accepted.
fn allocated(frame: Bytes) -> (usize, bool) {
    let region = Region::new(ALLOCATOR);
    let accepted = decode_request(frame).is_ok();
    let change = region.change();
    let grown = usize::try_from(change.bytes_reallocated).unwrap_or(0);
    (change.bytes_allocated + grown, accepted)
}

fn check(key: i16, version: i16, body: &[u8]) -> bool {
    let frame = frame(key, version, body);
    let len = frame.len();
    let (bytes, accepted) = allocated(frame);
    assert!(
        bytes <= BYTES_FREE.max(BYTES_FACTOR * len),
        "API {key} version {version}: {bytes} bytes for a request of {len}: {body:02x?}"
    );
    accepted
}

/// Bodies as attackers make them: small counts with the odd huge one, in both encodings.
fn bodies() -> impl Strategy<Value = Vec<u8>> {
    let piece = proptest::prop_oneof![
        4 => proptest::collection::vec(proptest::num::u8::ANY, 0..8),
        4 => proptest::collection::vec(0u8..4, 1..8),
        1 => proptest::strategy::Just(vec![0xff, 0xff, 0xff, 0xff, 0x0f]),
        1 => proptest::strategy::Just(vec![0x7f, 0xff, 0xff, 0xff]),
        1 => proptest::strategy::Just(vec![0x7f, 0xff]),
        2 => proptest::strategy::Just(vec![0, 0, 0, 1, 0, 1, b't']),
        2 => proptest::strategy::Just(vec![2, 2, b't']),
    ];
    proptest::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
}

#[test]
fn nothing_is_allocated_for_what_a_request_claims() {
    // The known killers: 5, 4 and 12 bytes that once asked for hundreds of gigabytes.
    assert!(!check(3, 9, &[0, 0xff, 0xff, 0xff, 0xff, 0x0f]));
    assert!(!check(3, 1, &[0x7f, 0xff, 0xff, 0xff]));
    assert!(!check(
        0,
        7,
        &[0xff, 0xff, 0, 1, 0, 0, 0, 1, 0x7f, 0xff, 0xff, 0xff]
    ));
    // And what is legitimate is accepted.
    assert!(check(3, 1, &[0xff, 0xff, 0xff, 0xff]));
    assert!(check(18, 0, &[]));

    let mut runner = TestRunner::deterministic();
    let strategy = bodies();
    let mut accepted = 0;
    for _ in 0..ROUNDS {
        let body = strategy.new_tree(&mut runner).expect("body").current();
        for (key, min, max) in APIS.iter().copied() {
            for version in min..=max {
                accepted += usize::from(check(key, version, &body));
            }
        }
    }
    // The bodies are not all rubbish: some get as far as the decoder.
    assert!(accepted > ROUNDS, "{accepted}");

    // Large requests of the smallest elements: refused, or in proportion.
    for (key, min, max) in APIS.iter().copied() {
        for version in min..=max {
            for filler in [0u8, 1, 2] {
                let mut body = vec![filler; LARGE_BYTES];
                check(key, version, &body);
                // A count of as many elements as could be there, as a varint and as an INT32.
                body[..3].copy_from_slice(&[0x80, 0x80, 0x08]);
                check(key, version, &body);
                body[..4].copy_from_slice(&(LARGE_BYTES as i32 / 2).to_be_bytes());
                check(key, version, &body);
            }
        }
    }
}
