//! HTTP/1.1 rules as pure functions: what a head means, how a body is framed, which bytes a request gets.
//!
//! Sources: RFC 9110 (semantics), RFC 9112 (HTTP/1.1), RFC 6266 and 8187 (download names). httparse reads the field
//! lines; the framing rules and every refusal of what could be read in two ways are ours.

pub mod chunked;
pub mod content;
pub mod date;
pub mod disposition;
pub mod etag;
pub mod fields;
pub mod head;
mod lines;
pub mod multipart;
pub mod precondition;
pub mod query;
pub mod range;
pub mod response;
mod syntax;
