//! The client's commands.

use std::process::ExitCode;

use clap::{CommandFactory, Subcommand};
use clap_complete::Shell;

/// Commands that talk to a running store.
#[derive(Debug, Subcommand)]
pub(crate) enum ClientCommand {
    /// Prints completions for a shell.
    Completions {
        /// The shell.
        shell: Shell,
    },
}

/// Runs a client command.
pub(crate) fn run(command: ClientCommand) -> anyhow::Result<ExitCode> {
    match command {
        ClientCommand::Completions { shell } => {
            let mut command = crate::Cli::command();
            clap_complete::generate(shell, &mut command, "reel", &mut std::io::stdout());
            Ok(ExitCode::SUCCESS)
        }
    }
}
