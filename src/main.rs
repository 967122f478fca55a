//! The binary: command line, wiring, start and drain order, admin HTTP. No protocol and no storage
//! logic lives here.

mod admin;
mod banner;
mod cli;
mod cluster;
mod cluster_command;
mod cluster_status;
mod identity;
mod log_command;
mod logging;
mod openmetrics;
mod process;
mod serve;

use std::process::ExitCode;

use clap::Parser;
use mainstem_config::Sources;

fn main() -> ExitCode {
    match cli::Cli::parse().command {
        cli::Command::Serve(arguments) => serve_command(&arguments),
        cli::Command::Config(cli::ConfigCommand::Check { file }) => check_config(&file),
        cli::Command::Cluster(command) => cluster_command::run(&command),
        cli::Command::Log(command) => log_command::run(&command),
    }
}

/// Runs a node until it is told to stop. Exit codes: 0 after a drain, 1 on a failure, 2 on a wrong
/// configuration.
fn serve_command(arguments: &cli::ServeArguments) -> ExitCode {
    let config = match arguments.load_config() {
        Ok(config) => config,
        Err(errors) => {
            eprintln!("mainstem: the configuration is not valid:\n{errors}");
            return ExitCode::from(2);
        }
    };
    if let Err(error) = logging::start(&config) {
        eprintln!("mainstem: {error}");
        return ExitCode::from(2);
    }
    stop_the_process_on_panic();
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("mainstem: the async runtime does not start: {error}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(serve::serve(config)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(%error, "the node ends");
            eprintln!("mainstem: {error}");
            ExitCode::FAILURE
        }
    }
}

fn check_config(file: &std::path::Path) -> ExitCode {
    let checked = mainstem_config::load_file(file).and_then(|source| {
        mainstem_config::load(Sources {
            file: Some(source),
            ..Sources::default()
        })
    });
    match checked {
        Ok(_) => {
            println!("{}: valid", file.display());
            ExitCode::SUCCESS
        }
        Err(errors) => {
            eprintln!("{errors}");
            ExitCode::from(2)
        }
    }
}

/// A broken invariant ends the whole process, never one task: what a half-dead broker would
/// acknowledge nobody knows.
fn stop_the_process_on_panic() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        report(panic);
        tracing::error!(%panic, "broken invariant: the process stops");
        std::process::abort();
    }));
}
