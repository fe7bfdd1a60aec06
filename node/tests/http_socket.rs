//! The socket calls below the HTTP drivers, against real sockets, on both drivers.
#![allow(clippy::unwrap_used)]

mod http_support;

use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::time::Duration;

use bytes::BufMut;
use http_support::{close, on_both_drivers, pair, pattern};
use reel_node::http::socket::{self, SendError};
use reel_node::http::splice::{self, Paces, TransferError};
use reel_node::http::{Meter, Pace};

const PATIENT: Pace = Pace { window: Duration::from_secs(20), bytes_min: 1 };

fn file_of(content: &[u8]) -> std::fs::File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(content).unwrap();
    file
}

#[test]
fn send_all_and_send_file_arrive_whole_however_slowly_they_are_read() {
    on_both_drivers(|| async {
        let (near, mut peer) = pair();
        let content = pattern(9_000_001);
        let file = file_of(&content);
        let reader = std::thread::spawn(move || {
            let mut got = Vec::new();
            let mut piece = vec![0; 70_001];
            for turn in 0.. {
                let count = peer.read(&mut piece).unwrap();
                if count == 0 {
                    break;
                }
                got.extend_from_slice(&piece[..count]);
                if turn < 20 {
                    std::thread::sleep(Duration::from_millis(5));
                }
            }
            got
        });
        socket::send_all(&near, b"head", true, PATIENT).await.unwrap();
        let sent = socket::send_file(&near, file.as_fd(), 1, 9_000_000, PATIENT).await.unwrap();
        assert_eq!(sent, 9_000_000);
        socket::send_all(&near, &content, false, PATIENT).await.unwrap();
        close(near).await;
        let got = reader.join().unwrap();
        assert_eq!(got.len(), 4 + 9_000_000 + content.len());
        assert!(got[..4] == *b"head" && got[4..9_000_004] == content[1..]);
        assert!(got[9_000_004..] == content);
    });
}

#[test]
fn a_file_cut_on_disk_is_noticed() {
    on_both_drivers(|| async {
        let (near, _peer) = pair();
        let file = file_of(&pattern(1000));
        let error = socket::send_file(&near, file.as_fd(), 900, 200, PATIENT).await.unwrap_err();
        assert!(matches!(error, SendError::ShortFile { missing: 100 }), "{error}");
        assert!(error.is_local());
    });
}

#[test]
fn a_peer_that_does_not_read_is_given_up() {
    on_both_drivers(|| async {
        let (near, _peer) = pair();
        let content = pattern(32 << 20);
        let file = file_of(&content);
        let pace = Pace { window: Duration::from_millis(300), bytes_min: 1 };
        let sent = socket::send_file(&near, file.as_fd(), 0, content.len() as u64, pace).await;
        assert!(matches!(sent, Err(SendError::Timeout)), "{sent:?}");
        let (near, _peer) = pair();
        let sent = socket::send_all(&near, &content, false, pace).await;
        assert!(matches!(sent, Err(SendError::Timeout)), "{sent:?}");
    });
}

#[test]
fn a_peer_that_goes_away_is_its_own_fault() {
    on_both_drivers(|| async {
        let (near, peer) = pair();
        let content = pattern(32 << 20);
        let file = file_of(&content);
        std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(50));
            drop(peer);
        });
        let error = socket::send_file(&near, file.as_fd(), 0, 32 << 20, PATIENT).await.unwrap_err();
        assert!(matches!(error, SendError::Peer(_)) && !error.is_local(), "{error}");
    });
}

#[test]
fn a_trickle_is_below_the_pace_and_a_steady_flow_is_not() {
    on_both_drivers(|| async {
        for (bytes, slow) in [(1_usize, true), (200, false)] {
            let (near, mut peer) = pair();
            let writer = std::thread::spawn(move || {
                for _ in 0..25 {
                    if peer.write_all(&pattern(bytes)).is_err() {
                        return;
                    }
                    std::thread::sleep(Duration::from_millis(20));
                }
            });
            let mut meter = Meter::new(Pace { window: Duration::from_millis(200), bytes_min: 100 });
            let mut got = Vec::new();
            let end = loop {
                match socket::receive(&near, &mut (&mut got).limit(4096), &mut meter).await {
                    Ok(0) => break Ok(()),
                    Ok(_) => {}
                    Err(error) => break Err(error.kind()),
                }
            };
            if slow {
                assert_eq!(end, Err(std::io::ErrorKind::TimedOut));
            } else {
                assert_eq!(end, Ok(()));
                assert_eq!(got.len(), 25 * bytes);
            }
            close(near).await;
            writer.join().unwrap();
        }
    });
}

const PACES: Paces = Paces { source: PATIENT, destination: PATIENT };

#[test]
fn a_transfer_moves_exactly_its_bytes() {
    on_both_drivers(|| async {
        for length in [0_usize, 1, 32 * 1024, 32 * 1024 + 1, 600_000, 5_000_000] {
            let (from, mut source) = pair();
            let (to, mut sink) = pair();
            let content = pattern(length + 100);
            let sent = content.clone();
            let writer = std::thread::spawn(move || {
                for piece in sent.chunks(100_003) {
                    source.write_all(piece).unwrap();
                }
                source
            });
            let reader = std::thread::spawn(move || {
                let mut got = Vec::new();
                sink.read_to_end(&mut got).unwrap();
                got
            });
            let mut sent = 0;
            splice::transfer(&from, &to, length as u64, PACES, &mut sent).await.unwrap();
            assert_eq!(sent, length as u64);
            close(to).await;
            assert!(reader.join().unwrap() == content[..length]);
            // What follows in the source is still there for who comes next.
            let _source = writer.join().unwrap();
            let mut rest = Vec::new();
            let mut meter = Meter::new(PATIENT);
            while rest.len() < 100 {
                socket::receive(&from, &mut (&mut rest).limit(4096), &mut meter).await.unwrap();
            }
            assert!(rest == content[length..]);
        }
    });
}

#[test]
fn a_transfer_tells_whose_fault_its_end_is() {
    on_both_drivers(|| async {
        for length in [20_000_u64, 20_000_000] {
            let (from, mut source) = pair();
            let (to, mut sink) = pair();
            source.write_all(&pattern(10_000)).unwrap();
            drop(source);
            let mut sent = 0;
            let error = splice::transfer(&from, &to, length, PACES, &mut sent).await.unwrap_err();
            assert!(
                matches!(error, TransferError::Ended { missing } if missing == length - 10_000),
                "{error}"
            );
            close(to).await;
            let mut got = Vec::new();
            sink.read_to_end(&mut got).unwrap();
            assert!(got.len() as u64 == sent && got == pattern(10_000)[..got.len()]);
        }
        let (from, mut source) = pair();
        let (to, sink) = pair();
        drop(sink);
        let writer =
            std::thread::spawn(move || while source.write_all(&pattern(100_000)).is_ok() {});
        let error = splice::transfer(&from, &to, 1 << 30, PACES, &mut 0).await.unwrap_err();
        assert!(matches!(error, TransferError::Destination(SendError::Peer(_))), "{error}");
        close(from).await;
        writer.join().unwrap();
    });
}

#[test]
fn a_lingering_close_lets_the_peer_read_the_answer() {
    on_both_drivers(|| async {
        let (near, mut peer) = pair();
        let client = std::thread::spawn(move || {
            // More than the socket buffers hold: a reset would come before the answer is read.
            let mut sent = 0;
            while sent < 600_000 && peer.write_all(&pattern(10_000)).is_ok() {
                sent += 10_000;
            }
            let mut answer = Vec::new();
            peer.read_to_end(&mut answer).map(|_| answer)
        });
        socket::send_all(&near, b"refused", false, PATIENT).await.unwrap();
        socket::linger(&near, 1 << 20, Duration::from_secs(2)).await;
        close(near).await;
        assert_eq!(client.join().unwrap().unwrap(), b"refused");
    });
}

#[test]
fn many_transfers_share_a_thread() {
    on_both_drivers(|| async {
        let content = pattern(3_000_000);
        let file = std::rc::Rc::new(file_of(&content));
        let mut tasks = Vec::new();
        let mut readers = Vec::new();
        for _ in 0..8 {
            let (near, mut peer) = pair();
            let file = std::rc::Rc::clone(&file);
            tasks.push(monoio::spawn(async move {
                socket::send_file(&near, file.as_fd(), 0, 3_000_000, PATIENT).await.unwrap();
            }));
            readers.push(std::thread::spawn(move || {
                let mut got = Vec::new();
                peer.read_to_end(&mut got).unwrap();
                got
            }));
        }
        for task in tasks {
            task.await;
        }
        for reader in readers {
            assert!(reader.join().unwrap() == content);
        }
    });
}
