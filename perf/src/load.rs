//! The load generator: a process of its own, pinned away from the server, that asks as fast as answers come (closed
//! loop) or at a fixed rate (open loop) and counts what it gets.
//!
//! The harness starts it as `reel-perf load`, gives a [`plan::Plan`] on standard input and reads an
//! [`outcome::Outcome`] from standard output.

mod arrival;
mod connection;
mod dialect;
mod driver;
pub(crate) mod outcome;
pub(crate) mod plan;
mod request;
mod tally;

use std::io::Read;

use anyhow::{Context, Result};

use crate::sys::process;
use outcome::Outcome;
use plan::Plan;

/// `reel-perf load`.
pub(crate) fn main() -> Result<()> {
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text)?;
    let plan: Plan = serde_json::from_str(&text).context("the plan on standard input")?;
    let outcome = run(&plan)?;
    println!("{}", serde_json::to_string(&outcome)?);
    Ok(())
}

/// Runs a plan on one thread for each of its cores.
pub(crate) fn run(plan: &Plan) -> Result<Outcome> {
    process::raise_descriptor_limit()?;
    let shares = plan.shares();
    let outcomes = std::thread::scope(|scope| {
        let threads: Vec<_> = shares
            .iter()
            .map(|share| scope.spawn(move || driver::Driver::new(plan, share)?.run()))
            .collect();
        let join = |thread: std::thread::ScopedJoinHandle<'_, Result<tally::Tally>>| {
            thread.join().map_err(|_| anyhow::anyhow!("a generator thread panicked"))?
        };
        threads.into_iter().map(join).collect::<Result<Vec<_>>>()
    })?;
    Outcome::of(outcomes)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::{
        io::{BufRead, BufReader, Write},
        net::{SocketAddr, TcpListener, TcpStream},
    };

    use super::*;
    use crate::content::Content;
    use plan::{Order, Ranges, Target, Work};

    const SIZE: u64 = 1 << 20;
    const SEED: u64 = 9;

    /// A server of one file. `damage`: every answer has one wrong bit.
    fn serve(damage: bool) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                std::thread::spawn(move || answer(stream, damage));
            }
        });
        address
    }

    fn answer(mut stream: TcpStream, damage: bool) -> Option<()> {
        let lines = BufReader::new(stream.try_clone().ok()?).lines();
        for line in lines {
            let line = line.ok()?;
            let Some(range) = line.strip_prefix("Range: bytes=") else { continue };
            let (first, last) = range.split_once('-')?;
            let (first, last): (u64, u64) = (first.parse().ok()?, last.parse().ok()?);
            let mut body = vec![0; (last - first + 1) as usize];
            Content::new(SEED).fill(first, &mut body);
            body[0] ^= u8::from(damage);
            let head = format!("HTTP/1.1 206 x\r\nContent-Length: {}\r\n\r\n", body.len());
            // In parts, so that heads are split.
            stream.write_all(&head.as_bytes()[..20]).ok()?;
            stream.write_all(&head.as_bytes()[20..]).ok()?;
            stream.write_all(&body).ok()?;
        }
        Some(())
    }

    fn plan(target: SocketAddr, length: u64, rate: Option<f64>) -> Plan {
        let file = Target { name: "/x".to_owned(), size: SIZE, content: SEED };
        Plan {
            target,
            cores: Vec::new(),
            connections: 3,
            warmup_ms: 0,
            measure_ms: 60_000,
            rate,
            count_max: Some(64),
            check_every: 4,
            seed: 1,
            meters: Vec::new(),
            work: Work::HttpRange(Ranges { files: vec![file], length, order: Order::Once }),
        }
    }

    #[test]
    fn every_range_is_asked_for_once_and_compared() {
        for (length, count, rate) in
            [(32 << 10, 32, None), (256 << 10, 4, None), (65_536, 16, Some(1e4))]
        {
            let outcome = run(&plan(serve(false), length, rate)).unwrap();
            assert_eq!((outcome.done, outcome.bytes), (count, SIZE), "{outcome:?}");
            assert!(outcome.checked >= 3 && outcome.mismatched == 0, "{outcome:?}");
            assert_eq!((outcome.failed, outcome.broken, outcome.unserved), (0, 0, 0));
            assert!(outcome.percentile_us(50.0) <= outcome.percentile_us(100.0));
        }
    }

    // A judge that is blind must be noticed.
    #[test]
    fn wrong_bytes_are_seen() {
        let outcome = run(&plan(serve(true), 64 << 10, None)).unwrap();
        assert!(outcome.checked > 0 && outcome.mismatched == outcome.checked, "{outcome:?}");
    }

    #[test]
    fn a_load_ends_at_its_count() {
        let small = Plan { count_max: Some(10), ..plan(serve(false), 4096, None) };
        assert_eq!(run(&small).unwrap().done, 10);
    }
}
