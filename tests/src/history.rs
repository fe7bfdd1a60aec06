//! What clients were told, and the judgement of a store by it: every acknowledged upload is readable with its bytes,
//! an upload whose outcome is unknown is there whole or not at all, and no path id names two files.

use std::collections::{BTreeMap, HashMap};

use anyhow::{Context, Result, bail};
use reel_client::{
    Client, ClientError, FileId, FileStatus, Owner, Refusal, Span, StatusFilter, Uploaded,
};
use reel_proto::checksum::Crc64;

use crate::seed::Content;

/// Faults that are named in a report; the rest is only counted.
const SHOWN_MAX: usize = 20;

/// What a client knows of one upload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It was acknowledged, with this path id.
    Acknowledged {
        /// The number that names its place.
        path_id: u64,
    },
    /// The connection broke, or an error came: it may be stored or not.
    Unknown,
}

/// Every upload of a test, over all its rounds.
#[derive(Debug, Default)]
pub struct History {
    uploads: BTreeMap<FileId, (Content, Outcome)>,
    /// Every path id ever seen, also of files that are gone: none may come again under another file.
    path_ids: HashMap<u64, FileId>,
}

/// What a judgement found to be right.
#[derive(Debug, Clone, Copy, Default)]
pub struct Verdict {
    /// Acknowledged uploads, all there.
    pub acknowledged: usize,
    /// Unknown ones that are there, whole.
    pub unknown_stored: usize,
    /// Unknown ones that are not there.
    pub unknown_absent: usize,
}

impl History {
    /// Notes what an upload came to.
    pub fn note(&mut self, file: FileId, content: Content, result: &Result<Uploaded, ClientError>) {
        let outcome = match result {
            Ok(Uploaded { path_id: Some(path_id), .. }) => {
                Outcome::Acknowledged { path_id: *path_id }
            }
            _ => Outcome::Unknown,
        };
        self.uploads.insert(file, (content, outcome));
    }

    /// Uploads noted.
    #[must_use]
    pub fn len(&self) -> usize {
        self.uploads.len()
    }

    /// Whether nothing was noted.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.uploads.is_empty()
    }

    /// Judges the store behind `client` by what was noted. Unknown outcomes become known by it, so that the next
    /// judgement is as strict about them.
    pub async fn judge(&mut self, client: &Client, owner: Owner) -> Result<Verdict> {
        let mut faults = Vec::new();
        let mut verdict = Verdict::default();
        let listed = self.list(client, owner, &mut faults).await?;
        let files: Vec<FileId> = self.uploads.keys().copied().collect();
        for file in files {
            let (content, outcome) = self.uploads[&file];
            let read = read(client, owner, file).await?;
            let listed_path = listed.get(&file).copied();
            match (read, outcome) {
                (None, Outcome::Acknowledged { .. }) => {
                    faults.push(format!("{file}: acknowledged, and lost"));
                }
                (None, Outcome::Unknown) if listed_path.is_some() => {
                    faults.push(format!("{file}: listed, and not readable"));
                }
                (None, Outcome::Unknown) => verdict.unknown_absent += 1,
                (Some(found), _) if found.bytes != digest(&content.bytes()) => {
                    faults.push(format!("{file}: readable with other bytes ({})", found.bytes.0));
                }
                (Some(found), Outcome::Acknowledged { path_id }) if found.path_id != path_id => {
                    let now = found.path_id;
                    faults.push(format!("{file}: acknowledged as {path_id}, now at {now}"));
                }
                (Some(found), _) => {
                    if listed_path != Some(found.path_id) {
                        faults.push(format!("{file}: readable, and listed as {listed_path:?}"));
                    }
                    match outcome {
                        Outcome::Acknowledged { .. } => verdict.acknowledged += 1,
                        Outcome::Unknown => verdict.unknown_stored += 1,
                    }
                    let known = Outcome::Acknowledged { path_id: found.path_id };
                    self.uploads.insert(file, (content, known));
                }
            }
        }
        if faults.is_empty() {
            return Ok(verdict);
        }
        let count = faults.len();
        faults.truncate(SHOWN_MAX);
        bail!("{count} faults, of {} uploads:\n{}", self.uploads.len(), faults.join("\n"))
    }

    /// Every file of the owner, page by page; each path id once, and no file that nobody uploaded.
    async fn list(
        &mut self,
        client: &Client,
        owner: Owner,
        faults: &mut Vec<String>,
    ) -> Result<HashMap<FileId, u64>> {
        let mut found = HashMap::new();
        let mut after = None;
        loop {
            let page = client.list(owner, StatusFilter::All, after, 1000).await?;
            for entry in &page.files {
                let path_id = entry.stat.path_id;
                if !self.uploads.contains_key(&entry.file) {
                    faults.push(format!("{}: stored, and nobody uploaded it", entry.file));
                }
                let known = *self.path_ids.entry(path_id).or_insert(entry.file);
                if known != entry.file {
                    faults.push(format!("path id {path_id}: of {known} and of {}", entry.file));
                }
                if entry.stat.status != FileStatus::Normal {
                    faults.push(format!("{}: deleted by nobody", entry.file));
                }
                if found.insert(entry.file, path_id).is_some() {
                    faults.push(format!("{}: listed twice", entry.file));
                }
            }
            match page.files.last() {
                Some(last) if page.more => after = Some(last.file),
                _ => return Ok(found),
            }
        }
    }
}

/// Size and checksum.
type Digest = (u64, u64);

struct Found {
    bytes: Digest,
    path_id: u64,
}

fn digest(bytes: &[u8]) -> Digest {
    (bytes.len() as u64, Crc64::of(bytes))
}

/// Reads a file to its end; none where the store says that it has no such file.
async fn read(client: &Client, owner: Owner, file: FileId) -> Result<Option<Found>> {
    let mut download = match client.download(&owner.file(file), Span::whole()).await {
        Ok(download) => download,
        Err(error) if error.refusal() == Some(Refusal::NoSuchFile) => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("{file}: download")),
    };
    let path_id = download.content().path_id.context("a node of ours names the path id")?;
    let (mut crc, mut size) = (Crc64::new(), 0);
    while let Some(piece) =
        download.next().await.with_context(|| format!("{file}: after {size} bytes"))?
    {
        crc.update(&piece);
        size += piece.len() as u64;
    }
    Ok(Some(Found { bytes: (size, crc.finish()), path_id }))
}
