//! A TCP proxy that fails when it is told to: it lets so much of one message or of its answer through and no more, keeps
//! a message back, changes a word, or leads to another server or to none.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
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
    /// Lets it through, and then nothing more either way, also not that one side has gone, for this long; then cuts both.
    Silence(Duration),
}

/// A proxy before one server; it ends with its owner's process.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    orders: Arc<Mutex<Orders>>,
}

/// What it was told to do.
#[derive(Debug, Default)]
struct Orders {
    /// Where new connections lead; none: nowhere.
    server: Option<(String, u16)>,
    /// The next message with this text meets this fault.
    armed: Option<(Vec<u8>, Fault)>,
    /// A text, and what stands in its place in every message.
    replaced: Option<(Vec<u8>, Vec<u8>)>,
    /// How long every message is kept.
    latency: Duration,
}

impl Proxy {
    /// Starts one on a free port of loopback.
    ///
    /// # Errors
    /// No port can be had.
    pub fn start(server: (String, u16)) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let orders = Arc::new(Mutex::new(Orders { server: Some(server), ..Orders::default() }));
        let shared = Arc::clone(&orders);
        thread::spawn(move || {
            while let Ok((client, _)) = listener.accept() {
                let Some(server) = lock(&shared).server.clone() else { continue };
                let Ok(server) = TcpStream::connect(server) else { continue };
                let orders = Arc::clone(&shared);
                thread::spawn(move || serve(&client, &server, &orders));
            }
        });
        Ok(Self { address, orders })
    }

    /// Host and port.
    #[must_use]
    pub fn address(&self) -> (String, u16) {
        (self.address.ip().to_string(), self.address.port())
    }

    /// The next message that holds `text` meets this fault; once.
    pub fn arm(&self, text: &str, fault: Fault) {
        lock(&self.orders).armed = Some((text.as_bytes().to_vec(), fault));
    }

    /// Whether the fault is still to come.
    #[must_use]
    pub fn is_armed(&self) -> bool {
        lock(&self.orders).armed.is_some()
    }

    /// From now on new connections lead to this server, or to none: they are cut. Those that there are stay.
    pub fn lead_to(&self, server: Option<(String, u16)>) {
        lock(&self.orders).server = server;
    }

    /// From now on every message is kept for so long before it goes on.
    pub fn slow_down(&self, latency: Duration) {
        lock(&self.orders).latency = latency;
    }

    /// From now on every message has one text in place of another that is as long.
    ///
    /// # Panics
    /// It is not as long: lengths that go before would not be true any more.
    pub fn replace(&self, text: &str, with: &str) {
        assert_eq!(text.len(), with.len(), "{text} and {with}");
        lock(&self.orders).replaced = Some((text.into(), with.into()));
    }
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What passes of the server's answers.
#[derive(Debug, Clone, Copy)]
enum Answers {
    All,
    /// So many bytes; then both sides are cut.
    Only(usize),
    None,
}

/// Passes messages to the server until either side ends. What a client sends at once is one message.
fn serve(client: &TcpStream, server: &TcpStream, orders: &Mutex<Orders>) {
    let _ = client.set_nodelay(true);
    let _ = server.set_nodelay(true);
    let answers = Arc::new(Mutex::new(Answers::All));
    if let (Ok(from), Ok(to)) = (server.try_clone(), client.try_clone()) {
        let answers = Arc::clone(&answers);
        thread::spawn(move || {
            let _ = pass_answers(&from, &to, &answers);
            cut(&from, &to);
        });
    }
    let _ = pass_messages(client, server, orders, &answers);
    cut(client, server);
}

fn pass_messages(
    mut client: &TcpStream,
    mut server: &TcpStream,
    orders: &Mutex<Orders>,
    answers: &Mutex<Answers>,
) -> io::Result<()> {
    let mut buffer = vec![0; 1 << 16];
    loop {
        let count = client.read(&mut buffer)?;
        if count == 0 {
            return Ok(());
        }
        let message = &mut buffer[..count];
        let (fault, latency) = {
            let mut orders = lock(orders);
            (orders.take(message), orders.latency)
        };
        thread::sleep(latency);
        match fault {
            None => server.write_all(message)?,
            Some(Fault::CutRequest(bytes)) => {
                return server.write_all(&message[..bytes.min(count)]);
            }
            Some(Fault::CutAnswer(bytes)) => {
                *lock(answers) = Answers::Only(bytes);
                server.write_all(message)?;
                // The other direction cuts when it has passed so many.
                let _ = client.read(&mut buffer);
                return Ok(());
            }
            Some(Fault::Delay(time)) => {
                thread::sleep(time);
                server.write_all(message)?;
            }
            Some(Fault::Silence(time)) => {
                *lock(answers) = Answers::None;
                server.write_all(message)?;
                thread::sleep(time);
                return Ok(());
            }
        }
    }
}

impl Orders {
    /// Changes a message as it was told to; the fault that it is to meet.
    fn take(&mut self, message: &mut [u8]) -> Option<Fault> {
        if let Some((text, with)) = &self.replaced {
            while let Some(place) = place_of(text, message) {
                message[place..place + with.len()].copy_from_slice(with);
            }
        }
        let (text, _) = self.armed.as_ref()?;
        place_of(text, message)?;
        self.armed.take().map(|(_, fault)| fault)
    }
}

fn place_of(text: &[u8], message: &[u8]) -> Option<usize> {
    message.windows(text.len()).position(|part| part == text)
}

fn pass_answers(
    mut server: &TcpStream,
    mut client: &TcpStream,
    answers: &Mutex<Answers>,
) -> io::Result<()> {
    let mut buffer = vec![0; 1 << 16];
    loop {
        let count = server.read(&mut buffer)?;
        if count == 0 {
            return Ok(());
        }
        let answers = *lock(answers);
        match answers {
            Answers::All => client.write_all(&buffer[..count])?,
            Answers::Only(bytes) => return client.write_all(&buffer[..bytes.min(count)]),
            Answers::None => {}
        }
    }
}

fn cut(one: &TcpStream, other: &TcpStream) {
    let _ = one.shutdown(Shutdown::Both);
    let _ = other.shutdown(Shutdown::Both);
}
