//! The chunked transfer coding (RFC 9112 section 7.1), decoded in place: no byte of content is copied or kept.
//!
//! Strict: CRLF everywhere, hexadecimal digits only, bounded extensions and trailer. A lenient reading of any of these
//! is a way to smuggle a request past a proxy that reads it otherwise (section 7.1.1, 11.2).

use std::fmt;

use super::syntax;
use crate::limits;

/// Why a body was refused: answer 400, then close.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ChunkError {
    /// No digit, another character, or a size past 63 bits or 16 digits.
    Size,
    /// A malformed chunk extension.
    Extension,
    /// More bytes of chunk extensions than the limit.
    LongExtension,
    /// A line that does not end with CRLF, or content not followed by one.
    LineEnd,
    /// A malformed trailer field.
    Trailer,
    /// More bytes of trailer than the limit.
    LongTrailer,
}

impl fmt::Display for ChunkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Size => "malformed chunk size",
            Self::Extension => "malformed chunk extension",
            Self::LongExtension => "chunk extensions are too long",
            Self::LineEnd => "a line of the chunked coding does not end with CRLF",
            Self::Trailer => "malformed trailer field",
            Self::LongTrailer => "the trailer section is too long",
        })
    }
}

impl std::error::Error for ChunkError {}

/// What [`Decoder::decode`] made of its input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Content: `length` bytes (at least one) behind the first `skip`. All of them are consumed.
    Data {
        /// Bytes of the coding before the content.
        skip: usize,
        /// Bytes of content.
        length: usize,
    },
    /// `used` bytes are consumed (all of them); more are needed.
    NeedMore {
        /// Bytes consumed.
        used: usize,
    },
    /// The body is over; `used` bytes are consumed. What follows is the next request.
    Done {
        /// Bytes consumed.
        used: usize,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// In the digits of a size, the first one not seen yet where `digits` is 0.
    Size {
        digits: usize,
    },
    /// White space after a size: only an extension may follow.
    BeforeExtension,
    Extension,
    SizeLineFeed,
    Content,
    ContentReturn,
    ContentLineFeed,
    /// At the start of a trailer line.
    TrailerLine,
    TrailerName,
    TrailerValue,
    TrailerLineFeed,
    LastLineFeed,
    Done,
}

/// Decodes one body. 40 bytes, whatever comes.
#[derive(Debug, Clone)]
pub struct Decoder {
    state: State,
    /// Size of the chunk while it is read, then what is left of its content.
    left: u64,
    extension_bytes: usize,
    extensions_bytes: usize,
    trailer_bytes: usize,
}

impl Default for Decoder {
    fn default() -> Self {
        Self {
            state: State::Size { digits: 0 },
            left: 0,
            extension_bytes: 0,
            extensions_bytes: 0,
            trailer_bytes: 0,
        }
    }
}

impl Decoder {
    /// At the start of a body.
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads on at the start of `input`. Call it again with what is behind the bytes consumed.
    ///
    /// After `Done` every call is `Done` with nothing used. Trailer fields are checked and dropped.
    ///
    /// # Errors
    /// [`ChunkError`]; the decoder is not to be used again.
    pub fn decode(&mut self, input: &[u8]) -> Result<Step, ChunkError> {
        let mut used = 0;
        while self.state != State::Done {
            if self.state == State::Content {
                let there = input.len() - used;
                let length = usize::try_from(self.left).unwrap_or(usize::MAX).min(there);
                if length == 0 {
                    return Ok(Step::NeedMore { used });
                }
                self.left -= length as u64;
                if self.left == 0 {
                    self.state = State::ContentReturn;
                }
                return Ok(Step::Data { skip: used, length });
            }
            let Some(&byte) = input.get(used) else { return Ok(Step::NeedMore { used }) };
            used += 1;
            self.state = self.next(byte)?;
        }
        Ok(Step::Done { used })
    }

    /// Whether the body is over.
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    fn next(&mut self, byte: u8) -> Result<State, ChunkError> {
        let line_feed = |next| if byte == b'\n' { Ok(next) } else { Err(ChunkError::LineEnd) };
        match self.state {
            State::Size { digits } => self.size(digits, byte),
            State::BeforeExtension | State::Extension => self.extension(byte),
            State::SizeLineFeed if self.left == 0 => line_feed(State::TrailerLine),
            State::SizeLineFeed => line_feed(State::Content),
            State::ContentReturn if byte == b'\r' => Ok(State::ContentLineFeed),
            State::ContentReturn => Err(ChunkError::LineEnd),
            State::ContentLineFeed => line_feed(State::Size { digits: 0 }),
            State::TrailerLine | State::TrailerName | State::TrailerValue => self.trailer(byte),
            State::TrailerLineFeed => line_feed(State::TrailerLine),
            State::LastLineFeed => line_feed(State::Done),
            State::Content | State::Done => Ok(self.state),
        }
    }

    fn size(&mut self, digits: usize, byte: u8) -> Result<State, ChunkError> {
        if let Some(digit) = char::from(byte).to_digit(16) {
            if digits == limits::HTTP_CHUNK_SIZE_DIGITS_MAX || self.left >> 59 != 0 {
                return Err(ChunkError::Size);
            }
            self.left = self.left << 4 | u64::from(digit);
            return Ok(State::Size { digits: digits + 1 });
        }
        if digits == 0 {
            return Err(ChunkError::Size);
        }
        self.extension_bytes = 0;
        match byte {
            b'\r' => Ok(State::SizeLineFeed),
            b';' => Ok(State::Extension),
            b' ' | b'\t' => Ok(State::BeforeExtension),
            _ => Err(ChunkError::Size),
        }
    }

    /// We know no extension: their characters are checked, their meaning ignored (RFC 9112 section 7.1.1).
    fn extension(&mut self, byte: u8) -> Result<State, ChunkError> {
        self.extension_bytes += 1;
        self.extensions_bytes += 1;
        if self.extension_bytes > limits::HTTP_CHUNK_EXTENSION_BYTES_MAX
            || self.extensions_bytes > limits::HTTP_CHUNK_EXTENSIONS_BYTES_MAX
        {
            return Err(ChunkError::LongExtension);
        }
        match (self.state, byte) {
            (State::BeforeExtension, b' ' | b'\t') => Ok(State::BeforeExtension),
            (State::BeforeExtension, b';') => Ok(State::Extension),
            (State::BeforeExtension, _) => Err(ChunkError::Extension),
            (_, b'\r') => Ok(State::SizeLineFeed),
            (_, b'\n') => Err(ChunkError::LineEnd),
            (_, byte) if syntax::is_value_byte(byte) => Ok(State::Extension),
            _ => Err(ChunkError::Extension),
        }
    }

    fn trailer(&mut self, byte: u8) -> Result<State, ChunkError> {
        self.trailer_bytes += 1;
        if self.trailer_bytes > limits::HTTP_TRAILER_BYTES_MAX {
            return Err(ChunkError::LongTrailer);
        }
        match (self.state, byte) {
            (State::TrailerLine, b'\r') => Ok(State::LastLineFeed),
            (State::TrailerName, b':') => Ok(State::TrailerValue),
            (State::TrailerLine | State::TrailerName, byte) if syntax::is_token_byte(byte) => {
                Ok(State::TrailerName)
            }
            (State::TrailerValue, b'\r') => Ok(State::TrailerLineFeed),
            (State::TrailerValue, byte) if syntax::is_value_byte(byte) => Ok(State::TrailerValue),
            (_, b'\n') => Err(ChunkError::LineEnd),
            _ => Err(ChunkError::Trailer),
        }
    }
}
