//! What a client asks, by the client library and over HTTP, and what came of it.

use std::net::SocketAddr;
use std::time::Duration;

use reel_client::{
    Client, ClientConfig, ClientError, FileId, FileRef, Refusal, RetryPolicy, Selection, Span,
    UploadDetails, UploadSource, new_file_id,
};
use reel_tests::history::operations::Outcome;
use reel_tests::http::Reading;
use reel_tests::seed::Content;
use reel_tests::uploaders::owner;
use tokio::runtime::{Builder, Runtime};

/// The longest that a client waits for a byte.
const PATIENCE: Duration = Duration::from_secs(5);

/// Bytes of a piece that is read at once.
const PIECE: usize = 256 << 10;

/// A number for a file that no other has.
pub(crate) fn new_file() -> FileId {
    new_file_id().unwrap()
}

fn named(file: FileId) -> FileRef {
    owner().file(file)
}

fn done() -> Outcome {
    Outcome::Done { path_id: None }
}

/// The client library. It tells each failure at once, so that a request has the outcome that it had.
pub(crate) struct Library {
    runtime: Runtime,
    client: Client,
}

impl Library {
    pub(crate) fn new(trackers: &[SocketAddr]) -> Self {
        let mut config = ClientConfig::new(trackers.iter().map(ToString::to_string));
        config.retry = RetryPolicy { window: Duration::ZERO, ..RetryPolicy::default() };
        Self::with(config)
    }

    /// One that repeats what fails.
    pub(crate) fn patient(trackers: &[SocketAddr]) -> Self {
        Self::with(ClientConfig::new(trackers.iter().map(ToString::to_string)))
    }

    fn with(mut config: ClientConfig) -> Self {
        config.stall_timeout = PATIENCE;
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let client = runtime.block_on(async { Client::new(config) }).unwrap();
        Self { runtime, client }
    }

    pub(crate) fn upload(&self, file: FileId, content: Content) -> Outcome {
        let source = UploadSource::bytes(content.bytes());
        let (file, details) = (named(file), UploadDetails::default());
        let upload = async { self.client.upload(&file, &source, &details, &mut |_| {}).await };
        match self.runtime.block_on(upload) {
            Ok(uploaded) => Outcome::Done { path_id: uploaded.path_id },
            Err(error) => Outcome::Failed(error.to_string()),
        }
    }

    pub(crate) fn delete(&self, file: FileId) -> Outcome {
        match self.runtime.block_on(self.client.delete(&named(file))) {
            Ok(()) => done(),
            Err(error) => outcome_of(&error),
        }
    }

    pub(crate) fn download(&self, file: FileId, content: Content) -> Outcome {
        let expected = content.bytes();
        self.runtime.block_on(async {
            let mut download = match self.client.download(&named(file), Span::whole()).await {
                Ok(download) => download,
                Err(error) => return outcome_of(&error),
            };
            let path_id = download.content().path_id;
            let mut compared = Compared::new(&expected);
            loop {
                match download.next().await {
                    Ok(Some(piece)) => {
                        if let Err(wrong) = compared.take(&piece) {
                            return wrong;
                        }
                    }
                    Ok(None) => return compared.end(path_id),
                    Err(error) => return Outcome::Failed(error.to_string()),
                }
            }
        })
    }

    /// Every file that is listed, deleted ones too, with the number of its place.
    pub(crate) fn list(&self) -> anyhow::Result<Vec<(FileId, u64)>> {
        let of = Selection::of_user(owner().app, owner().user);
        self.runtime.block_on(async {
            let (mut files, mut after) = (Vec::new(), None);
            loop {
                let page = self.client.list(&of, after.as_ref(), 1000).await?;
                files.extend(page.files.iter().map(|entry| (entry.file, entry.stat.path_id)));
                match page.next {
                    Some(next) => after = Some(next),
                    None => return Ok(files),
                }
            }
        })
    }
}

fn outcome_of(error: &ClientError) -> Outcome {
    match error.refusal() {
        Some(Refusal::NoSuchFile) => Outcome::Absent,
        _ => Outcome::Failed(error.to_string()),
    }
}

/// HTTP at one of several addresses.
#[derive(Debug, Clone)]
pub(crate) struct Http {
    addresses: Vec<SocketAddr>,
}

impl Http {
    pub(crate) fn new(addresses: Vec<SocketAddr>) -> Self {
        Self { addresses }
    }

    pub(crate) fn put(&self, file: FileId, content: Content) -> Outcome {
        self.change("PUT", file, Some(&content.bytes()))
    }

    pub(crate) fn delete(&self, file: FileId) -> Outcome {
        self.change("DELETE", file, None)
    }

    fn change(&self, method: &str, file: FileId, body: Option<&[u8]>) -> Outcome {
        match Reading::ask(self.addresses[0], method, &target(file), body, PATIENCE) {
            Ok(answer) if matches!(answer.status, 200 | 201 | 204) => done(),
            Ok(answer) => Outcome::Failed(answer.status.to_string()),
            Err(error) => Outcome::Failed(format!("{error:#}")),
        }
    }

    /// Reads a file, or these bytes of it, from the address that `draw` says.
    pub(crate) fn read(
        &self,
        draw: u64,
        file: FileId,
        content: Content,
        range: Option<(u64, u64)>,
    ) -> Outcome {
        let whole = content.bytes();
        let expected = match range {
            Some((first, end)) => &whole[first as usize..end as usize],
            None => &whole[..],
        };
        let address = self.addresses[(draw % self.addresses.len() as u64) as usize];
        match read(address, &target(file), range, expected) {
            Ok(outcome) => outcome,
            Err(error) => Outcome::Failed(format!("{address}: {error:#}")),
        }
    }
}

fn target(file: FileId) -> String {
    format!("/files/{file}")
}

fn read(
    address: SocketAddr,
    target: &str,
    range: Option<(u64, u64)>,
    expected: &[u8],
) -> anyhow::Result<Outcome> {
    let mut reading = Reading::open(address, target, range, PATIENCE)?;
    let wanted = if range.is_some() { 206 } else { 200 };
    match reading.status {
        404 => return Ok(Outcome::Absent),
        status if status == wanted => {}
        status => return Ok(Outcome::Failed(format!("{address}: {status}"))),
    }
    if reading.left() != expected.len() as u64 {
        return Ok(Outcome::Wrong(format!("{address}: {} bytes", reading.left())));
    }
    let mut compared = Compared::new(expected);
    while reading.left() > 0 {
        // What comes before the connection breaks has to be right, too.
        if let Err(wrong) = compared.take(&reading.next(PIECE)?) {
            return Ok(wrong);
        }
    }
    Ok(compared.end(None))
}

/// Bytes that come, beside those that must.
struct Compared<'a> {
    expected: &'a [u8],
    at: usize,
}

impl<'a> Compared<'a> {
    fn new(expected: &'a [u8]) -> Self {
        Self { expected, at: 0 }
    }

    fn take(&mut self, piece: &[u8]) -> Result<(), Outcome> {
        let end = self.at + piece.len();
        if self.expected.get(self.at..end) != Some(piece) {
            let text = format!("between {} and {end} of {}", self.at, self.expected.len());
            return Err(Outcome::Wrong(text));
        }
        self.at = end;
        Ok(())
    }

    fn end(self, path_id: Option<u64>) -> Outcome {
        if self.at < self.expected.len() {
            return Outcome::Wrong(format!("{} of {} bytes", self.at, self.expected.len()));
        }
        Outcome::Done { path_id }
    }
}
