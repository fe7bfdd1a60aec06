//! The engine's background work on the control thread: trackers, path ids, the gauges of the disks.

use std::{sync::Arc, time::Duration};

use reel_node::{ControlContext, Drain, Process, Role, config::Secret, metrics::SharedCell};
use reel_proto::{frame::RemoteError, refusal::Refusal, sign};

use crate::{
    metrics::Serve,
    service::Shared,
    store::{BrickCounts, BrickStatus, Health, PathCounts, Stores, path::StorePath},
    thread::now,
};

mod blocks;
mod trackers;

/// Between two looks at the disks' numbers.
const PUBLISH_INTERVAL: Duration = Duration::from_secs(1);

reel_node::metric_table! {
    /// The metrics of one store path; its `path` is a label.
    pub(crate) struct Disk;
    /// Size of the file system.
    gauge TOTAL = "reel_engine_store_total_bytes", Bytes, "Size of the store path's file system.";
    /// Free on it.
    gauge FREE = "reel_engine_store_free_bytes", Bytes, "Free on the store path's file system.";
    /// Kept free.
    gauge RESERVE = "reel_engine_store_reserve_bytes", Bytes, "Kept free on the store path.";
    /// Promised to uploads.
    gauge PROMISED = "reel_engine_store_promised_bytes", Bytes, "Promised to uploads under way.";
    /// Which state it is in.
    gauge STATE = "reel_engine_store_state", Count, "1 for the state that the store path is in.",
        [state: "ok", "full", "read_only", "hung", "away"];
    /// Path ids in hand.
    gauge IDS_LEFT = "reel_engine_store_ids_left", Count, "Path ids in hand for uploads.";
    /// Files not settled.
    gauge OPEN_FILES = "reel_engine_store_unsettled_files", Count,
        "Files of uploads that are neither acknowledged nor removed yet.";
    /// Uploads.
    counter UPLOADS = "reel_engine_store_uploads_total", Count, "Files acknowledged.";
    /// Bytes of them.
    counter UPLOAD_BYTES = "reel_engine_store_upload_bytes_total", Bytes, "Bytes acknowledged.";
    /// Failed uploads.
    counter DISCARDED = "reel_engine_store_discarded_total", Count,
        "Files of failed uploads that were removed.";
    /// Groups made durable.
    counter COMMITS = "reel_engine_store_commits_total", Count, "Groups of files made durable.";
    /// Groups that failed.
    counter COMMIT_FAILURES = "reel_engine_store_commit_failures_total", Count,
        "Groups that could not be made durable.";
    /// Deletes and restores.
    counter CHANGES = "reel_engine_store_changes_total", Count, "Files deleted or restored.";
    /// Purges.
    counter PURGED = "reel_engine_store_purged_total", Count, "Files removed for good.";
    /// Files of the brick by what became of them.
    counter BRICK = "reel_engine_store_brick_files_total", Count,
        "Files of the brick: checked for a reader, found bad, mended, read through the mount instead, checked ahead of readers.",
        [what: "checked", "bad", "mended", "lacking", "ahead"];
    /// Bad copies that are not mended.
    gauge BRICK_BAD = "reel_engine_store_brick_bad_files", Count,
        "Bad copies on the brick, by whether the volume or a person has to act.",
        [waits_for: "volume", "person"];
    /// How long ago the brick was read through.
    gauge SCRUB_AGE = "reel_engine_store_scrub_age_seconds", Seconds,
        "Since the last reading of all that lies on the brick came to its end; -1: none did yet.";
}

/// The metrics of one store path.
pub(crate) struct DiskMetrics(SharedCell<Disk>);

/// A registry for each store path, in their order; what its committer measures is exported beside it.
pub(crate) fn disk_metrics(process: &Process, stores: &Stores) -> Vec<DiskMetrics> {
    let (exporter, role) = (process.exporter(), Role::Engine.name());
    let of = |store: &Arc<StorePath>| {
        let labels = [("path", store.folder.display().to_string())];
        exporter.export(&store.commit_metrics, role, &labels);
        for pool in [&store.pool, &store.whole_reads] {
            pool.export(exporter, Role::Engine, &labels);
        }
        DiskMetrics(exporter.registry::<Disk>(role, &labels).shared())
    };
    // One for all of them; each has the same.
    if let Some(store) = stores.paths().first() {
        exporter.export(&store.journal.metrics, role, &[]);
    }
    stores.paths().iter().map(of).collect()
}

/// Runs until the last data thread has ended.
pub(crate) async fn run(shared: Arc<Shared>, cx: &ControlContext) {
    let publishing = tokio::task::spawn_local(publish(shared.clone(), cx.finished.clone()));
    let refills: Vec<_> = (0..shared.stores.paths().len())
        .map(|store| blocks::refill(shared.clone(), store, cx.finished.clone()))
        .map(tokio::task::spawn_local)
        .collect();
    let trackers = trackers::all(&shared, cx);
    for task in trackers.into_iter().chain(refills).chain([publishing]) {
        if let Err(error) = task.await {
            tracing::error!(%error, "a background task of the engine ended");
        }
    }
}

/// A payload of a command between nodes in its envelope.
fn seal(shared: &Shared, command: u8, payload: &[u8]) -> Vec<u8> {
    let mut nonce = sign::Nonce::default();
    // Without random bytes the nonce is one that was here before: the peer refuses it and says so.
    let _ = getrandom::fill(&mut nonce);
    let secret = shared.secret.as_ref().map(Secret::expose);
    sign::seal(secret, command, now(), nonce, payload)
}

/// Whether an error reply may mean that the peer does not know the command: deployed nodes have one number for all.
fn may_be_unknown(error: &RemoteError) -> bool {
    matches!(Refusal::of(error.number), Refusal::Other | Refusal::UnknownCommand)
}

/// Runs `work` until `end` is given, whichever is first.
async fn until<T>(end: &Drain, work: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        biased;
        () = end.wait() => None,
        value = work => Some(value),
    }
}

async fn publish(shared: Arc<Shared>, finished: Drain) {
    let mut before = vec![Default::default(); shared.disks.len()];
    loop {
        publish_once(&shared, &mut before);
        if until(&finished, tokio::time::sleep(PUBLISH_INTERVAL)).await.is_none() {
            publish_once(&shared, &mut before);
            return;
        }
    }
}

fn publish_once(shared: &Shared, before: &mut [(PathCounts, BrickCounts)]) {
    let read = !shared.stores.metadata().watch().is_blind();
    shared.registry.shared().set(Serve::CHANGES_READ, i64::from(read));
    shared.registry.shared().set(Serve::DRAINED, i64::from(shared.drained.is_on()));
    let level = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
    for ((status, metrics), before) in
        shared.stores.status().into_iter().zip(&shared.disks).zip(before)
    {
        let cell = &metrics.0;
        cell.set(Disk::TOTAL, level(status.total_bytes));
        cell.set(Disk::FREE, level(status.free_bytes));
        cell.set(Disk::RESERVE, level(status.reserve_bytes));
        cell.set(Disk::PROMISED, level(status.promised_bytes));
        cell.set(Disk::IDS_LEFT, level(status.ids_left));
        cell.set(Disk::OPEN_FILES, level(status.open_files));
        let states = [Health::Ok, Health::Full, Health::ReadOnly, Health::Hung, Health::Away];
        for (index, health) in states.into_iter().enumerate() {
            cell.set(Disk::STATE.at([index]), i64::from(status.health == health));
        }
        let counts = status.counts;
        for (counter, now, then) in [
            (Disk::UPLOADS, counts.uploads, before.0.uploads),
            (Disk::UPLOAD_BYTES, counts.upload_bytes, before.0.upload_bytes),
            (Disk::DISCARDED, counts.discarded, before.0.discarded),
            (Disk::COMMITS, counts.commits, before.0.commits),
            (Disk::COMMIT_FAILURES, counts.commit_failures, before.0.commit_failures),
            (Disk::CHANGES, counts.changes, before.0.changes),
            (Disk::PURGED, counts.purged, before.0.purged),
        ] {
            cell.add(counter, now.saturating_sub(then));
        }
        before.0 = counts;
        if let Some(brick) = &status.brick {
            publish_brick(cell, brick, &mut before.1);
        }
    }
}

fn publish_brick(cell: &SharedCell<Disk>, brick: &BrickStatus, before: &mut BrickCounts) {
    let level = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
    let counts = brick.counts;
    for (index, now, then) in [
        (0, counts.checked, before.checked),
        (1, counts.bad, before.bad),
        (2, counts.mended, before.mended),
        (3, counts.lacking, before.lacking),
        (4, counts.ahead, before.ahead),
    ] {
        cell.add(Disk::BRICK.at([index]), now.saturating_sub(then));
    }
    *before = counts;
    cell.set(Disk::BRICK_BAD.at([0]), level(brick.mending));
    cell.set(Disk::BRICK_BAD.at([1]), level(brick.beyond_help));
    let age = match brick.scrub.ended_at {
        0 => -1,
        ended_at => level(now().saturating_sub(ended_at)),
    };
    cell.set(Disk::SCRUB_AGE, age);
}
