//! UPLOAD and PUT: content from a connection into a store, piece by piece.
//!
//! A piece is taken from the socket only when the one before it has been written, so a slow disk slows its own
//! uploaders and nobody else, and an upload never holds more memory than one piece. A connection that ends in the
//! middle drops the upload, which removes the file.

use std::rc::Rc;

use bytes::BytesMut;
use reel_node::frame_server::{BodyError, FrameConn};
use reel_proto::{
    checksum::Crc64,
    ext::{PUT_FIXED_LEN, PUT_TRAILER_LEN, PutHead, PutOutcome, PutReply},
    frame::Header,
    refusal::Refusal,
    storage::{UPLOAD_HEAD_LEN, UploadHead},
};

use super::Stop;
use crate::{
    metrics::Serve,
    store::{Outcome, Stored, Upload, UploadError, UploadRequest},
    thread::{Thread, UPLOAD_PIECE_BYTES},
};

/// UPLOAD of a deployed client.
pub(super) async fn upload(
    thread: &Rc<Thread>,
    conn: &mut FrameConn,
    header: &Header,
) -> Result<(), Stop> {
    let head = head_bytes(conn, UPLOAD_HEAD_LEN).await?;
    let head = UploadHead::decode(head, header.length).map_err(Stop::malformed)?;
    let request = UploadRequest {
        key: head.file,
        size: Some(head.size),
        name: None,
        content_type: None,
        expires_at: None,
    };
    receive(thread, conn, request, head.size, false).await?;
    conn.reply(&[]).await?;
    Ok(())
}

/// Our PUT: with a name, a type, an expiry, and the checksum that the client computed behind the content.
pub(super) async fn put(
    thread: &Rc<Thread>,
    conn: &mut FrameConn,
    header: &Header,
) -> Result<(), Stop> {
    let bytes = put_head_bytes(conn).await?;
    let head = match PutHead::decode(&bytes, header.length) {
        Ok(Some((head, _))) => head,
        Ok(None) => return Err(Stop::malformed("the body ends in its head")),
        Err(error) => return Err(Stop::malformed(error)),
    };
    let request = UploadRequest {
        key: head.file,
        size: Some(head.size),
        name: head.name.map(str::to_owned),
        content_type: head.content_type.map(str::to_owned),
        expires_at: head.expires_at,
    };
    let stored = receive(thread, conn, request, head.size, true).await?;
    let reply = PutReply {
        outcome: match stored.outcome {
            Outcome::New => PutOutcome::New,
            Outcome::Same => PutOutcome::Same,
        },
        path_id: stored.path_id.get(),
        size: stored.size,
        checksum: stored.checksum,
    };
    conn.reply_with(|out| reply.encode(out)).await?;
    Ok(())
}

/// The head of a PUT: its fixed part up to the length of the first text, then text after text.
async fn put_head_bytes(conn: &mut FrameConn) -> Result<Vec<u8>, Stop> {
    let mut bytes = head_bytes(conn, PUT_FIXED_LEN - PUT_TRAILER_LEN - 1).await?.to_vec();
    let name = usize::from(bytes.last().copied().unwrap_or(0));
    bytes.extend_from_slice(head_bytes(conn, name + 1).await?);
    let content_type = usize::from(bytes.last().copied().unwrap_or(0));
    bytes.extend_from_slice(head_bytes(conn, content_type).await?);
    Ok(bytes)
}

/// The first bytes of a body whose content is streamed.
async fn head_bytes(conn: &mut FrameConn, length: usize) -> Result<&[u8], Stop> {
    conn.read_head(length).await.map_err(|error| match error {
        BodyError::TooLong { .. } => Stop::malformed("the body ends in its head"),
        BodyError::Incomplete { .. } => Stop::Ended,
    })
}

/// Takes `size` bytes of content, with `trailer` a checksum behind it, and stores them.
async fn receive(
    thread: &Rc<Thread>,
    conn: &mut FrameConn,
    request: UploadRequest,
    size: u64,
    trailer: bool,
) -> Result<Stored, Stop> {
    let file = request.key;
    let failed = |error: UploadError| Stop::of_upload(&file, &error);
    let max = thread.shared.config.upload_max.0;
    if size > max {
        return Err(Stop::malformed(format!("{size} bytes, at most {max} are taken")));
    }
    let permit = thread.admit_upload(Some(size)).ok_or_else(Stop::overloaded)?;
    conn.flush().await?;
    let mut upload = thread.stores().begin(request).await.map_err(failed)?;
    let sum = content(thread, conn, &mut upload, size, trailer).await?;
    if trailer {
        let told = head_bytes(conn, PUT_TRAILER_LEN).await?;
        if sum.finish().to_be_bytes() != told {
            let text = "the checksum that came is not that of the content that came";
            return Err(Stop::refused(Refusal::BadChecksum, text));
        }
    }
    let stored = thread.in_time(upload.finish(), UploadError::Late).await.map_err(failed);
    drop(permit);
    stored
}

async fn content(
    thread: &Rc<Thread>,
    conn: &mut FrameConn,
    upload: &mut Upload,
    size: u64,
    check: bool,
) -> Result<Crc64, Stop> {
    let file = upload.key();
    let mut sum = Crc64::new();
    let mut left = size;
    while left > 0 {
        let wanted = usize::try_from(left).unwrap_or(usize::MAX).min(UPLOAD_PIECE_BYTES);
        let mut piece = BytesMut::with_capacity(wanted);
        while piece.len() < wanted {
            let missing = wanted - piece.len();
            match conn.read_into(&mut piece, missing).await {
                Ok(true) => {}
                Ok(false) | Err(_) => return Err(Stop::Ended),
            }
        }
        if check {
            sum.update(&piece);
        }
        left -= wanted as u64;
        thread.cell.add(Serve::BYTES_IN, wanted as u64);
        let written = thread.in_time(upload.write(piece.freeze()), UploadError::Late);
        written.await.map_err(|error| Stop::of_upload(&file, &error))?;
    }
    Ok(sum)
}
