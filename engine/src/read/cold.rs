//! Reading a piece of a file that the page cache does not have, without holding the data thread.
//!
//! This is the one place that reads pieces: nothing above it knows how. Past the page cache (O_DIRECT) where the file
//! system does that, else through it; on the ring where there is one (a READ of a regular file is not punted to a
//! kernel worker until it has to wait), else on the workers of the file's store path, so that a hung disk holds only
//! its own.

use std::{
    cell::Cell,
    fs::File,
    io,
    ops::Range,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    os::unix::fs::FileExt,
    sync::Arc,
};

use reel_node::{metrics, worker::WorkerError};

use super::{
    buffer::{Arena, Block, Buffer, PAGE_BYTES},
    direct::{self, Opened, Plan, Refusal, Seconds},
    open_file::{Direct, Form, OpenFile},
};
use crate::{
    admission::Permit,
    metrics::{Serve, Way},
};

/// Jobs that read ahead, waiting and running, of one thread. A tenth of the default queue of a store path with several
/// threads; each also holds a descriptor for that long.
const AHEADS_MAX: usize = 32;

/// A piece of a file in memory. Its bytes are charged to the thread's budget until it is dropped.
pub(crate) struct Piece {
    buffer: Buffer,
    part: Range<usize>,
}

impl Piece {
    /// The bytes.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.buffer.bytes()[self.part.clone()]
    }
}

/// What a reader of pieces is made from.
pub(crate) struct PieceSettings {
    /// The longest piece.
    pub(crate) piece_bytes: u64,
    /// The most memory that its buffers take.
    pub(crate) buffer_bytes: u64,
    /// Whether to read past the page cache where that can be.
    pub(crate) direct: bool,
}

/// Reads pieces.
pub(crate) struct PieceReader {
    piece: usize,
    arena: Arena,
    direct: bool,
    /// Store paths whose file systems have no direct reads, a bit for each.
    refused: Cell<u64>,
    /// Held once by this, and once by each job that reads ahead.
    aheads: Arc<()>,
    seconds: Seconds,
    /// Called when there is one more second descriptor: closes others if they are too many.
    make_room: Box<dyn Fn()>,
    cell: metrics::Cell<Serve>,
}

impl PieceReader {
    /// A reader that counts second descriptors in `seconds`.
    pub(crate) fn new(
        settings: &PieceSettings,
        seconds: Seconds,
        make_room: Box<dyn Fn()>,
        cell: metrics::Cell<Serve>,
    ) -> Self {
        let piece = usize::try_from(settings.piece_bytes).unwrap_or(PAGE_BYTES);
        let piece = piece.next_multiple_of(PAGE_BYTES);
        let arena = Arena::new(settings.buffer_bytes, piece);
        let direct = settings.direct;
        Self {
            piece,
            arena,
            direct,
            refused: Cell::new(0),
            aheads: Arc::default(),
            seconds,
            make_room,
            cell,
        }
    }

    /// The longest piece.
    pub(super) fn piece_bytes(&self) -> u64 {
        self.piece as u64
    }

    /// Gives unused memory back, a little at a time.
    pub(crate) fn trim(&self) {
        self.arena.trim();
    }

    /// Whether files of a store path may be read directly, as far as is known.
    pub(crate) fn may_be_direct(&self, store: usize) -> bool {
        self.direct && self.refused.get() & bit(store) == 0
    }

    /// Gives `file` what [`direct::open`] answered for it.
    pub(crate) fn take_direct(&self, file: &OpenFile, opened: Result<Opened, Refusal>) {
        match opened {
            Ok(opened) if self.piece.is_multiple_of(opened.alignment as usize) => {
                if file.keep_direct(opened, &self.seconds).is_ok() {
                    (self.make_room)();
                }
            }
            Ok(_) | Err(Refusal::File) => file.keep_no_direct(),
            Err(Refusal::FileSystem(error)) => self.refuse(file.store(), &error),
            Err(Refusal::Now) => {}
        }
    }

    /// From now on this store path's files are read through the page cache.
    fn refuse(&self, store: usize, error: &io::Error) {
        if self.may_be_direct(store) {
            self.refused.set(self.refused.get() | bit(store));
            tracing::info!(store, %error, "no direct reads here: reading through the page cache");
        }
    }

    /// Sees to it that the file has its second descriptor, if it can have one. [`Self::plan`] then uses it.
    pub(super) async fn prepare(&self, file: &OpenFile) {
        if file.direct().is_some() || !self.may_be_direct(file.store()) {
            return;
        }
        // The file is borrowed until the answer is here; who gives up waiting does not use it.
        let fd = file.as_fd().as_raw_fd();
        if let Ok(opened) = file.workers().run(move || direct::open(fd)).await {
            self.take_direct(file, opened);
        }
    }

    /// What to read for the beginning of a range; `through`: through the page cache in any case.
    pub(super) fn plan(&self, file: &OpenFile, offset: u64, length: u64, through: bool) -> Plan {
        let direct = if through { None } else { self.direct_of(file) };
        let alignment = direct.map_or(1, |direct| direct.alignment);
        Plan::new(offset, length, alignment, self.piece)
    }

    /// Has a range brought into the page cache, beside what goes on here. Not done where too much of it waits for the
    /// disks already: what opens files and writes uploads must find room in the workers' queue.
    pub(super) fn read_ahead(&self, file: &OpenFile, offset: u64, length: u64) {
        if Arc::strong_count(&self.aheads) > AHEADS_MAX {
            return;
        }
        let Ok(fd) = file.as_fd().try_clone_to_owned() else { return };
        let counted = Arc::clone(&self.aheads);
        let _ = file.workers().post(move || {
            will_need(&fd, offset, length);
            drop(counted);
        });
    }

    fn direct_of<'a>(&self, file: &'a OpenFile) -> Option<&'a Direct> {
        file.direct().flatten().filter(|_| self.may_be_direct(file.store()))
    }

    /// Reads what was planned; fewer bytes than that if the file ends before. If this is dropped, the buffer and its
    /// permit stay with the kernel or the worker until the read is over.
    ///
    /// # Errors
    /// `WouldBlock`: too much waits for the workers. Else what the disk said.
    pub(super) async fn read(
        &self,
        file: &OpenFile,
        plan: Plan,
        permit: Permit,
    ) -> io::Result<Piece> {
        let mut buffer = Buffer::new(self.arena.take(plan.block_bytes())?, permit);
        let need = plan.skip + plan.length;
        let mut filled = 0;
        if plan.alignment > 1
            && let Some(direct) = self.direct_of(file)
        {
            let step = plan.alignment as usize;
            let job = Job { start: plan.start, need, reach: plan.reach, filled, step };
            let (back, result) = fill(file, &direct.form, job, buffer).await?;
            buffer = back;
            match result {
                Ok(count) => filled = count,
                Err(error) if direct::is_refused(&error) => self.refuse(file.store(), &error),
                Err(error) => return Err(error),
            }
        }
        let way = if filled >= need { Way::Direct } else { Way::Buffered };
        self.cell.add(Serve::DISK_READS.at([way as usize]), 1);
        if filled < need {
            // Not a direct read, or a short one. Whether the file really ends there, the page cache knows.
            let job = Job { start: plan.start, need, reach: need, filled, step: 1 };
            let (back, result) = fill(file, file.form(), job, buffer).await?;
            buffer = back;
            filled = result?;
        }
        let part = plan.skip..filled.clamp(plan.skip, need);
        Ok(Piece { buffer, part })
    }
}

/// Asks the kernel to bring a range into the page cache. May wait for the disk: on a worker.
fn will_need(file: &OwnedFd, offset: u64, length: u64) {
    let (Ok(offset), Ok(length)) = (libc::off_t::try_from(offset), libc::off_t::try_from(length))
    else {
        return;
    };
    // SAFETY: takes no memory; the descriptor is open. Only advice, so what it answers does not matter.
    unsafe { libc::posix_fadvise(file.as_raw_fd(), offset, length, libc::POSIX_FADV_WILLNEED) };
}

pub(super) fn bit(store: usize) -> u64 {
    // A node has at most 64 store paths (limits::STORES_MAX); more would only share their answers.
    1 << (store % 64)
}

/// One piece's way into its buffer.
#[derive(Clone, Copy)]
struct Job {
    /// Where the buffer's first byte lies in the file.
    start: u64,
    /// Enough is there from here on.
    need: usize,
    /// As far as may be read: for a direct read a multiple of the alignment.
    reach: usize,
    /// So much is there already.
    filled: usize,
    /// A read goes on at multiples of this only: where a direct read ends between two, the file does.
    step: usize,
}

impl Job {
    fn goes_on(&self, filled: usize) -> bool {
        filled < self.need && filled.is_multiple_of(self.step)
    }
}

/// The buffer, and how many bytes are in it then.
type Filled = (Buffer, io::Result<usize>);

/// Reads until enough is there or the file ends.
///
/// # Errors
/// The workers did not take it; the buffer is gone.
async fn fill(file: &OpenFile, form: &Form, job: Job, buffer: Buffer) -> io::Result<Filled> {
    match form {
        Form::Ring(form) => Ok(fill_on_ring(form, job, buffer).await),
        Form::Shared(source) => fill_on_worker(file, source.clone(), job, buffer).await,
    }
}

async fn fill_on_ring(file: &monoio::fs::File, job: Job, mut buffer: Buffer) -> Filled {
    let mut filled = job.filled;
    while job.goes_on(filled) {
        buffer.aim(filled..job.reach);
        let (result, back) = file.read_at(buffer, job.start + filled as u64).await;
        buffer = back;
        match result {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return (buffer, Err(error)),
        }
    }
    (buffer, Ok(filled))
}

/// A task of its own waits for the worker: the permit comes back with the memory, whoever gave up waiting.
async fn fill_on_worker(
    file: &OpenFile,
    source: Arc<File>,
    job: Job,
    buffer: Buffer,
) -> io::Result<Filled> {
    let workers = file.workers().clone();
    let task = async move {
        let (mut block, permit) = buffer.into_parts();
        let read = workers.run(move || {
            let result = fill_here(&source, job, &mut block);
            (block, result)
        });
        match read.await {
            Ok((block, result)) => Ok((Buffer::new(block, permit), result)),
            Err(WorkerError::Full { .. }) => Err(io::ErrorKind::WouldBlock.into()),
            Err(error) => Err(io::Error::other(error)),
        }
    };
    monoio::spawn(task).await
}

fn fill_here(file: &File, job: Job, block: &mut Block) -> io::Result<usize> {
    let mut filled = job.filled;
    while job.goes_on(filled) {
        let part = &mut block.bytes_mut()[filled..job.reach];
        match file.read_at(part, job.start + filled as u64) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::{io::Write, rc::Rc, task::Poll};

    use reel_node::{metrics::Registry, worker::Pool};

    use super::*;
    use crate::{admission::Budget, read::PlaceOf};

    fn reader(registry: &Registry<Serve>, seconds: &Seconds, rooms: &Rc<Cell<u32>>) -> PieceReader {
        let settings = PieceSettings { piece_bytes: 8192, buffer_bytes: 1 << 20, direct: true };
        let rooms = rooms.clone();
        let make_room = Box::new(move || rooms.set(rooms.get() + 1));
        PieceReader::new(&settings, seconds.clone(), make_room, registry.cell())
    }

    /// A file that refuses reads from 700 on as one without direct reads does: its offsets are multiples of 8.
    fn refusing() -> Opened {
        let fd = OwnedFd::from(File::open("/proc/self/pagemap").unwrap());
        Opened { fd, alignment: 4 }
    }

    fn file_of(bytes: &[u8]) -> File {
        // In the build folder: a temporary folder may be a tmpfs.
        let mut file = tempfile::tempfile_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        file.write_all(bytes).unwrap();
        file.sync_all().unwrap();
        file
    }

    /// A direct read that is refused is read again through the page cache, and not tried again on this store path.
    async fn refused(ring: bool) {
        let registry = Registry::<Serve>::detached();
        let (seconds, rooms, budget) = (Seconds::default(), Rc::default(), Budget::new(1 << 20));
        let reader = reader(&registry, &seconds, &rooms);
        let bytes: Vec<u8> = (0..20_000_u32).map(|at| at as u8).collect();
        let pool = Pool::new("test-refused", 1, 8).unwrap();
        let file =
            OpenFile::new(file_of(&bytes).into(), ring, PlaceOf { store: 63, number: 1 }, pool)
                .unwrap();
        reader.take_direct(&file, Ok(refusing()));
        assert_eq!((seconds.count(), rooms.get()), (1, 1));
        for round in 0..2 {
            let plan = reader.plan(&file, 700, 7000, false);
            assert_eq!(plan.alignment, if round == 0 { 4 } else { 1 });
            let permit = budget.try_take(plan.block_bytes() as u64).unwrap();
            let piece = reader.read(&file, plan, permit).await.unwrap();
            assert!(piece.bytes() == &bytes[700..7700]);
        }
        assert!(!reader.may_be_direct(63) && reader.may_be_direct(0));
        let count = |way: Way| registry.count(Serve::DISK_READS.at([way as usize]));
        assert_eq!((count(Way::Direct), count(Way::Buffered)), (0, 2));
        assert_eq!(budget.used(), 0);
        drop(file);
        assert_eq!(seconds.count(), 0);
    }

    /// A read that nobody waits for any more keeps its permit until the kernel, or the worker, has done it.
    async fn dropped(ring: bool) {
        let registry = Registry::<Serve>::detached();
        let (seconds, rooms, budget) = (Seconds::default(), Rc::default(), Budget::new(1 << 20));
        let reader = reader(&registry, &seconds, &rooms);
        let pool = Pool::new("test-dropped", 1, 8).unwrap();
        let bytes = vec![7; 20_000];
        let file = OpenFile::new(
            file_of(&bytes).into(),
            ring,
            PlaceOf { store: 0, number: 1 },
            pool.clone(),
        )
        .unwrap();
        let (release, held) = flume::bounded::<()>(0);
        pool.post(move || assert!(held.recv().is_err())).unwrap();
        let plan = reader.plan(&file, 0, 8192, false);
        let permit = budget.try_take(plan.block_bytes() as u64).unwrap();
        {
            let mut read = std::pin::pin!(reader.read(&file, plan, permit));
            let once = std::future::poll_fn(|cx| Poll::Ready(read.as_mut().poll(cx).is_pending()));
            assert!(once.await);
        }
        // Ring: submitted at the next wait at the earliest. Worker: behind the job that is held.
        assert_eq!(budget.used(), 8192);
        drop(release);
        while budget.used() > 0 {
            monoio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
        let plan = reader.plan(&file, 0, 8192, false);
        let permit = budget.try_take(plan.block_bytes() as u64).unwrap();
        assert!(reader.read(&file, plan, permit).await.unwrap().bytes() == &bytes[..8192]);
    }

    #[test]
    fn refusals_and_dropped_reads_without_a_ring() {
        let mut runtime =
            monoio::RuntimeBuilder::<monoio::LegacyDriver>::new().enable_timer().build().unwrap();
        runtime.block_on(refused(false));
        runtime.block_on(dropped(false));
    }

    #[test]
    fn refusals_and_dropped_reads_on_a_ring() {
        // Where the kernel grants none there is nothing to test.
        let built = monoio::RuntimeBuilder::<monoio::IoUringDriver>::new().enable_timer().build();
        let Ok(mut runtime) = built else { return };
        runtime.block_on(refused(true));
        runtime.block_on(dropped(true));
    }
}
