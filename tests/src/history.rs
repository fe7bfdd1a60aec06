//! What clients were told, and the judgement of a store by it: every acknowledged upload is readable with its bytes,
//! what was deleted stays deleted, what is unknown was done whole or not at all, and no path id names two files.

pub mod operations;
pub mod rules;

use std::collections::{BTreeMap, HashMap, HashSet};

use anyhow::{Context, Result, bail};
use reel_client::{
    Client, ClientError, FileId, FileStatus, Owner, Refusal, Selection, Span, Uploaded,
};
use reel_proto::checksum::Crc64;

use crate::seed::Content;

/// Faults that are named in a report; the rest is only counted.
const SHOWN_MAX: usize = 20;

/// A file as a client finds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// The store knows no such file: never stored, or purged.
    Absent,
    /// It can be read.
    Normal,
    /// It can be restored.
    Deleted,
}

/// What is known of one file.
#[derive(Debug, Clone, Copy)]
struct Known {
    content: Content,
    /// The number that names its place, once somebody was told it.
    path_id: Option<u64>,
    /// Its state before what was asked last, and the one that was asked for. The same where that was acknowledged:
    /// otherwise the connection broke, or an error came, and it may be in either.
    was: State,
    asked: State,
}

/// Every file of a test, over all its rounds.
#[derive(Debug, Default)]
pub struct History {
    files: BTreeMap<FileId, Known>,
    /// Files of which anything is forgiven but other bytes.
    excused: HashSet<FileId>,
    /// Every path id ever seen, also of files that are gone: none may come again under another file.
    path_ids: HashMap<u64, FileId>,
}

/// What a judgement found to be right.
#[derive(Debug, Clone, Copy, Default)]
pub struct Verdict {
    /// Acknowledged uploads, all there.
    pub acknowledged: usize,
    /// Acknowledged deletes and purges, none undone.
    pub deleted: usize,
    /// Requests of unknown outcome that were done.
    pub unknown_done: usize,
    /// Those that were not.
    pub unknown_undone: usize,
    /// Files that are lost, and excused.
    pub excused: usize,
}

impl History {
    /// Notes what an upload came to.
    pub fn uploaded(
        &mut self,
        file: FileId,
        content: Content,
        result: &Result<Uploaded, ClientError>,
    ) {
        let path_id = result.as_ref().ok().and_then(|uploaded| uploaded.path_id);
        let was = if result.is_ok() { State::Normal } else { State::Absent };
        self.files.insert(file, Known { content, path_id, was, asked: State::Normal });
    }

    /// Notes what a request to change the state of an uploaded file came to.
    pub fn changed(&mut self, file: FileId, asked: State, result: &Result<(), ClientError>) {
        if let Some(known) = self.files.get_mut(&file) {
            known.asked = asked;
            if result.is_ok() {
                known.was = asked;
            }
        }
    }

    /// From now on this file may be lost: a test has damaged the only copy of it. Other bytes are no more forgiven
    /// than before.
    pub fn excuse(&mut self, file: FileId) {
        self.excused.insert(file);
    }

    /// Files that must be in this state, with what they hold.
    pub fn known(&self, state: State) -> impl Iterator<Item = (FileId, Content)> {
        self.files
            .iter()
            .filter(move |(_, known)| (known.was, known.asked) == (state, state))
            .map(|(file, known)| (*file, known.content))
    }

    /// Files noted.
    #[must_use]
    pub fn len(&self) -> usize {
        self.files.len()
    }

    /// Whether nothing was noted.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// Judges the store behind `client` by what was noted. Unknown outcomes become known by it, so that the next
    /// judgement is as strict about them.
    pub async fn judge(&mut self, client: &Client, owner: Owner) -> Result<Verdict> {
        let mut faults = Vec::new();
        let mut verdict = Verdict::default();
        let listed = self.list(client, owner, &mut faults).await?;
        let files: Vec<FileId> = self.files.keys().copied().collect();
        for file in files {
            let excused = self.excused.contains(&file);
            let judged = match read(client, owner, file).await {
                Err(error) if excused => Err(Fault::Lost(format!("{error:#}"))),
                read => self.judge_one(file, read?, listed.get(&file).copied(), &mut verdict),
            };
            match judged {
                Ok(()) => {}
                Err(Fault::Lost(_)) if excused => verdict.excused += 1,
                Err(Fault::Lost(what) | Fault::Wrong(what)) => {
                    faults.push(format!("{file}: {what}"));
                }
            }
        }
        if faults.is_empty() {
            return Ok(verdict);
        }
        let count = faults.len();
        faults.truncate(SHOWN_MAX);
        bail!("{count} faults, of {} files:\n{}", self.files.len(), faults.join("\n"))
    }

    fn judge_one(
        &mut self,
        file: FileId,
        read: Option<Read>,
        listed: Option<Found>,
        verdict: &mut Verdict,
    ) -> Result<(), Fault> {
        let Known { content, path_id, was, asked } = self.files[&file];
        let found = look(content, read, listed)?;
        if let (Some(was), Some(now)) = (path_id, found.path_id)
            && was != now
        {
            return Err(Fault::Wrong(format!("acknowledged as {was}, now at {now}")));
        }
        let state = found.state;
        if state != was && state != asked {
            return Err(Fault::Lost(format!("was {was:?}, asked for {asked:?}, is {state:?}")));
        }
        match (was == asked, state) {
            (true, State::Normal) => verdict.acknowledged += 1,
            (true, _) => verdict.deleted += 1,
            (false, state) if state == asked => verdict.unknown_done += 1,
            (false, _) => verdict.unknown_undone += 1,
        }
        let path_id = path_id.or(found.path_id);
        self.files.insert(file, Known { content, path_id, was: state, asked: state });
        Ok(())
    }

    /// Every file of the owner, page by page; each path id once, and no file that nobody uploaded.
    async fn list(
        &mut self,
        client: &Client,
        owner: Owner,
        faults: &mut Vec<String>,
    ) -> Result<HashMap<FileId, Found>> {
        let mut found = HashMap::new();
        let of = Selection::of_user(owner.app, owner.user);
        let mut after = None;
        loop {
            let page = client.list(&of, after.as_ref(), 1000).await?;
            for entry in &page.files {
                let path_id = entry.stat.path_id;
                if !self.files.contains_key(&entry.file) {
                    faults.push(format!("{}: stored, and nobody uploaded it", entry.file));
                }
                let known = *self.path_ids.entry(path_id).or_insert(entry.file);
                if known != entry.file {
                    faults.push(format!("path id {path_id}: of {known} and of {}", entry.file));
                }
                let state = match entry.stat.status {
                    FileStatus::Normal => State::Normal,
                    FileStatus::Deleted => State::Deleted,
                };
                let path_id = Some(path_id);
                if found.insert(entry.file, Found { state, path_id }).is_some() {
                    faults.push(format!("{}: listed twice", entry.file));
                }
            }
            if page.left_out > 0 {
                faults.push(format!("{} rows that name no file", page.left_out));
            }
            match page.next {
                Some(next) => after = Some(next),
                None => return Ok(found),
            }
        }
    }
}

/// Where a file was found, and how.
#[derive(Debug, Clone, Copy)]
struct Found {
    state: State,
    path_id: Option<u64>,
}

/// What is not as it should be.
enum Fault {
    /// Something is not there, or not in the state that it should have.
    Lost(String),
    /// Something is there that must never be.
    Wrong(String),
}

/// What reading and listing say together of a file.
fn look(content: Content, read: Option<Read>, listed: Option<Found>) -> Result<Found, Fault> {
    match (read, listed) {
        (None, None) => Ok(Found { state: State::Absent, path_id: None }),
        (None, Some(Found { state: State::Normal, .. })) => {
            Err(Fault::Lost("listed, and not readable".to_owned()))
        }
        (None, Some(deleted)) => Ok(deleted),
        (Some(read), _) if read.bytes != digest(&content.bytes()) => {
            Err(Fault::Wrong(format!("readable with other bytes ({})", read.bytes.0)))
        }
        (Some(Read { path_id, .. }), Some(listed))
            if (listed.state, listed.path_id) == (State::Normal, Some(path_id)) =>
        {
            Ok(listed)
        }
        (Some(read), listed) => {
            Err(Fault::Wrong(format!("readable as {}, and listed as {listed:?}", read.path_id)))
        }
    }
}

/// Size and checksum.
type Digest = (u64, u64);

/// A file that was read to its end.
struct Read {
    bytes: Digest,
    path_id: u64,
}

fn digest(bytes: &[u8]) -> Digest {
    (bytes.len() as u64, Crc64::of(bytes))
}

/// Reads a file to its end; none where the store says that it has no such file.
async fn read(client: &Client, owner: Owner, file: FileId) -> Result<Option<Read>> {
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
    Ok(Some(Read { bytes: (size, crc.finish()), path_id }))
}
