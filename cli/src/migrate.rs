//! `reel migrate`: brings the shared databases to the tables of this version.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, ValueEnum};
use reel_meta::mysql::{Migration, migrate};
use reel_meta::{Location, Role};
use serde_json::json;

use crate::exit::Usage;
use crate::roles::say;
use crate::settings::{self, Settings};

/// Arguments of `reel migrate`.
#[derive(Debug, Args)]
pub(crate) struct Migrate {
    /// Configuration file, with the servers in [meta.mysql].
    #[arg(long, env = "REEL_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Only say what would be done.
    #[arg(long)]
    dry_run: bool,
    /// Only this database; may be given several times. Default: all three.
    #[arg(long, value_enum, value_name = "NAME")]
    database: Vec<Which>,
    /// One JSON object for each database, one a line.
    #[arg(long)]
    json: bool,
}

/// One of the three databases.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Which {
    /// Groups, and which of them serves a user.
    Tracker,
    /// Sequences of path ids.
    Ids,
    /// Rows of files.
    Storage,
}

impl From<Which> for Role {
    fn from(which: Which) -> Self {
        match which {
            Which::Tracker => Self::Tracker,
            Which::Ids => Self::Ids,
            Which::Storage => Self::Storage,
        }
    }
}

/// Migrates one database after the other. What is done stays done if a later step fails.
pub(crate) fn run(arguments: &Migrate) -> anyhow::Result<ExitCode> {
    let settings =
        settings::load(Settings::default(), arguments.config.as_deref(), &json!({}))?.value;
    reel_node::log::init(&settings.log)?;
    let named: Vec<Role> = arguments.database.iter().copied().map(Role::from).collect();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    for role in if named.is_empty() { Role::ALL.to_vec() } else { named } {
        let Location::Shared(options) = settings.meta.location(role)? else {
            let text = "meta.mysql.servers names no server; embedded databases migrate themselves";
            return Err(Usage::new(text).into());
        };
        let migration = runtime
            .block_on(migrate(&options, role, arguments.dry_run))
            .with_context(|| options.database.clone())?;
        say(&if arguments.json {
            as_json(&options.database, &migration)
        } else {
            as_text(&options.database, &migration, arguments.dry_run)
        });
    }
    Ok(ExitCode::SUCCESS)
}

fn as_text(database: &str, migration: &Migration, dry: bool) -> String {
    if migration.steps.is_empty() {
        return format!("{database}: nothing to do\n");
    }
    let mut text = String::new();
    for clash in &migration.clashes {
        text.push_str(&format!("{database}: note: {clash}\n"));
    }
    let would = if dry { "would be done" } else { "done" };
    for step in &migration.steps {
        text.push_str(&format!("{database}: {would}: {}\n    {};\n", step.what, step.statement));
    }
    text
}

fn as_json(database: &str, migration: &Migration) -> String {
    let steps: Vec<_> = migration
        .steps
        .iter()
        .map(|step| json!({ "what": step.what, "statement": step.statement }))
        .collect();
    let line = json!({ "database": database, "steps": steps, "clashes": migration.clashes });
    format!("{line}\n")
}
