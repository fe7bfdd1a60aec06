//! A process without free descriptors: what needs one fails, and no disk is blamed for it.
#![allow(clippy::unwrap_used, missing_docs)]

mod kit;

use std::{
    fs::{self, File},
    process::Command,
};

use kit::{config, key, put_as, quick_folder};
use reel_engine::{
    metadata::{Metadata, wait},
    store::{BlockRefused, Health, Stores, UploadError},
};

const CHILD: &str = "REEL_DESCRIPTORS_CHILD";

/// The limit is the whole process's, so the test runs in one of its own.
#[test]
fn want_of_descriptors_makes_no_store_path_read_only() {
    let folder = quick_folder();
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child_without_descriptors", "--nocapture", "--test-threads=1"])
        .env(CHILD, folder.path())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&child.stdout);
    assert!(child.status.success(), "{text}{}", String::from_utf8_lossy(&child.stderr));
    assert!(text.contains("1 passed"), "{text}");
}

/// Takes every descriptor that the process may still have.
fn take_all() -> Vec<File> {
    let mut taken = Vec::new();
    while let Ok(file) = File::open("/dev/null") {
        taken.push(file);
    }
    taken
}

#[test]
fn child_without_descriptors() {
    let Some(folder) = std::env::var_os(CHILD).map(std::path::PathBuf::from) else { return };
    let store = folder.join("store");
    let metadata = Metadata::sqlite(&folder.join("storage.db")).unwrap();
    let stores = Stores::open(&config(&[&store]), metadata).unwrap();
    wait(stores.block_arrived(0, 0..64)).unwrap();
    let put = |name: &str| put_as(&stores, key("tnv001", name), b"content");
    put("before").unwrap();
    let open = fs::read_dir("/proc/self/fd").unwrap().count() as u64;
    let limit = libc::rlimit { rlim_cur: open + 16, rlim_max: open + 16 };
    // SAFETY: the struct is valid for the call, which changes nothing but this process's limit.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) }, 0);
    let status = || stores.status().remove(0);
    // One for the file; its folder cannot be opened for the sync any more.
    let mut taken = take_all();
    taken.pop();
    let failed = put("during").unwrap_err();
    assert!(matches!(failed, UploadError::Disk { .. }), "{failed:?}");
    assert_eq!((status().health, status().fault), (Health::Ok, None), "the sync was not asked");
    // None: the mark cannot be written, so the block is not used.
    taken.extend(take_all());
    let refused = wait(stores.block_arrived(0, 64..128)).unwrap_err();
    assert!(matches!(refused, BlockRefused::Disk(_)), "{refused:?}");
    assert_eq!((status().health, status().mark), (Health::Ok, 64));
    drop(taken);
    put("after").unwrap();
    wait(stores.block_arrived(0, 64..128)).unwrap();
    assert_eq!(status().mark, 128);
    kit::until("the failed upload is gone", || kit::files(&store).len() == 2);
    stores.close(std::time::Duration::from_secs(5));
}
