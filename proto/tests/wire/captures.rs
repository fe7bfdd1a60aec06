//! The requests and replies captured from the deployed system (wire-protocol.md), byte for byte, and split everywhere.

use reel_proto::{
    command::{self, BodyRule},
    frame::{self, Frame, FrameError, HEADER_LEN, Header},
    idgen::{self, IdGet},
    name::{FileId, GroupName, HostName, IdKey, UserId},
    storage::{FileRef, UPLOAD_HEAD_LEN, UploadHead},
    tracker::{Beat, Join, Saddrs, SaddrsReply},
};

/// Hexadecimal digits, spaces between them; `N*XX` is N times the byte XX.
pub(crate) fn hex(text: &str) -> Vec<u8> {
    let byte = |digits: &str| u8::from_str_radix(digits, 16).unwrap();
    let mut bytes = Vec::new();
    for word in text.split_whitespace() {
        match word.split_once('*') {
            Some((count, digits)) => {
                bytes.extend(std::iter::repeat_n(byte(digits), count.parse().unwrap()));
            }
            None => bytes.extend((0..word.len()).step_by(2).map(|at| byte(&word[at..at + 2]))),
        }
    }
    bytes
}

pub(crate) const JOIN: &str = "00000000000000ab0a00 312e3000000000 67726f7570303031 9*00 766d 127*00 5a3c \
     000000006b00fa7c 000000006b00fa7c";
pub(crate) const BEAT: &str = "00000000000000920b00 67726f7570303031 9*00 766d 127*00";
/// With garbage after each NUL, none of it a NUL in the file id's field: that one is never read.
pub(crate) const SADDRS: &str =
    "00000000000001900c00 746e766964656f00 8*a5 746e7630303100 249*ff 128*c3";
pub(crate) const SADDRS_REPLY: &str = "00000000000000226400 67726f7570303031 000000000000000000 \
     3132372e302e302e313a32333130303b 00";
pub(crate) const ID_GET: &str = "00000000000000082800 2e2e2f6461746100";
pub(crate) const ID_REPLY: &str = "00000000000000086500 0000000000000000";
/// The head of a large upload, with garbage in the fields' tails.
pub(crate) const UPLOAD: &str = "00000000013233504600 746e766964656f00 8*5a 746e7630303100 249*81 \
     363546313536304300 119*e7 00000000013231b8";
pub(crate) const ERROR: &str =
    "000000000000001d64fd ffff 5b766d5d20 556e6b6e6f776e6e204150504944 3a206f7468657200";

/// A whole frame, checked as a server does.
fn request(bytes: &[u8]) -> Frame<'_> {
    let check = |header: &Header| command::check_request(header).map(|_| ());
    let frame = frame::take(bytes, check).unwrap().unwrap();
    assert_eq!(frame.used, bytes.len());
    frame
}

fn group() -> GroupName {
    GroupName::parse("group001").unwrap()
}

#[test]
fn join() {
    let bytes = hex(JOIN);
    let frame = request(&bytes);
    assert_eq!(frame.header, Header::request(command::JOIN, 171));
    let join = Join::decode(frame.body).unwrap();
    assert_eq!(join.version.as_str(), "1.0");
    assert_eq!((join.group, join.host), (group(), HostName::parse("vm").unwrap()));
    assert_eq!((join.port, join.started_at, join.joined_at), (23100, 0x6b00_fa7c, 0x6b00_fa7c));
    let mut body = Vec::new();
    join.encode(&mut body);
    assert_eq!(frame::encode(command::JOIN, &body), bytes);
    assert_eq!(frame::encode(command::REPLY_TRACKER, &[]), hex("00000000000000006400"));
}

#[test]
fn beat() {
    let bytes = hex(BEAT);
    let frame = request(&bytes);
    assert_eq!(frame.header, Header::request(command::BEAT, 146));
    let beat = Beat::decode(frame.body).unwrap();
    assert_eq!(beat, Beat { group: group(), host: HostName::parse("vm").unwrap() });
    let mut body = Vec::new();
    beat.encode(&mut body);
    assert_eq!(frame::encode(command::BEAT, &body), bytes);
}

#[test]
fn saddrs_with_garbage_and_without() {
    let bytes = hex(SADDRS);
    let frame = request(&bytes);
    assert_eq!(frame.header, Header::request(command::SADDRS, 400));
    let saddrs = Saddrs::decode(frame.body).unwrap();
    assert_eq!((saddrs.app.as_str(), saddrs.user.as_str()), ("tnvideo", "tnv001"));
    // We pad with NUL: the same length, nothing of our memory.
    let mut body = Vec::new();
    saddrs.encode(&mut body);
    assert_eq!(body, hex("746e766964656f00 8*00 746e7630303100 249*00 128*00"));
    assert_eq!(Saddrs::decode(&body).unwrap(), saddrs);
}

#[test]
fn saddrs_reply() {
    let bytes = hex(SADDRS_REPLY);
    let frame = frame::take(&bytes, |_| Ok(())).unwrap().unwrap();
    assert_eq!(frame.header, Header::reply(command::REPLY_TRACKER, 34));
    let reply = SaddrsReply::decode(frame.body).unwrap();
    assert_eq!(reply.group, group());
    assert_eq!(reply.nodes, ["127.0.0.1:23100".parse().unwrap()]);
    let mut body = Vec::new();
    reply.encode(&mut body);
    assert_eq!(frame::encode(command::REPLY_TRACKER, &body), bytes);
}

#[test]
fn id_get() {
    let bytes = hex(ID_GET);
    let get = IdGet::decode(request(&bytes).body).unwrap();
    assert_eq!(get.key, IdKey::parse("../data").unwrap());
    let mut body = Vec::new();
    get.encode(&mut body);
    assert_eq!(frame::encode(command::ID_GET, &body), bytes);
    assert_eq!(frame::encode(command::REPLY_IDGEN, &idgen::encode_id(0)), hex(ID_REPLY));
    assert_eq!(idgen::decode_id(&hex(ID_REPLY)[HEADER_LEN..]), Ok(0));
}

#[test]
fn upload() {
    let bytes = hex(UPLOAD);
    let header = Header::decode(bytes[..HEADER_LEN].try_into().unwrap()).unwrap();
    assert_eq!(header, Header::request(command::UPLOAD, 0x0132_3350));
    let BodyRule::Streamed { head_max, .. } = command::check_request(&header).unwrap() else {
        panic!("the content of an upload streams");
    };
    assert_eq!(head_max as usize, UPLOAD_HEAD_LEN);
    let head = UploadHead::decode(&bytes[HEADER_LEN..], header.length).unwrap();
    assert_eq!(head.size, 0x0132_31b8);
    assert_eq!(head.body_length(), Some(header.length));
    let FileRef { app, user, file } = head.file;
    assert_eq!((app.as_str(), user), ("tnvideo", UserId::parse("tnv001").unwrap()));
    assert_eq!(file, FileId::parse("65F1560C").unwrap());
    for wrong in [0, 407, 408, header.length - 1, header.length + 1, i64::MAX as u64, u64::MAX] {
        assert!(UploadHead::decode(&bytes[HEADER_LEN..], wrong).is_err(), "{wrong}");
    }
    // 2^64 - 8 and 408 wrap around to 400: still no length that fits.
    let mut wrapping = bytes[HEADER_LEN..].to_vec();
    wrapping[400..].copy_from_slice(&(u64::MAX - 7).to_be_bytes());
    assert!(UploadHead::decode(&wrapping, 400).is_err());
    assert_eq!(frame::encode(command::REPLY_STORAGE, &[]), hex("00000000000000006600"));
}

#[test]
fn error() {
    let bytes = hex(ERROR);
    let reply = frame::error_reply(command::REPLY_TRACKER, "vm", "Unknownn APPID: other");
    assert_eq!(reply, bytes);
    let frame = frame::take(&bytes, |_| Ok(())).unwrap().unwrap();
    assert!(frame.header.is_error());
    let error = frame::decode_error(frame.body);
    assert_eq!((error.number, error.text.as_str()), (-1, "[vm] Unknownn APPID: other"));
}

/// Requests of small commands, one after another: cut at every byte they give the same frames.
#[test]
fn pipelined_requests_split_at_every_byte() {
    let whole: Vec<u8> = [JOIN, BEAT, SADDRS, ID_GET, "00000000000000000d00"]
        .iter()
        .flat_map(|capture| hex(capture))
        .collect();
    let commands =
        [command::JOIN, command::BEAT, command::SADDRS, command::ID_GET, command::GROUPS];
    let check = |header: &Header| command::check_request(header).map(|_| ());
    for cut in 0..=whole.len() {
        let mut buffer = whole[..cut].to_vec();
        let mut seen = Vec::new();
        for rest in [&whole[cut..], &[]] {
            while let Some(frame) = frame::take(&buffer, check).unwrap() {
                seen.push(frame.header.command);
                let used = frame.used;
                buffer.drain(..used);
            }
            buffer.extend_from_slice(rest);
        }
        assert_eq!(seen, commands, "cut at {cut}");
        assert!(buffer.is_empty());
    }
}

#[test]
fn a_header_that_is_refused_is_refused_before_its_body() {
    let check = |header: &Header| command::check_request(header).map(|_| ());
    let negative = hex("ffffffffffffffff0a00");
    assert_eq!(frame::take(&negative, check), Err(FrameError::NegativeLength { length: -1 }));
    let unknown = hex("0000000000000000ff00");
    assert_eq!(frame::take(&unknown, check), Err(FrameError::UnknownCommand { command: 255 }));
    for (header, command, length) in [
        ("00000000000000aa0a00", command::JOIN, 170),
        ("00000000000000ac0a00", command::JOIN, 172),
        ("7fffffffffffffff0c00", command::SADDRS, i64::MAX as u64),
        ("00000000000000010d00", command::GROUPS, 1),
        ("00000000000000422800", command::ID_GET, 66),
        ("00000000000001974600", command::UPLOAD, 407),
    ] {
        let refused = Err(FrameError::Length { command, length });
        assert_eq!(frame::take(&hex(header), check), refused);
    }
}
