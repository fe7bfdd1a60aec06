//! Every limit on what a peer may send, with its unit and what happens at it.
//!
//! Each has a test at it and one past it, beside the decoder that holds it. docs/limits.md is this file for operators.

// ---- names (layout-and-tables: the same on every store) ----

/// Bytes of an app id. Longer: the request is refused. The column holds 32; the wire field 15 and a NUL.
pub const APP_BYTES_MAX: usize = 15;
/// Bytes of a group name. Longer: refused. Wire field of 17 with its NUL.
pub const GROUP_BYTES_MAX: usize = 16;
/// Bytes of a user id. Longer: refused. Wire field of 256 with its NUL.
pub const USER_BYTES_MAX: usize = 255;
/// Characters of a user id (the column is varchar(128)). More: refused.
pub const USER_CHARS_MAX: usize = 128;
/// Bytes of a file id. Longer: refused. Wire field of 128 with its NUL.
pub const FILE_BYTES_MAX: usize = 127;
/// Bytes of a storage node's host name. Longer: refused. Wire field of 129 with its NUL.
pub const HOST_BYTES_MAX: usize = 128;
/// Bytes of a storage node's version text. Longer: refused. Wire field of 7 with its NUL.
pub const VERSION_BYTES_MAX: usize = 6;
/// Bytes of a key at the ID node. Longer: refused. The column is varchar(64).
pub const ID_KEY_BYTES_MAX: usize = 64;
/// Bytes of a file's original name. Longer: the upload is refused.
pub const ORIGINAL_NAME_BYTES_MAX: usize = 255;
/// Bytes of a content type. Longer: the upload is refused.
pub const CONTENT_TYPE_BYTES_MAX: usize = 255;

// ---- frames ----

/// Bytes of the description in an error reply, its NUL included. A longer one is cut at a character.
pub const ERROR_TEXT_BYTES_MAX: usize = 1024;
/// Bytes of an error reply's body that a reader takes: the number, then the description. Longer: the connection closes.
pub const ERROR_BODY_BYTES_MAX: u64 = 2 + ERROR_TEXT_BYTES_MAX as u64;
/// Bytes of a refused body that are read and thrown away, so that the peer reads the reply instead of a reset.
/// Past it the connection closes.
pub const DISCARD_BYTES_MAX: u64 = 1024 * 1024;
/// Seconds for the same. Past it the connection closes.
pub const DISCARD_SECONDS_MAX: u64 = 2;
/// Addresses in a SADDRS reply. A decoder refuses more; a tracker never sends more.
pub const SADDRS_NODES_MAX: usize = 3;
/// Bytes of a SADDRS reply: the group field, three addresses of at most 58 bytes
/// (`[` 39 digits and colons `%` scope `]:` port `;`) and a NUL, rounded up. Longer: refused by the reader.
pub const SADDRS_REPLY_BYTES_MAX: u64 = 256;
/// Bytes of the GROUPS text that a reader takes. 16 MiB is some 60,000 nodes. Longer: refused by the reader.
pub const GROUPS_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// Groups in a GROUPS text that a reader takes. More: refused.
pub const GROUPS_MAX: usize = 65_536;
/// Nodes of one group in a GROUPS text that a reader takes. More: refused.
pub const GROUP_NODES_MAX: usize = 65_536;
/// Bytes of an UPLOAD's content: what fits a signed 64-bit body length beside the 408 bytes of its head.
pub const UPLOAD_BYTES_MAX: u64 = i64::MAX as u64 - 408;

// ---- HTTP ----

/// Bytes of a request's head, its last empty line included. More: 431.
pub const HTTP_HEAD_BYTES_MAX: usize = 16 * 1024;
/// Bytes of a request line with its CRLF (RFC 9112 section 3 asks for 8,000 at least). More: 414.
pub const HTTP_REQUEST_LINE_BYTES_MAX: usize = 8 * 1024;
/// Field lines of a head. More: 431. Also the most that any configuration may set.
pub const HTTP_FIELDS_MAX: usize = 100;
/// The most that any configuration may set as bytes of a head: positions in it are kept in 16 bits.
pub const HTTP_HEAD_BYTES_CEILING: usize = u16::MAX as usize;
/// Bytes of a chunk extension, of one chunk. More: 400. We have no use for any.
pub const HTTP_CHUNK_EXTENSION_BYTES_MAX: usize = 256;
/// Bytes of all chunk extensions of one body. More: 400.
pub const HTTP_CHUNK_EXTENSIONS_BYTES_MAX: usize = 16 * 1024;
/// Hexadecimal digits of a chunk size, leading zeros included. More: 400.
pub const HTTP_CHUNK_SIZE_DIGITS_MAX: usize = 16;
/// Bytes of the trailer section. More: 400.
pub const HTTP_TRAILER_BYTES_MAX: usize = 8 * 1024;
/// Ranges of one request. More: the Range field is ignored, the whole file is sent (RFC 9110 section 14.2).
pub const HTTP_RANGES_MAX: usize = 16;
/// Bytes of a Range field that are looked at. Longer: ignored.
pub const HTTP_RANGE_BYTES_MAX: usize = 1024;
/// Entity tags of one precondition, over all its lines. What comes after them is not looked at: such an `If-Match`
/// fails, such an `If-None-Match` does not match.
pub const HTTP_ETAGS_MAX: usize = 64;
/// Parameters of a query. More: 400.
pub const HTTP_QUERY_PARAMETERS_MAX: usize = 32;
/// Bytes of a decoded `download` or `name` parameter. More: 400.
pub const HTTP_DOWNLOAD_NAME_BYTES_MAX: usize = 255;

// ---- our own commands ----

/// Bytes of a small request of ours (200–219, but PUT's content). Longer: error frame, connection closed.
/// The longest, LIST, has 569.
pub const EXT_REQUEST_BYTES_MAX: u64 = 1024;
/// Bytes of a reply of ours that a reader takes, GET's content aside. Longer: the connection is closed.
/// The longest, a LIST of 1,000 entries with every text at its longest, has some 1,207,000.
pub const EXT_REPLY_BYTES_MAX: u64 = 2 * 1024 * 1024;
/// Storage nodes, and gateways, in a LOCATE reply. A writer sends the first so many, a reader refuses more.
pub const LOCATED_NODES_MAX: usize = 16;
/// Storage nodes of a NODES reply, which then says where to go on. A reader refuses more.
/// As many with every text at its longest and [`STORES_MAX`] stores have some 290,000 bytes.
pub const NODES_PAGE_MAX: usize = 1000;
/// Entries of a LIST reply. A request for more is refused.
pub const LIST_ENTRIES_MAX: usize = 1000;
/// Bytes of a request between nodes (220–255) inside its envelope. Longer: error frame, connection closed.
/// A JOIN_EXT with [`STORES_MAX`] stores has some 5,400.
pub const PEER_REQUEST_BYTES_MAX: u64 = 8 * 1024;
/// Path ids of one block. A request for more, or for none, is refused.
pub const ID_BLOCK_COUNT_MAX: u64 = 1 << 20;
/// Store paths of one node in JOIN_EXT and REPORT. More: refused; a node with more does not start.
pub const STORES_MAX: usize = 64;

// ---- signatures between nodes ----

/// Seconds that the time of a signed request may be off, either way. Further: refused as stale.
pub const SIGN_WINDOW_SECONDS: u64 = 60;
/// Nonces remembered, each for the time its request could be repeated in (120 s at most): 546 signed requests a second.
/// With so many in memory a further request is refused as busy: forgetting one would let it be repeated.
pub const NONCES_MAX: usize = 65_536;
/// Fewest bytes of a cluster secret. A shorter one is refused at start.
pub const SECRET_BYTES_MIN: usize = 16;
