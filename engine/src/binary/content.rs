//! Ranges of files as the body of a success frame.

use std::{os::fd::AsFd, rc::Rc};

use reel_node::{
    frame_server::FrameConn,
    http::{Pace, socket::SendError},
};

use super::Stop;
use crate::{
    cache::Record,
    read::{OpenFile, Sink},
    thread::Thread,
};

/// A connection as the read path sees it.
struct FrameSink<'a> {
    conn: &'a mut FrameConn,
    pace: Pace,
}

impl Sink for FrameSink<'_> {
    async fn send_bytes(&mut self, bytes: &[u8], more: bool) -> Result<(), SendError> {
        self.conn.send_content(bytes, more, self.pace).await
    }

    fn gather(&mut self, bytes: &[u8]) {
        self.conn.gather(bytes);
    }

    async fn send_gathered(&mut self) -> Result<(), SendError> {
        let gone = |_| SendError::Peer(std::io::ErrorKind::ConnectionAborted.into());
        self.conn.send_gathered().await.map_err(gone)
    }

    async fn send_file(
        &mut self,
        file: &OpenFile,
        offset: u64,
        length: u64,
    ) -> Result<(), SendError> {
        self.conn.send_file(file.as_fd(), offset, length, self.pace).await
    }
}

/// Replies with `head` and then `length` bytes of a file from `offset`. Everything that can fail for the disk's sake is
/// tried before the header goes out; what fails afterwards ends the connection.
pub(super) async fn send(
    thread: &Rc<Thread>,
    conn: &mut FrameConn,
    record: &Rc<Record>,
    offset: u64,
    length: u64,
    head: &[u8],
) -> Result<(), Stop> {
    // The open and the first read may wait for the disk: earlier replies do not wait with them.
    conn.flush().await?;
    let file = match thread.open(record).await {
        Ok(file) => file,
        Err(error) => {
            thread.open_failed(record, &error);
            return Err(Stop::of_open(&error));
        }
    };
    let primed = match thread.reader.prime(&file, record.size(), offset, length).await {
        Ok(primed) => primed,
        Err(error) => {
            thread.read_failed(record, &error);
            return Err(Stop::of_read(&error, thread.passes(record, &error)));
        }
    };
    conn.begin_reply(head.len() as u64 + length).await?;
    conn.write(head).await?;
    if length == 0 {
        return Ok(());
    }
    let pace = thread.http.answer;
    let mut sink = FrameSink { conn, pace };
    if let Err(error) = thread.reader.send(&mut sink, &file, offset, length, primed).await {
        thread.read_failed(record, &error);
        return Err(Stop::Ended);
    }
    Ok(())
}
