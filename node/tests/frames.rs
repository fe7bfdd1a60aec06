//! The binary protocol's server side on every driver: requests, pipelining, splits, streams,
//! errors, and peers that are slow on purpose.

#![allow(clippy::unwrap_used)]

mod kit;

use std::io::Write;
use std::time::Duration;

use kit::{Answer, Client, ECHO, FAIL, FILL, FLAGS, RELAY, SPIN, SUM, Setup, WORK, request};
use reel_proto::frame::{HEADER_LEN, Header};

fn short_times(setup: &mut Setup) {
    setup.config.idle_timeout = Duration::from_millis(200);
    setup.config.request_timeout = Duration::from_millis(200);
    setup.config.progress_timeout = Duration::from_millis(300);
    setup.config.output_timeout = Duration::from_millis(300);
}

#[test]
fn echoes_on_every_driver_with_the_right_socket_flags() {
    for off in kit::drivers() {
        let toy = Setup::on(&off).start();
        for _ in 0..8 {
            let mut client = toy.client();
            for length in [0, 1, 100, kit::ECHO_BYTES_MAX] {
                let body = vec![length as u8; length];
                assert_eq!(client.call(ECHO, &body).ok(), body);
            }
            assert_eq!(client.call(WORK, &[1, 2, 200]).ok(), [2, 4, 144]);
            assert_eq!(client.call(FLAGS, &[]).ok(), [1, 1, 1], "non-blocking, cloexec, nodelay");
        }
        toy.stop();
    }
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    for off in kit::drivers() {
        let toy = Setup::on(&off).start();
        let mut client = toy.client();
        let mut sender = client.stream.try_clone().unwrap();
        // More than fits into the socket buffers and the server's: it must answer to go on.
        let count = 20_000_u32;
        let writer = std::thread::spawn(move || {
            for number in 0..count {
                let command = if number % 100 == 0 { WORK } else { ECHO };
                sender.write_all(&request(command, &number.to_be_bytes())).unwrap();
            }
        });
        for number in 0..count {
            let mut expected = number.to_be_bytes();
            if number % 100 == 0 {
                expected.iter_mut().for_each(|byte| *byte = byte.wrapping_mul(2));
            }
            assert_eq!(client.answer().ok(), expected);
        }
        writer.join().unwrap();
        toy.stop();
    }
}

#[test]
fn requests_may_be_split_anywhere() {
    for off in kit::drivers() {
        let toy = Setup::on(&off).start();
        let mut client = toy.client();
        let bytes = [request(ECHO, b"first"), request(SUM, &[3; 70]), request(ECHO, b"")].concat();
        for at in 0..bytes.len() {
            client.send(&bytes[..at]);
            // Not needed for the outcome; without it the kernel would join the two.
            std::thread::sleep(Duration::from_micros(300));
            client.send(&bytes[at..]);
            assert_eq!(client.answer().ok(), b"first");
            let sum = [70_u64.to_be_bytes(), 210_u64.to_be_bytes()].concat();
            assert_eq!(client.answer().ok(), sum);
            assert_eq!(client.answer().ok(), b"");
        }
        toy.stop();
    }
}

#[test]
fn streams_go_both_ways() {
    for off in kit::drivers() {
        let toy = Setup::on(&off).start();
        let mut client = toy.client();
        let length = 40_u64 << 20;
        let mut sender = client.stream.try_clone().unwrap();
        let writer = std::thread::spawn(move || {
            let header = Header::request(SUM, length).encode();
            sender.write_all(&header).unwrap();
            let piece = vec![1; 1 << 20];
            (0..40).for_each(|_| sender.write_all(&piece).unwrap());
            sender.write_all(&request(ECHO, b"after")).unwrap();
        });
        assert_eq!(client.answer().ok(), [length.to_be_bytes(); 2].concat());
        assert_eq!(client.answer().ok(), b"after");
        writer.join().unwrap();
        let filled = client.call(FILL, &length.to_be_bytes()).ok();
        assert!(filled.len() as u64 == length && filled.iter().all(|byte| *byte == 7));
        assert_eq!(client.call(ECHO, b"still there").ok(), b"still there");
        toy.stop();
    }
}

#[test]
fn errors_leave_the_connection_or_close_it_as_the_protocol_says() {
    for off in kit::drivers() {
        let toy = Setup::on(&off).start();
        let mut client = toy.client();
        assert_eq!(client.call(FAIL, b"body").error(), "[toy] asked to fail");
        assert_eq!(client.call(ECHO, b"goes on").ok(), b"goes on");
        // Unknown command, length that does not fit, negative length: an error, then the end.
        let negative = [0xff, 0, 0, 0, 0, 0, 0, 0, ECHO, 0];
        let too_long = vec![0; kit::ECHO_BYTES_MAX + 1];
        for bad in [request(99, b"x"), request(ECHO, &too_long), negative.to_vec()] {
            let mut client = toy.client();
            client.send(&bad);
            assert!(client.answer().error().starts_with("[toy] "));
            assert!(client.is_closed());
        }
        toy.stop();
    }
}

#[test]
fn a_refusal_is_read_although_a_body_is_still_coming() {
    for off in kit::drivers() {
        let toy = Setup::on(&off).start();
        for length in [0, 1, 5000, 900 << 10] {
            let mut client = toy.client();
            client.send(&Header::request(99, length).encode());
            let body = vec![0; length.try_into().unwrap()];
            // The server may have closed for writing, never for reading, up to 1 MiB.
            client.send(&body);
            assert_eq!(client.answer().error(), "[toy] unknown command 99");
            assert!(client.is_closed());
        }
        toy.stop();
    }
}

#[test]
fn idle_and_trickling_peers_are_closed_and_others_unharmed() {
    for off in kit::drivers() {
        let mut setup = Setup::on(&off);
        short_times(&mut setup);
        setup.threads = 1;
        let toy = setup.start();
        let mut idle = toy.client();
        let mut after_one = toy.client();
        assert_eq!(after_one.call(ECHO, b"x").ok(), b"x");
        let mut part_header = toy.client();
        part_header.send(&request(ECHO, b"x")[..HEADER_LEN - 1]);
        let mut part_body = toy.client();
        part_body.send(&request(ECHO, b"xy")[..HEADER_LEN + 1]);
        // A byte each 20 ms: always some progress, never enough.
        let mut trickle = toy.client();
        trickle.send(&Header::request(SUM, 1 << 20).encode());
        let mut sender = trickle.stream.try_clone().unwrap();
        let trickler = std::thread::spawn(move || {
            while sender.write_all(&[1]).is_ok() {
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        for client in [&mut idle, &mut after_one, &mut part_header, &mut part_body, &mut trickle] {
            assert!(client.is_closed());
            assert_eq!(toy.client().call(ECHO, b"well").ok(), b"well");
        }
        trickler.join().unwrap();
        toy.stop();
    }
}

#[test]
fn a_steady_slow_peer_is_served_to_the_end() {
    for off in kit::drivers() {
        let mut setup = Setup::on(&off);
        short_times(&mut setup);
        setup.config.progress_bytes = 1000;
        let toy = setup.start();
        let mut client = toy.client();
        let body = vec![1; 20_000];
        client.send(&Header::request(SUM, 20_000).encode());
        // 1000 bytes each 30 ms for 600 ms: twice the window in all, in time in each.
        for piece in body.chunks(1000) {
            client.send(piece);
            std::thread::sleep(Duration::from_millis(30));
        }
        assert_eq!(client.answer().ok(), [20_000_u64.to_be_bytes(); 2].concat());
        toy.stop();
    }
}

#[test]
fn a_peer_that_does_not_read_is_cut_and_others_unharmed() {
    for off in kit::drivers() {
        let mut setup = Setup::on(&off);
        short_times(&mut setup);
        setup.threads = 1;
        let toy = setup.start();
        let mut deaf = toy.client();
        deaf.send(&request(FILL, &(1_u64 << 30).to_be_bytes()));
        while toy.metric("reel_connections_expired_total") == 0 {
            assert_eq!(toy.client().call(ECHO, b"well").ok(), b"well");
            std::thread::sleep(Duration::from_millis(20));
        }
        toy.stop();
    }
}

#[test]
fn long_work_leaves_turns_to_others_and_to_timers() {
    for off in kit::drivers() {
        let mut setup = Setup::on(&off);
        setup.threads = 1;
        setup.config.idle_timeout = Duration::from_millis(200);
        let toy = setup.start();
        let mut idle = toy.client();
        let mut other = toy.client();
        let mut spinning: Vec<Client> = (0..3).map(|_| toy.client()).collect();
        for client in &mut spinning {
            client.send(&request(SPIN, &3000_u64.to_be_bytes()));
        }
        for _ in 0..20 {
            assert_eq!(other.call(ECHO, b"in between").ok(), b"in between");
        }
        // The idle deadline comes by a timer: it must run while the thread is never idle.
        assert!(idle.is_closed());
        let still_spinning = |client: &Client| {
            client.stream.set_nonblocking(true).unwrap();
            let nothing = client.stream.peek(&mut [0]).is_err();
            client.stream.set_nonblocking(false).unwrap();
            nothing
        };
        assert!(spinning.iter().any(still_spinning), "the spinning ended before the test did");
        for client in &mut spinning {
            client.answer().ok();
        }
        toy.stop();
    }
}

#[test]
fn a_data_thread_calls_another_node() {
    for off in kit::drivers() {
        let (toy, other) = (Setup::on(&off).start(), Setup::on(&off).start());
        let to = other.address.to_string();
        let mut client = toy.client();
        for _ in 0..3 {
            assert_eq!(client.call(RELAY, to.as_bytes()).ok(), b"relayed");
        }
        assert_eq!(other.metric("reel_connections_accepted_total"), 1, "the connection is kept");
        other.stop();
        // The kept connection is found closed, a new one refused: an error, no hang.
        let error = client.call(RELAY, to.as_bytes()).error();
        assert!(error.contains("cannot connect"), "{error}");
        let error = client.call(RELAY, to.as_bytes()).error();
        assert!(error.contains("next try in"), "{error}");
        assert_eq!(client.call(ECHO, b"well").ok(), b"well");
        toy.stop();
    }
}

#[test]
fn answers_before_a_close_arrive() {
    for off in kit::drivers() {
        let toy = Setup::on(&off).start();
        let mut client = toy.client();
        client.send(&[request(ECHO, b"one"), request(ECHO, b"two")].concat());
        client.stream.shutdown(std::net::Shutdown::Write).unwrap();
        assert_eq!(client.answer(), Answer::Ok(b"one".to_vec()));
        assert_eq!(client.answer(), Answer::Ok(b"two".to_vec()));
        assert!(client.is_closed());
        toy.stop();
    }
}
