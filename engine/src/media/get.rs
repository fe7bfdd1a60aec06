//! GET and HEAD of a file.
//!
//! Order: the file, the preconditions, the range, the disk, the head. What can fail for the disk's sake is tried before
//! the head goes out (500); what fails afterwards ends the connection before a wrong byte.

use std::{os::fd::AsFd, rc::Rc};

use reel_node::{
    http::{ServerConn, media::CORS, socket::SendError},
    pooled::Pooled,
    spare::Scratch,
};
use reel_proto::{
    http::{
        content,
        head::{Method, RequestHead},
        multipart::{Boundary, Multipart},
        precondition::{self, Validators},
        query::Query,
        range::{self, ByteRange, ContentRange, Parts, Ranges},
        response::write_field,
    },
    name::FileId,
};

use super::{Answered, fields, fields::FileFields, lookup_failed, lookup_of, refuse, refuse_with};
use crate::{
    cache::Record,
    metrics::Outcome,
    read::{OpenFile, Primed, ReadError, Sink},
    store::OpenFileError,
    thread::Thread,
};

impl Sink for ServerConn {
    async fn send_bytes(&mut self, bytes: &[u8], _more: bool) -> Result<(), SendError> {
        self.send(bytes).await
    }

    fn gather(&mut self, bytes: &[u8]) {
        ServerConn::gather(self, bytes);
    }

    async fn send_gathered(&mut self) -> Result<(), SendError> {
        ServerConn::send_gathered(self).await
    }

    async fn send_file(
        &mut self,
        file: &OpenFile,
        offset: u64,
        length: u64,
    ) -> Result<(), SendError> {
        ServerConn::send_file(self, file.as_fd(), offset, length).await
    }
}

/// A file, looked up and compared with the request's preconditions.
struct Chosen<'a> {
    thread: &'a Rc<Thread>,
    record: &'a Rc<Record>,
    validators: Validators,
    query: &'a Query,
}

pub(super) async fn get(
    thread: &Rc<Thread>,
    conn: &mut ServerConn,
    head: &RequestHead,
    query: &Query,
    file: FileId,
) -> Answered {
    let lookup = lookup_of(thread, query, file);
    let found = match thread.cached(&lookup) {
        Some(record) => Some(record),
        None => match thread.look_up(&lookup).await {
            Ok(found) => found,
            Err(error) => return lookup_failed(conn, &file, &error).await,
        },
    };
    let Some(record) = found else { return refuse(conn, 404, "no such file").await };
    let validators = fields::validators(&record);
    let cache_control = &thread.shared.config.cache_control;
    let use_range = match precondition::evaluate(head.method, head.fields(), Some(&validators)) {
        precondition::Outcome::Proceed { use_range } => use_range,
        precondition::Outcome::NotModified => {
            let fields = |out: &mut Vec<u8>| {
                fields::write_validators(out, &validators, cache_control);
                out.extend_from_slice(CORS);
            };
            return conn.respond(304, fields, b"").await.map(|()| Outcome::Ok);
        }
        precondition::Outcome::Failed => {
            let fields = |out: &mut Vec<u8>| write_field(out, "ETag", validators.etag.as_bytes());
            return refuse_with(conn, 412, "a precondition failed", fields).await;
        }
    };
    let ranges = if use_range {
        range::resolve(head.fields().all("range"), record.size())
    } else {
        Ranges::Whole
    };
    let chosen = Chosen { thread, record: &record, validators, query };
    match ranges {
        Ranges::Unsatisfiable => unsatisfiable(conn, record.size()).await,
        Ranges::Whole => chosen.send(conn, head.method, None).await,
        Ranges::Parts(parts) => match *parts {
            [range] => chosen.send(conn, head.method, Some(range)).await,
            _ => Pooled::new(chosen.send_parts(conn, &parts)).await,
        },
    }
}

async fn unsatisfiable(conn: &mut ServerConn, size: u64) -> Answered {
    let fields = |out: &mut Vec<u8>| {
        ContentRange { range: None, size }.write_field(out);
    };
    refuse_with(conn, 416, "the file has no byte of that range", fields).await
}

impl Chosen<'_> {
    fn fields<'a>(&'a self, media_type: &'a str) -> FileFields<'a> {
        FileFields {
            record: self.record,
            validators: &self.validators,
            media_type,
            cache_control: &self.thread.shared.config.cache_control,
            query: self.query,
        }
    }

    /// The file's type, where row or name say it: then a HEAD needs no disk.
    fn told_type(&self) -> Option<&str> {
        let chosen = content::choose(self.record.content_type(), self.record.name(), || None);
        (chosen != content::UNKNOWN).then_some(chosen)
    }

    /// The whole file or one range of it.
    async fn send(
        &self,
        conn: &mut ServerConn,
        method: Method,
        range: Option<ByteRange>,
    ) -> Answered {
        let size = self.record.size();
        if method == Method::Head
            && let Some(media_type) = self.told_type()
        {
            return self.start(conn, media_type, range, size).await.map(|()| Outcome::Ok);
        }
        let file = match self.thread.open(self.record).await {
            Ok(file) => file,
            Err(error) => return self.open_failed(conn, &error).await,
        };
        let media_type = match self.told_type() {
            Some(media_type) => media_type,
            None => match self.thread.reader.sniff(&file, size).await {
                Ok(media_type) => media_type,
                Err(error) => return self.read_refused(conn, &error).await,
            },
        };
        let (offset, length) = range.map_or((0, size), |range| (range.first, range.length));
        if method == Method::Head {
            return self.start(conn, media_type, range, length).await.map(|()| Outcome::Ok);
        }
        let primed = match self.thread.reader.prime(&file, size, offset, length).await {
            Ok(primed) => primed,
            Err(error) => return self.read_refused(conn, &error).await,
        };
        self.start(conn, media_type, range, length).await?;
        self.content(conn, &file, offset, length, primed).await
    }

    async fn start(
        &self,
        conn: &mut ServerConn,
        media_type: &str,
        range: Option<ByteRange>,
        length: u64,
    ) -> Result<(), SendError> {
        let size = self.record.size();
        let fields = |out: &mut Vec<u8>| {
            write_field(out, "Content-Type", media_type);
            if range.is_some() {
                ContentRange { range, size }.write_field(out);
            }
            self.fields(media_type).write(out);
        };
        let status = if range.is_some() { 206 } else { 200 };
        conn.start(status, Some(length), fields).await
    }

    /// Several ranges as `multipart/byteranges`. The heads of the parts are made as they are sent; nothing is copied.
    async fn send_parts(&self, conn: &mut ServerConn, parts: &Parts) -> Answered {
        let size = self.record.size();
        let file = match self.thread.open(self.record).await {
            Ok(file) => file,
            Err(error) => return self.open_failed(conn, &error).await,
        };
        let content_type = match self.told_type() {
            Some(media_type) => media_type,
            None => match self.thread.reader.sniff(&file, size).await {
                Ok(media_type) => media_type,
                Err(error) => return self.read_refused(conn, &error).await,
            },
        };
        let Some(boundary) = boundary() else {
            return refuse(conn, 500, "no random numbers").await;
        };
        let multipart = Multipart { boundary, content_type, size, parts };
        let first = parts[0];
        let primed = self.thread.reader.prime(&file, size, first.first, first.length).await;
        let mut primed = match primed {
            Ok(primed) => Some(primed),
            Err(error) => return self.read_refused(conn, &error).await,
        };
        let fields = |out: &mut Vec<u8>| {
            multipart.write_field(out);
            self.fields(content_type).write(out);
        };
        let mut text = Scratch::take();
        conn.start(206, Some(multipart.length(&mut text)), fields).await?;
        for (index, part) in parts.iter().enumerate() {
            text.clear();
            multipart.write_head(index, &mut text);
            conn.gather(&text);
            let primed = match primed.take() {
                Some(primed) => primed,
                None => match self.thread.reader.resume(&file, part.first, part.length).await {
                    Ok(primed) => primed,
                    Err(error) => return self.cut_off(conn, &error),
                },
            };
            match self.content(conn, &file, part.first, part.length, primed).await? {
                Outcome::Ok => {}
                outcome => return Ok(outcome),
            }
        }
        text.clear();
        multipart.write_end(&mut text);
        conn.gather(&text);
        conn.send_gathered().await?;
        Ok(Outcome::Ok)
    }

    async fn content<'a>(
        &'a self,
        conn: &mut ServerConn,
        file: &'a OpenFile,
        offset: u64,
        length: u64,
        primed: Primed<'a>,
    ) -> Answered {
        match self.thread.reader.send(conn, file, offset, length, primed).await {
            Ok(()) => Ok(Outcome::Ok),
            Err(ReadError::Peer(error)) => Err(error),
            Err(error) => self.cut_off(conn, &error),
        }
    }

    /// The head has promised what the disk does not give: the connection ends here, before a wrong byte.
    fn cut_off(&self, conn: &mut ServerConn, error: &ReadError) -> Answered {
        self.thread.read_failed(self.record, error);
        conn.abort();
        Ok(Outcome::Error)
    }

    async fn read_refused(&self, conn: &mut ServerConn, error: &ReadError) -> Answered {
        self.thread.read_failed(self.record, error);
        match error {
            ReadError::Busy => refuse(conn, 503, "too much is under way").await,
            ReadError::Late => refuse(conn, 503, &error.to_string()).await,
            _ if self.thread.passes(self.record, error) => {
                refuse(conn, 503, "the volume is away").await
            }
            _ => refuse(conn, 500, "the file cannot be read").await,
        }
    }

    async fn open_failed(&self, conn: &mut ServerConn, error: &OpenFileError) -> Answered {
        match error {
            error if error.passes() => return refuse(conn, 503, &error.to_string()).await,
            _ => {}
        }
        self.thread.open_failed(self.record, error);
        refuse(conn, 500, "the file cannot be read").await
    }
}

/// 128 random bits: no content has them by chance, and nobody can make one that does.
fn boundary() -> Option<Boundary> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).ok()?;
    Some(Boundary(u128::from_ne_bytes(bytes)))
}
