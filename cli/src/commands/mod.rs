//! The client commands of `reel`: what a user types to move files in and out of a store, and the two that read a
//! store's disks. `main.rs` flattens [`ClientCommand`] into its own tree, so that roles and commands are one level.

mod arguments;

use std::process::ExitCode;

use clap::{CommandFactory, Subcommand};

pub(crate) use arguments::{
    Completions, Get, Groups, Ls, Purge, Put, RebuildIndex, Rm, Stat, Stored, Verify,
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
    /// Lists the files of a user.
    Ls(Ls),
    /// Deletes files. Deletion is soft: `restore` brings them back until the purge.
    Rm(Rm),
    /// Brings deleted files back.
    Restore(Stored),
    /// Removes deleted files for good, without waiting for the retention time.
    Purge(Purge),
    /// Shows the groups and their nodes as a tracker sees them.
    Groups(Groups),
    /// Reads every file of a store against its checksum. The engine of that store must be stopped.
    Verify(Verify),
    /// Makes the metadata again from the disks alone. The engine of that store must be stopped.
    RebuildIndex(RebuildIndex),
    /// Prints a completion script for a shell.
    Completions(Completions),
}

/// Runs one client command to its end. An error is one line on standard error and exit code 1, or 2 where it is
/// [`crate::exit::Usage`]; most wrong usage clap has found before.
pub(crate) fn run(command: ClientCommand) -> anyhow::Result<ExitCode> {
    match command {
        ClientCommand::Completions(Completions { shell }) => {
            let mut tree = crate::Cli::command();
            clap_complete::generate(shell, &mut tree, "reel", &mut std::io::stdout());
            Ok(ExitCode::SUCCESS)
        }
        other => anyhow::bail!("{other:?}: not built into this binary yet"),
    }
}
