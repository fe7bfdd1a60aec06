//! Bounded pools of threads for what blocks: a disk that hangs holds its own pool's threads and
//! queue, and nothing else.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

use tokio::sync::oneshot;

use crate::metrics::{Exporter, Registry, SharedCell};
use crate::role::Role;

crate::metric_table! {
    /// What a worker pool counts.
    pub struct PoolMetrics;
    /// Jobs that wait.
    gauge QUEUED = "reel_worker_jobs_queued", Count, "Jobs that wait for a thread of the pool.";
    /// Jobs that run.
    gauge RUNNING = "reel_worker_jobs_running", Count, "Jobs that a thread of the pool is at.";
    /// Jobs turned away.
    counter REFUSED = "reel_worker_jobs_refused_total", Count,
        "Jobs refused because the pool's queue was full.";
    /// Jobs done.
    counter FINISHED = "reel_worker_jobs_finished_total", Count, "Jobs done by the pool.";
    /// How long jobs take.
    histogram SECONDS = "reel_worker_job_seconds", Micros,
        "Time of a job on its thread, without the time in the queue.";
}

/// A job could not be run.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
pub enum WorkerError {
    /// The queue is at its limit: the work behind the pool is slower than what asks for it.
    /// Nothing was started; try later.
    #[error("the queue of worker pool {pool} is full")]
    Full {
        /// Name of the pool.
        pool: &'static str,
    },
    /// The job did not return: it panicked, or the pool ended before its turn.
    #[error("worker pool {pool} is gone")]
    Gone {
        /// Name of the pool.
        pool: &'static str,
    },
}

type Job = Box<dyn FnOnce() + Send>;

/// A pool of threads with a bounded queue. Clones share it; when the last is dropped the threads
/// finish what is queued and end.
///
/// Usable from monoio, tokio and plain threads: waiting needs no runtime of its own.
#[derive(Clone)]
pub struct Pool {
    name: &'static str,
    jobs: flume::Sender<Job>,
    registry: Registry<PoolMetrics>,
    metrics: SharedCell<PoolMetrics>,
}

/// What a pool is doing, for `/status`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct PoolStatus {
    /// Jobs that wait for a thread.
    pub queued: i64,
    /// Jobs that a thread is at.
    pub running: i64,
    /// Jobs refused because the queue was full, since the start.
    pub refused: u64,
    /// Jobs done, since the start.
    pub finished: u64,
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Pool").field("name", &self.name).field("status", &self.status()).finish()
    }
}

impl Pool {
    /// Starts `threads` threads (at least one) behind a queue of `queue_limit` jobs (at least
    /// one). The name shows in thread names, errors and metrics.
    ///
    /// # Errors
    /// A thread could not be started.
    pub fn new(name: &'static str, threads: usize, queue_limit: usize) -> io::Result<Self> {
        let registry = Registry::<PoolMetrics>::detached();
        let (jobs, queue) = flume::bounded::<Job>(queue_limit.max(1));
        let metrics = registry.shared();
        for index in 0..threads.max(1) {
            let (queue, metrics) = (queue.clone(), metrics.clone());
            std::thread::Builder::new()
                .name(format!("{name}-{index}"))
                .spawn(move || work(&queue, &metrics))?;
        }
        Ok(Self { name, jobs, registry, metrics })
    }

    /// Exports the pool's metrics under the role and these labels (as the store path that it works for). Once.
    pub fn export(&self, exporter: &Exporter, role: Role, labels: &[(&'static str, String)]) {
        let mut labels = labels.to_vec();
        labels.push(("pool", self.name.to_owned()));
        exporter.export(&self.registry, role.name(), &labels);
    }

    /// Runs a job on a thread of the pool and waits for its result without blocking.
    ///
    /// Dropping the future does not take the job back: once queued, it runs.
    ///
    /// # Errors
    /// [`WorkerError::Full`] at once and without effect when the queue is at its limit;
    /// [`WorkerError::Gone`] when the job panicked.
    pub async fn run<T, F>(&self, job: F) -> Result<T, WorkerError>
    where
        F: FnOnce() -> T + Send + 'static,
        T: Send + 'static,
    {
        let (answer, wait) = oneshot::channel();
        self.post(move || {
            let _ = answer.send(job());
        })?;
        wait.await.map_err(|_| WorkerError::Gone { pool: self.name })
    }

    /// Queues a job whose result nobody waits for.
    ///
    /// # Errors
    /// As [`Pool::run`].
    pub fn post(&self, job: impl FnOnce() + Send + 'static) -> Result<(), WorkerError> {
        // Before the job can start and lower it.
        self.metrics.raise(PoolMetrics::QUEUED, 1);
        let Err(error) = self.jobs.try_send(Box::new(job)) else {
            return Ok(());
        };
        self.metrics.lower(PoolMetrics::QUEUED, 1);
        match error {
            flume::TrySendError::Full(_) => {
                self.metrics.add(PoolMetrics::REFUSED, 1);
                Err(WorkerError::Full { pool: self.name })
            }
            flume::TrySendError::Disconnected(_) => Err(WorkerError::Gone { pool: self.name }),
        }
    }

    /// Name of the pool.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// What it is doing now.
    pub fn status(&self) -> PoolStatus {
        PoolStatus {
            queued: self.registry.level(PoolMetrics::QUEUED),
            running: self.registry.level(PoolMetrics::RUNNING),
            refused: self.registry.count(PoolMetrics::REFUSED),
            finished: self.registry.count(PoolMetrics::FINISHED),
        }
    }
}

fn work(queue: &flume::Receiver<Job>, metrics: &SharedCell<PoolMetrics>) {
    while let Ok(job) = queue.recv() {
        metrics.lower(PoolMetrics::QUEUED, 1);
        metrics.raise(PoolMetrics::RUNNING, 1);
        let started = Instant::now();
        // A release build aborts on a panic. Where panics unwind (tests), the thread must
        // survive: a pool that silently loses threads ends as a hang.
        let _ = catch_unwind(AssertUnwindSafe(job));
        let micros = u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX);
        metrics.observe(PoolMetrics::SECONDS, micros);
        metrics.lower(PoolMetrics::RUNNING, 1);
        metrics.add(PoolMetrics::FINISHED, 1);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::{Pool, PoolStatus, WorkerError};

    fn on_tokio<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
    }

    #[test]
    fn runs_from_both_runtimes() {
        let pool = Pool::new("test-both", 2, 4).unwrap();
        let named = || std::thread::current().name().unwrap().to_owned();
        assert!(on_tokio(pool.run(named)).unwrap().starts_with("test-both-"));
        let pool_there = pool.clone();
        let name = std::thread::spawn(move || {
            monoio::start::<monoio::LegacyDriver, _>(async move { pool_there.run(named).await })
        });
        assert!(name.join().unwrap().unwrap().starts_with("test-both-"));
    }

    #[test]
    fn a_full_queue_refuses_and_recovers() {
        let pool = Pool::new("test-full", 1, 1).unwrap();
        let (release, held) = flume::bounded::<()>(0);
        let (begun, wait_begun) = flume::bounded::<()>(0);
        pool.post(move || {
            begun.send(()).unwrap();
            let _ = held.recv();
        })
        .unwrap();
        wait_begun.recv().unwrap();
        pool.post(|| {}).unwrap();
        assert_eq!(pool.post(|| {}), Err(WorkerError::Full { pool: "test-full" }));
        let held = PoolStatus { queued: 1, running: 1, refused: 1, finished: 0 };
        assert_eq!(pool.status(), held);
        drop(release);
        // The queue has one place and one job before ours: once that is taken there is room.
        let answer = loop {
            match on_tokio(pool.run(|| 5)) {
                Err(WorkerError::Full { .. }) => std::thread::yield_now(),
                other => break other,
            }
        };
        assert_eq!(answer, Ok(5));
    }

    #[test]
    fn a_panic_costs_its_own_job_only() {
        let pool = Pool::new("test-panic", 1, 4).unwrap();
        let gone = on_tokio(pool.run(|| panic!("a job that panics on purpose")));
        assert_eq!(gone, Err::<(), _>(WorkerError::Gone { pool: "test-panic" }));
        assert_eq!(on_tokio(pool.run(|| 1)), Ok(1));
        // The answer came while the job was still on its thread: one more goes after it.
        while pool.status().finished < 2 {
            std::thread::yield_now();
        }
        assert_eq!(pool.status(), PoolStatus { finished: 2, ..PoolStatus::default() });
    }

    #[test]
    fn queued_jobs_finish_after_the_last_handle() {
        let pool = Pool::new("test-last", 1, 8).unwrap();
        let (done, results) = flume::unbounded();
        for index in 0..8 {
            let done = done.clone();
            // A thread may not have taken the first yet: the queue holds all eight.
            pool.post(move || done.send(index).unwrap()).unwrap();
        }
        drop((pool, done));
        assert_eq!(results.iter().collect::<Vec<_>>(), (0..8).collect::<Vec<_>>());
    }
}
