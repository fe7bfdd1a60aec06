//! An operator's drain: who may ask for it, what is told of it and to whom, and that it outlives the process.
#![allow(clippy::unwrap_used)]

mod support;

use std::{
    os::unix::fs::PermissionsExt,
    path::Path,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use reel_engine::metadata::{Metadata, wait};
use reel_engine::store::{StoreConfig, StorePathConfig, Stores};
use reel_node::config::HumanTime;
use reel_proto::{
    command,
    ext::node_flag,
    name::{GroupName, HostName},
    peer::{DrainReply, JoinExt, OperatorDrain, Report},
    refusal::Refusal,
    sign,
};
use support::{Engine, PATIENCE, Reply, content};

/// The name of the node.
const HOST: &str = "vm";

const SECRET: &[u8] = b"the secret of this cluster";

/// The request, with a nonce of its own.
fn request(secret: Option<&[u8]>, nonce: u8, on: bool) -> Vec<u8> {
    let mut payload = Vec::new();
    let host = HostName::parse(HOST).unwrap();
    OperatorDrain { host, on }.encode(&mut payload);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    sign::seal(secret, command::DRAIN, now, [nonce; 16], &payload)
}

fn ask(engine: &Engine, body: &[u8]) -> Reply {
    engine.client().call(command::DRAIN, body)
}

fn under_way(reply: Reply) -> u32 {
    DrainReply::decode(&reply.ok()).unwrap().under_way
}

fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < end, "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn readiness(engine: &Engine) -> (bool, String) {
    let page = engine.admin_page("/readyz");
    let reason = page.rsplit_once("\r\n\r\n").unwrap().1.trim().to_owned();
    (page.starts_with("HTTP/1.1 200"), reason)
}

/// Commands of ours without a secret are in an envelope of one byte.
fn heard(engine: &Engine, wanted: u8) -> Vec<Vec<u8>> {
    let heard = engine.tracker.commands.lock().unwrap();
    let of_kind = heard.iter().filter(|(command, _)| *command == wanted);
    of_kind.map(|(_, body)| body.strip_prefix(&[0]).unwrap().to_vec()).collect()
}

/// Whose tracker is one of ours.
fn engine(beat_interval: Duration) -> Engine {
    let (address, heard) = support::deployed(command::REPLY_TRACKER);
    heard.is_ours.store(true, Ordering::SeqCst);
    let change = |config: &mut reel_engine::Config| {
        config.trackers = vec![address.to_string()];
        config.beat_interval = HumanTime(beat_interval);
    };
    let mut engine = Engine::start_with(change, &[]);
    engine.tracker = heard;
    engine
}

#[test]
fn a_drained_node_serves_on_and_is_drained_until_an_operator_says_otherwise() {
    // No report comes by itself meanwhile.
    let mut engine = engine(Duration::from_secs(3600));
    let drained = |engine: &Engine| {
        let status = engine.admin_page("/status").contains("\"drained\": true");
        until("the gauge", || {
            engine.metric("reel_engine_drained{role=\"engine\"}") == f64::from(u8::from(status))
        });
        status
    };
    let draining = |engine: &Engine| -> Vec<bool> {
        let reports = heard(engine, command::REPORT);
        let flags = reports.iter().map(|body| Report::decode(body).unwrap().flags);
        flags.map(|flags| flags & node_flag::DRAINING != 0).collect()
    };
    until("the first report", || draining(&engine) == [false]);
    assert_eq!(readiness(&engine), (true, "ready".to_owned()));
    assert!(!drained(&engine));

    assert_eq!(under_way(ask(&engine, &request(None, 1, true))), 0);
    until("a report at once", || draining(&engine) == [false, true]);
    assert_eq!(readiness(&engine), (false, "drained by an operator".to_owned()));
    assert!(drained(&engine));
    // Clients with an old location.
    engine.client().upload("while-drained", &content(5000)).ok();
    assert_eq!(engine.client().download("while-drained", 0, 0).ok(), content(5000));
    // Again: nothing to tell.
    ask(&engine, &request(None, 2, true)).ok();

    engine.restart(None);
    let joins = heard(&engine, command::JOIN_EXT);
    let flags: Vec<u8> = joins.iter().map(|body| JoinExt::decode(body).unwrap().flags).collect();
    assert_eq!(flags, [0, node_flag::DRAINING]);
    assert_eq!(readiness(&engine), (false, "drained by an operator".to_owned()));
    assert!(drained(&engine));
    assert_eq!(engine.client().download("while-drained", 0, 0).ok(), content(5000));
    until("the report after the join", || draining(&engine) == [false, true, true]);

    ask(&engine, &request(None, 3, false)).ok();
    until("a report at once", || draining(&engine) == [false, true, true, false]);
    assert_eq!(readiness(&engine), (true, "ready".to_owned()));
    engine.restart(None);
    assert_eq!(readiness(&engine), (true, "ready".to_owned()));
    assert!(!drained(&engine));
    let drains =
        engine.metric("reel_engine_requests_total{role=\"engine\",kind=\"drain\",result=\"ok\"}");
    assert!(drains < 1.0, "counted anew: {drains}");
}

#[test]
fn what_is_not_signed_drains_nothing() {
    let mut engine = Engine::start();
    let file = engine.folder().join("secret");
    std::fs::write(&file, SECRET).unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    engine.restart(Some(file));
    let signed = request(Some(SECRET), 1, true);
    let mut client = engine.client();
    for (why, body) in [
        ("unsigned", request(None, 2, true)),
        ("another secret", request(Some(b"not the secret of this one"), 3, true)),
        ("for another command", {
            let payload = [1, 1];
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
            sign::seal(Some(SECRET), command::REPORT, now, [4; 16], &payload)
        }),
    ] {
        let (number, text) = client.call(command::DRAIN, &body).error();
        assert_eq!(Refusal::of(number), Refusal::NotTrusted, "{why}: {text}");
        assert!(readiness(&engine).0, "{why}");
    }
    client.call(command::DRAIN, &signed).ok();
    assert!(!readiness(&engine).0);
    let (number, text) = engine.client().call(command::DRAIN, &signed).error();
    assert_eq!(Refusal::of(number), Refusal::NotTrusted, "the very same again: {text}");
    // Rightly signed, and no drain.
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let odd = sign::seal(Some(SECRET), command::DRAIN, now, [5; 16], &[1, 2]);
    let mut client = engine.client();
    assert_eq!(Refusal::of(client.call(command::DRAIN, &odd).error().0), Refusal::Malformed);
    client.assert_closed();
    ask(&engine, &request(Some(SECRET), 6, false)).ok();
    assert!(readiness(&engine).0);
}

#[test]
fn requests_under_way_are_told_without_the_one_that_asks() {
    let engine = Engine::start();
    let frame = support::upload_frame("slow", &content(100_000));
    let mut slow = engine.client();
    slow.send(&frame[..50_000]);
    let mut nonce = 0;
    let mut asked = || {
        nonce += 1;
        under_way(ask(&engine, &request(None, nonce, true)))
    };
    until("the upload is under way", || asked() == 1);
    slow.send(&frame[50_000..]);
    slow.reply().ok();
    until("it is over", || asked() == 0);
}

fn stores(folders: [&Path; 2], metadata: &Metadata) -> Arc<Stores> {
    let (node, group) = (HostName::parse("vm").unwrap(), GroupName::parse("group001").unwrap());
    let paths = folders.map(StorePathConfig::new).to_vec();
    Stores::open(&StoreConfig::new(node, group, paths), metadata.clone()).unwrap()
}

#[test]
fn one_store_path_notes_it_and_each_is_asked_to_forget_it() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let [one, two] = ["one", "two"].map(|name| folder.path().join(name));
    for path in [&one, &two] {
        std::fs::create_dir(path).unwrap();
    }
    let metadata = Metadata::sqlite(&folder.path().join("storage.db")).unwrap();
    let open = || stores([&one, &two], &metadata);
    let close = |stores: Arc<Stores>| stores.close(Duration::from_secs(10));
    let marker = |path: &Path| path.join(".reel/drained");
    let noted = || [&one, &two].map(|path| marker(path).exists());
    let first = open();
    assert!(!first.is_drained());
    wait(first.set_drained(true)).unwrap();
    assert_eq!((first.is_drained(), noted()), (true, [true, false]));
    close(first);
    // As the disk that took it was not the first one in another run.
    std::fs::write(marker(&two), "").unwrap();
    let second = open();
    assert!(second.is_drained());
    wait(second.set_drained(false)).unwrap();
    assert_eq!((second.is_drained(), noted()), (false, [false, false]));
    // The first one takes no file there.
    std::fs::create_dir(marker(&one)).unwrap();
    wait(second.set_drained(true)).unwrap();
    assert_eq!((second.is_drained(), marker(&two).is_file()), (true, true));
    wait(second.set_drained(false)).unwrap();
    std::fs::create_dir(marker(&two)).unwrap();
    let refused = wait(second.set_drained(true)).unwrap_err().to_string();
    assert!(refused.contains("no store path takes"), "{refused}");
    assert!(!second.is_drained());
    close(second);
}
