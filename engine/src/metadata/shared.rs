//! A database that nodes share: several readers, as each waits for the network most of the time, and somebody who follows
//! the change log. All of them are tasks of one thread.

use std::{pin::pin, sync::Arc, time::Duration};

use futures_util::future::select;
use reel_meta::{
    MetaError,
    mysql::{Changed, MysqlChangeLog, MysqlFileStore, MysqlOptions, serve_readers},
};
use tokio::{
    runtime::Runtime,
    time::{Instant, sleep, timeout_at},
};

use super::{
    Metadata, READ_QUEUE_MAX, RowError, Threads, WRITE_QUEUE_MAX, reader, spawn, watch::Watch,
    writer,
};
use crate::epochs::Epochs;

/// Connections that the database is asked over at the same time.
const READERS: usize = 4;

/// Pause between two readings of the change log.
const READ_EVERY: Duration = Duration::from_millis(500);

/// The change log counts as unread so long after its last reading: with one pause, a delete of another node is known
/// within two seconds, or each request asks.
const UNREAD_MAX: Duration = Duration::from_millis(1500);

/// Longest wait for a reading.
const READING_MAX: Duration = Duration::from_secs(2);

/// Between two removals of what is old in the change log.
const REMOVE_EVERY: Duration = Duration::from_secs(60);

/// Opens the database and starts its threads.
pub(super) fn open(options: &MysqlOptions) -> Result<Metadata, RowError> {
    let (writes, write_queue) = flume::bounded(WRITE_QUEUE_MAX);
    let (reads, read_queue) = async_channel::bounded(READ_QUEUE_MAX);
    let (epochs, watch) = (Arc::new(Epochs::new()), Arc::<Watch>::default());
    let write_options = options.clone();
    let open_writer = move || {
        let runtime = runtime()?;
        let store = runtime.block_on(MysqlFileStore::open(write_options))?;
        Ok((runtime, store))
    };
    let write_thread = spawn("reel-meta-write", open_writer, move |(runtime, mut store)| {
        runtime.block_on(writer::run(&mut store, write_queue));
    })?;
    let log_options = MysqlOptions {
        statement_timeout: options.statement_timeout.min(READING_MAX),
        ..options.clone()
    };
    let open_log = move || {
        let runtime = runtime()?;
        let log = runtime.block_on(MysqlChangeLog::open(log_options))?;
        Ok((runtime, log))
    };
    let read_options = options.clone();
    let (epochs_there, watch_there) = (Arc::clone(&epochs), Arc::clone(&watch));
    let read_thread = spawn("reel-meta-read", open_log, move |(runtime, log)| {
        let serve = move |store: MysqlFileStore| reader::run(store, read_queue.clone());
        let readers = pin!(serve_readers(read_options, READERS, serve));
        let follower = pin!(follow(log, &epochs_there, &watch_there));
        // The follower never ends by itself.
        runtime.block_on(select(readers, follower));
    })?;
    let threads = Threads::new(vec![write_thread, read_thread]);
    Ok(Metadata { writes, reads, epochs, watch, threads })
}

/// Tells caches what others have changed.
async fn follow(mut log: MysqlChangeLog, epochs: &Epochs, watch: &Watch) {
    let mut read_at = Instant::now();
    let mut removed_at = Instant::now();
    loop {
        let began = Instant::now();
        match read(&mut log, read_at + UNREAD_MAX, watch).await {
            Ok(changed) => {
                match changed {
                    Changed::Files(files) => files.iter().for_each(|file| epochs.bump(file)),
                    Changed::Anything => {
                        tracing::warn!(
                            "the change log went back, or was not read for long: everything is looked up anew"
                        );
                        epochs.bump_all();
                    }
                }
                watch.is_read();
                read_at = began;
            }
            Err(error) => {
                tracing::debug!(%error, "the change log was not read");
                if read_at.elapsed() >= UNREAD_MAX {
                    watch.is_unread();
                }
            }
        }
        if removed_at.elapsed() >= REMOVE_EVERY && !watch.is_blind() {
            removed_at = Instant::now();
            if let Err(error) = log.remove_old().await {
                // Another node removes the same.
                tracing::debug!(%error, "old changes were not removed");
            }
        }
        sleep(READ_EVERY).await;
    }
}

/// Reads the log, and says so where that takes until `late`.
async fn read(
    log: &mut MysqlChangeLog,
    late: Instant,
    watch: &Watch,
) -> Result<Changed, MetaError> {
    let mut reading = pin!(log.read());
    match timeout_at(late, &mut reading).await {
        Ok(changed) => changed,
        Err(_) => {
            watch.is_unread();
            reading.await
        }
    }
}

/// What drives the connections of one thread.
fn runtime() -> Result<Runtime, MetaError> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| MetaError::Database { operation: "open", cause: Box::new(error) })
}
