//! The short run: every target, the same inputs each time.
//!
//! One test function, since allocations are counted for the process.

use std::path::Path;

use mainstem_fuzz::{Failure, Fuzzer, TARGETS, Target, run_once};

const SEED: u64 = 20_261_124;
/// A target that does not even tell good from bad is none.
const FEATURES_MIN: usize = 5;

fn fail(target: &Target, failure: &Failure) -> ! {
    let name = format!(
        "mainstem-fuzz-{}-{:08x}",
        target.name,
        crc32c::crc32c(&failure.input)
    );
    let path = std::env::temp_dir().join(name);
    std::fs::write(&path, &failure.input).expect("the input is saved");
    panic!(
        "{}: {}\nreplay with: make fuzz ARGS='--replay {} {}'",
        target.name,
        failure.what,
        target.name,
        path.display()
    );
}

#[test]
fn hostile_bytes_neither_panic_nor_allocate_beyond_bounds() {
    for target in TARGETS {
        let regressions = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("regressions")
            .join(target.name);
        for file in std::fs::read_dir(regressions).into_iter().flatten() {
            let input = std::fs::read(file.expect("an entry").path()).expect("an input");
            run_once(target, &input).unwrap_or_else(|failure| fail(target, &failure));
        }
        let mut fuzzer = Fuzzer::new(target, SEED).unwrap_or_else(|failure| fail(target, &failure));
        for _ in 0..target.short {
            fuzzer
                .step()
                .unwrap_or_else(|failure| fail(target, &failure));
        }
        let report = fuzzer.report();
        println!("{}: {report:?}", target.name);
        assert!(
            report.features >= FEATURES_MIN,
            "{}: nothing happens",
            target.name
        );
    }
}
