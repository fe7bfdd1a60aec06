//! Memory of a server with many connections that wait for a request.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
};

use anyhow::{Context, Result};

use super::Effort;
use crate::{
    dataset::Dataset,
    lab::Lab,
    nginx::{Nginx, Reading},
    reel::Reel,
    report::CaseResult,
    round::Round,
    scenario::{Case, Scenario},
    sys::process,
    upload::Uploader,
};

/// The one file that each connection asks for once.
const SET: Dataset = Dataset { files: 1, size: 4096 };

/// Runs the scenario's cases: each server is started anew for each round, so that nothing is left of the one before.
pub(crate) fn measure(
    lab: &mut Lab,
    scenario: &Scenario,
    effort: Effort,
    results: &mut Vec<CaseResult>,
) -> Result<()> {
    process::raise_descriptor_limit()?;
    let copies = lab.disk().join("peer");
    SET.write(&copies)?;
    for case in &scenario.cases {
        let mut rounds = Vec::new();
        for number in 0..effort.rounds {
            let reel = Reel::start(lab, &format!("reel-{number}"), &[])?;
            SET.upload(&mut Uploader::connect(reel.address("engine", "binary")?)?)?;
            let media = reel.address("engine", "media")?;
            let path = "/files/set-0";
            let round = connect(lab, "reel", media, path, case, || reel.resident_bytes())?;
            super::tell(case, number, &round);
            rounds.push(round);
            reel.stop()?;
            let nginx = Nginx::start(lab, "nginx", Reading::Sendfile, &copies)?;
            let target = nginx.address();
            let round = connect(lab, "nginx", target, "/set-0", case, || nginx.resident_bytes())?;
            super::tell(case, number, &round);
            rounds.push(round);
            nginx.stop()?;
        }
        results.push(CaseResult::new(scenario, case, rounds));
    }
    Ok(())
}

fn connect(
    lab: &Lab,
    name: &str,
    target: SocketAddr,
    path: &str,
    case: &Case,
    resident: impl Fn() -> Result<u64>,
) -> Result<Round> {
    let before = resident()?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {target}\r\nRange: bytes=0-0\r\n\r\n");
    let mut open = Vec::with_capacity(case.connections);
    for number in 0..case.connections {
        let ask = || -> std::io::Result<TcpStream> {
            let mut stream = TcpStream::connect(target)?;
            stream.write_all(request.as_bytes())?;
            // The answer is short and comes in one piece, or at least its begin does.
            let mut answer = [0; 4096];
            if stream.read(&mut answer)? == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            Ok(stream)
        };
        open.push(ask().with_context(|| format!("connection {number} to {name}"))?);
        if number % 256 == 0 {
            lab.check_interrupt()?;
        }
    }
    let after = resident()?;
    Ok(Round {
        side: name.to_owned(),
        memory_bytes: Some(after as f64),
        notes: vec![format!(
            "{:.0} MiB before, {:.0} bytes a connection",
            before as f64 / f64::from(1 << 20),
            after.saturating_sub(before) as f64 / open.len().max(1) as f64
        )],
        ..Round::default()
    })
}
