//! A store path whose disk is not mounted: the node refuses to begin an empty store there, until it is told to.
#![allow(clippy::unwrap_used, missing_docs)]

mod kit;

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use kit::{
    Node, config, content,
    disk::{Disk, missing},
    faulty::{self, Wrong},
    quick_folder,
};
use reel_engine::{
    metadata::Metadata,
    store::{OpenError, StoreConfig, Stores, identity::IdentityError},
};

/// A store path whose disk can be taken away: a real mount, or a folder that is emptied.
enum Place {
    Mount(Disk),
    Folder { here: PathBuf, aside: PathBuf },
}

impl Place {
    fn new(folder: &Path) -> Self {
        if missing().is_none() {
            return Self::Mount(Disk::new("ext4", 32));
        }
        let (here, aside) = (folder.join("disk"), folder.join("aside"));
        fs::create_dir(&here).unwrap();
        Self::Folder { here, aside }
    }

    fn path(&self) -> PathBuf {
        match self {
            Self::Mount(disk) => disk.mount.clone(),
            Self::Folder { here, .. } => here.clone(),
        }
    }

    fn take_away(&mut self) {
        match self {
            Self::Mount(disk) => disk.unmount(),
            Self::Folder { here, aside } => {
                fs::rename(&*here, &*aside).unwrap();
                fs::create_dir(here).unwrap();
            }
        }
    }

    /// Whatever was put into the folder meanwhile is under the mount, or gone.
    fn bring_back(&mut self) {
        match self {
            Self::Mount(disk) => disk.mount(),
            Self::Folder { here, aside } => {
                fs::remove_dir_all(&*here).unwrap();
                fs::rename(aside, here).unwrap();
            }
        }
    }
}

fn open(config: &StoreConfig, database: &Path) -> Result<Arc<Stores>, OpenError> {
    Stores::open(config, Metadata::sqlite(database).unwrap())
}

fn uuid(stores: &Stores) -> String {
    stores.status()[0].uuid.clone()
}

fn close(stores: Arc<Stores>) {
    stores.close(Duration::ZERO);
}

#[test]
fn an_empty_folder_where_a_disk_is_not_mounted_is_refused_and_left_empty() {
    let folder = quick_folder();
    let database = folder.path().join("storage.db");
    let mut place = Place::new(folder.path());
    let path = place.path();
    let mut config = config(&[&path]);
    let node = Node::open_with(&config, &database, 0);
    node.put("f", &content(1, 1000)).unwrap();
    let first = uuid(&node.stores);
    node.close();

    place.take_away();
    for _ in 0..2 {
        let refused = open(&config, &database).err();
        let Some(OpenError::Identity(IdentityError::Missing { uuid, .. })) = &refused else {
            panic!("{refused:?}");
        };
        assert_eq!(*uuid, first);
        assert_eq!(fs::read_dir(&path).unwrap().count(), 0, "something was made in the folder");
    }
    place.bring_back();
    let node = Node::open_with(&config, &database, 0);
    assert_eq!(node.read("f").unwrap(), content(1, 1000));
    node.close();

    place.take_away();
    config.paths[0].replaced = Some(first.clone());
    let stores = open(&config, &database).unwrap();
    let second = uuid(&stores);
    assert_ne!(second, first);
    close(stores);
    // Left in or taken out: the new store is the expected one now.
    close(open(&config, &database).unwrap());
    config.paths[0].replaced = None;
    close(open(&config, &database).unwrap());

    place.bring_back();
    let refused = open(&config, &database).err();
    let Some(OpenError::Identity(IdentityError::Another { uuid: expected, found, .. })) = &refused
    else {
        panic!("{refused:?}");
    };
    assert_eq!((expected, found), (&second, &first));
    config.paths[0].replaced = Some(second.clone());
    let stores = open(&config, &database).unwrap();
    assert_eq!(uuid(&stores), first);
    close(stores);
}

#[test]
fn each_node_expects_its_own_and_a_lost_database_nothing() {
    let folder = quick_folder();
    let database = folder.path().join("storage.db");
    let path = folder.path().join("store");
    let mut config = config(&[&path]);
    let stores = open(&config, &database).unwrap();
    let first = uuid(&stores);
    close(stores);
    // The disk is believed where the database says nothing.
    let stores = open(&config, &folder.path().join("other.db")).unwrap();
    assert_eq!(uuid(&stores), first);
    close(stores);
    fs::remove_dir_all(&path).unwrap();
    assert!(open(&config, &database).is_err());
    config.node = reel_proto::name::HostName::parse("node-2").unwrap();
    let stores = open(&config, &database).unwrap();
    assert_ne!(uuid(&stores), first);
    close(stores);
}

#[test]
fn a_start_that_ends_between_the_store_and_its_expectation_is_made_up_for_by_the_next() {
    for wrong in [Wrong::Refused, Wrong::LostUndone, Wrong::LostDone] {
        let folder = quick_folder();
        let database = folder.path().join("storage.db");
        let path = folder.path().join("store");
        let (metadata, script) = faulty::metadata(&database);
        script.lock().unwrap().writes.push_back(wrong);
        let failed = Stores::open(&config(&[&path]), metadata).err();
        assert!(matches!(failed, Some(OpenError::Metadata { .. })), "{failed:?}");
        let made = fs::read_to_string(path.join(".reel/store.toml")).unwrap();
        let stores = open(&config(&[&path]), &database).unwrap();
        assert!(made.contains(&uuid(&stores)), "the store that was made is the one that is opened");
        close(stores);
        fs::remove_dir_all(&path).unwrap();
        assert!(open(&config(&[&path]), &database).is_err(), "from then on it is expected");
    }
}
