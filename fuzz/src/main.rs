//! `make fuzz`: each target for some seconds, or one saved input again.
//!
//! ```text
//! mainstem-fuzz [TARGET]...          FUZZ_SECONDS (60) for each target, from FUZZ_SEED
//! mainstem-fuzz --replay TARGET FILE
//! ```
//! An input with which a target fails is saved in FUZZ_FAILURES (`make fuzz`: in the target directory); put it into
//! `fuzz/regressions/TARGET/` with the fix, where every test run takes it.
#![allow(
    clippy::disallowed_methods,
    reason = "how long it runs is a matter of real time; what is run is not"
)]

use std::{
    path::PathBuf,
    process::ExitCode,
    time::{Duration, Instant, SystemTime},
};

use mainstem_fuzz::{Failure, Fuzzer, TARGETS, Target, run_once};

const SECONDS: u64 = 60;
/// Executions between two looks at the clock.
const ROUND: u32 = 16;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let done = match arguments.as_slice() {
        [flag, name, file] if flag == "--replay" => replay(name, file),
        names => fuzz(names),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("{why}");
            ExitCode::FAILURE
        }
    }
}

fn target(name: &str) -> Result<&'static Target, String> {
    let names: Vec<&str> = TARGETS.iter().map(|target| target.name).collect();
    let found = TARGETS.iter().find(|target| target.name == name);
    found.ok_or_else(|| format!("no target '{name}'; there are {}", names.join(", ")))
}

fn number(variable: &str, default: u64) -> Result<u64, String> {
    match std::env::var(variable) {
        Ok(text) => text
            .parse()
            .map_err(|_| format!("{variable} is no number: {text}")),
        Err(_) => Ok(default),
    }
}

fn replay(name: &str, file: &str) -> Result<(), String> {
    let input = std::fs::read(file).map_err(|error| format!("{file}: {error}"))?;
    run_once(target(name)?, &input).map_err(|failure| format!("{name} fails: {}", failure.what))?;
    println!("{name} passes with {file}");
    Ok(())
}

fn fuzz(names: &[String]) -> Result<(), String> {
    let targets: Vec<&'static Target> = match names {
        [] => TARGETS.iter().collect(),
        names => names
            .iter()
            .map(|name| target(name))
            .collect::<Result<_, _>>()?,
    };
    let now = SystemTime::UNIX_EPOCH
        .elapsed()
        .map_or(0, |since| since.as_secs());
    let seed = number("FUZZ_SEED", now)?;
    let time = Duration::from_secs(number("FUZZ_SECONDS", SECONDS)?);
    println!("seed {seed}: repeat with FUZZ_SEED={seed}");
    let mut failed = Vec::new();
    for target in targets {
        if let Err(failure) = run(target, seed, time) {
            let path = save(target, &failure)?;
            println!(
                "{}: {}\n  saved as {}",
                target.name,
                failure.what,
                path.display()
            );
            failed.push(target.name);
        }
    }
    if failed.is_empty() {
        return Ok(());
    }
    Err(format!("failed: {}", failed.join(", ")))
}

fn run(target: &'static Target, seed: u64, time: Duration) -> Result<(), Failure> {
    let began = Instant::now();
    let mut fuzzer = Fuzzer::new(target, seed)?;
    while began.elapsed() < time {
        for _ in 0..ROUND {
            fuzzer.step()?;
        }
    }
    let report = fuzzer.report();
    println!(
        "{:12} {:>9} executions, {:>6.0} per second, corpus {:>4}, features {:>5}",
        target.name,
        report.executions,
        report.executions as f64 / began.elapsed().as_secs_f64(),
        report.corpus,
        report.features,
    );
    Ok(())
}

fn save(target: &Target, failure: &Failure) -> Result<PathBuf, String> {
    let dir = std::env::var_os("FUZZ_FAILURES").map_or("target/fuzz".into(), PathBuf::from);
    let path = dir.join(format!(
        "{}-{:08x}",
        target.name,
        crc32c::crc32c(&failure.input)
    ));
    let saved = std::fs::create_dir_all(&dir).and_then(|()| std::fs::write(&path, &failure.input));
    saved.map_err(|error| format!("{}: {error}", path.display()))?;
    Ok(path)
}
