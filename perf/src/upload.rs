//! Uploading known files, one after the other, and reading them back: not a load, the set-up and the judge of one.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use reel_proto::{
    command,
    frame::{self, HEADER_LEN, Header},
    limits,
    storage::{DOWNLOAD_LEN, Download, UploadHead},
};

use crate::{content::Content, names};

const PIECE: usize = 1 << 20;

/// Longest wait for a storage node.
const PATIENCE: Duration = Duration::from_secs(60);

/// A connection to a storage node.
pub(crate) struct Uploader {
    stream: TcpStream,
    piece: Vec<u8>,
}

impl Uploader {
    pub(crate) fn connect(target: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(target)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Self { stream, piece: vec![0; PIECE] })
    }

    /// Uploads a file and waits until it is durable.
    pub(crate) fn upload(&mut self, id: &str, content: Content, size: u64) -> Result<()> {
        let head = UploadHead { file: names::file(id)?, size };
        let length = head.body_length().context("the file is too large")?;
        let mut out = Header::request(command::UPLOAD, length).encode().to_vec();
        head.encode(&mut out);
        self.stream.write_all(&out)?;
        let mut at = 0;
        while at < size {
            let length = usize::try_from(size - at).unwrap_or(PIECE).min(PIECE);
            content.fill(at, &mut self.piece[..length]);
            self.stream.write_all(&self.piece[..length])?;
            at += length as u64;
        }
        let length = self.reply().with_context(|| format!("uploading {id}"))?;
        if length != 0 {
            bail!("an UPLOAD's reply with a body of {length} bytes");
        }
        Ok(())
    }

    /// The whole file.
    pub(crate) fn download(&mut self, id: &str) -> Result<Vec<u8>> {
        let mut out = Header::request(command::DOWNLOAD, DOWNLOAD_LEN as u64).encode().to_vec();
        Download { file: names::file(id)?, offset: 0, size: 0 }.encode(&mut out);
        self.stream.write_all(&out)?;
        let length = self.reply().with_context(|| format!("downloading {id}"))?;
        let mut bytes = vec![0; usize::try_from(length)?];
        self.stream.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    fn reply(&mut self) -> Result<u64> {
        let mut head = [0; HEADER_LEN];
        self.stream.read_exact(&mut head)?;
        let header = Header::decode(&head)?;
        if header.is_error() {
            let length = header.length.min(limits::ERROR_BODY_BYTES_MAX);
            let mut body = vec![0; usize::try_from(length)?];
            self.stream.read_exact(&mut body)?;
            return Err(frame::decode_error(&body).into());
        }
        Ok(header.length)
    }
}
