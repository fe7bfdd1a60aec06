//! A bit of the journal flips after a crash: that costs one file at most, and none that lies in its place.

use std::{
    collections::HashMap,
    fs,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
};

use anyhow::Result;
use reel_client::FileId;
use reel_tests::{
    crash::Crash,
    disk::FileSystem,
    history::{History, State},
    process::Up,
    seed::{Content, Seeded, count_from},
};

use crate::{
    journaled,
    judge::{find, judge},
    possible,
};

/// Bytes of a body that lie before its content for certain: its checksum covers them.
const BODY_BYTES_MIN: u64 = 64;

const DAMAGED: &str =
    "entries of the journal are damaged; what was acknowledged before and after them is replayed";

#[test]
fn a_flipped_bit_after_kill_nine_loses_nothing() {
    a_flipped_bit(Crash::kill(), "flip-kill");
}

#[test]
fn a_flipped_bit_after_power_loss_on_ext4_loses_one_file_at_most() {
    a_flipped_bit(Crash::power(FileSystem::Ext4), "flip-ext4");
}

#[test]
fn a_flipped_bit_after_power_loss_on_xfs_loses_one_file_at_most() {
    a_flipped_bit(Crash::power(FileSystem::Xfs), "flip-xfs");
}

fn a_flipped_bit(crash: Result<Crash>, name: &str) {
    let Some(mut crash) = possible(name, crash) else { return };
    let mut seeded = Seeded::of_test(name);
    for journal in 1..=count_from("REEL_TORTURE_FLIPS", 1) {
        let data = crash.folder(&format!("data-{journal}")).unwrap();
        let up = Up::new(&data);
        let mut history = journaled::fill(&mut crash, &up, &mut seeded);
        let (segment, at, file, content) = in_the_middle(&data.join("meta"), &history).unwrap();
        let in_place = find(&data.join("store"), &content.bytes()).is_some();
        // In its content, which costs this entry. Where every file is in its place also in what comes before: its
        // lengths are not believed then, and those behind it in its group are lost with it.
        let before = if matches!(crash, Crash::Kill(_)) { BODY_BYTES_MIN } else { 0 };
        let place = at - before + seeded.below(before + content.size);
        flip(&segment, place, &mut seeded);
        if !in_place {
            history.excuse(file);
        }
        let survivor = crash.survivor(&up).expect_log(DAMAGED).expect_log(file.as_ref());
        let store = survivor.start().unwrap();
        let verdict = judge(&mut history, &store)
            .unwrap_or_else(|error| panic!("{name} {journal}, byte {place}: {error:#}"));
        println!(
            "{name} {journal}: {file} at {at}, byte {place}, in place: {in_place}; {verdict:?}"
        );
        assert_eq!(store.log().with_message(DAMAGED).len(), 1, "the bit flipped nowhere");
        store.drain().unwrap();
    }
}

/// The first content in the second half of what is written of the journal: its segment, where it lies there, and whose it
/// is.
fn in_the_middle(meta: &Path, history: &History) -> Option<(PathBuf, u64, FileId, Content)> {
    const BLOCK: usize = 4096;
    let begin = |bytes: &[u8]| bytes.first_chunk::<8>().map(|begin| u64::from_ne_bytes(*begin));
    let files: HashMap<u64, (FileId, Content)> = history
        .known(State::Normal)
        .filter_map(|(file, content)| Some((begin(&content.bytes())?, (file, content))))
        .collect();
    let (segment, bytes, used) = fs::read_dir(meta.join("storage.journal"))
        .ok()?
        .filter_map(|entry| {
            let segment = entry.ok()?.path();
            let bytes = fs::read(&segment).ok()?;
            let used = bytes.chunks(BLOCK).rposition(|block| block != [0; BLOCK])?;
            (segment.extension()? == "segment").then_some((segment, bytes, used))
        })
        .max_by_key(|(.., used)| *used)?;
    let (at, (file, content)) = (used / 2 * BLOCK..bytes.len()).find_map(|at| {
        let (file, content) = files.get(&begin(&bytes[at..])?)?;
        bytes[at..].starts_with(&content.bytes()).then_some((at, (*file, *content)))
    })?;
    Some((segment, at as u64, file, content))
}

fn flip(segment: &Path, at: u64, seeded: &mut Seeded) {
    let file = fs::File::options().read(true).write(true).open(segment).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ (1 << seeded.below(8))], at).unwrap();
}
