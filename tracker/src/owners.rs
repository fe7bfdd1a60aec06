//! Whose a file is, as the storage nodes' shared database says: for a LOCATE that names a file and no user.
//!
//! A thread of its own with a few connections, so that these lookups wait for each other as little as for the routes.

use std::sync::Arc;
use std::thread::JoinHandle;

use reel_meta::mysql::{MysqlFileStore, MysqlOptions, serve_readers};
use reel_meta::{FileStore, MetaError};
use reel_proto::name::{AppId, FileId, UserId};
use reel_proto::path::PathId;

use crate::database::RouteError;
use crate::start::Error;

/// Questions that wait; whoever comes next waits for a place.
const QUEUE_MAX: usize = 4096;

/// Connections that are asked over at the same time.
const CONNECTIONS: usize = 4;

/// Whose a file is.
#[derive(Debug, Clone)]
pub(crate) struct Owner {
    pub(crate) app: AppId,
    pub(crate) user: UserId,
    /// The id key of the store that has it; an older prefix in a database that was taken over.
    pub(crate) store: String,
}

struct Question {
    file: FileId,
    /// Only if it is this one's.
    of: Option<(AppId, UserId)>,
    answer: flume::Sender<Result<Option<Owner>, RouteError>>,
}

/// The way to the thread. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Owners {
    questions: async_channel::Sender<Question>,
}

impl Owners {
    /// Starts the thread, which connects to the database, and again when it is asked: it need not be there before.
    pub(crate) fn start(options: MysqlOptions) -> Result<(Self, JoinHandle<()>), Error> {
        let (questions, queue) = async_channel::bounded(QUEUE_MAX);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(Error::Thread)?;
        let thread = std::thread::Builder::new()
            .name("tracker-owners".to_owned())
            .spawn(move || {
                let serve = move |store| answer(store, queue.clone());
                runtime.block_on(serve_readers(options, CONNECTIONS, serve));
            })
            .map_err(Error::Thread)?;
        Ok((Self { questions }, thread))
    }

    /// The owner of a file: of the older one, where two have its id, unless it is asked of one owner. None: nobody has.
    pub(crate) async fn of_file(
        &self,
        file: FileId,
        of: Option<(AppId, UserId)>,
    ) -> Result<Option<Owner>, RouteError> {
        let (answer, wait) = flume::bounded(1);
        let question = Question { file, of, answer };
        self.questions.send(question).await.map_err(|_| RouteError::Stopping)?;
        wait.recv_async().await.map_err(|_| RouteError::Stopping)?
    }

    /// Ends the thread once it has answered what is queued.
    pub(crate) fn stop(&self) {
        self.questions.close();
    }
}

async fn answer(mut store: MysqlFileStore, queue: async_channel::Receiver<Question>) {
    while let Ok(Question { file, of, answer }) = queue.recv().await {
        let found = find(&mut store, &file, of.as_ref()).await.map_err(|error| {
            tracing::warn!(%file, %error, "the owner of a file could not be told");
            RouteError::Failed(Arc::from(error.to_string()))
        });
        // Whoever asked may be gone.
        let _ = answer.try_send(found);
    }
}

async fn find(
    store: &mut MysqlFileStore,
    file: &FileId,
    of: Option<&(AppId, UserId)>,
) -> Result<Option<Owner>, MetaError> {
    let found = match of {
        None => store.get(None, file.as_str()).await?,
        Some((app, user)) => store.get_owned(app.as_str(), user.as_str(), file.as_str()).await?,
    };
    let Some(row) = found else { return Ok(None) };
    // An owner whom no request can name has no files.
    let owner = AppId::parse(&row.app).ok().zip(UserId::parse(&row.user).ok());
    Ok(owner.map(|(app, user)| {
        let parsed = PathId::parse_file_path(&row.file_path);
        let store = parsed.map_or(String::new(), |(store, ..)| store.to_owned());
        Owner { app, user, store }
    }))
}
