//! A TCP proxy that fails when it is told to: it lets so much of one message or of its answer through and no more, or keeps
//! a message back.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

/// What to do with the next message of a client that holds a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Lets so many bytes of it through, then cuts both sides.
    CutRequest(usize),
    /// Lets it through, and so many bytes of its answer, then cuts both sides.
    CutAnswer(usize),
    /// Keeps it for this long, then lets it through.
    Delay(Duration),
}

/// A proxy before one server; it ends with its owner's process.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    armed: Armed,
}

type Armed = Arc<Mutex<Option<(Vec<u8>, Fault)>>>;

impl Proxy {
    /// Starts one on a free port of loopback.
    ///
    /// # Errors
    /// No port can be had.
    pub fn start(server: (String, u16)) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let armed = Armed::default();
        let shared = Arc::clone(&armed);
        thread::spawn(move || {
            while let Ok((client, _)) = listener.accept() {
                let Ok(server) = TcpStream::connect((server.0.as_str(), server.1)) else {
                    continue;
                };
                let armed = Arc::clone(&shared);
                thread::spawn(move || serve(&client, &server, &armed));
            }
        });
        Ok(Self { address, armed })
    }

    /// Host and port.
    #[must_use]
    pub fn address(&self) -> (String, u16) {
        (self.address.ip().to_string(), self.address.port())
    }

    /// The next message that holds `text` meets this fault; once.
    pub fn arm(&self, text: &str, fault: Fault) {
        *self.lock() = Some((text.as_bytes().to_vec(), fault));
    }

    /// Whether the fault is still to come.
    #[must_use]
    pub fn is_armed(&self) -> bool {
        self.lock().is_some()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<(Vec<u8>, Fault)>> {
        self.armed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Passes messages to the server until either side ends. What a client sends at once is one message.
fn serve(client: &TcpStream, server: &TcpStream, armed: &Armed) {
    let _ = client.set_nodelay(true);
    let _ = server.set_nodelay(true);
    // How many more bytes of answers may pass; none: all.
    let answers = Arc::new(Mutex::new(None));
    if let (Ok(from), Ok(to)) = (server.try_clone(), client.try_clone()) {
        let answers = Arc::clone(&answers);
        thread::spawn(move || {
            let _ = pass_answers(&from, &to, &answers);
            cut(&from, &to);
        });
    }
    let _ = pass_messages(client, server, armed, &answers);
    cut(client, server);
}

fn pass_messages(
    mut client: &TcpStream,
    mut server: &TcpStream,
    armed: &Armed,
    answers: &Mutex<Option<usize>>,
) -> io::Result<()> {
    let mut buffer = vec![0; 1 << 16];
    loop {
        let count = client.read(&mut buffer)?;
        if count == 0 {
            return Ok(());
        }
        let message = &buffer[..count];
        match take(armed, message) {
            None => server.write_all(message)?,
            Some(Fault::CutRequest(bytes)) => {
                return server.write_all(&message[..bytes.min(count)]);
            }
            Some(Fault::CutAnswer(bytes)) => {
                *answers.lock().unwrap_or_else(PoisonError::into_inner) = Some(bytes);
                server.write_all(message)?;
                // The other direction cuts when it has passed so many.
                let _ = client.read(&mut buffer);
                return Ok(());
            }
            Some(Fault::Delay(time)) => {
                thread::sleep(time);
                server.write_all(message)?;
            }
        }
    }
}

fn take(armed: &Armed, message: &[u8]) -> Option<Fault> {
    let mut armed = armed.lock().unwrap_or_else(PoisonError::into_inner);
    let (text, _) = armed.as_ref()?;
    if !message.windows(text.len()).any(|part| part == text.as_slice()) {
        return None;
    }
    armed.take().map(|(_, fault)| fault)
}

fn pass_answers(
    mut server: &TcpStream,
    mut client: &TcpStream,
    answers: &Mutex<Option<usize>>,
) -> io::Result<()> {
    let mut buffer = vec![0; 1 << 16];
    loop {
        let count = server.read(&mut buffer)?;
        if count == 0 {
            return Ok(());
        }
        let allowed = *answers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(allowed) = allowed {
            return client.write_all(&buffer[..allowed.min(count)]);
        }
        client.write_all(&buffer[..count])?;
    }
}

fn cut(one: &TcpStream, other: &TcpStream) {
    let _ = one.shutdown(Shutdown::Both);
    let _ = other.shutdown(Shutdown::Both);
}
