//! The caller of other nodes, on both runtimes, against real peers and bad ones.

#![allow(clippy::unwrap_used)]

mod kit;

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use kit::{DROP, ECHO, FAIL, HOLD, Setup};
use reel_node::caller::{
    CallError, Caller, CallerConfig, Connection, Malformed, Monoio, Tokio, Wire,
};
use reel_proto::frame::{self, Header};

const LONG: Duration = Duration::from_secs(30);
const SHORT: Duration = Duration::from_millis(150);

/// The same test on either runtime: `$wire` is the runtime's socket type inside.
macro_rules! on_both_runtimes {
    ($name:ident, $body:expr) => {
        #[test]
        fn $name() {
            async fn run<W: Wire>() {
                let body: fn(std::marker::PhantomData<W>) -> _ = $body;
                body(std::marker::PhantomData).await;
            }
            let capabilities = reel_node::capability::Capabilities::probe(&[]).unwrap();
            let mut monoio =
                monoio::RuntimeBuilder::<monoio::LegacyDriver>::new().enable_timer().build();
            monoio.as_mut().unwrap().block_on(run::<Monoio>());
            if capabilities.io_uring {
                let mut monoio =
                    monoio::RuntimeBuilder::<monoio::IoUringDriver>::new().enable_timer().build();
                monoio.as_mut().unwrap().block_on(run::<Monoio>());
            }
            let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build();
            tokio.unwrap().block_on(run::<Tokio>());
        }
    };
}

/// A peer that takes one connection after the other and answers each request, whatever it is,
/// with these bytes; then closes if they are to be the last.
fn peer(answers: Vec<Vec<u8>>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for answer in answers {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 4096];
            if stream.read(&mut request).unwrap_or(0) > 0 {
                let _ = stream.write_all(&answer);
            }
        }
    });
    address
}

on_both_runtimes!(calls_and_keeps_the_connection, |_| async {
    let toy = Setup::default().start();
    let caller = Caller::<W>::default();
    for length in [0, 1, 4096] {
        let body = vec![3; length];
        assert_eq!(caller.call(toy.address, ECHO, &body, LONG).await.unwrap(), body);
    }
    assert_eq!(toy.metric("reel_connections_accepted_total"), 1);
    let error = caller.call(toy.address, FAIL, b"", LONG).await.unwrap_err();
    assert!(matches!(&error, CallError::Remote { error, .. } if error.text.contains("to fail")));
    assert!(!error.outcome_unknown() && !error.retryable());
    // A refusal is no failure of the peer: no pause.
    assert_eq!(caller.call(toy.address, ECHO, b"x", LONG).await.unwrap(), b"x");
    toy.stop();
});

on_both_runtimes!(a_restarted_peer_costs_no_call, |_| async {
    let ok = frame::encode(kit::REPLY, b"ok");
    // Each connection serves one call and is closed: every kept one is stale.
    let address = peer(vec![ok.clone(), ok.clone(), ok]);
    let caller = Caller::<W>::default();
    for _ in 0..3 {
        assert_eq!(caller.call(address, ECHO, b"", LONG).await.unwrap(), b"ok");
        // The close must have arrived, or the next request is answered by a reset after it.
        std::thread::sleep(Duration::from_millis(20));
    }
});

on_both_runtimes!(deadlines_hold, |_| async {
    let toy = Setup::default().start();
    let caller = Caller::<W>::default();
    let error = caller.call(toy.address, HOLD, b"x", SHORT).await.unwrap_err();
    assert!(error.outcome_unknown(), "{error}");
    let CallError::NoAnswer { source, .. } = error else { panic!("{error}") };
    assert_eq!(source.kind(), ErrorKind::TimedOut);
    // The peer is left alone for a moment.
    let error = caller.call(toy.address, ECHO, b"x", LONG).await.unwrap_err();
    let CallError::BackingOff { wait, .. } = error else { panic!("{error}") };
    W::within(wait, std::future::pending::<()>()).await;
    assert_eq!(caller.call(toy.address, ECHO, b"x", LONG).await.unwrap(), b"x");
    toy.stop();
});

on_both_runtimes!(what_is_no_reply_is_an_error, |_| async {
    let config = CallerConfig { reply_bytes_max: 10, ..CallerConfig::default() };
    let short = frame::encode(kit::REPLY, &[1; 10]);
    let caller = Caller::<W>::new(config);
    assert_eq!(caller.call(peer(vec![short]), ECHO, b"", LONG).await.unwrap(), [1; 10]);
    let long = Header::reply(kit::REPLY, u64::MAX / 4).encode().to_vec();
    let negative = vec![0xff; 10];
    let cut = frame::encode(kit::REPLY, b"0123456789")[..15].to_vec();
    for (answer, reason) in [(long, "at most 10"), (negative, "negative"), (cut, "no answer")] {
        let error = caller.call(peer(vec![answer]), ECHO, b"", LONG).await.unwrap_err();
        assert!(error.to_string().contains(reason), "{error}");
        assert!(error.outcome_unknown());
    }
});

on_both_runtimes!(a_dead_peer_is_an_error_before_anything_is_sent, |_| async {
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let caller = Caller::<W>::default();
    let error = caller.call(address, ECHO, b"", LONG).await.unwrap_err();
    assert!(matches!(&error, CallError::Connect { .. }), "{error}");
    assert!(!error.outcome_unknown() && error.retryable());
    let error = caller.call(address, ECHO, b"", LONG).await.unwrap_err();
    assert!(matches!(&error, CallError::BackingOff { .. }), "{error}");
});

on_both_runtimes!(a_conversation_has_its_own_connection, |_| async {
    let toy = Setup::default().start();
    let mut connection = Connection::<W>::open(toy.address, 100, LONG).await.unwrap();
    for body in [b"join", b"beat"] {
        assert_eq!(connection.call(ECHO, body, LONG).await.unwrap(), body);
    }
    assert_eq!(toy.metric("reel_connections_accepted_total"), 1);
    let error = connection.call(ECHO, &[0; 101], LONG).await.unwrap_err();
    let CallError::Malformed { reason, .. } = error else { panic!("{error}") };
    assert_eq!(reason, Malformed::TooLong { length: 101, limit: 100 });
    let mut connection = Connection::<W>::open(toy.address, 100, LONG).await.unwrap();
    let error = connection.call(DROP, b"", LONG).await.unwrap_err();
    assert!(matches!(error, CallError::NoAnswer { .. }));
    toy.stop();
});
