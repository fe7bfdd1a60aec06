//! What a running engine says to deployed trackers and ID nodes, which know none of our commands.
#![allow(clippy::unwrap_used)]

mod support;

use std::{
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use reel_proto::{
    command,
    tracker::{Beat, JOIN_LEN, Join},
};
use support::{Engine, Heard, PATIENCE, content, deployed};

fn commands(heard: &Heard) -> Vec<u8> {
    heard.commands.lock().unwrap().iter().map(|(command, _)| *command).collect()
}

fn wait(what: &str, done: impl Fn() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < until, "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_deployed_tracker_gets_the_old_join_then_beats() {
    let engine = Engine::start();
    wait("three beats", || {
        commands(&engine.tracker).iter().filter(|command| **command == command::BEAT).count() >= 3
    });
    let heard = engine.tracker.commands.lock().unwrap();
    assert_eq!(heard[0].0, command::JOIN_EXT);
    assert_eq!(heard[1].0, command::JOIN);
    assert_eq!(heard[1].1.len(), JOIN_LEN);
    let join = Join::decode(&heard[1].1).unwrap();
    assert_eq!((join.group.as_str(), join.port), ("group001", engine.binary.port()));
    assert!(join.started_at > 0 && join.joined_at >= join.started_at);
    assert_eq!(heard[2].0, command::BEAT, "a beat follows its join at once");
    assert_eq!(Beat::decode(&heard[2].1).unwrap().host, join.host);
    assert!(!heard.iter().any(|(command, _)| *command == command::REPORT));
}

#[test]
fn a_tracker_that_forgot_us_hears_a_join_at_once() {
    let engine = Engine::start();
    engine.tracker.commands.lock().unwrap().clear();
    engine.tracker.refuse_beats.store(1, Ordering::SeqCst);
    wait("a join and a beat after the refused one", || {
        let heard = commands(&engine.tracker);
        let refused = heard.iter().position(|command| *command == command::BEAT);
        refused.is_some_and(|at| {
            heard[at + 1..].windows(2).any(|pair| pair == [command::JOIN, command::BEAT])
        })
    });
}

#[test]
fn ids_are_drawn_one_by_one_and_never_twice() {
    let engine = Engine::start();
    let mut client = engine.client();
    for index in 0..200 {
        client.upload(&format!("f{index}"), &content(10 + index)).ok();
    }
    assert_eq!(engine.files().len(), 200);
    let heard = commands(&engine.idgen);
    assert!(heard.contains(&command::ID_BLOCK) && heard.contains(&command::ID_GET));
    for index in 0..200 {
        assert_eq!(client.download(&format!("f{index}"), 0, 0).ok(), content(10 + index));
    }
}

#[test]
fn the_next_id_node_is_asked_when_one_fails() {
    let (second, heard) = deployed(command::REPLY_IDGEN);
    let engine = Engine::start_with(
        |config| {
            // Nobody listens on port 1.
            config.idgens = vec!["127.0.0.1:1".to_owned(), second.to_string()];
        },
        &[],
    );
    engine.client().upload("f", b"hello").ok();
    assert!(!heard.commands.lock().unwrap().is_empty());
    assert!(engine.idgen.commands.lock().unwrap().is_empty());
}

#[test]
fn the_status_and_the_metrics_say_what_is() {
    let engine = Engine::start();
    engine.client().upload("f", &content(5000)).ok();
    let status = engine.admin_page("/status");
    for part in ["\"trackers_active\"", "\"store_paths\"", "\"ids_left\"", "group001"] {
        assert!(status.contains(part), "{part} in {status}");
    }
    let uploads =
        engine.metric(r#"reel_engine_requests_total{role="engine",kind="upload",result="ok"}"#);
    assert!(uploads >= 1.0);
    wait("the disks' numbers", || {
        engine.admin_page("/metrics").contains("reel_engine_store_commits_total{")
    });
    assert!(engine.admin_page("/readyz").starts_with("HTTP/1.1 200"));
}
