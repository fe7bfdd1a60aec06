//! Mends bad copies on a brick: takes each out of the volume, so that the volume brings back another replica's.
//!
//! A bad copy is never unlinked: its second name is (`.glusterfs/…`, by which its brick would find it again), and then it is
//! renamed into the node's own folder, where it stays until the copy that came back has been read from the disk and has the
//! checksum of the file. Were that one the last copy, or the better one of two bad ones, it is there.
//!
//! A copy that does not have its checksum may as well be one that the volume is just healing: only what has been at rest for a
//! while is taken out.

use std::{
    fs, io,
    os::{fd::AsFd as _, unix::fs::MetadataExt as _},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use flume::Receiver;
use reel_proto::path::PathId;

use super::{Brick, Judged, Opened, SUSPECTS_MAX, Suspect, content, volume};
use crate::store::{
    inspect::{self, Seal},
    path::{StorePath, count},
    sys,
};

/// How long a copy must have been at rest to be taken out. One under heal is written to all the time.
const REST: Duration = Duration::from_secs(10);

/// Between two looks at a copy that is not at rest or not back yet: from, to.
const PAUSE_MIN: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(10);

/// Between two looks at one that needs a person.
const PAUSE_BEYOND_HELP: Duration = Duration::from_secs(60);

/// A volume heals within `cluster.heal-timeout`, 10 minutes where nobody set it.
const HEAL_MAX: Duration = Duration::from_secs(20 * 60);

/// Longest sleep before it is looked whether the node ends.
const TURN: Duration = Duration::from_millis(250);

/// The attribute by which a mount tells the GFID of a file, as text.
const GFID: &str = "glusterfs.gfid.string";

/// Names tried for a copy whose name is taken among those that were taken out.
const NAMES_MAX: u32 = 1000;

/// The thread that mends the copies of one brick.
pub(super) struct Mender {
    store: Arc<StorePath>,
    suspects: Receiver<Suspect>,
    ending: Arc<AtomicBool>,
    cases: Vec<Case>,
}

/// One file.
struct Case {
    file: Suspect,
    stage: Stage,
    look_at: Instant,
    pause: Duration,
}

enum Stage {
    /// Its copy may be bad.
    Suspected,
    /// Its copy was taken out, and lies there.
    Out { copy: PathBuf, since: Instant },
    /// A person must look. Where something was taken out, it lies there.
    BeyondHelp { copy: Option<PathBuf> },
}

/// Whether a case is over.
enum Step {
    Over,
    LookAgain,
}

impl Mender {
    pub(super) fn new(
        store: Arc<StorePath>,
        suspects: Receiver<Suspect>,
        ending: Arc<AtomicBool>,
    ) -> Self {
        Self { store, suspects, ending, cases: Vec::new() }
    }

    pub(super) fn run(mut self) {
        let store = Arc::clone(&self.store);
        let Some(brick) = &store.brick else { return };
        let mut is_resumed = false;
        while !self.ending.load(Ordering::Acquire) {
            let first = self.suspects.recv_timeout(TURN).ok();
            for file in first.into_iter().chain(self.suspects.try_iter()) {
                if self.cases.iter().any(|case| case.file.id == file.id) {
                    continue;
                }
                let case = Case::new(file, Stage::Suspected);
                if self.cases.len() < SUSPECTS_MAX {
                    self.cases.push(case);
                } else {
                    // Not for ever refused without anybody at work on it: whoever reads it finds it again.
                    case.forgive(brick);
                }
            }
            let Some(opened) = brick.opened.load_full() else { continue };
            if !is_resumed {
                self.resume(&opened);
                is_resumed = true;
            }
            let ending = &self.ending;
            self.cases.retain_mut(|case| {
                let is_due = Instant::now() >= case.look_at && !ending.load(Ordering::Acquire);
                !is_due || matches!(case.step(&store, brick, &opened, ending), Step::LookAgain)
            });
            self.show(brick);
        }
    }

    /// Goes on with what was taken out before the node ended.
    fn resume(&mut self, opened: &Opened) {
        let found = fs::read_dir(volume::aside_folder(&opened.state));
        for entry in found.into_iter().flatten().flatten() {
            let copy = entry.path();
            match taken_out(&self.store, &copy) {
                Some(file) => {
                    let since = Instant::now();
                    self.cases.push(Case::new(file, Stage::Out { copy, since }));
                }
                None => tracing::warn!(copy = %copy.display(),
                    "a copy that was taken out of the brick belongs to no file that is there now"),
            }
        }
    }

    fn show(&self, brick: &Brick) {
        let of = |is: fn(&Stage) -> bool| {
            u64::try_from(self.cases.iter().filter(|case| is(&case.stage)).count()).unwrap_or(0)
        };
        let mending = of(|stage| matches!(stage, Stage::Out { .. }));
        let beyond_help = of(|stage| matches!(stage, Stage::BeyondHelp { .. }));
        brick.counts.mending.store(mending, Ordering::Relaxed);
        brick.counts.beyond_help.store(beyond_help, Ordering::Relaxed);
    }
}

impl Case {
    fn new(file: Suspect, stage: Stage) -> Self {
        Self { file, stage, look_at: Instant::now(), pause: PAUSE_MIN }
    }

    fn step(
        &mut self,
        store: &StorePath,
        brick: &Brick,
        opened: &Opened,
        ending: &AtomicBool,
    ) -> Step {
        if !matches!(self.stage, Stage::Suspected) {
            // Whoever looks the name up through the mount has the volume notice what is missing.
            let _ = sys::open_to_read(store.root(), &self.file.relative);
        }
        let step = match self.judge(opened, ending) {
            Ok(judged) => self.judged(store, brick, opened, judged),
            Err(error) => self.failed("reading the copy", &error),
        };
        self.look_at = Instant::now() + self.pause;
        self.pause = match self.stage {
            Stage::BeyondHelp { .. } => PAUSE_BEYOND_HELP,
            _ => (self.pause * 2).min(PAUSE_MAX),
        };
        step
    }

    /// Reads the copy from the disk. The end of the node does not wait for a large one.
    fn judge(&self, opened: &Opened, ending: &AtomicBool) -> io::Result<Judged> {
        let root = opened.root.as_fd();
        opened.judge(&self.file, |_| {
            let go_on = |_| !ending.load(Ordering::Acquire);
            content::from_disk(root, &self.file.relative, go_on)
        })
    }

    fn judged(
        &mut self,
        store: &StorePath,
        brick: &Brick,
        opened: &Opened,
        judged: Judged,
    ) -> Step {
        match (judged, &self.stage) {
            (Judged::Good, Stage::Suspected) => {
                self.forgive(brick);
                Step::Over
            }
            // It is gone, or is being healed without us.
            (Judged::Changing, Stage::Suspected) => {
                self.forgive(brick);
                Step::Over
            }
            (Judged::Good, Stage::Out { .. } | Stage::BeyondHelp { .. }) => {
                self.mended(brick);
                Step::Over
            }
            (Judged::Changing, Stage::Out { since, .. }) if since.elapsed() > HEAL_MAX => {
                self.give_up("the volume does not bring the file back: look at its heal");
                Step::LookAgain
            }
            // What the volume has brought back is bad, too, or it brings nothing.
            (Judged::Changing, _)
            | (Judged::Bad(_) | Judged::Unreadable, Stage::BeyondHelp { copy: Some(_) }) => {
                Step::LookAgain
            }
            (Judged::Bad(_), _) if !self.is_at_rest(opened) => Step::LookAgain,
            (Judged::Bad(_) | Judged::Unreadable, Stage::Suspected) => {
                self.confirm(brick);
                self.bring_out(store, brick, opened)
            }
            // It could not be taken out, as where the volume was away. That may be over.
            (Judged::Bad(_) | Judged::Unreadable, Stage::BeyondHelp { copy: None }) => {
                self.bring_out(store, brick, opened)
            }
            (Judged::Bad(_) | Judged::Unreadable, Stage::Out { .. }) => {
                self.give_up("the copy that the volume brought back is bad, too");
                Step::LookAgain
            }
        }
    }

    fn confirm(&self, brick: &Brick) {
        let Suspect { id, relative, checksum, .. } = &self.file;
        count(&brick.counts.bad, 1);
        tracing::warn!(
            brick = %brick.config.path.display(), file = relative, path_id = id,
            checksum = format_args!("{checksum:016x}"),
            "a copy on the brick is bad: it is taken out, and the volume brings back another one"
        );
    }

    fn bring_out(&mut self, store: &StorePath, brick: &Brick, opened: &Opened) -> Step {
        match self.take_out(store, brick, opened) {
            Ok(copy) => {
                self.stage = Stage::Out { copy, since: Instant::now() };
                self.pause = PAUSE_MIN;
                Step::LookAgain
            }
            Err(error) => self.failed("taking the copy out", &error),
        }
    }

    fn is_at_rest(&self, opened: &Opened) -> bool {
        sys::open_to_read(opened.root.as_fd(), &self.file.relative)
            .and_then(|copy| content::is_at_rest(&copy, REST))
            .unwrap_or(false)
    }

    /// Takes the copy out of the volume. Where this is cut short the copy is where it was, with one name less, which its
    /// brick makes again.
    fn take_out(&self, store: &StorePath, brick: &Brick, opened: &Opened) -> io::Result<PathBuf> {
        let relative = &self.file.relative;
        let copy = brick.config.path.join(relative);
        let second = second_name(store, opened, relative)?;
        match fs::metadata(&second) {
            Ok(found) if found.ino() == fs::metadata(&copy)?.ino() => fs::remove_file(&second)?,
            Ok(_) => {
                return Err(io::Error::other("its name in .glusterfs is that of another file"));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let to = free_name(&volume::aside_folder(&opened.state), relative)?;
        fs::rename(&copy, &to)?;
        Ok(to)
    }

    fn forgive(&self, brick: &Brick) {
        brick.lock_bad().remove(&self.file.id);
    }

    fn mended(&mut self, brick: &Brick) {
        self.forgive(brick);
        count(&brick.counts.mended, 1);
        if let Stage::Out { copy, .. } | Stage::BeyondHelp { copy: Some(copy) } = &self.stage
            && let Err(error) = fs::remove_file(copy)
        {
            tracing::warn!(copy = %copy.display(), %error, "a bad copy cannot be removed");
        }
        tracing::info!(
            brick = %brick.config.path.display(), file = self.file.relative,
            path_id = self.file.id, "a copy on the brick is mended"
        );
    }

    fn give_up(&mut self, why: &str) {
        let Suspect { id, relative, .. } = &self.file;
        let copy = match std::mem::replace(&mut self.stage, Stage::BeyondHelp { copy: None }) {
            Stage::Out { copy, .. } => Some(copy),
            _ => None,
        };
        let kept = copy.as_deref().map(Path::display).map(|path| path.to_string());
        tracing::error!(path_id = id, file = relative, kept, why, "a bad copy is not mended");
        self.stage = Stage::BeyondHelp { copy };
    }

    fn failed(&mut self, doing: &str, error: &io::Error) -> Step {
        if !matches!(self.stage, Stage::BeyondHelp { .. }) {
            self.give_up(&format!("{doing}: {error}"));
        }
        Step::LookAgain
    }
}

/// The other name of a file in its volume, which only a mount tells without special rights.
fn second_name(store: &StorePath, opened: &Opened, relative: &str) -> io::Result<PathBuf> {
    let through_mount = sys::open_to_read(store.root(), relative)?;
    let gfid = sys::attribute(&through_mount, GFID, 64)?;
    let gfid = gfid.and_then(|bytes| String::from_utf8(bytes).ok()).unwrap_or_default();
    let gfid = gfid.trim_end_matches('\0');
    volume::second_name(&opened.volume, gfid)
        .ok_or_else(|| io::Error::other("the mount tells no GFID: is it one of GlusterFS?"))
}

/// The name of a copy that is taken out: its place with `-` for `/`, and a number.
fn free_name(folder: &Path, relative: &str) -> io::Result<PathBuf> {
    let flat = relative.replace('/', "-");
    let free = (0..NAMES_MAX)
        .map(|number| folder.join(format!("{flat}.{number}")))
        .find(|path| !path.exists());
    free.ok_or_else(|| io::ErrorKind::AlreadyExists.into())
}

/// The file that such a copy belongs to, as the mount has it now.
fn taken_out(store: &StorePath, copy: &Path) -> Option<Suspect> {
    let name = copy.file_name()?.to_str()?;
    let relative = name.rsplit_once('.')?.0.replace('-', "/");
    let (_, id, _) = PathId::parse_file_path(&format!("x/{relative}")).ok()?;
    let file = sys::open_to_read(store.root(), &relative).ok()?;
    match inspect::seal_of(&file, id).ok()? {
        Seal::Good(record) => {
            Some(Suspect { id: id.get(), relative, size: record.size, checksum: record.checksum })
        }
        Seal::None | Seal::Doubtful(_) => None,
    }
}
