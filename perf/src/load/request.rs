//! Where requests come from: the next one of a load, as bytes, with what its answer must be.

use std::{io::Write, net::SocketAddr, sync::Arc};

use anyhow::{Result, bail};
use reel_proto::{
    command, frame,
    idgen::IdGet,
    name::{AppId, FileId, IdKey, UserId},
    storage::{Download, FILE_REF_LEN, FileRef, UploadHead},
    tracker::Saddrs,
};

use super::{
    dialect::Dialect,
    plan::{Order, PATTERN_BYTES, Plan, Ranges, Share, Work},
};
use crate::{
    content::{Content, Sequence},
    names,
};

/// What the answer to a request must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Expect {
    /// A body of any kind.
    Anything,
    /// These bytes of a file.
    Bytes {
        /// Of the file.
        content: Content,
        /// The first one.
        offset: u64,
        /// How many.
        length: u64,
    },
    /// An acknowledgement of this upload.
    Stored {
        /// The number of its file id.
        number: u64,
    },
}

/// What follows a request's head: bytes of the pattern.
pub(crate) type Pattern = Arc<[u8]>;

/// The requests of one thread.
pub(crate) struct Requests {
    pub(crate) dialect: Dialect,
    pub(crate) pattern: Pattern,
    kind: Kind,
    sequence: Sequence,
    count: u64,
    step: u64,
}

enum Kind {
    Http { ranges: Places, prefixes: Vec<Vec<u8>> },
    Numbered { prefix: String, count: u64, stride: u64, target: SocketAddr, expect: Expect },
    Download { ranges: Places, files: Vec<FileRef> },
    Upload { owner: Box<(AppId, UserId)>, prefix: String, size: u64 },
    Delete { owner: Box<(AppId, UserId)>, prefix: String, count: u64 },
    // Whole requests, in turn.
    Fixed { requests: Vec<Vec<u8>> },
}

impl Requests {
    pub(crate) fn new(plan: &Plan, share: &Share) -> Result<Self> {
        let mut pattern = Vec::new();
        let (dialect, kind) = match &plan.work {
            Work::HttpRange(ranges) => {
                let prefix = |name: &str| {
                    format!("GET {name} HTTP/1.1\r\nHost: {}\r\nRange: bytes=", plan.target)
                };
                let prefixes =
                    ranges.files.iter().map(|file| prefix(&file.name).into_bytes()).collect();
                (Dialect::Http, Kind::Http { ranges: Places::new(ranges, plan, share)?, prefixes })
            }
            Work::HttpNumbered { prefix, count, stride, size, content } => {
                let content = Content::new(*content);
                let expect = Expect::Bytes { content, offset: 0, length: *size };
                let (prefix, target) = (prefix.clone(), plan.target);
                let (count, stride) = (*count, *stride);
                (Dialect::Http, Kind::Numbered { prefix, count, stride, target, expect })
            }
            Work::Download(ranges) => {
                let files = ranges.files.iter().map(|file| names::file(&file.name));
                let files = files.collect::<Result<_>>()?;
                (
                    Dialect::Frames,
                    Kind::Download { ranges: Places::new(ranges, plan, share)?, files },
                )
            }
            Work::Upload { prefix, size, content } => {
                pattern = vec![0; (*size).clamp(1, PATTERN_BYTES) as usize];
                Content::new(*content).fill(0, &mut pattern);
                let owner = Box::new(names::owner()?);
                (Dialect::Frames, Kind::Upload { owner, prefix: prefix.clone(), size: *size })
            }
            Work::Delete { prefix, count } => {
                let owner = Box::new(names::owner()?);
                (Dialect::Frames, Kind::Delete { owner, prefix: prefix.clone(), count: *count })
            }
            Work::Saddrs { users } => (Dialect::Frames, fixed(*users, saddrs)?),
            Work::IdGet { keys } => (Dialect::Frames, fixed(*keys, id_get)?),
            Work::Echo { bytes } => {
                let request = vec![b'e'; *bytes as usize];
                (Dialect::Echo { bytes: *bytes }, Kind::Fixed { requests: vec![request] })
            }
        };
        let sequence = Sequence::new(plan.seed.wrapping_add(share.index as u64));
        let (count, step) = (share.index as u64, share.of as u64);
        Ok(Self { dialect, pattern: pattern.into(), kind, sequence, count, step })
    }

    /// Writes the next request's head and says how many bytes of the pattern follow it, and what to expect. `None`:
    /// there is no further one.
    pub(crate) fn next(&mut self, out: &mut Vec<u8>) -> Option<(u64, Expect)> {
        out.clear();
        let number = self.count;
        self.count += self.step;
        match &mut self.kind {
            Kind::Http { ranges, prefixes } => {
                let (file, expect, offset, length) = ranges.next(&mut self.sequence)?;
                out.extend_from_slice(&prefixes[file]);
                // Writing to a Vec cannot fail.
                let _ = write!(out, "{offset}-{}\r\n\r\n", offset + length - 1);
                Some((0, expect))
            }
            Kind::Numbered { prefix, count, stride, target, expect } => {
                let number = self.sequence.below((*count / *stride).max(1)) * *stride;
                let name = names::Numbered(prefix, number);
                let _ = write!(out, "GET {name} HTTP/1.1\r\nHost: {target}\r\n\r\n");
                Some((0, *expect))
            }
            Kind::Download { ranges, files } => {
                let (file, expect, offset, size) = ranges.next(&mut self.sequence)?;
                let body_length = reel_proto::storage::DOWNLOAD_LEN as u64;
                out.extend(frame::Header::request(command::DOWNLOAD, body_length).encode());
                Download { file: files[file], offset, size }.encode(out);
                Some((0, expect))
            }
            Kind::Upload { owner, prefix, size } => {
                let (app, user) = **owner;
                let file = FileId::parse(&names::numbered(prefix, number)).ok()?;
                let head = UploadHead { file: FileRef { app, user, file }, size: *size };
                out.extend(frame::Header::request(command::UPLOAD, head.body_length()?).encode());
                head.encode(out);
                Some((*size, Expect::Stored { number }))
            }
            Kind::Delete { owner, prefix, count } => {
                if number >= *count {
                    return None;
                }
                let (app, user) = **owner;
                let file = FileId::parse(&names::numbered(prefix, number)).ok()?;
                out.extend(frame::Header::request(command::DELETE, FILE_REF_LEN as u64).encode());
                FileRef { app, user, file }.encode(out);
                Some((0, Expect::Anything))
            }
            Kind::Fixed { requests } => {
                let index = (number % requests.len() as u64) as usize;
                out.extend_from_slice(&requests[index]);
                Some((0, Expect::Anything))
            }
        }
    }
}

fn fixed(count: u64, request: fn(u64) -> Result<Vec<u8>>) -> Result<Kind> {
    let requests = (0..count.max(1)).map(request).collect::<Result<_>>()?;
    Ok(Kind::Fixed { requests })
}

fn saddrs(number: u64) -> Result<Vec<u8>> {
    let mut body = Vec::new();
    let user = UserId::parse(&format!("user{number}"))?;
    Saddrs { app: names::owner()?.0, user }.encode(&mut body);
    Ok(frame::encode(command::SADDRS, &body))
}

fn id_get(number: u64) -> Result<Vec<u8>> {
    let mut body = Vec::new();
    IdGet { key: IdKey::parse(&format!("perf{number}"))? }.encode(&mut body);
    Ok(frame::encode(command::ID_GET, &body))
}

/// The ranges of a set of files, in the order of the plan.
struct Places {
    files: Vec<(u64, Content)>,
    length: u64,
    // For `Order::Once`: what is left, as file and number of the range.
    left: Option<Vec<(u32, u32)>>,
}

impl Places {
    fn new(ranges: &Ranges, plan: &Plan, share: &Share) -> Result<Self> {
        let length = ranges.length;
        if length == 0 || ranges.files.iter().any(|file| file.size < length) {
            bail!("a range of {length} bytes does not fit every file");
        }
        let files: Vec<_> =
            ranges.files.iter().map(|file| (file.size, Content::new(file.content))).collect();
        let left = (ranges.order == Order::Once).then(|| {
            let of = share.of as u64;
            let whole = |(file, (size, _)): (usize, &(u64, Content))| {
                (0..size / length).map(move |place| (file as u32, place as u32))
            };
            let mut left: Vec<_> = files.iter().enumerate().flat_map(whole).collect();
            shuffle(&mut left, &mut Sequence::new(plan.seed));
            let mut turn = 0;
            left.retain(|_| {
                turn += 1;
                turn % of == share.index as u64
            });
            left
        });
        Ok(Self { files, length, left })
    }

    fn next(&mut self, sequence: &mut Sequence) -> Option<(usize, Expect, u64, u64)> {
        let (file, place) = match &mut self.left {
            Some(left) => left.pop().map(|(file, place)| (file as usize, u64::from(place)))?,
            None => {
                let file = sequence.below(self.files.len() as u64) as usize;
                (file, sequence.below(self.files[file].0 / self.length))
            }
        };
        let (offset, length) = (place * self.length, self.length);
        let expect = Expect::Bytes { content: self.files[file].1, offset, length };
        Some((file, expect, offset, length))
    }
}

fn shuffle<T>(items: &mut [T], sequence: &mut Sequence) {
    for index in (1..items.len()).rev() {
        items.swap(index, sequence.below(index as u64 + 1) as usize);
    }
}
