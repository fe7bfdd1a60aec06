//! Clients that upload as fast as they can until they are stopped, and a history of what they were told.

use std::{
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::Result;
use reel_client::{
    AppId, Client, ClientConfig, Owner, RetryPolicy, UploadDetails, UploadSource, UserId,
    new_file_id,
};
use tokio::task::{JoinSet, LocalSet};

use crate::{
    history::History,
    process::Store,
    seed::{Content, Seeded},
};

/// Clients at once.
pub const UPLOADERS: usize = 8;

/// The owner of what they upload.
#[must_use]
pub fn owner() -> Owner {
    match (AppId::parse("tnvideo"), UserId::parse("tnv001")) {
        (Ok(app), Ok(user)) => Owner { app, user },
        _ => unreachable!("both names are legal"),
    }
}

/// A client that tells each failure at once, so that a broken upload has the outcome that it had.
pub fn impatient_client(store: &Store) -> Result<Client> {
    let mut config = ClientConfig::new([store.addresses.tracker.to_string()]);
    config.retry = RetryPolicy { window: Duration::ZERO, ..RetryPolicy::default() };
    config.stall_timeout = Duration::from_secs(10);
    Ok(Client::new(config)?)
}

/// Sizes as a media store sees them, and those at which code breaks: none, one byte, around a page, around a piece.
pub fn size(seeded: &mut Seeded) -> u64 {
    const EDGES: [u64; 8] = [0, 1, 4095, 4096, 4097, 65_536, 256 * 1024, 256 * 1024 + 1];
    match seeded.below(10) {
        0 => EDGES[seeded.below(EDGES.len() as u64) as usize],
        1 => seeded.below(4 << 20),
        _ => seeded.below(64 << 10),
    }
}

/// Runs [`UPLOADERS`] clients against `store` while `disaster` waits and strikes; all that they were told goes into
/// `history`. Returns what `disaster` gives, after the last client has stopped.
pub async fn upload_until<T>(
    store: &Store,
    seeded: &mut Seeded,
    history: &mut History,
    disaster: impl Future<Output = T>,
) -> Result<T> {
    let stop = Arc::new(AtomicBool::new(false));
    let clients = LocalSet::new();
    let mut running = JoinSet::new();
    for _ in 0..UPLOADERS {
        let (client, seeded, stop) = (impatient_client(store)?, seeded.branch(), Arc::clone(&stop));
        running.spawn_local_on(one_client(client, seeded, stop), &clients);
    }
    let struck = clients.run_until(disaster).await;
    stop.store(true, Ordering::Relaxed);
    clients
        .run_until(async {
            while let Some(notes) = running.join_next().await {
                for (file, content, result) in notes? {
                    history.note(file, content, &result);
                }
            }
            anyhow::Ok(())
        })
        .await?;
    Ok(struck)
}

type Note = (reel_client::FileId, Content, Result<reel_client::Uploaded, reel_client::ClientError>);

async fn one_client(client: Client, mut seeded: Seeded, stop: Arc<AtomicBool>) -> Vec<Note> {
    let mut notes = Vec::new();
    let details = Rc::new(UploadDetails { name: Some("片.mp4".into()), ..Default::default() });
    while !stop.load(Ordering::Relaxed) {
        let content = Content { seed: seeded.draw(), size: size(&mut seeded) };
        let Ok(file) = new_file_id() else { return notes };
        let source = UploadSource::bytes(content.bytes());
        let result = client.upload(&owner().file(file), &source, &details, &mut |_| {}).await;
        let failed = result.is_err();
        notes.push((file, content, result));
        if failed {
            // Whoever was struck has seen the disaster; the next upload would only be refused.
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    notes
}
