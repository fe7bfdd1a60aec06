//! `reel get`: downloads a file. Bytes go into a partial file beside the output, which takes the output's name when
//! all of it is there and checked; a download that broke off goes on from the partial file. What is no regular file
//! (standard output, a device, a pipe) takes the bytes as they come: a rename would put a file in its place.

use std::{
    fs::{self, OpenOptions},
    io::{self, IsTerminal, Write},
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, Result, bail};
use reel_client::{Client, ClientError, Content, Download, FileRef, Owner, Span};
use serde_json::json;

use super::{arguments::Get, bar::Bar, client, partial::Partial, shown};
use crate::exit::{Usage, line, say};

pub(crate) async fn run(arguments: Get) -> Result<ExitCode> {
    let client = client(&arguments.trackers)?;
    let owner = Owner { app: arguments.owner.app, user: arguments.owner.user };
    let file = owner.file(arguments.id);
    let output = match Output::of(&arguments)? {
        Output::Standard => {
            let quiet = io::stdout().is_terminal();
            to_stream(&client, &file, &arguments, io::stdout().lock(), quiet).await?;
            return Ok(ExitCode::SUCCESS);
        }
        Output::Special(path) => {
            let open = OpenOptions::new().write(true).open(&path);
            let opened = open.with_context(|| path.display().to_string())?;
            let content = to_stream(&client, &file, &arguments, opened, false).await?;
            let end = range_end(&arguments, content)?;
            if arguments.json {
                shown::line(&report(&file, &arguments, content, &path, end, false).to_string())?;
            }
            return Ok(ExitCode::SUCCESS);
        }
        Output::File(path) => path,
    };
    // One repetition from the first byte: a partial file of an earlier run may hold wrong bytes (a crash of this
    // machine can leave zeros at its end). What is wrong after that, the store sent.
    let done = match to_file(&client, &file, &arguments, &output).await {
        Err(Interrupted { error, resumed: true })
            if matches!(error.downcast_ref(), Some(ClientError::Checksum { .. })) =>
        {
            say(format_args!("{}; downloading it again from the first byte", line(&error)));
            to_file(&client, &file, &arguments, &output).await
        }
        done => done,
    };
    let report = done.map_err(|interrupted| interrupted.error)?;
    if arguments.json {
        shown::line(&report.to_string())?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Where the bytes go.
#[derive(Debug, PartialEq, Eq)]
enum Output {
    Standard,
    /// A device or a pipe: written in place, in order, once.
    Special(PathBuf),
    /// A regular file, or none yet.
    File(PathBuf),
}

impl Output {
    fn of(arguments: &Get) -> Result<Self> {
        if let Some(output) = &arguments.output {
            return Ok(Self::at(output));
        }
        // A file id has no `/`, but it may be a name that means something else here.
        match arguments.id.as_str() {
            "." | ".." | "-" => Err(Usage::new("this id is no file name: use --output").into()),
            id => Ok(Self::at(Path::new(id))),
        }
    }

    fn at(path: &Path) -> Self {
        if path == Path::new("-") {
            return Self::Standard;
        }
        // Follows links: what a link names is written, and the link stays. One that names nothing is replaced.
        match fs::metadata(path) {
            Ok(found) if !found.is_file() && !found.is_dir() => Self::Special(path.into()),
            Ok(_) => Self::File(fs::canonicalize(path).unwrap_or_else(|_| path.into())),
            Err(_) => Self::File(path.into()),
        }
    }
}

struct Interrupted {
    error: anyhow::Error,
    resumed: bool,
}

async fn to_file(
    client: &Client,
    file: &FileRef,
    arguments: &Get,
    output: &Path,
) -> Result<serde_json::Value, Interrupted> {
    let fresh = |error| Interrupted { error, resumed: false };
    let content = client.content(file).await.map_err(|error| fresh(error.into()))?;
    let end = range_end(arguments, content).map_err(fresh)?;
    let tag = tag(content, arguments.offset, end);
    let mut partial = Partial::open(output, &tag, end - arguments.offset).map_err(fresh)?;
    let resumed = partial.length() > 0;
    let received = receive(client, file, arguments, content, end, &mut partial).await;
    if let Err(error) = received {
        let wrong = matches!(error.downcast_ref(), Some(ClientError::Checksum { .. }));
        let error = if wrong {
            // Wrong bytes must not be resumed from.
            partial.discard();
            error
        } else {
            partial.keep(error)
        };
        return Err(Interrupted { error, resumed });
    }
    partial.finish(output).map_err(|error| Interrupted { error, resumed })?;
    Ok(report(file, arguments, content, output, end, resumed))
}

fn report(
    file: &FileRef,
    arguments: &Get,
    content: Content,
    output: &Path,
    end: u64,
    resumed: bool,
) -> serde_json::Value {
    let whole = arguments.offset == 0 && end == content.size;
    json!({
        "id": file.file.as_str(),
        "path": output.to_string_lossy(),
        "offset": arguments.offset,
        "size": end - arguments.offset,
        "file_size": content.size,
        "resumed": resumed,
        "checked": whole && content.checksum.is_some(),
        "checksum": content.checksum.map(shown::checksum),
    })
}

async fn receive(
    client: &Client,
    file: &FileRef,
    arguments: &Get,
    content: Content,
    end: u64,
    partial: &mut Partial,
) -> Result<()> {
    let start = arguments.offset + partial.length();
    if start == end && start > 0 {
        return partial.check(arguments.offset, content);
    }
    let size = arguments.size.and_then(|_| std::num::NonZeroU64::new(end - start));
    let before = (arguments.offset == 0).then(|| partial.checksum());
    let mut download = client.download(file, Span { offset: start, size, before }).await?;
    if !download.content().agrees(&content) {
        return Err(ClientError::Replaced.into());
    }
    let quiet = arguments.json || !io::stderr().is_terminal();
    let bar = Bar::new(end - arguments.offset, file.file.as_str(), quiet);
    bar.at(partial.length());
    let copied = copy(&mut download, &bar, |piece| partial.append(piece)).await;
    bar.end();
    copied
}

async fn copy(
    download: &mut Download,
    bar: &Bar,
    mut write: impl FnMut(&[u8]) -> io::Result<()>,
) -> Result<()> {
    let first = download.position();
    while let Some(piece) = download.next().await? {
        write(&piece).context("writing it")?;
        bar.at(download.position() - first);
    }
    Ok(())
}

async fn to_stream(
    client: &Client,
    file: &FileRef,
    arguments: &Get,
    mut out: impl Write,
    quiet: bool,
) -> Result<Content> {
    let span = Span { offset: arguments.offset, size: arguments.size, before: None };
    let mut download = client.download(file, span).await?;
    let content = download.content();
    let bytes = download.end() - download.position();
    let quiet = quiet || arguments.json || !io::stderr().is_terminal();
    let bar = Bar::new(bytes, file.file.as_str(), quiet);
    let copied = copy(&mut download, &bar, |piece| out.write_all(piece)).await;
    bar.end();
    out.flush()?;
    copied.map(|()| content)
}

/// The first byte after what is wanted.
fn range_end(arguments: &Get, content: Content) -> Result<u64> {
    let left = content.size.checked_sub(arguments.offset);
    match (left, arguments.size) {
        (Some(left), None) => Ok(arguments.offset + left),
        (Some(left), Some(size)) if size.get() <= left => Ok(arguments.offset + size.get()),
        _ => bail!("the file has only {} bytes", content.size),
    }
}

/// Names the bytes that a partial file holds: of which file, and which of them.
fn tag(content: Content, offset: u64, end: u64) -> String {
    let path_id = content.path_id.map_or_else(|| "deployed".to_owned(), |id| format!("{id:x}"));
    format!("{path_id}-{:x}-{offset:x}-{end:x}", content.size)
}
