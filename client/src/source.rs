//! What an upload reads from. A source can be read again from any byte, because an upload that broke off starts
//! again; what cannot (a pipe) is spooled into an unnamed temporary file first, so memory stays flat and the size,
//! which the binary protocol wants before the content, is known.

use std::{
    fs::File,
    io::{self, Seek},
    os::unix::fs::FileExt,
    path::Path,
    sync::Arc,
};

use bytes::{Bytes, BytesMut};
use reel_proto::checksum::Crc64;
use tokio::io::{AsyncRead, AsyncReadExt};

/// Bytes read from a source at once. Two pieces are in memory for each upload: one read ahead, one on its way.
pub(crate) const PIECE_BYTES: usize = 256 * 1024;

/// The content of an upload, with its size. Cheap to clone; nothing of it is held in memory but [`UploadSource::bytes`].
#[derive(Debug, Clone)]
pub struct UploadSource {
    content: Content,
    size: u64,
}

#[derive(Debug, Clone)]
enum Content {
    Bytes(Bytes),
    File(Arc<File>),
}

impl UploadSource {
    /// Content that is in memory already.
    pub fn bytes(content: impl Into<Bytes>) -> Self {
        let content = content.into();
        Self { size: content.len() as u64, content: Content::Bytes(content) }
    }

    /// A regular file, from its first byte to the size that it has now. A file that is shorter when it is read is an
    /// error of the upload; what is appended later is left out.
    pub fn file(file: File) -> io::Result<Self> {
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
        }
        Ok(Self { size: metadata.len(), content: Content::File(Arc::new(file)) })
    }

    /// Opens a path: a regular file as it is, anything else (a pipe, a terminal) spooled.
    pub async fn path(path: impl AsRef<Path>) -> io::Result<Self> {
        let path = path.as_ref().to_owned();
        // Opening a named pipe waits for its writer.
        let opened = tokio::task::spawn_blocking(move || Self::input_blocking(File::open(path)?));
        opened.await.map_err(io::Error::other)?
    }

    /// An open file from where it stands, as programs take their standard input: a regular file at its beginning as
    /// it is, anything else spooled.
    pub async fn input(file: File) -> io::Result<Self> {
        let opened = tokio::task::spawn_blocking(move || Self::input_blocking(file));
        opened.await.map_err(io::Error::other)?
    }

    fn input_blocking(mut file: File) -> io::Result<Self> {
        let metadata = file.metadata()?;
        if metadata.is_file() && file.stream_position()? == 0 {
            return Self::file(file);
        }
        if metadata.is_dir() {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        let mut spool = tempfile::tempfile()?;
        io::copy(&mut file, &mut spool)?;
        Self::file(spool)
    }

    /// Reads to the end into an unnamed file in the folder for temporary files (`TMPDIR`), which the kernel removes
    /// when the source is dropped, also after a crash.
    pub async fn spool(mut reader: impl AsyncRead + Unpin) -> io::Result<Self> {
        let file = Arc::new(tempfile::tempfile()?);
        let mut size = 0u64;
        loop {
            let mut piece = BytesMut::with_capacity(PIECE_BYTES);
            while piece.len() < PIECE_BYTES && reader.read_buf(&mut piece).await? > 0 {}
            if piece.is_empty() {
                return Ok(Self { size, content: Content::File(file) });
            }
            let (target, at) = (Arc::clone(&file), size);
            size += piece.len() as u64;
            tokio::task::spawn_blocking(move || target.write_all_at(&piece, at))
                .await
                .map_err(io::Error::other)??;
        }
    }

    /// Bytes of the content.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The piece at `offset`, at most [`PIECE_BYTES`], empty at the end.
    pub(crate) async fn piece(&self, offset: u64) -> io::Result<Bytes> {
        let length = self.size.saturating_sub(offset).min(PIECE_BYTES as u64);
        match &self.content {
            Content::Bytes(content) => {
                let start = usize::try_from(offset).unwrap_or(usize::MAX).min(content.len());
                Ok(content.slice(start..start + length as usize))
            }
            Content::File(_) if length == 0 => Ok(Bytes::new()),
            Content::File(file) => {
                let file = Arc::clone(file);
                tokio::task::spawn_blocking(move || {
                    let mut piece = vec![0; length as usize];
                    file.read_exact_at(&mut piece, offset)?;
                    Ok(Bytes::from(piece))
                })
                .await
                .map_err(io::Error::other)?
            }
        }
    }

    /// CRC-64/NVME of all of it.
    pub(crate) async fn checksum(&self) -> io::Result<u64> {
        let mut crc = Crc64::new();
        let mut offset = 0;
        loop {
            let piece = self.piece(offset).await?;
            if piece.is_empty() {
                return Ok(crc.finish());
            }
            crc.update(&piece);
            offset += piece.len() as u64;
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::io::Write;

    use super::*;

    async fn all(source: &UploadSource) -> Vec<u8> {
        let mut content = Vec::new();
        loop {
            let piece = source.piece(content.len() as u64).await.unwrap();
            if piece.is_empty() {
                return content;
            }
            assert!(piece.len() <= PIECE_BYTES);
            content.extend_from_slice(&piece);
        }
    }

    #[tokio::test]
    async fn every_kind_gives_its_bytes_twice() {
        let content: Vec<u8> = (0..PIECE_BYTES * 2 + 7).map(|i| (i % 251) as u8).collect();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&content).unwrap();
        for source in [
            UploadSource::bytes(content.clone()),
            UploadSource::file(file).unwrap(),
            UploadSource::spool(content.as_slice()).await.unwrap(),
        ] {
            assert_eq!(source.size(), content.len() as u64);
            assert_eq!(all(&source).await, content);
            assert_eq!(all(&source).await, content);
        }
    }

    #[tokio::test]
    async fn empty_sources_are_legal() {
        assert_eq!(UploadSource::spool(&b""[..]).await.unwrap().size(), 0);
        assert!(all(&UploadSource::bytes(Bytes::new())).await.is_empty());
    }

    #[tokio::test]
    async fn a_file_cut_short_is_an_error_not_a_short_upload() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&[1; 100]).unwrap();
        let source = UploadSource::file(file.try_clone().unwrap()).unwrap();
        file.set_len(50).unwrap();
        assert_eq!(source.piece(0).await.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn a_folder_is_no_content() {
        assert!(UploadSource::file(File::open(".").unwrap()).is_err());
    }
}
