//! Reads past a mount, from a brick on this node's disk: nothing is served there that was not checked there. Two folders stand
//! for mount and brick, and the tests do what a volume does; that a real one mends what is taken out is shown in the tests crate.
#![allow(clippy::unwrap_used)]

mod kit;

use std::{
    fs,
    os::unix::fs::{FileExt, MetadataExt},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use kit::{Node, config, content, copy, disk::Disk, quick_folder, until};
use reel_engine::{
    metadata::wait,
    store::{BrickConfig, BrickCounts, BrickStatus, Health, OpenError, OpenFileError, StoreConfig},
};

struct Volume {
    folder: tempfile::TempDir,
    /// The disk of the brick.
    disk: PathBuf,
    within: Duration,
}

impl Volume {
    fn new() -> Self {
        let folder = quick_folder();
        let disk = folder.path().join("disk");
        Self::on(folder, disk)
    }

    fn on(folder: tempfile::TempDir, disk: PathBuf) -> Self {
        fs::create_dir_all(disk.join("brick/.glusterfs")).unwrap();
        Self { folder, disk, within: Duration::ZERO }
    }

    fn mount(&self) -> PathBuf {
        self.folder.path().join("mount/store")
    }

    fn brick(&self) -> PathBuf {
        self.disk.join("brick/store")
    }

    fn config(&self) -> StoreConfig {
        let mut config = config(&[&self.mount()]);
        config.paths[0].shared = Some(true);
        config.paths[0].brick =
            Some(BrickConfig { path: self.brick(), state: None, scrub_within: self.within });
        config
    }

    fn node(&self, next_id: u64) -> Node {
        Node::open_with(&self.config(), &self.folder.path().join("storage.db"), next_id)
    }

    /// Begins a store, as the first node does through its mount.
    fn begun() -> Self {
        Self::new().begin()
    }

    fn begin(self) -> Self {
        let mut config = self.config();
        config.paths[0].brick = None;
        let database = self.folder.path().join("storage.db");
        Node::open_with(&config, &database, 0).close();
        copy(&self.mount(), &self.brick());
        self
    }

    /// Where a file lies in the mount and on the brick.
    fn places(&self, node: &Node, file: &str) -> (PathBuf, PathBuf) {
        let relative = node.find(file).unwrap().relative;
        (self.mount().join(relative.as_str()), self.brick().join(relative.as_str()))
    }

    /// Brings a file to the brick.
    fn replicate(&self, node: &Node, file: &str) -> PathBuf {
        let (from, to) = self.places(node, file);
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        copy(&from, &to);
        to
    }
}

fn brick(node: &Node) -> BrickStatus {
    node.stores.status()[0].brick.clone().unwrap()
}

fn counts(node: &Node) -> BrickCounts {
    brick(node).counts
}

fn open(node: &Node, file: &str) -> Result<Vec<u8>, OpenFileError> {
    let opened = wait(node.stores.open_file(&node.find(file).unwrap().place()))?;
    let mut bytes = Vec::new();
    std::io::Read::read_to_end(&mut fs::File::from(opened), &mut bytes).unwrap();
    Ok(bytes)
}

/// Changes one bit, as a failing disk does: nobody is told, and no time of change says so.
fn rot(path: &Path) {
    let before = fs::metadata(path).unwrap();
    flip(path);
    let file = fs::File::options().write(true).open(path).unwrap();
    let changed =
        SystemTime::UNIX_EPOCH + Duration::new(before.mtime() as u64, before.mtime_nsec() as u32);
    file.set_modified(changed).unwrap();
    assert_eq!(fs::metadata(path).unwrap().modified().unwrap(), changed);
}

fn flip(path: &Path) {
    let file = fs::File::options().read(true).write(true).open(path).unwrap();
    let at = file.metadata().unwrap().len() / 2;
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 4], at).unwrap();
}

#[test]
fn a_file_is_read_from_the_brick_once_it_was_checked_there() {
    let volume = Volume::begun();
    let node = volume.node(1);
    let bytes = content(1, 300_000);
    node.put("f", &bytes).unwrap();
    assert_eq!(open(&node, "f").unwrap(), bytes);
    assert_eq!((counts(&node).checked, counts(&node).lacking), (0, 1), "the brick lacks it");

    let copy = volume.replicate(&node, "f");
    // From here on the mount has other bytes: whoever gets the right ones has them from the brick.
    flip(&volume.places(&node, "f").0);
    for _ in 0..3 {
        assert_eq!(open(&node, "f").unwrap(), bytes);
    }
    assert_eq!((counts(&node).checked, counts(&node).bad), (1, 0), "once");

    // Another inode with the same bytes is another copy.
    let again = copy.with_extension("again");
    kit::copy(&copy, &again);
    fs::rename(&again, &copy).unwrap();
    assert_eq!(open(&node, "f").unwrap(), bytes);
    assert_eq!(counts(&node).checked, 2);
    node.close();

    // That it was checked outlives the node.
    let node = volume.node(100);
    assert_eq!(open(&node, "f").unwrap(), bytes);
    assert_eq!(counts(&node).checked, 0);
    node.close();
}

#[test]
fn a_large_copy_is_checked_before_anybody_asks_for_it() {
    let volume = Volume::begun();
    let node = volume.node(1);
    let (small, large) = (content(1, 300_000), content(2, 16 << 20));
    node.put("small", &small).unwrap();
    node.put("large", &large).unwrap();
    node.put("whole later", &large).unwrap();
    volume.replicate(&node, "small");
    volume.replicate(&node, "large");
    // Under heal: its record, and the begin of its content.
    let copy = volume.replicate(&node, "whole later");
    fs::File::options().write(true).open(&copy).unwrap().set_len(5 << 20).unwrap();
    until("the large one is checked", || counts(&node).ahead == 1);
    // What the mount has now is not what a reader gets.
    for file in ["small", "large"] {
        flip(&volume.places(&node, file).0);
    }
    assert_eq!(open(&node, "large").unwrap(), large);
    assert_eq!(counts(&node).checked, 0, "nobody waited");
    assert_eq!(open(&node, "small").unwrap(), small);
    assert_eq!(counts(&node).checked, 1);

    fs::write(&copy, &large).unwrap();
    until("the healed one is checked", || counts(&node).ahead == 2);
    // One that comes to a folder that was looked at already, and does not have its checksum.
    node.put("rotten", &large).unwrap();
    flip(&volume.replicate(&node, "rotten"));
    until("the rotten one is found", || counts(&node).bad == 1);
    assert!(matches!(open(&node, "rotten"), Err(OpenFileError::Mending)));
    assert_eq!((counts(&node).checked, counts(&node).ahead), (1, 3));
    node.close();
}

#[test]
fn a_copy_under_heal_is_left_to_the_mount() {
    let volume = Volume::begun();
    let node = volume.node(1);
    let bytes = content(2, 100_000);
    node.put("f", &bytes).unwrap();
    let copy = volume.replicate(&node, "f");
    for size in [0, 1, 99_999] {
        fs::File::options().write(true).open(&copy).unwrap().set_len(size).unwrap();
        assert_eq!(open(&node, "f").unwrap(), bytes, "{size} bytes");
    }
    // Of full size, with a part of its blocks.
    fs::File::options().write(true).open(&copy).unwrap().set_len(100_000).unwrap();
    assert!(matches!(open(&node, "f"), Err(OpenFileError::Mending)));
    fs::write(&copy, &bytes).unwrap();
    assert_eq!(open(&node, "f").unwrap(), bytes, "healed");
    assert_eq!(counts(&node).bad, 0);
    node.close();
}

#[test]
fn no_byte_of_a_bad_copy_is_served_whatever_became_of_it_before_or_after_its_check() {
    let volume = Volume::begun();
    let node = volume.node(1);
    for number in 0..20 {
        let file = format!("f{number}");
        let bytes = content(number, 50_000);
        node.put(&file, &bytes).unwrap();
        let copy = volume.replicate(&node, &file);
        if number % 2 == 0 {
            assert_eq!(open(&node, &file).unwrap(), bytes);
        }
        flip(&copy);
        for _ in 0..3 {
            assert!(matches!(open(&node, &file), Err(OpenFileError::Mending)), "{file}");
        }
    }
    node.close();
}

#[test]
fn what_rots_after_its_check_is_found_by_the_next_pass() {
    let mut volume = Volume::begun();
    let files: Vec<String> = (0..30).map(|number| format!("f{number}")).collect();
    let node = volume.node(1);
    let mut copies = Vec::new();
    for (number, file) in files.iter().enumerate() {
        node.put(file, &content(number as u64, 20_000 + number)).unwrap();
        copies.push(volume.replicate(&node, file));
        open(&node, file).unwrap();
    }
    for copy in copies.iter().step_by(3) {
        rot(copy);
    }
    node.close();
    volume.within = Duration::from_secs(4);
    let node = volume.node(1000);
    until("a pass has ended", || brick(&node).scrub.ended_at > 0);
    let scrub = brick(&node).scrub;
    assert_eq!((scrub.files, scrub.bad), (30, 10), "{scrub:?}");
    for (number, file) in files.iter().enumerate() {
        match open(&node, file) {
            Ok(bytes) => {
                assert!(number % 3 != 0 && bytes == content(number as u64, 20_000 + number));
            }
            Err(OpenFileError::Mending) => assert_eq!(number % 3, 0),
            Err(error) => panic!("{file}: {error}"),
        }
    }
    // Without a volume behind the mount nothing can be mended, and a person is told so.
    until("a person is called", || brick(&node).beyond_help == 10);
    assert!(copies.iter().all(|copy| copy.exists()), "nothing is gone");
    let pass = brick(&node).scrub.begun_at;
    until("the next pass", || brick(&node).scrub.begun_at > pass);
    node.close();
}

#[test]
fn what_is_bad_on_the_disk_is_not_served_for_being_good_in_memory() {
    if kit::disk::skipped("bad on the disk, good in memory") {
        return;
    }
    let disk = Disk::new("ext4", 64);
    let mut volume = Volume::on(quick_folder(), disk.mount.clone()).begin();
    let bytes = content(7, 300_000);
    let copy = {
        let node = volume.node(1);
        node.put("f", &bytes).unwrap();
        let copy = volume.replicate(&node, "f");
        fs::File::open(&copy).unwrap().sync_all().unwrap();
        assert_eq!(open(&node, "f").unwrap(), bytes);
        node.close();
        copy
    };
    disk.flip(&bytes[20 * 4096..21 * 4096]);
    assert_eq!(fs::read(&copy).unwrap(), bytes, "it is good in memory");
    volume.within = Duration::from_secs(2);
    let node = volume.node(1000);
    until("the disk was read", || brick(&node).scrub.bad == 1);
    assert!(matches!(open(&node, "f"), Err(OpenFileError::Mending)));
    node.close();
    assert_eq!(fs::read(&copy).unwrap(), bytes, "it is good in memory still");
    volume.within = Duration::ZERO;
    let node = volume.node(2000);
    assert!(matches!(open(&node, "f"), Err(OpenFileError::Mending)));
    node.close();
}

#[test]
fn a_brick_whose_disk_is_not_there_is_waited_for() {
    let volume = Volume::begun();
    let aside = volume.folder.path().join("disk-away");
    fs::rename(&volume.disk, &aside).unwrap();
    let node = volume.node(1);
    let bytes = content(3, 1000);
    node.put("f", &bytes).unwrap();
    assert_eq!(open(&node, "f").unwrap(), bytes);
    assert!(!brick(&node).is_open);
    fs::rename(&aside, &volume.disk).unwrap();
    until("the brick is there", || brick(&node).is_open);
    volume.replicate(&node, "f");
    assert_eq!(open(&node, "f").unwrap(), bytes);
    assert_eq!(counts(&node).checked, 1);
    assert_eq!(node.stores.status()[0].health, Health::Ok);
    node.close();
}

#[test]
fn what_is_no_brick_of_this_store_is_refused() {
    let volume = Volume::begun();
    let refusal = |config: &StoreConfig| {
        let database = volume.folder.path().join("storage.db");
        let metadata = reel_engine::metadata::Metadata::sqlite(&database).unwrap();
        match reel_engine::store::Stores::open(config, metadata) {
            Ok(_) => panic!("taken"),
            Err(error) => (error.to_string(), error),
        }
    };
    let with_brick = |path: PathBuf, state: Option<PathBuf>| {
        let mut config = volume.config();
        config.paths[0].brick = Some(BrickConfig { path, state, scrub_within: Duration::ZERO });
        config
    };
    let (text, _) = refusal(&with_brick(volume.mount(), None));
    assert!(text.contains("no folder of a GlusterFS volume"), "{text}");

    let other = volume.brick().with_file_name("other");
    copy(&volume.brick(), &other);
    let identity = other.join(".reel/store.toml");
    let text = fs::read_to_string(&identity).unwrap();
    let uuid = text.split('"').find(|part| part.len() == 36).unwrap();
    fs::write(&identity, text.replace(uuid, "00000000-0000-4000-8000-000000000000")).unwrap();
    let (text, _) = refusal(&with_brick(other, None));
    assert!(text.contains("00000000-0000-4000-8000-000000000000 lies there"), "{text}");

    let inside = volume.brick().with_file_name("own");
    let (text, _) = refusal(&with_brick(volume.brick(), Some(inside)));
    assert!(text.contains("not in the volume's folder"), "{text}");

    // A store path that is itself a brick.
    let (text, error) = refusal(&config(&[&volume.brick()]));
    assert!(matches!(error, OpenError::IsBrick { .. }), "{text}");
}
