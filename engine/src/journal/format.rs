//! The bytes of the commit journal: segment headers, groups, entries. Encoding and decoding without IO.
//!
//! docs/store-format.md draws it:
//!
//! ```text
//! segment: a file of fixed length, filled with zeros before its first use
//!   0  8  magic "REELJRNL"
//!   8  2  version, 2
//!  10  6  zero
//!  16  8  epoch: of this use of the segment; every use has a higher one
//!  24  8  first: the sequence number that its first entry has
//!  32  8  nonce: a random number of this use
//!  40  8  CRC-64/NVME of bytes 0 to 40
//! 2048    the same 48 bytes again
//! 4096    groups, each at a multiple of 4096
//!
//! group: what one sync made durable
//!   0  4  magic "RGRP"
//!   4  4  number of entries
//!   8  8  nonce of its segment
//!  16  8  sequence number of its first entry
//!  24  8  length in bytes, this header included
//!  32  8  CRC-64/NVME of bytes 0 to 32
//!  40     entries, one after the other
//!
//! entry
//!   0  1  kind: 1 put, 2 status, 3 remove, 4 abort
//!   1  3  zero
//!   4  4  length of the body
//!   8  8  length of the content that follows the body; 0 for all but puts of small files
//!  16  8  CRC-64/NVME of bytes 0 to 16 and the body, XOR that of the segment's nonce and the entry's sequence number
//!  24     body, then content
//! ```
//!
//! All numbers are big-endian. The content has no checksum of its own here: the body of its put says what it must be.
//! The nonce tells the groups of this use of a segment, and their entries, from whatever lies behind them: groups of earlier uses,
//! and contents, in which an uploader may have written anything but a number that was drawn later. A power loss may leave the begin
//! of a group and, where its rest was to be, what was there before.
//!
//! Version 1 had no nonce in its entries. It is read, and not written any more.

use bytes::Bytes;
use reel_meta::{FileStatus, NewFile, Removal, RowRef, StatusChange};
use reel_proto::checksum::Crc64;

use super::aligned::Aligned;

/// Groups begin at multiples of it, so that no write touches a sector of an earlier group.
pub(super) const BLOCK: u64 = 4096;

/// Longest body of an entry, bytes: a put with every text at its limit has 1.7 KiB; an abort names a group's entries.
const BODY_LEN_MAX: usize = 64 * 1024;

/// Most entries of a group.
pub(super) const ENTRIES_MAX: usize = 4096;

/// Longest content of an entry, bytes: what is larger is synced where it lies.
pub(super) const CONTENT_LEN_MAX: u64 = 1 << 20;

const SEGMENT_MAGIC: [u8; 8] = *b"REELJRNL";
const VERSION: u16 = 2;
const VERSION_UNBOUND: u16 = 1;
const SEGMENT_HEADER_LEN: usize = 48;

/// Where the second copy of a segment's header lies: in another sector.
const SECOND_COPY: usize = 2048;
const GROUP_MAGIC: [u8; 4] = *b"RGRP";
pub(super) const GROUP_HEADER_LEN: usize = 40;
pub(super) const ENTRY_HEADER_LEN: usize = 24;

/// One use of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SegmentHeader {
    pub(super) epoch: u64,
    pub(super) first: u64,
    pub(super) nonce: u64,
    /// Whether its entries have its nonce in them.
    pub(super) binds: bool,
}

impl SegmentHeader {
    /// Of a use that begins.
    pub(super) fn new(epoch: u64, first: u64, nonce: u64) -> Self {
        Self { epoch, first, nonce, binds: true }
    }

    /// What the checksum of an entry with this number has in it.
    pub(super) fn binding(&self, sequence: u64) -> u64 {
        if self.binds { binding(self.nonce, sequence) } else { 0 }
    }
}

/// One change, as it is journaled and as it is replayed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Entry {
    /// A row was inserted, if its id was free. A small file's content comes along; a large one's was durable before.
    Put {
        /// The row.
        row: Box<NewFile>,
        /// The content, in pieces; none for a large file.
        content: Option<Vec<Bytes>>,
    },
    /// The state of a row was set.
    Status(StatusChange),
    /// A row was removed.
    Remove {
        /// Which.
        removal: Removal,
        /// Its file was purged with it: what a power loss brings back is unlinked again.
        unlink: bool,
    },
    /// These entries did not happen: they were refused after they had been journaled.
    Abort(Vec<u64>),
}

impl Entry {
    /// The `file_path` that it is about.
    pub(crate) fn place(&self) -> Option<&str> {
        match self {
            Self::Put { row, .. } => Some(&row.file_path),
            Self::Status(change) => Some(&change.row.path),
            Self::Remove { removal, .. } => Some(&removal.row.path),
            Self::Abort(_) => None,
        }
    }
}

/// The number that stands for a kind of entry.
const PUT: u8 = 1;
const STATUS: u8 = 2;
const REMOVE: u8 = 3;
const ABORT: u8 = 4;

/// Bytes that are no journal, or not one that this version wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("damaged {0}")]
pub(super) struct Damaged(pub(super) &'static str);

/// The header of a segment, padded to its block.
pub(super) fn segment_header(header: &SegmentHeader) -> Vec<u8> {
    let mut out = Vec::with_capacity(BLOCK as usize);
    out.extend_from_slice(&SEGMENT_MAGIC);
    let version = if header.binds { VERSION } else { VERSION_UNBOUND };
    out.extend_from_slice(&version.to_be_bytes());
    out.extend_from_slice(&[0; 6]);
    out.extend_from_slice(&header.epoch.to_be_bytes());
    out.extend_from_slice(&header.first.to_be_bytes());
    out.extend_from_slice(&header.nonce.to_be_bytes());
    let crc = Crc64::of(&out);
    out.extend_from_slice(&crc.to_be_bytes());
    let copy = out.clone();
    out.resize(SECOND_COPY, 0);
    out.extend_from_slice(&copy);
    out.resize(BLOCK as usize, 0);
    out
}

/// Reads the header of a segment, from whichever of its copies is sound; `None` where it was never used.
pub(super) fn read_segment_header(block: &[u8]) -> Result<Option<SegmentHeader>, Damaged> {
    let copy = |at: usize| read_copy(block.get(at..).unwrap_or_default());
    match copy(0) {
        Ok(Some(header)) => Ok(Some(header)),
        first => match copy(SECOND_COPY) {
            Ok(Some(header)) => Ok(Some(header)),
            second => first.and(second),
        },
    }
}

fn read_copy(bytes: &[u8]) -> Result<Option<SegmentHeader>, Damaged> {
    let bytes = bytes.get(..SEGMENT_HEADER_LEN).ok_or(Damaged("segment header"))?;
    if bytes.iter().all(|byte| *byte == 0) {
        return Ok(None);
    }
    let (body, crc) = bytes.split_at(SEGMENT_HEADER_LEN - 8);
    let binds = match u16::from_be_bytes([body[8], body[9]]) {
        VERSION => true,
        VERSION_UNBOUND => false,
        _ => return Err(Damaged("segment header")),
    };
    if body[..8] != SEGMENT_MAGIC || crc != Crc64::of(body).to_be_bytes() {
        return Err(Damaged("segment header"));
    }
    let (epoch, first, nonce) = (number(body, 16), number(body, 24), number(body, 32));
    Ok(Some(SegmentHeader { epoch, first, nonce, binds }))
}

/// A group as it is written: header, entries, contents, one after the other in one buffer, which is used again.
#[derive(Debug, Default)]
pub(super) struct Group {
    bytes: Aligned,
    /// Where each entry begins.
    entries: Vec<usize>,
    /// An entry's body while it is made.
    body: Vec<u8>,
}

impl Group {
    /// Empties it for the next group.
    pub(super) fn clear(&mut self) {
        self.bytes.clear();
        self.bytes.extend(&[0; GROUP_HEADER_LEN]);
        self.entries.clear();
    }

    /// Adds [`Entry::Put`].
    pub(super) fn put(&mut self, row: &NewFile, content: Option<&[Bytes]>) {
        let has_content = content.is_some();
        self.push(PUT, content.unwrap_or_default(), |out| put_body(row, has_content, out));
    }

    /// Adds [`Entry::Status`].
    pub(super) fn status(&mut self, change: &StatusChange) {
        self.push(STATUS, &[], |out| {
            out.push(status_code(change.status));
            push_optional(out, change.deleted_at);
            push_optional(out, change.changed_at);
            push_row_ref(out, &change.row);
        });
    }

    /// Adds [`Entry::Remove`].
    pub(super) fn remove(&mut self, removal: &Removal, unlink: bool) {
        self.push(REMOVE, &[], |out| {
            out.push(u8::from(unlink));
            out.push(removal.only.map_or(0, |state| 1 + status_code(state)));
            push_row_ref(out, &removal.row);
        });
    }

    /// Adds [`Entry::Abort`].
    pub(super) fn abort(&mut self, sequences: std::ops::Range<u64>) {
        self.push(ABORT, &[], |out| sequences.for_each(|number| push_number(out, number)));
    }

    fn push(&mut self, kind: u8, content: &[Bytes], body: impl FnOnce(&mut Vec<u8>)) {
        self.body.clear();
        body(&mut self.body);
        debug_assert!(self.body.len() <= BODY_LEN_MAX);
        let content_len: u64 = content.iter().map(|piece| piece.len() as u64).sum();
        let mut header = [0; ENTRY_HEADER_LEN];
        header[0] = kind;
        header[4..8].copy_from_slice(&(self.body.len() as u32).to_be_bytes());
        header[8..16].copy_from_slice(&content_len.to_be_bytes());
        let crc = entry_crc(&header[..16], &self.body);
        header[16..].copy_from_slice(&crc.to_be_bytes());
        self.entries.push(self.bytes.len());
        self.bytes.extend(&header);
        self.bytes.extend(&self.body);
        content.iter().for_each(|piece| self.bytes.extend(piece));
    }

    /// Entries in it.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Bytes of it on the disk, padded to whole blocks.
    pub(super) fn padded(&self) -> u64 {
        (self.bytes.len() as u64).next_multiple_of(BLOCK)
    }

    /// Writes the header, binds the entries to their numbers, and pads it. Nothing is added afterwards; the bytes are there to be written, and come back by
    /// [`Self::give_back`].
    pub(super) fn seal(&mut self, nonce: u64, first: u64) -> Aligned {
        let mut header = [0; GROUP_HEADER_LEN];
        header[..4].copy_from_slice(&GROUP_MAGIC);
        header[4..8].copy_from_slice(&(self.entries.len() as u32).to_be_bytes());
        let length = self.bytes.len() as u64;
        for (place, number) in header[8..32].chunks_exact_mut(8).zip([nonce, first, length]) {
            place.copy_from_slice(&number.to_be_bytes());
        }
        let crc = Crc64::of(&header[..32]);
        header[32..].copy_from_slice(&crc.to_be_bytes());
        self.bytes[..GROUP_HEADER_LEN].copy_from_slice(&header);
        for (at, sequence) in self.entries.iter().zip(first..) {
            let crc = number(&self.bytes, at + 16) ^ binding(nonce, sequence);
            self.bytes[at + 16..at + ENTRY_HEADER_LEN].copy_from_slice(&crc.to_be_bytes());
        }
        self.bytes.pad();
        std::mem::take(&mut self.bytes)
    }

    /// Takes a buffer to use again, and is empty.
    pub(super) fn give_back(&mut self, bytes: Aligned) {
        self.bytes = bytes;
        self.clear();
    }
}

/// The header of a group that was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct GroupHeader {
    pub(super) entries: u32,
    pub(super) nonce: u64,
    pub(super) first: u64,
    pub(super) length: u64,
}

impl GroupHeader {
    /// Reads it; an error is anything else than a header, as behind the last group.
    pub(super) fn read(bytes: &[u8]) -> Result<Self, Damaged> {
        let bytes = bytes.get(..GROUP_HEADER_LEN).ok_or(Damaged("group header"))?;
        let (body, crc) = bytes.split_at(GROUP_HEADER_LEN - 8);
        if body[..4] != GROUP_MAGIC || crc != Crc64::of(body).to_be_bytes() {
            return Err(Damaged("group header"));
        }
        let mut entries = [0; 4];
        entries.copy_from_slice(&body[4..8]);
        let header = Self {
            entries: u32::from_be_bytes(entries),
            nonce: number(body, 8),
            first: number(body, 16),
            length: number(body, 24),
        };
        let least = GROUP_HEADER_LEN as u64 + u64::from(header.entries) * ENTRY_HEADER_LEN as u64;
        let good = (1..=ENTRIES_MAX as u32).contains(&header.entries) && header.length >= least;
        if good { Ok(header) } else { Err(Damaged("group header")) }
    }
}

/// Reads one entry of a group: the entry (or what is wrong with it) and the bytes it takes. Without the bytes nothing
/// behind it can be found. `binding`: of its number, see [`SegmentHeader::binding`].
pub(super) fn read_entry(
    bytes: &Bytes,
    binding: u64,
) -> Result<(usize, Result<Entry, Damaged>), Damaged> {
    let cut = Damaged("entry");
    let header = bytes.get(..ENTRY_HEADER_LEN).ok_or(cut)?;
    let mut body_len = [0; 4];
    body_len.copy_from_slice(&header[4..8]);
    let body_len = u32::from_be_bytes(body_len) as usize;
    let content_len = number(header, 8);
    if body_len > BODY_LEN_MAX || content_len > CONTENT_LEN_MAX {
        return Err(cut);
    }
    let body_end = ENTRY_HEADER_LEN + body_len;
    let end = body_end + content_len as usize;
    let body = bytes.get(ENTRY_HEADER_LEN..body_end).ok_or(cut)?;
    if bytes.len() < end {
        return Err(cut);
    }
    if number(header, 16) != entry_crc(&header[..16], body) ^ binding {
        // The lengths are part of what does not match: where the next entry begins is not known.
        return Err(cut);
    }
    let content = (content_len > 0).then(|| bytes.slice(body_end..end));
    Ok((end, read_body(header[0], body, content)))
}

fn read_body(kind: u8, body: &[u8], content: Option<Bytes>) -> Result<Entry, Damaged> {
    let mut fields = Fields(body);
    let entry = match kind {
        PUT => {
            let (row, has_content) = put(&mut fields)?;
            let content = has_content.then(|| content.unwrap_or_default());
            if let Some(content) = &content {
                let whole = content.len() as u64 == row.size;
                if !whole || row.checksum != Some(Crc64::of(content)) {
                    return Err(Damaged("content"));
                }
            }
            Entry::Put { row: Box::new(row), content: content.map(|content| vec![content]) }
        }
        STATUS => Entry::Status(StatusChange {
            status: status(fields.byte()?),
            deleted_at: fields.optional()?,
            changed_at: fields.optional()?,
            row: fields.row_ref()?,
        }),
        REMOVE => {
            let unlink = fields.byte()? != 0;
            let only = match fields.byte()? {
                0 => None,
                state => Some(status(state - 1)),
            };
            Entry::Remove { removal: Removal { row: fields.row_ref()?, only }, unlink }
        }
        ABORT => {
            let mut sequences = Vec::new();
            while !fields.0.is_empty() {
                sequences.push(fields.number()?);
            }
            Entry::Abort(sequences)
        }
        _ => return Err(Damaged("kind of entry")),
    };
    if fields.0.is_empty() { Ok(entry) } else { Err(Damaged("body")) }
}

fn put(fields: &mut Fields<'_>) -> Result<(NewFile, bool), Damaged> {
    let has_content = fields.byte()? != 0;
    let row = NewFile {
        size: fields.number()?,
        created_at: fields.number()?,
        checksum: fields.optional()?,
        expires_at: fields.optional()?,
        deleted_at: fields.optional()?,
        file: fields.text()?,
        app: fields.text()?,
        user: fields.text()?,
        file_path: fields.text()?,
        name: fields.optional_text()?,
        content_type: fields.optional_text()?,
    };
    Ok((row, has_content))
}

fn put_body(row: &NewFile, has_content: bool, out: &mut Vec<u8>) {
    out.push(u8::from(has_content));
    push_number(out, row.size);
    push_number(out, row.created_at);
    push_optional(out, row.checksum);
    push_optional(out, row.expires_at);
    push_optional(out, row.deleted_at);
    for text in [&row.file, &row.app, &row.user, &row.file_path] {
        push_text(out, text);
    }
    for text in [&row.name, &row.content_type] {
        out.push(u8::from(text.is_some()));
        push_text(out, text.as_deref().unwrap_or(""));
    }
}

fn status(code: u8) -> FileStatus {
    FileStatus::from_number(i64::from(code))
}

fn status_code(status: FileStatus) -> u8 {
    u8::from(status != FileStatus::Normal)
}

fn push_number(out: &mut Vec<u8>, number: u64) {
    out.extend_from_slice(&number.to_be_bytes());
}

fn push_optional(out: &mut Vec<u8>, number: Option<u64>) {
    out.push(u8::from(number.is_some()));
    push_number(out, number.unwrap_or(0));
}

/// Texts of rows have at most 512 bytes; a longer one was refused before it came here.
fn push_text(out: &mut Vec<u8>, text: &str) {
    let length = u16::try_from(text.len()).unwrap_or(u16::MAX);
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(&text.as_bytes()[..usize::from(length)]);
}

fn push_row_ref(out: &mut Vec<u8>, row: &RowRef) {
    for text in [&row.user, &row.file, &row.path] {
        push_text(out, text);
    }
}

fn entry_crc(header: &[u8], body: &[u8]) -> u64 {
    let mut crc = Crc64::new();
    crc.update(header);
    crc.update(body);
    crc.finish()
}

fn binding(nonce: u64, sequence: u64) -> u64 {
    let mut crc = Crc64::new();
    crc.update(&nonce.to_be_bytes());
    crc.update(&sequence.to_be_bytes());
    crc.finish()
}

fn number(bytes: &[u8], at: usize) -> u64 {
    let mut number = [0; 8];
    number.copy_from_slice(&bytes[at..at + 8]);
    u64::from_be_bytes(number)
}

/// A cursor that answers with an error where a slice would panic.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8], Damaged> {
        let (taken, rest) = self.0.split_at_checked(len).ok_or(Damaged("body"))?;
        self.0 = rest;
        Ok(taken)
    }

    fn byte(&mut self) -> Result<u8, Damaged> {
        Ok(self.take(1)?[0])
    }

    fn number(&mut self) -> Result<u64, Damaged> {
        Ok(number(self.take(8)?, 0))
    }

    fn optional(&mut self) -> Result<Option<u64>, Damaged> {
        let is_set = self.byte()? != 0;
        let number = self.number()?;
        Ok(is_set.then_some(number))
    }

    fn text(&mut self) -> Result<String, Damaged> {
        let length = self.take(2)?;
        let length = usize::from(u16::from_be_bytes([length[0], length[1]]));
        let bytes = self.take(length)?;
        std::str::from_utf8(bytes).map(str::to_owned).map_err(|_| Damaged("text"))
    }

    fn optional_text(&mut self) -> Result<Option<String>, Damaged> {
        let is_set = self.byte()? != 0;
        let text = self.text()?;
        Ok(is_set.then_some(text))
    }

    fn row_ref(&mut self) -> Result<RowRef, Damaged> {
        Ok(RowRef { user: self.text()?, file: self.text()?, path: self.text()? })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
