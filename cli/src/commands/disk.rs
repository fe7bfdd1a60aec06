//! `reel verify` and `reel rebuild-index`: the two commands that read a store's disks instead of asking its nodes.

use std::{
    io::{self, IsTerminal},
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use indicatif::{HumanBytes, ProgressBar};
use reel_engine::{
    groups::Groups,
    journal,
    metadata::Metadata,
    rebuild::rebuild_index,
    verify::{Event, Fault, Finding, VerifyOptions, verify},
};
use reel_meta::{Location, Role};
use reel_proto::name::GroupName;

use super::{
    arguments::{DiskStore, RebuildIndex, Verify},
    shown,
};
use crate::{
    exit::{Usage, say},
    settings::{self, Settings},
};

/// Files without a row that are younger are uploads under way.
const YOUNG: Duration = Duration::from_secs(24 * 3600);

/// Checks all files of a store. Exit code 1 where something is wrong with one.
pub(crate) fn run_verify(arguments: &Verify) -> Result<ExitCode> {
    let place = Place::of(&arguments.store)?;
    // A store whose database is gone can still be held against its own records.
    let metadata = match &place.database {
        Location::Embedded(path) if !path.exists() => {
            say(format_args!("{} is not there; only records are checked", path.display()));
            None
        }
        _ => Some(place.metadata()?),
    };
    let mut groups = metadata.as_ref().and_then(|_| place.groups());
    let options = VerifyOptions { stores: place.stores, content: !arguments.quick, age_min: YOUNG };
    let spinner = Spinner::new();
    let mut failed = Ok(());
    let progress =
        verify(&options, metadata.as_ref(), groups.as_mut(), &mut |event| match event {
            Event::Progress(seen) => spinner.show(seen.files, seen.bytes),
            Event::Finding(finding) => {
                let shown = spinner.aside(|| show_finding(finding, arguments.json));
                failed = std::mem::replace(&mut failed, Ok(())).and(shown);
            }
        })?;
    spinner.end();
    failed?;
    if arguments.json {
        shown::line(&serde_json::to_string(&progress)?)?;
    } else {
        let of_others = match progress.of_others {
            0 => String::new(),
            rows => format!(" ({rows} of other groups)"),
        };
        shown::line(&format!(
            "{} files ({}) and {} rows{of_others} checked, {} faults",
            progress.files,
            HumanBytes(progress.bytes),
            progress.rows,
            progress.faults
        ))?;
    }
    Ok(if progress.faults == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Makes the rows again. Exit code 1 where a file was damaged and got none.
pub(crate) fn run_rebuild_index(arguments: &RebuildIndex) -> Result<ExitCode> {
    let place = Place::of(&arguments.store)?;
    if let Location::Embedded(path) = &place.database
        && path.exists()
        && journal::is_pending(path)?
    {
        // The database may have changes that the disks have lost: the rows made of them would stay.
        bail!(
            "the last run left changes in the journal; start the engine once, which carries them out"
        );
    }
    let metadata = place.metadata()?;
    let spinner = Spinner::new();
    let stores: Vec<PathBuf> = place.stores.iter().map(|(path, _)| path.clone()).collect();
    let done = rebuild_index(&stores, !arguments.quick, &metadata, &mut |seen| {
        spinner.show(seen.files, seen.bytes);
    })?;
    spinner.end();
    if arguments.json {
        shown::line(&serde_json::to_string(&done)?)?;
    } else {
        shown::line(&format!(
            "{} files looked at: {} rows written ({} of them deleted files), {} right already",
            done.files, done.rows, done.deleted, done.already
        ))?;
        shown::line(&format!(
            "left without a row: {} unfinished, {} being purged, {} second copies, {} damaged",
            done.unsealed, done.purging, done.duplicates, done.damaged
        ))?;
    }
    Ok(if done.damaged == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Where a store lies.
struct Place {
    database: Location,
    /// The trackers' database, and the group that the store is of.
    groups: (Location, GroupName),
    /// Each with its other prefixes in `file_path`.
    stores: Vec<(PathBuf, Vec<String>)>,
}

impl Place {
    /// As the configuration has it: the given one of a storage node, else that of a data folder.
    fn of(arguments: &DiskStore) -> Result<Self> {
        let flags = serde_json::json!({});
        let settings = match &arguments.config {
            Some(file) => settings::load(Settings::default(), Some(file), &flags)?.value,
            None => {
                let data = &arguments.data;
                if !data.is_dir() {
                    let text = format!("there is no data folder {}", data.display());
                    return Err(Usage::new(text).into());
                }
                let data = data.canonicalize().with_context(|| data.display().to_string())?;
                let secret_file = data.join("cluster.secret");
                let file = data.join("reel.toml");
                let file = file.exists().then_some(file);
                let defaults = Settings::for_folder(&data, secret_file);
                settings::load(defaults, file.as_deref(), &flags)?.value
            }
        };
        if settings.store_path.is_empty() {
            return Err(Usage::new("the configuration has no [[store_path]]").into());
        }
        let database = settings.meta.location(Role::Storage)?;
        let group = GroupName::parse(&settings.engine.group)
            .map_err(|error| Usage::new(format!("engine.group: {error}")))?;
        let groups = (settings.meta.location(Role::Tracker)?, group);
        let stores = settings.store_path.into_iter().map(|store| (store.path, store.aliases));
        Ok(Self { database, groups, stores: stores.collect() })
    }

    /// What tells the files of this group from those of others in the same database.
    fn groups(&self) -> Option<Groups> {
        let (location, own) = &self.groups;
        let Location::Shared(options) = location else { return None };
        Groups::open(options, *own)
            .inspect_err(|error| {
                say(format_args!("{location}: {error}; what other groups have counts as missing"));
            })
            .ok()
    }

    fn metadata(&self) -> Result<Metadata> {
        if let Location::Embedded(path) = &self.database {
            let folder = path.parent().unwrap_or(Path::new("."));
            std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
        }
        Metadata::open(&self.database).with_context(|| self.database.to_string())
    }
}

fn show_finding(finding: &Finding, json: bool) -> Result<()> {
    if json {
        return Ok(shown::line(&serde_json::to_string(finding)?)?);
    }
    let file = finding.file.as_deref().map(|id| format!(" ({})", shown::safe(id)));
    let place = shown::safe(&finding.place);
    let fault = describe(&finding.fault);
    Ok(shown::line(&format!("{place}{}: {fault}", file.unwrap_or_default()))?)
}

fn describe(fault: &Fault) -> String {
    match fault {
        Fault::NoRecord => "no record: not adopted, or an upload that never ended".to_owned(),
        Fault::BadRecord { text } => format!("its record is damaged: {}", shown::safe(text)),
        Fault::Size { found, expected } => format!("{found} bytes instead of {expected}"),
        Fault::Checksum { found, expected } => {
            format!("checksum {found:016x} instead of {expected:016x}")
        }
        Fault::NoRow => "no row names it".to_owned(),
        Fault::Differs { field } => format!("its row and its record differ in {field}"),
        Fault::NoFile => "its file is not there".to_owned(),
        Fault::Unplaced => "its row names a place in none of these stores".to_owned(),
        Fault::Unreadable { text } => format!("cannot be read: {}", shown::safe(text)),
    }
}

/// What has been read so far, on a terminal.
struct Spinner(ProgressBar);

impl Spinner {
    fn new() -> Self {
        let terminal = io::stderr().is_terminal();
        Self(if terminal { ProgressBar::new_spinner() } else { ProgressBar::hidden() })
    }

    fn show(&self, files: u64, bytes: u64) {
        self.0.set_message(format!("{files} files, {}", HumanBytes(bytes)));
        self.0.tick();
    }

    /// Prints something of its own without tearing the line.
    fn aside<T>(&self, print: impl FnOnce() -> T) -> T {
        self.0.suspend(print)
    }

    fn end(&self) {
        self.0.finish_and_clear();
    }
}
