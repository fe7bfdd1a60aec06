//! The binary protocol of a running engine over real sockets: every command of the deployed system, ours, and bad input.
#![allow(clippy::unwrap_used)]

mod support;

use std::{io::Write, net::Shutdown, time::Duration};

use reel_proto::{
    checksum::Crc64,
    command,
    ext::{
        self, FileStat, FileStatus, Get, GetHead, List, ListReply, PutHead, PutReply, Selection,
        StatusFilter, Tally, Usage, UsageReply,
    },
    frame::{self, Header},
    refusal::Refusal,
};
use support::{Client, Engine, content, file, file_bytes, upload_frame};

#[test]
fn every_old_command_in_a_row_on_one_connection() {
    let engine = Engine::start();
    let mut client = engine.client();
    let bytes = content(300_000);
    assert_eq!(client.upload("a", &bytes).ok(), b"");
    assert_eq!(client.upload("empty", b"").ok(), b"");
    assert_eq!(client.call(command::FILE_SIZE, &file_bytes("a")).ok(), 300_000_u64.to_be_bytes());
    assert_eq!(client.download("a", 0, 0).ok(), bytes);
    assert_eq!(client.download("a", 1, 2).ok(), bytes[1..3]);
    assert_eq!(client.download("a", 299_999, 1).ok(), bytes[299_999..]);
    assert_eq!(client.download("a", 300_000, 0).ok(), b"");
    assert_eq!(client.download("empty", 0, 0).ok(), b"");
    for (offset, size) in [(300_001, 0), (0, 300_001), (300_000, 1), (u64::MAX, 0), (1, u64::MAX)] {
        let (number, text) = client.download("a", offset, size).error();
        assert_eq!(number, -1);
        assert!(text.contains("300000"), "{text}");
    }
    assert_eq!(client.call(command::DELETE, &file_bytes("a")).ok(), b"");
    for _ in 0..2 {
        let (number, text) = client.call(command::FILE_SIZE, &file_bytes("a")).error();
        assert_eq!(number, -1);
        assert!(text.ends_with("] no such file"), "{text}");
    }
    client.download("a", 0, 0).error();
    assert_eq!(client.call(command::FILE_SIZE, &file_bytes("empty")).ok(), 0_u64.to_be_bytes());
}

#[test]
fn the_captured_upload_with_garbage_behind_its_texts() {
    let engine = Engine::start();
    let mut client = engine.client();
    let content = content(1000);
    let mut body = Vec::new();
    for (text, width) in [("tnvideo", 16), ("tnv001", 256), ("65f1560c0a1b2c", 128)] {
        let mut field = vec![0xA5; width];
        field[..text.len()].copy_from_slice(text.as_bytes());
        field[text.len()] = 0;
        body.extend(field);
    }
    let ids = body.clone();
    body.extend_from_slice(&1000_u64.to_be_bytes());
    body.extend_from_slice(&content);
    let frame = frame::encode(command::UPLOAD, &body);
    assert_eq!(frame[..10], [0, 0, 0, 0, 0, 0, 5, 0x80, 0x46, 0]);
    client.send(&frame);
    assert_eq!(client.reply().ok(), b"");
    assert_eq!(client.call(command::FILE_SIZE, &ids).ok(), 1000_u64.to_be_bytes());
}

#[test]
fn pipelined_and_split_at_every_byte() {
    let engine = Engine::start();
    let mut frames = upload_frame("split", b"hello");
    frames.extend(frame::encode(command::FILE_SIZE, &file_bytes("split")));
    let mut download = file_bytes("split");
    download.extend_from_slice(&[0; 16]);
    frames.extend(frame::encode(command::DOWNLOAD, &download));
    let replies = |client: &mut Client| {
        assert_eq!(client.reply().ok(), b"");
        assert_eq!(client.reply().ok(), 5_u64.to_be_bytes());
        assert_eq!(client.reply().ok(), b"hello");
    };
    let mut client = engine.client();
    client.send(&frames);
    replies(&mut client);
    for at in 1..frames.len() {
        client.send(&frames[..at]);
        if at % 64 == 0 {
            // Now and then long enough that the engine surely sees the halves apart.
            std::thread::sleep(Duration::from_millis(2));
        }
        client.send(&frames[at..]);
        replies(&mut client);
    }
    for byte in &frames {
        client.send(&[*byte]);
    }
    replies(&mut client);
}

#[test]
fn the_same_id_again() {
    let engine = Engine::start();
    let mut client = engine.client();
    client.upload("twice", b"hello").ok();
    client.upload("twice", b"hello").ok();
    let (number, text) = client.upload("twice", b"other").error();
    assert_eq!(number, -1);
    assert!(text.contains("taken"), "{text}");
    // One error frame, and the connection goes on.
    assert_eq!(client.download("twice", 0, 0).ok(), b"hello");
    client.call(command::DELETE, &file_bytes("twice")).ok();
    client.upload("twice", b"hello").error();
    engine.assert_files(1);
}

#[test]
fn frames_that_are_none_get_an_error_and_the_end() {
    let engine = Engine::start();
    let header = |length: i64, command: u8| {
        let mut bytes = length.to_be_bytes().to_vec();
        bytes.extend([command, 0]);
        bytes
    };
    let cases = [
        header(-1, command::UPLOAD),
        header(i64::MIN, command::FILE_SIZE),
        header(0, 0),
        header(0, 255),
        header(171, command::JOIN),
        header(0, command::GROUPS),
        header(399, command::FILE_SIZE),
        header(401, command::FILE_SIZE),
        header(i64::MAX, command::FILE_SIZE),
        header(0, command::DELETE),
        header(415, command::DOWNLOAD),
        header(417, command::DOWNLOAD),
        header(407, command::UPLOAD),
        header(0, command::UPLOAD),
        header(1 << 40, command::STAT),
        header(0, command::PUT),
    ];
    for bytes in cases {
        let mut client = engine.client();
        client.send(&bytes);
        client.reply().error();
        client.assert_closed();
    }
}

#[test]
fn bodies_with_something_wrong_in_them() {
    let engine = Engine::start();
    let unterminated = |at: usize, width: usize| {
        let mut body = file_bytes("x");
        body[at..at + width].fill(b'x');
        body
    };
    for (at, width) in [(0, 16), (16, 256), (272, 128)] {
        // As a tracker and an ID node do.
        for command in [command::FILE_SIZE, command::DELETE] {
            let mut client = engine.client();
            client.call(command, &unterminated(at, width)).error();
            client.assert_closed();
        }
        // While content is still coming the connection ends with the error.
        let mut upload = engine.client();
        let mut body = unterminated(at, width);
        body.extend_from_slice(&5_u64.to_be_bytes());
        body.extend_from_slice(b"hello");
        upload.call(command::UPLOAD, &body).error();
        upload.assert_closed();
    }
    // A size other than that of the body, up and down, and one that wraps around.
    for size in [4_u64, 6, 0, u64::MAX, u64::MAX - 402] {
        let mut client = engine.client();
        let mut body = file_bytes("size");
        body.extend_from_slice(&size.to_be_bytes());
        body.extend_from_slice(b"hello");
        client.call(command::UPLOAD, &body).error();
    }
    let mut client = engine.client();
    client.call(command::FILE_SIZE, &file_bytes("size")).error();
    engine.assert_files(0);
    client.upload("after", b"x").ok();
}

#[test]
fn files_of_another_user_or_app_do_not_exist() {
    let engine = Engine::start();
    let mut client = engine.client();
    client.upload("mine", b"x").ok();
    for (app, user) in [("tnvideo", "tnv002"), ("other", "tnv001"), ("tnvideo", "")] {
        let other = reel_proto::storage::FileRef {
            app: reel_proto::name::AppId::parse(app).unwrap(),
            user: reel_proto::name::UserId::parse(user).unwrap(),
            ..file("mine")
        };
        let mut body = Vec::new();
        other.encode(&mut body);
        client.call(command::FILE_SIZE, &body).error();
        client.call(command::DELETE, &body).error();
    }
    client.call(command::FILE_SIZE, &file_bytes("mine")).ok();
}

#[test]
fn a_client_that_stops_in_the_middle_leaves_nothing() {
    let engine = Engine::start();
    let bytes = content(3 << 20);
    for keep in [409, 1000, 2 << 20] {
        let mut client = engine.client();
        let frame = upload_frame("stopped", &bytes);
        client.stream.write_all(&frame[..keep]).unwrap();
        client.stream.shutdown(Shutdown::Both).unwrap();
    }
    let mut client = engine.client();
    engine.assert_files(0);
    client.call(command::FILE_SIZE, &file_bytes("stopped")).error();
    client.upload("stopped", &bytes).ok();
    assert_eq!(client.download("stopped", 0, 0).ok(), bytes);
}

fn put_frame(id: &str, bytes: &[u8], sum: u64) -> Vec<u8> {
    let head = PutHead {
        file: file(id),
        size: bytes.len() as u64,
        expires_at: None,
        name: Some("film.mp4"),
        content_type: Some("video/mp4"),
    };
    let mut body = Vec::new();
    head.encode(&mut body);
    body.extend_from_slice(bytes);
    body.extend_from_slice(&sum.to_be_bytes());
    frame::encode(command::PUT, &body)
}

#[test]
fn our_commands() {
    let engine = Engine::start();
    let mut client = engine.client();
    let bytes = content(700_000);
    let sum = Crc64::of(&bytes);
    client.send(&put_frame("p", &bytes, sum));
    let put = PutReply::decode(&client.reply().ok()).unwrap();
    assert_eq!((put.size, put.checksum, put.outcome), (700_000, sum, ext::PutOutcome::New));
    client.send(&put_frame("p", &bytes, sum));
    let again = PutReply::decode(&client.reply().ok()).unwrap();
    assert_eq!((again.path_id, again.outcome), (put.path_id, ext::PutOutcome::Same));

    client.send(&put_frame("bad", &bytes, sum ^ 1));
    assert_eq!(client.reply().error().0, Refusal::BadChecksum.number());
    let mut body = Vec::new();
    ext::encode_file(&file("bad"), &mut body);
    assert_eq!(client.call(command::STAT, &body).error().0, Refusal::NoSuchFile.number());

    let mut body = Vec::new();
    Get { file: file("p"), offset: 10, size: 20 }.encode(&mut body);
    let reply = client.call(command::GET, &body).ok();
    let (head, part) = reply.split_at(ext::GET_HEAD_LEN);
    let head = GetHead::decode(head, reply.len() as u64).unwrap();
    assert_eq!((head.file_size, head.checksum, head.length), (700_000, Some(sum), 20));
    assert_eq!(part, &bytes[10..30]);

    let stat = |client: &mut Client| {
        let mut body = Vec::new();
        ext::encode_file(&file("p"), &mut body);
        FileStat::decode(&client.call(command::STAT, &body).ok()).unwrap()
    };
    let found = stat(&mut client);
    assert_eq!((found.name.as_deref(), found.size), (Some("film.mp4"), 700_000));
    assert_eq!(found.store, engine.store.display().to_string());

    client.call(command::DELETE, &file_bytes("p")).ok();
    assert_eq!(stat(&mut client).status, FileStatus::Deleted);
    let list = |client: &mut Client, filter| {
        let of = Selection { filter, ..Selection::of_user(file("p").app, file("p").user) };
        let mut body = Vec::new();
        List { of, after: None, limit: 9 }.encode(&mut body);
        let listed = ListReply::decode(&client.call(command::LIST, &body).ok()).unwrap();
        let mut body = Vec::new();
        Usage { of: Selection::of_app(of.app), after: None }.encode(&mut body);
        let usage = UsageReply::decode(&client.call(command::USAGE, &body).ok()).unwrap();
        assert_eq!(usage.next, None);
        (listed.files.len(), usage.normal, usage.deleted)
    };
    let (none, one) = (Tally::default(), Tally { files: 1, bytes: 700_000 });
    assert_eq!(list(&mut client, StatusFilter::Normal), (0, none, one));
    assert_eq!(list(&mut client, StatusFilter::Deleted), (1, none, one));
    let mut body = Vec::new();
    ext::encode_file(&file("p"), &mut body);
    client.call(command::RESTORE, &body).ok();
    assert_eq!(client.download("p", 5, 5).ok(), bytes[5..10]);
    assert_eq!(list(&mut client, StatusFilter::Normal), (1, one, none));

    let mut purge = Vec::new();
    ext::Purge::File(file("p")).encode(&mut purge);
    assert_eq!(client.call(command::PURGE, &purge).error().0, Refusal::WrongState.number());
    client.call(command::DELETE, &file_bytes("p")).ok();
    let mut all = Vec::new();
    ext::Purge::AllDeleted { app: file("p").app, user: file("p").user }.encode(&mut all);
    let reply = ext::PurgeReply::decode(&client.call(command::PURGE, &all).ok()).unwrap();
    assert_eq!((reply.purged, reply.more), (1, false));
    assert_eq!(list(&mut client, StatusFilter::All), (0, none, none));
    // The id is free again.
    client.upload("p", b"new").ok();
}

#[test]
fn lengths_far_past_a_limit_are_refused_before_memory_is_taken() {
    let engine = Engine::start_with(|config| config.upload_max.0 = 1000, &[]);
    let mut client = engine.client();
    client.upload("at", &content(1000)).ok();
    client.upload("past", &content(1001)).error();
    let mut client = engine.client();
    let mut head = Header::request(command::UPLOAD, (1 << 50) + 408).encode().to_vec();
    head.extend(file_bytes("far"));
    head.extend_from_slice(&(1_u64 << 50).to_be_bytes());
    client.send(&head);
    client.reply().error();
    client.assert_closed();
}
