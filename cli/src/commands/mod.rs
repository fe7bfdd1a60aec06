//! The client commands of `reel`: what a user types to move files in and out of a store, and the two that read a
//! store's disks. `main.rs` flattens [`ClientCommand`] into its own tree, so that roles and commands are one level.

mod arguments;
mod bar;
mod disk;
mod files;
mod get;
mod groups;
mod listing;
mod node;
mod partial;
mod put;
pub(crate) mod shown;

use std::{io::Write, process::ExitCode, time::Duration};

use anyhow::{Context, Result};
use clap::{CommandFactory, Subcommand};
use reel_client::{Client, ClientConfig};

use crate::exit::Usage;

pub(crate) use arguments::{
    Completions, Get, Groups, Ls, NodeCommand, Purge, Put, RebuildIndex, Rm, Stat, Stored, Verify,
};

/// What a client may ask for. Names and flags are fixed by the interfaces; see `arguments.rs`.
#[derive(Debug, Subcommand)]
pub(crate) enum ClientCommand {
    /// Uploads files; prints the file id and the URL of each.
    Put(Put),
    /// Downloads a file; a broken download goes on where it stopped.
    Get(Get),
    /// Says what the store knows of a file: size, checksum, times, state.
    Stat(Stat),
    /// Lists the files of a user or of an app, the oldest first.
    Ls(Ls),
    /// Counts the files of a user or of an app, and their bytes.
    Usage(arguments::Usage),
    /// Deletes files. Deletion is soft: `restore` brings them back until the purge.
    Rm(Rm),
    /// Brings deleted files back.
    Restore(Stored),
    /// Removes deleted files for good, without waiting for the retention time.
    Purge(Purge),
    /// Shows the groups and their nodes as a tracker sees them.
    Groups(Groups),
    /// Lists storage nodes, and takes one out of service for an upgrade without a request that fails.
    #[command(subcommand)]
    Node(NodeCommand),
    /// Reads every file of a store against its checksum, and every row against the disk. Changes nothing.
    Verify(Verify),
    /// Makes the metadata again from the disks alone. The engine of that store must be stopped.
    RebuildIndex(RebuildIndex),
    /// Prints a completion script for a shell.
    Completions(Completions),
}

/// Runs one client command to its end. An error is one line on standard error and exit code 1, or 2 where it is
/// [`crate::exit::Usage`]; most wrong usage clap has found before.
pub(crate) fn run(command: ClientCommand) -> Result<ExitCode> {
    match command {
        ClientCommand::Completions(Completions { shell }) => {
            let mut tree = crate::Cli::command();
            // Into memory first: the generator panics where it cannot write.
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut tree, "reel", &mut script);
            let mut out = std::io::stdout().lock();
            out.write_all(&script).and_then(|()| out.flush())?;
            Ok(ExitCode::SUCCESS)
        }
        ClientCommand::Verify(arguments) => disk::run_verify(&arguments),
        ClientCommand::RebuildIndex(arguments) => disk::run_rebuild_index(&arguments),
        command => tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("cannot start the runtime")?
            .block_on(talk(command)),
    }
}

/// The commands that talk to a running store.
async fn talk(command: ClientCommand) -> Result<ExitCode> {
    match command {
        ClientCommand::Put(arguments) => put::run(arguments).await,
        ClientCommand::Get(arguments) => get::run(arguments).await,
        ClientCommand::Stat(arguments) => files::stat(arguments).await,
        ClientCommand::Ls(arguments) => listing::ls(arguments).await,
        ClientCommand::Usage(arguments) => listing::usage(arguments).await,
        ClientCommand::Rm(arguments) => files::rm(arguments).await,
        ClientCommand::Restore(arguments) => files::restore(arguments).await,
        ClientCommand::Purge(arguments) => files::purge(arguments).await,
        ClientCommand::Groups(arguments) => groups::run(arguments).await,
        ClientCommand::Node(command) => node::run(command).await,
        ClientCommand::Verify(_)
        | ClientCommand::RebuildIndex(_)
        | ClientCommand::Completions(_) => unreachable!("they talk to no store"),
    }
}

/// A person waits: a store that restarts is back within this, and one that is away should be said soon.
const RETRY_WINDOW: Duration = Duration::from_secs(10);

fn client(trackers: &arguments::Trackers) -> Result<Client> {
    let named = trackers.trackers.iter().map(|tracker| tracker.trim()).filter(|t| !t.is_empty());
    let mut config = ClientConfig::new(named);
    config.retry.window = RETRY_WINDOW;
    Ok(Client::new(config).map_err(|error| Usage::new(error.to_string()))?)
}
