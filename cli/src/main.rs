//! The `reel` binary: every role of the store, and the client's commands.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod addresses;
mod adopt;
mod commands;
mod config_cmd;
mod data_folder;
mod disk;
mod exit;
mod meta_config;
mod migrate;
mod node_admin;
mod probe;
mod roles;
mod server;
mod settings;
mod signals;
mod up;

use exit::Usage;

/// A media store on plain disks.
#[derive(Debug, Parser)]
#[command(name = "reel", version, propagate_version = true, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs the whole store in one process: ID node, tracker, storage node, gateway.
    Up(Box<up::Up>),
    #[command(flatten)]
    Role(Box<roles::RoleCommand>),
    #[command(subcommand)]
    Config(config_cmd::ConfigCommand),
    /// Brings shared databases (MySQL, MariaDB) to the tables of this version, in place.
    Migrate(migrate::Migrate),
    /// Takes over store paths whose files and rows a deployed system has written: asks the running storage node.
    Adopt(adopt::Adopt),
    #[command(subcommand)]
    Disk(disk::DiskCommand),
    /// Tries whether a file system has what a store path needs.
    Probe(probe::Probe),
    #[command(flatten)]
    Client(Box<commands::ClientCommand>),
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let code = if error.use_stderr() { exit::USAGE } else { exit::DONE };
            // Nothing is left to do when not even the help can be printed.
            let _ = error.print();
            return ExitCode::from(code);
        }
    };
    let done = match cli.command {
        Command::Up(arguments) => up::run(&arguments),
        Command::Role(command) => roles::run(&command),
        Command::Config(command) => {
            exit::default_sigpipe();
            config_cmd::run(&command)
        }
        Command::Migrate(arguments) => {
            exit::default_sigpipe();
            migrate::run(&arguments)
        }
        Command::Adopt(arguments) => {
            exit::default_sigpipe();
            adopt::run(&arguments)
        }
        Command::Disk(command) => {
            exit::default_sigpipe();
            disk::run(&command)
        }
        Command::Probe(arguments) => {
            exit::default_sigpipe();
            probe::run(&arguments)
        }
        Command::Client(command) => {
            // A pipe whose reader has gone ends `reel ls | head` quietly, as it ends every other
            // tool. Not so the roles: sendfile and splice to a gone peer would raise it too.
            exit::default_sigpipe();
            commands::run(*command)
        }
    };
    match done {
        Ok(code) => code,
        Err(error) => {
            exit::say(exit::line(&error));
            let usage = error.downcast_ref::<Usage>().is_some();
            ExitCode::from(if usage { exit::USAGE } else { exit::FAILED })
        }
    }
}
