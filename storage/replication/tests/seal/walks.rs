//! Walks of many seeds, with all rules and without one.

use mainstem_simulation::seeds;

use crate::walk::walk;

/// Walks with all rules in place.
const SEEDS: u64 = 1_000;

#[test]
fn walks_keep_every_invariant() {
    let count = std::env::var("BROKER_SEEDS").ok();
    let count = count.map_or(SEEDS, |count| {
        count.parse().expect("BROKER_SEEDS is a number")
    });
    let (mut walks, mut exposures, mut seals, mut lossy, mut commands) = (0, 0, 0, 0, 0);
    for seed in seeds(count) {
        let seen = walk(seed);
        assert_eq!(
            seen.violation, None,
            "seed {seed}: again with BROKER_SEED={seed}"
        );
        walks += 1;
        exposures += seen.exposures;
        seals += seen.seals;
        lossy += seen.lossy;
        commands += seen.commands;
    }
    println!(
        "{walks} walks: {commands} commands, {exposures} exposures, {seals} seals, {lossy} lossy"
    );
}

#[test]
fn a_seed_replays_exactly() {
    for seed in 0..20 {
        assert_eq!(walk(seed), walk(seed), "seed {seed}");
    }
}
