//! `reel config check` and `reel config show`.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Subcommand};
use reel_node::config::Setting;

use crate::exit;
use crate::settings::{self, Settings};

/// Checks and shows the configuration.
#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Says what is wrong with a configuration file. Exit code 0: nothing, 1: something.
    Check(Check),
    /// Prints every setting in force and where it came from. Secrets are not shown.
    Show(Show),
}

/// Arguments of `reel config check`.
#[derive(Debug, Args)]
pub(crate) struct Check {
    /// The file.
    file: PathBuf,
}

/// Arguments of `reel config show`.
#[derive(Debug, Args)]
pub(crate) struct Show {
    /// The configuration file.
    #[arg(long, env = "REEL_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// One JSON array instead of lines.
    #[arg(long)]
    json: bool,
}

/// Runs a `config` command.
pub(crate) fn run(command: &ConfigCommand) -> anyhow::Result<ExitCode> {
    match command {
        ConfigCommand::Check(check) => {
            match check_file(&check.file) {
                Ok(()) => {
                    print(&format!("{}: no problem found\n", check.file.display()))?;
                    Ok(ExitCode::from(exit::DONE))
                }
                // The check was done, and the answer is no: not a wrong use of this command.
                Err(error) => {
                    exit::say(exit::line(&error));
                    Ok(ExitCode::from(exit::FAILED))
                }
            }
        }
        ConfigCommand::Show(show) => {
            let loaded = settings::load(
                Settings::default(),
                show.config.as_deref(),
                &serde_json::json!({}),
            )?;
            if show.json {
                print(&format!("{}\n", serde_json::to_string_pretty(&loaded.settings)?))?;
            } else {
                print(&lines(&loaded.settings))?;
            }
            Ok(ExitCode::from(exit::DONE))
        }
    }
}

fn print(text: &str) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

fn check_file(file: &Path) -> anyhow::Result<()> {
    let loaded = settings::load(Settings::default(), Some(file), &serde_json::json!({}))?;
    Ok(loaded.value.check_roles()?)
}

/// `key = value  # source`, aligned; the keys are those of `reel.toml`.
fn lines(settings: &[Setting]) -> String {
    let left: Vec<String> = settings
        .iter()
        .map(|setting| format!("{} = {}", setting.key, toml_value(&setting.value)))
        .collect();
    // One very long list of networks must not push every comment out of the window.
    let width = left.iter().map(String::len).filter(|length| *length <= 60).max().unwrap_or(0);
    let mut text = String::new();
    for (setting, left) in settings.iter().zip(&left) {
        text.push_str(&format!("{left:<width$}  # {}\n", setting.source));
    }
    text
}

fn toml_value(value: &serde_json::Value) -> String {
    match value {
        serde_json::Value::Null => "(unset)".to_owned(),
        serde_json::Value::Array(items) => {
            let items: Vec<String> = items.iter().map(toml_value).collect();
            format!("[{}]", items.join(", "))
        }
        serde_json::Value::Object(members) => {
            let members: Vec<String> = members
                .iter()
                .map(|(name, member)| format!("{name} = {}", toml_value(member)))
                .collect();
            format!("{{ {} }}", members.join(", "))
        }
        scalar => scalar.to_string(),
    }
}
