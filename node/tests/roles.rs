//! A role as a whole on every driver: start, limits, drain, admin pages, many connections.

#![allow(clippy::unwrap_used)]

mod kit;

use std::io::{ErrorKind, Read};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use kit::{Answer, Client, Control, ECHO, HOLD, SUM, Setup, request};
use reel_node::access::AllowList;
use reel_node::worker::Pool;
use reel_node::{Process, RunError, StartError};
use reel_proto::frame::Header;

#[test]
fn a_port_in_use_is_an_error_that_names_it() {
    for off in kit::drivers() {
        let toy = Setup::on(&off).start();
        let setup = Setup::on(&off);
        let process = Process::new(&off).unwrap();
        let second = Arc::new(kit::Toy {
            config: setup.config.clone(),
            pool: Pool::new("toy-second", 1, 1).unwrap(),
            gate: flume::bounded(0).1,
            held: flume::unbounded().0,
            control: Control::Stays,
        });
        let error = reel_node::start(setup.spec(toy.address), second, &process).unwrap_err();
        let StartError::Listen(error) = error else { panic!("{error}") };
        assert_eq!(error.source.kind(), ErrorKind::AddrInUse);
        let text = error.to_string();
        assert!(text.contains("toy.listen") && text.contains(&toy.address.to_string()), "{text}");
        // All connections still come to the first one.
        for _ in 0..20 {
            assert_eq!(toy.client().call(ECHO, b"mine").ok(), b"mine");
        }
        toy.stop();
    }
}

#[test]
fn the_port_is_free_after_the_end() {
    for off in kit::drivers() {
        let toy = Setup::on(&off).start();
        let address = toy.address;
        assert_eq!(toy.client().call(ECHO, b"x").ok(), b"x");
        toy.stop();
        assert_eq!(TcpStream::connect(address).unwrap_err().kind(), ErrorKind::ConnectionRefused);
    }
}

#[test]
fn a_drain_under_load_answers_all_or_nothing() {
    for off in kit::drivers() {
        let toy = Setup::on(&off).start();
        let stop = Arc::new(AtomicBool::new(false));
        let clients: Vec<_> = (0..8_u8)
            .map(|index| {
                let (mut client, stop) = (toy.client(), Arc::clone(&stop));
                std::thread::spawn(move || {
                    let mut answered = 0_u64;
                    while !stop.load(Ordering::Relaxed) {
                        // `answer` panics when a reply is cut in the middle.
                        if std::io::Write::write_all(
                            &mut client.stream,
                            &request(ECHO, &[index; 1000]),
                        )
                        .is_err()
                        {
                            break;
                        }
                        match client.answer() {
                            Answer::Ok(body) => assert_eq!(body, [index; 1000]),
                            Answer::Closed => break,
                            Answer::Error(error) => panic!("{error}"),
                        }
                        answered += 1;
                    }
                    answered
                })
            })
            .collect();
        std::thread::sleep(Duration::from_millis(200));
        let address = toy.address;
        toy.stop();
        stop.store(true, Ordering::Relaxed);
        for client in clients {
            assert!(client.join().unwrap() > 0);
        }
        assert_eq!(TcpStream::connect(address).unwrap_err().kind(), ErrorKind::ConnectionRefused);
    }
}

#[test]
fn a_drain_lets_requests_in_flight_end_and_idle_peers_go() {
    for off in kit::drivers() {
        let mut toy = Setup::on(&off).start();
        let (mut held, mut idle, mut fresh) = (toy.client(), toy.client(), toy.client());
        assert_eq!(idle.call(ECHO, b"x").ok(), b"x");
        held.send(&request(HOLD, b"work"));
        toy.held.recv().unwrap();
        toy.running.drain();
        assert!(idle.is_closed());
        assert!(fresh.is_closed());
        // Still in flight, and answered once its work is done.
        assert!(toy.gate.take().is_some());
        assert_eq!(held.answer().ok(), b"work");
        assert!(held.is_closed());
        assert_eq!(toy.metric("reel_connections_cut_total"), 0);
        toy.running.join().unwrap();
    }
}

#[test]
fn a_drain_waits_for_a_body_that_is_coming() {
    for off in kit::drivers() {
        let toy = Setup::on(&off).start();
        let (mut client, mut idle) = (toy.client(), toy.client());
        client.send(&Header::request(SUM, 2000).encode());
        client.send(&[1; 1000]);
        assert_eq!(idle.call(ECHO, b"x").ok(), b"x");
        toy.running.drain();
        assert!(idle.is_closed());
        client.send(&[1; 1000]);
        assert_eq!(client.answer().ok(), [2000_u64.to_be_bytes(); 2].concat());
        assert!(client.is_closed());
        toy.stop();
    }
}

#[test]
fn a_drain_cuts_at_its_deadline() {
    for off in kit::drivers() {
        let mut setup = Setup::on(&off);
        setup.drain_deadline = Duration::from_millis(100);
        let toy = setup.start();
        let mut held = toy.client();
        held.send(&request(HOLD, b"for ever"));
        toy.held.recv().unwrap();
        toy.running.drain();
        assert!(held.is_closed());
        let kit::Started { running, process, gate, .. } = toy;
        running.join().unwrap();
        let text = process.exporter().render();
        let cut = "reel_connections_cut_total{role=\"tracker\"} 1";
        assert!(text.contains(cut), "{text}");
        drop(gate);
    }
}

#[test]
fn connections_beyond_the_limit_are_told_so() {
    for off in kit::drivers() {
        let mut setup = Setup::on(&off);
        (setup.threads, setup.max_connections) = (1, 3);
        let toy = setup.start();
        let mut inside: Vec<Client> = (0..3).map(|_| toy.client()).collect();
        for client in &mut inside {
            assert_eq!(client.call(ECHO, b"x").ok(), b"x");
        }
        for _ in 0..5 {
            let mut outside = toy.client();
            let mut told = Vec::new();
            outside.stream.read_to_end(&mut told).unwrap();
            assert_eq!(told, kit::REFUSAL);
        }
        for client in &mut inside {
            assert_eq!(client.call(ECHO, b"y").ok(), b"y");
        }
        inside.pop();
        // There is room as soon as the server has seen the close.
        while toy.open_connections() == 3 {
            std::thread::sleep(Duration::from_millis(5));
        }
        assert_eq!(toy.client().call(ECHO, b"z").ok(), b"z");
        toy.stop();
    }
}

/// An address of this machine that is not loopback, if it has one.
fn own_address() -> Option<IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    // Sends nothing: only chooses the route.
    socket.connect("192.0.2.1:9").ok()?;
    let ip = socket.local_addr().ok()?.ip();
    (!ip.is_loopback() && !ip.is_unspecified()).then_some(ip)
}

#[test]
fn strangers_are_closed_without_a_word() {
    let Some(own) = own_address() else {
        return;
    };
    for off in kit::drivers() {
        let mut setup = Setup::on(&off);
        setup.listen = "0.0.0.0:0";
        let toy = setup.start();
        let port = toy.address.port();
        let mut stranger = Client::connect(SocketAddr::new(own, port));
        assert!(stranger.is_closed());
        let mut friend = Client::connect(([127, 0, 0, 1], port).into());
        assert_eq!(friend.call(ECHO, b"x").ok(), b"x");
        assert!(toy.metric("reel_connections_refused_total") >= 1);
        toy.stop();

        let mut setup = Setup::on(&off);
        setup.listen = "0.0.0.0:0";
        setup.allow = AllowList::any();
        let toy = setup.start();
        let mut stranger = Client::connect(SocketAddr::new(own, toy.address.port()));
        assert_eq!(stranger.call(ECHO, b"x").ok(), b"x");
        toy.stop();
    }
}

#[test]
fn a_thousand_idle_connections_cost_no_one() {
    for off in kit::drivers() {
        let toy = Setup::on(&off).start();
        let mut idle: Vec<Client> = (0..1000).map(|_| toy.client()).collect();
        // Half of them have spoken before, some stopped in the middle of a header.
        for client in idle.iter_mut().step_by(2) {
            assert_eq!(client.call(ECHO, b"once").ok(), b"once");
        }
        for client in idle.iter_mut().step_by(10) {
            client.send(&request(ECHO, b"")[..4]);
        }
        let mut active = toy.client();
        for number in 0..2000_u32 {
            assert_eq!(active.call(ECHO, &number.to_be_bytes()).ok(), number.to_be_bytes());
        }
        assert_eq!(toy.open_connections(), 1001);
        // All but those that stopped inside a header; seen at the next tick.
        while toy.idle_connections() != 901 {
            std::thread::sleep(Duration::from_millis(10));
        }
        for client in idle.iter_mut().step_by(10) {
            client.send(&request(ECHO, b"")[4..]);
            assert_eq!(client.answer().ok(), b"");
        }
        toy.running.drain();
        assert!(idle.iter_mut().all(Client::is_closed));
        toy.stop();
    }
}

#[test]
fn the_admin_pages_show_threads_and_drain() {
    for off in kit::drivers() {
        let mut toy = Setup::on(&off).start();
        let status = toy.status();
        assert_eq!(status["service"]["toy"], true);
        assert_eq!(status["draining"], false);
        assert_eq!(status["listeners"][0]["addr"], toy.address.to_string());
        let capabilities = toy.process.capabilities();
        for thread in status["data_threads"].as_array().unwrap() {
            let kind = if capabilities.io_uring { "io_uring" } else { "epoll" };
            assert_eq!(thread["driver"]["kind"], kind);
            if capabilities.io_uring {
                let flags = serde_json::to_value(capabilities.ring_flags).unwrap();
                assert_eq!(thread["driver"]["flags"], flags);
            }
        }
        assert_eq!(toy.page("/readyz").0, 200);
        assert!(toy.page("/metrics").1.contains("reel_connections_accepted_total"));
        let mut held = toy.client();
        held.send(&request(HOLD, b""));
        toy.held.recv().unwrap();
        toy.running.drain();
        assert_eq!(toy.page("/readyz").0, 503);
        assert_eq!(toy.status()["draining"], true);
        toy.gate = None;
        held.answer().ok();
        toy.running.join().unwrap();
    }
}

#[test]
fn background_work_that_fails_drains_the_role() {
    for off in kit::drivers() {
        let toy = Setup { control: Control::Fails, ..Setup::on(&off) }.start();
        let error = toy.running.join().unwrap_err();
        assert!(matches!(&error, RunError::Control { .. }));
        assert!(error.to_string().contains("background work failed"), "{error}");
        let toy = Setup { control: Control::Returns, ..Setup::on(&off) }.start();
        assert_eq!(toy.client().call(ECHO, b"x").ok(), b"x");
        assert_eq!(toy.page("/healthz").0, 200);
        toy.stop();
    }
}

#[test]
fn a_dropped_role_drains() {
    for off in kit::drivers() {
        let toy = Setup::on(&off).start();
        let mut idle = toy.client();
        assert_eq!(idle.call(ECHO, b"x").ok(), b"x");
        let kit::Started { running, gate, .. } = toy;
        drop((running, gate));
        assert!(idle.is_closed());
    }
}
