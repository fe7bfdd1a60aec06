//! What is written is read, every flip and every cut is noticed, and the bytes of the headers are what the docs say.

use super::*;

fn row(content: &[u8]) -> Box<NewFile> {
    Box::new(NewFile {
        file: "film".to_owned(),
        app: "app".to_owned(),
        user: "用户".to_owned(),
        file_path: "/data/000/000/000/65F1560C_001".to_owned(),
        size: content.len() as u64,
        created_at: 0x65F1_560C,
        checksum: Some(Crc64::of(content)),
        name: Some("a film.mp4".to_owned()),
        content_type: None,
        expires_at: Some(7),
        deleted_at: None,
    })
}

fn entries() -> Vec<Entry> {
    let reference = || RowRef { user: "u".to_owned(), file: "f".to_owned(), path: "p".to_owned() };
    let content = vec![Bytes::from_static(b"hello "), Bytes::from_static(b"world")];
    vec![
        Entry::Put { row: row(b"hello world"), content: Some(content) },
        Entry::Put { row: row(b"large"), content: None },
        Entry::Put { row: row(b""), content: Some(vec![]) },
        Entry::Status(StatusChange {
            row: reference(),
            status: FileStatus::Deleted,
            deleted_at: Some(9),
            changed_at: Some(9),
        }),
        Entry::Remove {
            removal: Removal { row: reference(), only: Some(FileStatus::Deleted) },
            unlink: true,
        },
        Entry::Remove { removal: Removal { row: reference(), only: None }, unlink: false },
        Entry::Abort(vec![3, 4]),
    ]
}

/// As it is read back: the content in one piece.
fn joined(entry: Entry) -> Entry {
    match entry {
        Entry::Put { row, content: Some(pieces) } => {
            Entry::Put { row, content: Some(vec![Bytes::from(pieces.concat())]) }
        }
        other => other,
    }
}

fn written(entries: &[Entry]) -> Vec<u8> {
    let mut group = Group::default();
    group.clear();
    for entry in entries {
        match entry {
            Entry::Put { row, content } => group.put(row, content.as_deref()),
            Entry::Status(change) => group.status(change),
            Entry::Remove { removal, unlink } => group.remove(removal, *unlink),
            Entry::Abort(list) => group.abort(list[0]..list[list.len() - 1] + 1),
        }
    }
    let padded = group.padded();
    let bytes = group.seal(3, 17);
    assert_eq!(bytes.len() as u64, padded);
    let length = GroupHeader::read(&bytes).unwrap().length as usize;
    assert!(bytes[length..].iter().all(|byte| *byte == 0));
    bytes[..length].to_vec()
}

fn read(bytes: &[u8]) -> Result<Vec<Result<Entry, Damaged>>, Damaged> {
    let header = GroupHeader::read(bytes)?;
    let mut rest = Bytes::copy_from_slice(bytes).slice(GROUP_HEADER_LEN..);
    let used = SegmentHeader::new(1, header.first, header.nonce);
    (header.first..header.first + u64::from(header.entries))
        .map(|sequence| {
            let (used, entry) = read_entry(&rest, used.binding(sequence))?;
            rest = rest.slice(used..);
            Ok(entry)
        })
        .collect()
}

#[test]
fn what_was_written_is_read() {
    let bytes = written(&entries());
    let header = GroupHeader::read(&bytes).unwrap();
    let expected = GroupHeader { entries: 7, nonce: 3, first: 17, length: bytes.len() as u64 };
    assert_eq!(header, expected);
    let back: Vec<Entry> = read(&bytes).unwrap().into_iter().map(Result::unwrap).collect();
    assert_eq!(back, entries().into_iter().map(joined).collect::<Vec<_>>());
}

#[test]
fn an_entry_has_its_place_in_its_group_and_use() {
    let bytes = written(&entries());
    let rest = Bytes::copy_from_slice(&bytes).slice(GROUP_HEADER_LEN..);
    let of = |nonce, sequence| SegmentHeader::new(1, 17, nonce).binding(sequence);
    assert!(read_entry(&rest, of(3, 17)).is_ok());
    for wrong in [of(3, 18), of(4, 17), of(17, 3), 0] {
        assert!(read_entry(&rest, wrong).is_err());
    }
    // As an earlier version has written it.
    let unbound = SegmentHeader { binds: false, ..SegmentHeader::new(1, 17, 3) };
    assert_eq!(read_segment_header(&segment_header(&unbound)).unwrap(), Some(unbound));
    let mut old = rest.to_vec();
    let crc = number(&old, 16) ^ of(3, 17);
    old[16..24].copy_from_slice(&crc.to_be_bytes());
    assert!(read_entry(&Bytes::from(old), unbound.binding(17)).is_ok());
}

#[test]
fn every_flip_and_every_cut_is_noticed() {
    let bytes = written(&entries());
    for bit in 0..bytes.len() * 8 {
        let mut flipped = bytes.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        let sound = read(&flipped).is_ok_and(|read| read.iter().all(Result::is_ok));
        assert!(!sound, "bit {bit}");
    }
    for len in 0..bytes.len() {
        assert!(read(&bytes[..len]).is_err(), "length {len}");
    }
}

#[test]
fn golden_bytes_of_the_headers() {
    let used = SegmentHeader::new(2, 258, 9);
    let header = segment_header(&used);
    assert_eq!(header.len(), 4096);
    assert_eq!(&header[..16], b"REELJRNL\x00\x02\x00\x00\x00\x00\x00\x00");
    assert_eq!(header[16..32], [0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 1, 2]);
    assert_eq!(header[32..40], [0, 0, 0, 0, 0, 0, 0, 9]);
    assert_eq!(read_segment_header(&header).unwrap(), Some(used));
    assert_eq!(read_segment_header(&[0; 4096]).unwrap(), None);
    for bit in 0..SEGMENT_HEADER_LEN * 8 {
        let mut flipped = header.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(read_segment_header(&flipped).unwrap(), Some(used), "the other copy, {bit}");
        flipped[SECOND_COPY + bit / 8] ^= 1 << (bit % 8);
        assert!(read_segment_header(&flipped).is_err(), "bit {bit}");
    }
    let group = written(&[Entry::Abort(vec![1])]);
    assert_eq!(&group[..8], b"RGRP\x00\x00\x00\x01");
    assert_eq!(group[40..48], [4, 0, 0, 0, 0, 0, 0, 8]);
}
