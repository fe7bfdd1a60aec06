//! The client against a node that breaks on purpose: at which moment it breaks is scripted, so that every retry, every
//! fallback to a deployed node's commands and every resumption can be seen. Real stores are in the workspace's tests/.

#![allow(clippy::unwrap_used)]

use std::{
    collections::{HashMap, VecDeque},
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use reel_client::{
    AppId, Client, ClientConfig, ClientError, FileId, FileRef, Owner, PutOutcome, Refusal,
    RetryPolicy, Span, UploadDetails, UploadSource, UserId,
};
use reel_proto::{
    checksum::Crc64,
    command,
    ext::{self, FileStat, FileStatus, GetHead, Located, NodeAddr, PutHead, PutReply},
    frame::{self, HEADER_LEN, Header},
    name::GroupName,
    refusal,
    storage::{self, UploadHead},
    tracker::SaddrsReply,
};
use tokio::net::{TcpListener, TcpStream};

/// What happens to a request, in the order in which requests with that command come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// It is done, and the connection closes instead of the reply.
    DoneUnsaid,
    /// The connection closes before anything is done.
    Undone,
    /// The content of the reply ends after so many bytes.
    CutAfter(usize),
    /// One byte of the content is wrong.
    WrongByte,
    /// It is refused.
    Refused(Refusal),
    /// It is refused before the content was read.
    RefusedEarly(Refusal),
}

#[derive(Debug, Default)]
struct State {
    files: HashMap<FileId, (Vec<u8>, FileStatus)>,
    faults: HashMap<u8, VecDeque<Fault>>,
    /// Commands that came.
    seen: Vec<u8>,
    deployed: bool,
    /// Another node that LOCATE names.
    other: Option<SocketAddr>,
}

#[derive(Debug, Clone)]
struct Scripted {
    state: Arc<Mutex<State>>,
    address: SocketAddr,
}

impl Scripted {
    async fn start(deployed: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let state = Arc::new(Mutex::new(State { deployed, ..State::default() }));
        let node = Self { state, address: listener.local_addr().unwrap() };
        let serving = node.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let node = serving.clone();
                tokio::spawn(async move { while node.answer_one(&stream).await.is_some() {} });
            }
        });
        node
    }

    fn client(&self) -> Client {
        let mut config = ClientConfig::new(["127.0.0.1:1".to_owned(), self.address.to_string()]);
        config.retry = RetryPolicy {
            first_pause: Duration::from_millis(1),
            pause_max: Duration::from_millis(4),
            window: Duration::from_secs(5),
        };
        Client::new(config).unwrap()
    }

    fn fail(&self, command: u8, faults: &[Fault]) {
        self.state.lock().unwrap().faults.entry(command).or_default().extend(faults);
    }

    fn seen(&self, command: u8) -> usize {
        self.state.lock().unwrap().seen.iter().filter(|seen| **seen == command).count()
    }

    /// None: the connection ends.
    async fn answer_one(&self, stream: &TcpStream) -> Option<()> {
        let mut reader = ReadAll(stream);
        let mut head = [0; HEADER_LEN];
        reader.exactly(&mut head).await?;
        let header = Header::decode(&head).ok()?;
        let fault = {
            let mut state = self.state.lock().unwrap();
            state.seen.push(header.command);
            state.faults.get_mut(&header.command).and_then(VecDeque::pop_front)
        };
        if let Some(Fault::RefusedEarly(reason)) = fault {
            let reply = refusal::error_reply(reason, command::REPLY_STORAGE, "fake", "early");
            send(stream, &reply).await?;
            // As the protocol has it: read a little more, so that the reply is not lost in a reset.
            let mut sink = vec![0; 1 << 20];
            let _ =
                tokio::time::timeout(Duration::from_millis(200), reader.exactly(&mut sink)).await;
            return None;
        }
        let mut body = vec![0; header.length as usize];
        reader.exactly(&mut body).await?;
        if fault == Some(Fault::Undone) {
            return None;
        }
        if let Some(Fault::Refused(reason)) = fault {
            let reply = refusal::error_reply(reason, command::REPLY_STORAGE, "fake", "scripted");
            return send(stream, &reply).await;
        }
        let (reply, keep) = self.reply(header.command, &body);
        match fault {
            Some(Fault::DoneUnsaid) => return None,
            Some(Fault::CutAfter(bytes)) => {
                let content = if header.command == command::GET { ext::GET_HEAD_LEN } else { 0 };
                send(stream, &reply[..HEADER_LEN + content + bytes]).await?;
                return None;
            }
            Some(Fault::WrongByte) => {
                let mut wrong = reply;
                *wrong.last_mut()? ^= 1;
                return send(stream, &wrong).await;
            }
            _ => send(stream, &reply).await?,
        }
        keep.then_some(())
    }

    /// The reply, and whether the connection goes on.
    fn reply(&self, command: u8, body: &[u8]) -> (Vec<u8>, bool) {
        let mut state = self.state.lock().unwrap();
        let group = GroupName::parse("group001").unwrap();
        let mut reply = Vec::new();
        let refused = |reason, reply_command| {
            (refusal::error_reply(reason, reply_command, "fake", "refused"), true)
        };
        let unknown =
            |reply_command| (frame::error_reply(reply_command, "fake", "unknown command"), false);
        if state.deployed && command >= 200 {
            let tracker = command == command::LOCATE;
            return unknown(if tracker { command::REPLY_TRACKER } else { command::REPLY_STORAGE });
        }
        match command {
            command::LOCATE => {
                let node = |binary| NodeAddr { binary, media: Some(binary), flags: 0 };
                let nodes = state.other.into_iter().chain([self.address]).map(node).collect();
                Located { group, nodes, gateways: vec![] }.encode(&mut reply);
                return (frame::encode(command::REPLY_TRACKER, &reply), true);
            }
            command::SADDRS => {
                SaddrsReply { group, nodes: vec![self.address] }.encode(&mut reply);
                return (frame::encode(command::REPLY_TRACKER, &reply), true);
            }
            command::PUT => {
                let (head, used) = PutHead::decode(body, body.len() as u64).unwrap().unwrap();
                let content = &body[used..body.len() - 8];
                let checksum = u64::from_be_bytes(body[body.len() - 8..].try_into().unwrap());
                assert_eq!(checksum, Crc64::of(content), "the trailer is the content's checksum");
                let known = state.files.get(&head.file.file);
                let outcome = match known {
                    Some((same, _)) if same == content => PutOutcome::Same,
                    Some(_) => return refused(Refusal::Conflict, command::REPLY_STORAGE),
                    None => PutOutcome::New,
                };
                let stored = (content.to_vec(), FileStatus::Normal);
                state.files.insert(head.file.file, stored);
                PutReply { outcome, path_id: 7, size: head.size, checksum }.encode(&mut reply);
            }
            command::UPLOAD => {
                let head = &body[..storage::UPLOAD_HEAD_LEN];
                let head = UploadHead::decode(head, body.len() as u64).unwrap();
                if state.files.contains_key(&head.file.file) {
                    return (frame::error_reply(command::REPLY_STORAGE, "fake", "dup"), false);
                }
                let content = body[storage::UPLOAD_HEAD_LEN..].to_vec();
                state.files.insert(head.file.file, (content, FileStatus::Normal));
            }
            command::FILE_SIZE => {
                let file = FileRef::decode(body).unwrap().file;
                let Some((content, _)) = state.files.get(&file) else {
                    return (frame::error_reply(command::REPLY_STORAGE, "fake", "none"), false);
                };
                reply = storage::encode_size(content.len() as u64).to_vec();
            }
            command::DOWNLOAD => {
                let request = storage::Download::decode(body).unwrap();
                let content = &state.files[&request.file.file].0;
                let length =
                    storage::resolve(request.offset, request.size, content.len() as u64).unwrap();
                let start = request.offset as usize;
                reply = content[start..start + length as usize].to_vec();
            }
            command::GET => {
                let request = ext::Get::decode(body).unwrap();
                let Some((content, _)) = state.files.get(&request.file.file) else {
                    return refused(Refusal::NoSuchFile, command::REPLY_STORAGE);
                };
                let size = content.len() as u64;
                let Ok(length) = storage::resolve(request.offset, request.size, size) else {
                    return refused(Refusal::OutOfRange, command::REPLY_STORAGE);
                };
                let checksum = Some(Crc64::of(content));
                GetHead { file_size: size, checksum, path_id: 7, length }.encode(&mut reply);
                let start = request.offset as usize;
                reply.extend_from_slice(&content[start..start + length as usize]);
            }
            command::STAT => {
                let file = ext::decode_file(body).unwrap().file;
                let Some((content, status)) = state.files.get(&file) else {
                    return refused(Refusal::NoSuchFile, command::REPLY_STORAGE);
                };
                let stat = FileStat {
                    path_id: 7,
                    size: content.len() as u64,
                    checksum: None,
                    created_at: 1,
                    status: *status,
                    deleted_at: None,
                    expires_at: None,
                    name: None,
                    content_type: None,
                    store: "s".into(),
                };
                stat.encode(&mut reply);
            }
            command::DELETE => {
                let file = FileRef::decode(body).unwrap().file;
                match state.files.get_mut(&file) {
                    Some((_, status)) if *status == FileStatus::Normal => {
                        *status = FileStatus::Deleted;
                    }
                    _ => return (frame::error_reply(command::REPLY_STORAGE, "fake", "no"), true),
                }
            }
            other => panic!("a command that nobody scripted: {other}"),
        }
        (frame::encode(command::REPLY_STORAGE, &reply), true)
    }
}

struct ReadAll<'a>(&'a TcpStream);

impl ReadAll<'_> {
    async fn exactly(&mut self, buffer: &mut [u8]) -> Option<()> {
        let mut filled = 0;
        while filled < buffer.len() {
            self.0.readable().await.ok()?;
            match self.0.try_read(&mut buffer[filled..]) {
                Ok(0) => return None,
                Ok(read) => filled += read,
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(_) => return None,
            }
        }
        Some(())
    }
}

async fn send(stream: &TcpStream, mut bytes: &[u8]) -> Option<()> {
    while !bytes.is_empty() {
        stream.writable().await.ok()?;
        match stream.try_write(bytes) {
            Ok(sent) => bytes = &bytes[sent..],
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(_) => return None,
        }
    }
    Some(())
}

fn file() -> FileRef {
    let owner =
        Owner { app: AppId::parse("tnvideo").unwrap(), user: UserId::parse("tnv001").unwrap() };
    owner.file(FileId::parse("film").unwrap())
}

fn content(size: usize) -> Vec<u8> {
    (0..size).map(|index| (index % 249) as u8).collect()
}

async fn put(client: &Client, content: &[u8]) -> Result<reel_client::Uploaded, ClientError> {
    let source = UploadSource::bytes(content.to_vec());
    client.upload(&file(), &source, &UploadDetails::default(), &mut |_| {}).await
}

async fn get(client: &Client, span: Span) -> Result<Vec<u8>, ClientError> {
    let mut download = client.download(&file(), span).await?;
    let mut content = Vec::new();
    while let Some(piece) = download.next().await? {
        content.extend_from_slice(&piece);
    }
    Ok(content)
}

#[tokio::test]
async fn an_upload_whose_reply_is_lost_is_repeated_and_counts_once() {
    let node = Scripted::start(false).await;
    node.fail(command::PUT, &[Fault::Undone, Fault::DoneUnsaid]);
    let uploaded = put(&node.client(), &content(1_000_000)).await.unwrap();
    assert_eq!(uploaded.outcome, PutOutcome::Same, "the second attempt had stored it");
    assert_eq!(node.seen(command::PUT), 3);
    let url = uploaded.url.unwrap();
    assert!(url.contains("/files/film?app="), "a chosen id may be somebody else's too: {url}");
}

#[tokio::test]
async fn a_tracker_whose_nodes_have_not_come_back_yet_is_asked_again() {
    let tracker = Scripted::start(false).await;
    let refusals = [Refusal::NoActiveNode, Refusal::Busy].map(Fault::Refused);
    tracker.fail(command::LOCATE, &refusals);
    put(&tracker.client(), b"one").await.unwrap();
    assert_eq!((tracker.seen(command::LOCATE), tracker.seen(command::SADDRS)), (3, 0));
}

#[tokio::test]
async fn a_busy_node_is_asked_again_and_a_conflict_is_final() {
    let node = Scripted::start(false).await;
    node.fail(command::PUT, &[Fault::Refused(Refusal::Busy), Fault::Refused(Refusal::Busy)]);
    put(&node.client(), b"one").await.unwrap();
    assert_eq!(node.seen(command::PUT), 3);
    let conflict = put(&node.client(), b"two").await.unwrap_err();
    assert_eq!(conflict.refusal(), Some(Refusal::Conflict));
    assert_eq!(node.seen(command::PUT), 4);
}

#[tokio::test]
async fn a_full_node_is_not_asked_again() {
    let node = Scripted::start(false).await;
    node.fail(command::PUT, &[Fault::Refused(Refusal::Full)]);
    let full = put(&node.client(), b"one").await.unwrap_err();
    assert_eq!(full.refusal(), Some(Refusal::Full));
    assert_eq!(node.seen(command::PUT), 1);
}

#[tokio::test]
async fn a_node_that_is_away_may_come_back_though_another_refuses() {
    for file in 0..8 {
        let node = Scripted::start(false).await;
        let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        node.state.lock().unwrap().other = Some(gone);
        node.fail(command::PUT, &[Fault::Refused(Refusal::Full), Fault::Refused(Refusal::Full)]);
        put(&node.client(), &content(file)).await.unwrap();
        assert_eq!(node.seen(command::PUT), 3);
    }
}

#[tokio::test]
async fn a_refusal_before_the_content_ends_the_sending() {
    let node = Scripted::start(false).await;
    node.fail(command::PUT, &[Fault::RefusedEarly(Refusal::Full)]);
    let full = put(&node.client(), &content(64 << 20)).await.unwrap_err();
    assert_eq!(full.refusal(), Some(Refusal::Full), "{full}");
}

#[tokio::test]
async fn a_download_goes_on_where_it_stopped() {
    let node = Scripted::start(false).await;
    let client = node.client();
    let content = content(2_000_000);
    put(&client, &content).await.unwrap();
    node.fail(command::GET, &[Fault::CutAfter(700_001), Fault::CutAfter(0), Fault::CutAfter(5)]);
    assert_eq!(get(&client, Span::whole()).await.unwrap(), content);
    assert_eq!(node.seen(command::GET), 4);
}

#[tokio::test]
async fn wrong_bytes_are_an_error_instead_of_the_end() {
    let node = Scripted::start(false).await;
    let client = node.client();
    let content = content(10_000);
    put(&client, &content).await.unwrap();
    node.fail(command::GET, &[Fault::WrongByte]);
    let error = get(&client, Span::whole()).await.unwrap_err();
    assert!(matches!(error, ClientError::Checksum { .. }), "{error}");
    // With the checksum of what came before, the rest is checked against the whole.
    let mut before = Crc64::new();
    before.update(&content[..4000]);
    let rest = Span { offset: 4000, size: None, before: Some(before.clone()) };
    assert_eq!(get(&client, rest.clone()).await.unwrap(), content[4000..]);
    node.fail(command::GET, &[Fault::WrongByte]);
    assert!(matches!(get(&client, rest).await, Err(ClientError::Checksum { .. })));
}

#[tokio::test]
async fn a_file_replaced_in_the_middle_is_not_mixed() {
    let node = Scripted::start(false).await;
    let client = node.client();
    put(&client, &content(900_000)).await.unwrap();
    node.fail(command::GET, &[Fault::CutAfter(300_000)]);
    let mut download = client.download(&file(), Span::whole()).await.unwrap();
    download.next().await.unwrap();
    let other = (vec![1; 900_000], FileStatus::Normal);
    node.state.lock().unwrap().files.insert(file().file, other);
    let error = loop {
        match download.next().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("bytes of two files"),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, ClientError::Replaced), "{error}");
}

#[tokio::test]
async fn ranges_empty_files_and_ranges_that_are_not_there() {
    let node = Scripted::start(false).await;
    let client = node.client();
    let content = content(1000);
    put(&client, &content).await.unwrap();
    let span = Span { offset: 10, size: std::num::NonZeroU64::new(5), before: None };
    assert_eq!(get(&client, span).await.unwrap(), content[10..15]);
    let end = Span { offset: 1000, size: None, before: None };
    assert!(get(&client, end).await.unwrap().is_empty());
    let past = Span { offset: 1001, size: None, before: None };
    assert_eq!(get(&client, past).await.unwrap_err().refusal(), Some(Refusal::OutOfRange));
    node.state.lock().unwrap().files.clear();
    put(&client, b"").await.unwrap();
    assert!(get(&client, Span::whole()).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_delete_whose_reply_is_lost_is_not_an_error() {
    let node = Scripted::start(false).await;
    let client = node.client();
    put(&client, b"x").await.unwrap();
    node.fail(command::DELETE, &[Fault::DoneUnsaid]);
    client.delete(&file()).await.unwrap();
    assert_eq!(node.seen(command::DELETE), 2);
    let again = client.delete(&file()).await.unwrap_err();
    assert_eq!(again.refusal(), Some(Refusal::Other), "an answer is an answer");
}

#[tokio::test]
async fn a_deployed_node_gets_the_deployed_commands() {
    let node = Scripted::start(true).await;
    let client = node.client();
    let content = content(600_000);
    let uploaded = put(&client, &content).await.unwrap();
    assert_eq!((uploaded.path_id, uploaded.url), (None, None));
    node.fail(command::DOWNLOAD, &[Fault::CutAfter(100_000)]);
    assert_eq!(get(&client, Span::whole()).await.unwrap(), content);
    assert_eq!(client.content(&file()).await.unwrap().size, 600_000);
    assert_eq!((node.seen(command::PUT), node.seen(command::GET)), (0, 0));
    assert!(node.seen(command::SADDRS) > 0);
}

#[tokio::test]
async fn a_deployed_upload_whose_reply_is_lost_is_found_again() {
    let node = Scripted::start(true).await;
    node.fail(command::UPLOAD, &[Fault::DoneUnsaid]);
    put(&node.client(), &content(5000)).await.unwrap();
    assert_eq!(node.seen(command::UPLOAD), 1, "the second would be refused as a duplicate");
    let node = Scripted::start(true).await;
    node.fail(command::UPLOAD, &[Fault::Undone]);
    put(&node.client(), &content(5000)).await.unwrap();
    assert_eq!(node.seen(command::UPLOAD), 2);
}

#[tokio::test]
async fn nobody_there_is_an_error_in_time() {
    let mut config = ClientConfig::new(["127.0.0.1:1", "127.0.0.1:2"]);
    config.request_deadline = Duration::from_millis(300);
    let client = Client::new(config).unwrap();
    let error = client.stat(&file()).await.unwrap_err();
    let text = error.to_string();
    assert!(text.contains("127.0.0.1:1") && text.contains("127.0.0.1:2"), "{text}");
}
