//! The loopback by itself: a server on the server's core that sends back what it gets.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
};

use anyhow::{Context, Result};

use crate::{
    cpu::{Group, Meter},
    lab::Lab,
    launch::Server,
};

/// `reel-perf echo`: says its address, then serves until it is ended. A thread for each connection, as plain as can be.
pub(crate) fn main() -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    println!("{}", listener.local_addr()?);
    for stream in listener.incoming() {
        let stream = stream?;
        std::thread::spawn(move || {
            // The generator hangs up at its end.
            let _ = serve(stream);
        });
    }
    Ok(())
}

fn serve(mut stream: TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = [0; 4096];
    loop {
        match stream.read(&mut buffer)? {
            0 => return Ok(()),
            got => stream.write_all(&buffer[..got])?,
        }
    }
}

/// A running echo server.
#[derive(Debug)]
pub(crate) struct Echo {
    // Before the group, which must be empty when it goes.
    server: Server,
    group: Option<Group>,
    address: SocketAddr,
}

impl Echo {
    pub(crate) fn start(lab: &Lab) -> Result<Self> {
        let group = lab.group("echo");
        let own = std::env::current_exe()?;
        let mut command = lab.server_place(group.as_ref()).command(&own)?;
        command.arg("echo");
        let mut server = Server::start("echo", &mut command, &lab.log("echo.log"))?;
        let mut line = String::new();
        BufReader::new(server.output()?).read_line(&mut line)?;
        let address = line.trim().parse().context("the address of the echo server")?;
        Ok(Self { server, group, address })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn meter(&self) -> Meter {
        self.group.as_ref().map_or(Meter::Process(self.server.pid()), Group::meter)
    }
}
