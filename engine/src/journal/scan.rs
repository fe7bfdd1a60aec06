//! Reads a journal back after a crash: which entries are live, and which are lost.
//!
//! A power loss can leave the last group torn: nobody was told of it. Anything else that cannot be read was
//! acknowledged and has rotted. One damaged entry costs itself alone where its lengths are sound, else its group from
//! there on; the groups behind it are found again, because groups begin at multiples of a block.

use std::{collections::BTreeSet, io, ops::Range, path::Path};

use bytes::Bytes;

use super::{
    format::{
        BLOCK, Damaged, ENTRY_HEADER_LEN, Entry, GROUP_HEADER_LEN, GroupHeader, SegmentHeader,
        read_entry,
    },
    segment::{self, Segment},
};

/// A journal as the last run left it.
#[derive(Debug)]
pub(crate) struct Recovered {
    /// Segments in use, the oldest use first, and up to which entry each of them counts.
    used: Vec<Used>,
    /// Segments that were never used, or whose use is over.
    pub(super) free: Vec<Segment>,
    /// Entries up to here lie durably in their place.
    pub(super) recycled: u64,
    /// The highest epoch of any segment.
    pub(super) epoch: u64,
    /// What was found, without contents.
    pub(crate) found: Found,
    aborted: BTreeSet<u64>,
}

#[derive(Debug)]
struct Used {
    segment: Segment,
    header: SegmentHeader,
    /// Entries from this number on are void: a later use began with it.
    end: u64,
}

/// What is in a journal.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Found {
    /// Entries above [`Recovered::recycled`] that can be read.
    pub(crate) live: u64,
    /// The highest sequence number seen.
    pub(crate) last: u64,
    /// Entries that were acknowledged and cannot be read.
    pub(crate) lost: Vec<u64>,
    /// Entries of a last group that is torn: acknowledged to nobody.
    pub(crate) torn: u64,
}

impl Recovered {
    /// Opens the journal of a folder, which is made where it is not there, and looks at every entry.
    ///
    /// # Errors
    /// A file could not be read. What can be read and makes no sense is no error.
    pub(crate) fn open(folder: &Path) -> io::Result<Self> {
        if !folder.is_dir() {
            std::fs::create_dir_all(folder)?;
            if let Some(parent) = folder.parent() {
                segment::sync_folder(parent)?;
            }
        }
        let recycled = segment::read_state(folder).or_else(|error| match error.kind() {
            io::ErrorKind::InvalidData => {
                tracing::error!(folder = %folder.display(), %error, "going by the entries themselves");
                Ok(None)
            }
            _ => Err(error),
        })?;
        let mut recovered = Self {
            used: Vec::new(),
            free: Vec::new(),
            recycled: recycled.unwrap_or(0),
            epoch: 0,
            found: Found::default(),
            aborted: BTreeSet::new(),
        };
        for (number, path) in segment::list(folder)? {
            let segment = Segment::open(&path, number)?;
            match segment.header()? {
                Ok(Some(header)) => {
                    recovered.epoch = recovered.epoch.max(header.epoch);
                    recovered.used.push(Used { segment, header, end: u64::MAX });
                }
                Ok(None) => recovered.free.push(segment),
                Err(Damaged(what)) => {
                    // A crash while its header was written, when nothing of the new use was there yet; or both copies
                    // have rotted: then the numbers that are missing tell.
                    tracing::warn!(segment = %path.display(), what, "nothing in it can be told from older contents");
                    recovered.free.push(segment);
                }
            }
        }
        recovered.order();
        recovered.look()?;
        Ok(recovered)
    }

    fn order(&mut self) {
        self.used.sort_by_key(|used| used.header.epoch);
        let mut end = u64::MAX;
        for used in self.used.iter_mut().rev() {
            used.end = end;
            end = end.min(used.header.first);
        }
    }

    /// The first pass: how far the entries go, which are aborted, which are lost.
    fn look(&mut self) -> io::Result<()> {
        let mut found = Found::default();
        let mut aborted = BTreeSet::new();
        let last_use = self.used.len().saturating_sub(1);
        for (index, used) in self.used.iter().enumerate() {
            if used.end <= self.recycled + 1 {
                continue;
            }
            let mut bad = Vec::new();
            let mut last_group = 0;
            used.walk(|group, sequence, entry| {
                found.last = found.last.max(sequence);
                match entry {
                    Ok(Entry::Abort(list)) => aborted.extend(list),
                    Ok(_) => found.live += u64::from(sequence > self.recycled),
                    Err(_) => bad.push((group, sequence)),
                }
                last_group = group;
                Ok(())
            })?;
            for (group, sequence) in bad.into_iter().filter(|bad| bad.1 > self.recycled) {
                if index == last_use && group == last_group {
                    found.torn += 1;
                } else {
                    found.lost.push(sequence);
                }
            }
        }
        if let Some(gap) = self.gap() {
            tracing::error!(?gap, "entries of the journal are missing");
        }
        self.found = found;
        self.aborted = aborted;
        Ok(())
    }

    /// Entries up to this one lie durably in their place.
    pub(crate) fn recycled(&self) -> u64 {
        self.recycled
    }

    /// Whether nothing has to be replayed.
    pub(crate) fn is_empty(&self) -> bool {
        self.found.live == 0 && self.found.lost.is_empty()
    }

    /// Every live entry in order.
    ///
    /// # Errors
    /// A segment could not be read, or what `each` says.
    pub(crate) fn entries(
        &self,
        mut each: impl FnMut(u64, Entry) -> io::Result<()>,
    ) -> io::Result<()> {
        for used in self.used.iter().filter(|used| used.end > self.recycled + 1) {
            used.walk(|_, sequence, entry| match entry {
                Ok(entry) if sequence > self.recycled && !self.aborted.contains(&sequence) => {
                    each(sequence, entry)
                }
                _ => Ok(()),
            })?;
        }
        Ok(())
    }

    /// Whether numbers are missing between what is durable in its place and the first that can be read.
    fn gap(&self) -> Option<Range<u64>> {
        let first = self.used.iter().find(|used| used.end > self.recycled + 1)?.header.first;
        (first > self.recycled + 1 && self.recycled > 0).then(|| self.recycled + 1..first)
    }

    /// Marks everything as durable in its place: nothing of it is replayed again.
    ///
    /// # Errors
    /// The state could not be written.
    pub(crate) fn retire(&self, folder: &Path, position: u64) -> io::Result<()> {
        segment::write_state(folder, self.found.last.max(self.recycled).max(position))
    }

    /// All segments, none of which holds anything that is needed: after the replay. The one that was written last comes
    /// first.
    pub(super) fn into_segments(self) -> Vec<Segment> {
        let used = self.used.into_iter().rev().map(|used| used.segment);
        used.chain(self.free).collect()
    }
}

impl Used {
    /// Hears of every entry: its group, its number, and what it is.
    fn walk(
        &self,
        mut each: impl FnMut(usize, u64, Result<Entry, Damaged>) -> io::Result<()>,
    ) -> io::Result<()> {
        let length = usize::try_from(self.segment.len()?).unwrap_or(usize::MAX);
        let bytes = Bytes::from(self.segment.read(BLOCK, length)?);
        // No gap can be longer than a segment of the shortest entries.
        let entries_max = (length / ENTRY_HEADER_LEN) as u64;
        let mut expected = self.header.first;
        let mut at = 0;
        while let Some((start, group)) =
            self.next_group(&bytes, at, expected..expected + entries_max)
        {
            for sequence in expected..group.first.min(self.end) {
                each(start, sequence, Err(Damaged("group")))?;
            }
            let end = start.saturating_add(usize::try_from(group.length).unwrap_or(usize::MAX));
            let mut rest =
                bytes.slice((start + GROUP_HEADER_LEN).min(bytes.len())..end.min(bytes.len()));
            for sequence in group.first..group.first + u64::from(group.entries) {
                if sequence >= self.end {
                    return Ok(());
                }
                match read_entry(&rest, self.header.binding(sequence)) {
                    Ok((used, entry)) => {
                        rest = rest.slice(used..);
                        each(start, sequence, entry)?;
                    }
                    Err(damaged) => {
                        rest = Bytes::new();
                        each(start, sequence, Err(damaged))?;
                    }
                }
            }
            expected = group.first + u64::from(group.entries);
            at = end.next_multiple_of(BLOCK as usize);
        }
        Ok(())
    }

    /// The next group of this use at or after `from` whose first number is one of `expected`. Where another one than
    /// the first of them is found, the space between is damaged.
    fn next_group(
        &self,
        bytes: &[u8],
        from: usize,
        expected: Range<u64>,
    ) -> Option<(usize, GroupHeader)> {
        (from..bytes.len())
            .step_by(BLOCK as usize)
            .filter_map(|at| Some((at, GroupHeader::read(&bytes[at..]).ok()?)))
            .find(|(_, group)| group.nonce == self.header.nonce && expected.contains(&group.first))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::{os::unix::fs::FileExt as _, path::PathBuf, sync::Arc, time::Duration};

    use reel_meta::{FileStatus, RowRef, StatusChange};
    use reel_node::capability::RingFlags;

    use super::*;
    use crate::journal::{AppendError, Gate, Journal, JournalConfig, SEGMENT_BYTES_MIN};

    fn config(folder: &Path) -> JournalConfig {
        JournalConfig {
            folder: folder.join("journal"),
            database: PathBuf::new(),
            segment_bytes: SEGMENT_BYTES_MIN,
            segments_max: 3,
            enabled: true,
            full_wait: Duration::from_millis(200),
            ring: Some(RingFlags::default()),
        }
    }

    fn begin(folder: &Path) -> Journal {
        let config = config(folder);
        let recovered = Recovered::open(&config.folder).unwrap();
        let mut journal =
            Journal::begin(&config, recovered, 0, &Arc::new(Gate::closed())).unwrap().0;
        journal.open();
        journal
    }

    fn change(file: &str) -> StatusChange {
        let text = str::to_owned;
        StatusChange {
            row: RowRef { user: text("u"), file: text(file), path: text("p") },
            status: FileStatus::Deleted,
            deleted_at: Some(1),
            changed_at: Some(1),
        }
    }

    fn append(journal: &mut Journal, files: &[&str]) -> std::ops::Range<u64> {
        files.iter().for_each(|file| journal.status(&change(file)));
        let entries = journal.send().unwrap();
        journal.settled().unwrap();
        entries
    }

    /// What would be replayed: numbers and file ids.
    fn live(folder: &Path) -> (Found, Vec<(u64, String)>) {
        let recovered = Recovered::open(&folder.join("journal")).unwrap();
        let mut live = Vec::new();
        recovered
            .entries(|number, entry| {
                if let Entry::Status(change) = entry {
                    live.push((number, change.row.file));
                }
                Ok(())
            })
            .unwrap();
        (recovered.found, live)
    }

    fn named(live: &[(u64, &str)]) -> Vec<(u64, String)> {
        live.iter().map(|(number, file)| (*number, (*file).to_owned())).collect()
    }

    /// Flips a bit of the only segment, `at` bytes into its `group`th block after the header.
    fn flip(folder: &Path, group: u64, at: u64) {
        let (_, path) = segment::list(&folder.join("journal")).unwrap().remove(0);
        let file = std::fs::File::options().read(true).write(true).open(path).unwrap();
        let place = (1 + group) * BLOCK + at;
        let mut byte = [0];
        file.read_exact_at(&mut byte, place).unwrap();
        file.write_all_at(&[byte[0] ^ 4], place).unwrap();
    }

    #[test]
    fn entries_are_numbered_and_found_and_a_new_begin_leaves_nothing_live() {
        let folder = tempfile::tempdir().unwrap();
        let mut journal = begin(folder.path());
        assert_eq!(append(&mut journal, &["a", "b"]), 1..3);
        assert_eq!(append(&mut journal, &["c"]), 3..4);
        journal.abort(2..3).unwrap();
        let (found, entries) = live(folder.path());
        assert_eq!((found.last, found.torn, found.lost), (4, 0, vec![]));
        assert_eq!(entries, named(&[(1, "a"), (3, "c")]), "b did not happen");
        let mut journal = begin(folder.path());
        assert_eq!(live(folder.path()).1, vec![]);
        assert_eq!(append(&mut journal, &["d"]), 5..6, "numbers go on");
        assert_eq!(live(folder.path()).1, named(&[(5, "d")]));
    }

    #[test]
    fn damage_costs_its_group_and_a_torn_end_is_no_damage() {
        let groups: [&[&str]; 4] = [&["a"], &["b", "c"], &["d"], &["e", "f"]];
        for (group, at, lost, torn, left) in [
            // A header: its group is gone, those behind it are found.
            (1, 3, vec![2, 3], 0, vec![(1, "a"), (4, "d"), (5, "e"), (6, "f")]),
            // The body of its second entry.
            (1, 130, vec![3], 0, vec![(1, "a"), (2, "b"), (4, "d"), (5, "e"), (6, "f")]),
            // The last group: perhaps it never was whole.
            (3, 130, vec![], 1, vec![(1, "a"), (2, "b"), (3, "c"), (4, "d"), (5, "e")]),
            (3, 3, vec![], 0, vec![(1, "a"), (2, "b"), (3, "c"), (4, "d")]),
        ] {
            let folder = tempfile::tempdir().unwrap();
            let mut journal = begin(folder.path());
            for files in groups {
                append(&mut journal, files);
            }
            flip(folder.path(), group, at);
            let (found, entries) = live(folder.path());
            assert_eq!((found.lost, found.torn), (lost, torn), "group {group} at {at}");
            assert_eq!(entries, named(&left), "group {group} at {at}");
        }
    }

    #[test]
    fn entries_of_a_write_that_failed_are_void() {
        let folder = tempfile::tempdir().unwrap();
        let mut journal = begin(folder.path());
        append(&mut journal, &["a"]);
        // The second of these reached the disk although the sync said no: the next segment begins with its number.
        append(&mut journal, &["b", "never"]);
        let later = folder.path().join("journal");
        let mut segment = Segment::create(&later, 9, SEGMENT_BYTES_MIN).unwrap();
        segment.begin(&SegmentHeader::new(77, 3, 5)).unwrap();
        let (found, entries) = live(folder.path());
        assert_eq!(entries, named(&[(1, "a"), (2, "b")]));
        assert_eq!((found.last, found.lost), (2, vec![]));
    }

    #[test]
    fn a_group_without_the_nonce_of_its_segment_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let mut journal = begin(folder.path());
        append(&mut journal, &["a"]);
        // Right where the next group would begin, with the next number: as a content of an earlier use may hold it.
        let mut forged = crate::journal::format::Group::default();
        forged.clear();
        forged.status(&change("forged"));
        let bytes = forged.seal(12_345, 2);
        let (_, path) = segment::list(&folder.path().join("journal")).unwrap().remove(0);
        let file = std::fs::File::options().write(true).open(path).unwrap();
        file.write_all_at(&bytes, 2 * BLOCK).unwrap();
        assert_eq!(live(folder.path()).1, named(&[(1, "a")]));
    }

    /// The power went when the first block of a group was on the disk.
    #[test]
    fn the_rest_of_a_torn_group_is_not_what_was_there_before() {
        let folder = tempfile::tempdir().unwrap();
        let journal = folder.path().join("journal");
        std::fs::create_dir(&journal).unwrap();
        let mut segment = Segment::create(&journal, 0, SEGMENT_BYTES_MIN).unwrap();
        let (_, path) = segment::list(&journal).unwrap().remove(0);
        let file = std::fs::File::options().write(true).open(path).unwrap();
        let content = |byte| Bytes::from(vec![byte; 2 * BLOCK as usize]);
        let group = |byte, status: &str, nonce, first| {
            let mut group = crate::journal::format::Group::default();
            group.clear();
            group.put(&row(&content(byte)), Some(&[content(byte)]));
            group.status(&change(status));
            group.seal(nonce, first)
        };
        segment.begin(&SegmentHeader::new(1, 1, 5)).unwrap();
        file.write_all_at(&group(1, "old", 5, 1), BLOCK).unwrap();
        assert_eq!(live(folder.path()).1, named(&[(2, "old")]));
        segment.begin(&SegmentHeader::new(2, 3, 6)).unwrap();
        file.write_all_at(&group(2, "new", 6, 3)[..BLOCK as usize], BLOCK).unwrap();
        let (found, live) = live(folder.path());
        assert_eq!((found.torn, found.lost, live), (2, Vec::new(), Vec::new()));
    }

    fn row(content: &Bytes) -> reel_meta::NewFile {
        reel_meta::NewFile {
            file: "f".to_owned(),
            app: "a".to_owned(),
            user: "u".to_owned(),
            file_path: "p".to_owned(),
            size: content.len() as u64,
            created_at: 1,
            checksum: Some(reel_proto::checksum::Crc64::of(content)),
            name: None,
            content_type: None,
            expires_at: None,
            deleted_at: None,
        }
    }

    #[test]
    fn a_journal_that_gets_no_space_back_freezes() {
        let folder = tempfile::tempdir().unwrap();
        let config = config(folder.path());
        let recovered = Recovered::open(&config.folder).unwrap();
        let gate = Arc::new(Gate::closed());
        // Nobody recycles.
        let (mut journal, _recycler) = Journal::begin(&config, recovered, 0, &gate).unwrap();
        journal.open();
        assert!(gate.is_open());
        let content = vec![Bytes::from(vec![7; 1 << 20])];
        let row = row(&content[0]);
        let frozen = (0..9).find_map(|_| {
            journal.put(&row, Some(&content));
            journal.send().and_then(|_| journal.settled()).err()
        });
        assert!(matches!(frozen, Some(AppendError::Frozen)), "{frozen:?}");
        assert!(!gate.is_open());
        journal.put(&row, None);
        assert!(matches!(journal.send(), Err(AppendError::Frozen)));
    }
}
