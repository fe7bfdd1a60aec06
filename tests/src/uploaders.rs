//! Clients that upload as fast as they can, and delete now and then, until they are stopped; and a history of what they
//! were told.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::Result;
use reel_client::{
    AppId, Client, ClientConfig, ClientError, FileId, Owner, RetryPolicy, UploadDetails,
    UploadSource, UserId, new_file_id,
};
use tokio::task::{JoinSet, LocalSet};

use crate::{
    history::{History, State},
    pulse::Pulse,
    seed::{Content, Seeded},
};

/// Clients at once.
pub const UPLOADERS: usize = 8;

/// Longest wait for a number of uploads. It ends a test that hangs; nothing is measured by it.
const PATIENCE: Duration = Duration::from_secs(300);

/// The owner of what they upload.
#[must_use]
pub fn owner() -> Owner {
    match (AppId::parse("tnvideo"), UserId::parse("tnv001")) {
        (Ok(app), Ok(user)) => Owner { app, user },
        _ => unreachable!("both names are legal"),
    }
}

/// A client that tells each failure at once, so that a broken upload has the outcome that it had.
pub fn impatient_client(trackers: &[SocketAddr]) -> Result<Client> {
    let mut config = ClientConfig::new(trackers.iter().map(ToString::to_string));
    config.retry = RetryPolicy { window: Duration::ZERO, ..RetryPolicy::default() };
    config.stall_timeout = Duration::from_secs(10);
    Ok(Client::new(config)?)
}

/// What clients upload, and how far they are.
#[derive(Debug, Clone)]
pub struct Load {
    size: fn(&mut Seeded) -> u64,
    acknowledged: Pulse,
}

impl Load {
    fn of(size: fn(&mut Seeded) -> u64) -> Self {
        Self { size, acknowledged: Pulse::default() }
    }

    /// Sizes as a media store sees them, and those at which code breaks: none, one byte, around a page, around a
    /// piece, around what the journal takes.
    #[must_use]
    pub fn mixed() -> Self {
        const EDGES: [u64; 8] = [0, 1, 4095, 4096, 4097, 65_536, 256 * 1024, 256 * 1024 + 1];
        Self::of(|seeded| match seeded.below(10) {
            0 => EDGES[seeded.below(EDGES.len() as u64) as usize],
            1 => seeded.below(4 << 20),
            _ => seeded.below(64 << 10),
        })
    }

    /// As many files as a journal can hold before its first segment is full.
    #[must_use]
    pub fn small() -> Self {
        Self::of(|seeded| seeded.below(4 << 10))
    }

    /// Whatever goes through the journal, mostly large: a segment of 4 MiB is full after some forty.
    #[must_use]
    pub fn filling() -> Self {
        Self::of(|seeded| match seeded.below(4) {
            0 => seeded.below(4 << 10),
            _ => seeded.below((256 << 10) + 1),
        })
    }

    /// Each upload that was acknowledged.
    #[must_use]
    pub fn acknowledged(&self) -> &Pulse {
        &self.acknowledged
    }

    /// Waits until so many uploads were acknowledged.
    pub async fn reaches(&self, acknowledged: u64) -> Result<()> {
        self.acknowledged.reaches(acknowledged, PATIENCE).await
    }
}

/// Runs [`UPLOADERS`] clients of these trackers while `disaster` waits and strikes; all that they were told goes into
/// `history`. Returns what `disaster` gives, after the last client has stopped.
pub async fn upload_until<T>(
    trackers: &[SocketAddr],
    load: &Load,
    seeded: &mut Seeded,
    history: &mut History,
    disaster: impl Future<Output = T>,
) -> Result<T> {
    let stop = Arc::new(AtomicBool::new(false));
    let clients = LocalSet::new();
    let mut running = JoinSet::new();
    for _ in 0..UPLOADERS {
        let uploader = Uploader {
            client: impatient_client(trackers)?,
            load: load.clone(),
            seeded: seeded.branch(),
            stored: Vec::new(),
            notes: Vec::new(),
        };
        running.spawn_local_on(uploader.run(Arc::clone(&stop)), &clients);
    }
    let struck = clients.run_until(disaster).await;
    stop.store(true, Ordering::Relaxed);
    clients
        .run_until(async {
            while let Some(notes) = running.join_next().await {
                notes?.into_iter().for_each(|note| note(history));
            }
            anyhow::Ok(())
        })
        .await?;
    Ok(struck)
}

/// Enters what a client was told into a history.
type Note = Box<dyn FnOnce(&mut History)>;

/// One client, with files of its own.
struct Uploader {
    client: Client,
    load: Load,
    seeded: Seeded,
    /// Files whose state it knows, and which are not deleted.
    stored: Vec<FileId>,
    notes: Vec<Note>,
}

impl Uploader {
    async fn run(mut self, stop: Arc<AtomicBool>) -> Vec<Note> {
        while !stop.load(Ordering::Relaxed) {
            let went_well = match self.seeded.below(10) {
                0 if !self.stored.is_empty() => self.change().await,
                _ => self.upload().await,
            };
            if !went_well {
                // Whoever was struck has seen the disaster; the next request would only be refused.
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        self.notes
    }

    async fn upload(&mut self) -> bool {
        let content =
            Content { seed: self.seeded.draw(), size: (self.load.size)(&mut self.seeded) };
        let Ok(file) = new_file_id() else { return false };
        let source = UploadSource::bytes(content.bytes());
        let details = UploadDetails { name: Some("片.mp4".into()), ..Default::default() };
        let result = self.client.upload(&owner().file(file), &source, &details, &mut |_| {}).await;
        let stored = result.is_ok();
        if stored {
            self.load.acknowledged.beat();
            self.stored.push(file);
        }
        self.notes.push(Box::new(move |history| history.uploaded(file, content, &result)));
        stored
    }

    /// Deletes one of its files, and may restore or purge it then.
    async fn change(&mut self) -> bool {
        let index = self.seeded.below(self.stored.len() as u64) as usize;
        let file = self.stored.swap_remove(index);
        let named = owner().file(file);
        let mut went_well = self.told(file, State::Deleted, self.client.delete(&named).await);
        if went_well {
            match self.seeded.below(3) {
                0 => {
                    let restored = self.client.restore(&named).await;
                    went_well = self.told(file, State::Normal, restored);
                    if went_well {
                        self.stored.push(file);
                    }
                }
                1 => {
                    let purged = self.client.purge(&named).await;
                    went_well = self.told(file, State::Absent, purged);
                }
                _ => {}
            }
        }
        went_well
    }

    fn told(&mut self, file: FileId, asked: State, result: Result<(), ClientError>) -> bool {
        let done = result.is_ok();
        self.notes.push(Box::new(move |history| history.changed(file, asked, &result)));
        done
    }
}
