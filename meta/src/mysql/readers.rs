//! Several connections for lookups on one thread.

use futures_util::future::try_join_all;
use tokio::task::LocalSet;

use super::{MysqlOptions, MysqlStore};

/// Runs `serve` with each of `count` readers, as tasks of this thread, until all have ended. They connect at once: what has
/// a connection goes on to read from a server that takes no changes any more, and nobody else connects to that.
///
/// # Panics
/// As `serve` does.
pub async fn serve_readers<D: 'static, F: Future<Output = ()> + 'static>(
    options: MysqlOptions,
    count: usize,
    serve: impl Fn(MysqlStore<D>) -> F + Clone + 'static,
) {
    let tasks = LocalSet::new();
    let readers: Vec<_> = (0..count)
        .map(|_| {
            let (mut store, serve) = (MysqlStore::new_reader(options.clone()), serve.clone());
            tasks.spawn_local(async move {
                // Without one it is tried again by whoever asks, who is told.
                let _ = store.connect().await;
                serve(store).await;
            })
        })
        .collect();
    if let Err(ended) = tasks.run_until(try_join_all(readers)).await
        && let Ok(panic) = ended.try_into_panic()
    {
        std::panic::resume_unwind(panic);
    }
}
