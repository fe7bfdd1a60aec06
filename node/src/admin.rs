//! Admin HTTP: `/metrics`, `/healthz`, `/readyz`, `/status`, for operators and their tools. hyper on
//! the control thread: a scrape never takes a data thread's time.
//!
//! Pages are read only, so a listener on loopback needs no token; on another address the list of
//! networks of `access` stands before it. What an operator asks for with a POST (`act`) is taken
//! from this machine only.

use std::convert::Infallible;
use std::future::Future;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue, X_CONTENT_TYPE_OPTIONS};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::Semaphore;

use crate::access::AllowList;
use crate::metrics::Exporter;
use crate::role::Act;

mod act;

/// Open connections at a time; one more is closed at accept. A scraper, a balancer's probe and a
/// few people need ten.
const CONNECTIONS_MAX: usize = 64;
/// Time for a request head, and for an idle connection until its next one.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// Bytes of a request head.
const HEAD_BYTES_MAX: usize = 16 * 1024;
/// Time for a whole connection: nothing here takes long, a reader of one byte a second is cut off.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(300);
/// Pause after an accept that failed (no descriptors left), so that the thread does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What a role says of itself.
pub trait Pages: Send + Sync + 'static {
    /// `/status`: everything an operator may want to know, without secrets.
    fn status(&self) -> serde_json::Value;
    /// `/readyz`: whether requests should be sent here, or why not.
    ///
    /// # Errors
    /// The reason, one line.
    fn ready(&self) -> Result<(), String>;
    /// What `POST path` does; `None`: there is no such path. Nothing is done before it is polled.
    fn act(&self, path: &str) -> Option<Act>;
}

/// The admin pages of one role.
#[derive(Clone)]
pub struct Admin {
    exporter: Exporter,
    pages: Arc<dyn Pages>,
    allow: AllowList,
}

impl std::fmt::Debug for Admin {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Admin").field("allow", &self.allow).finish_non_exhaustive()
    }
}

/// What a request gets.
enum Answer {
    Ready(Response<Full<Bytes>>),
    Awaited(Act),
}

/// Binds the admin listener, so that a port in use is found before anything else starts.
///
/// # Errors
/// What the kernel says.
pub fn bind(address: SocketAddr) -> std::io::Result<TcpListener> {
    let listener = TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

impl Admin {
    /// The pages of `pages` and the metrics of `exporter`, for the peers in `allow`.
    pub fn new(exporter: Exporter, pages: Arc<dyn Pages>, allow: AllowList) -> Self {
        Self { exporter, pages, allow }
    }

    /// Serves until `stop` is done; then no connection is accepted any more, and those that are
    /// open end with the runtime. Runs on a tokio runtime with IO and time.
    ///
    /// # Errors
    /// The listener cannot be used with the runtime.
    pub async fn serve(
        self,
        listener: TcpListener,
        stop: impl Future<Output = ()>,
    ) -> std::io::Result<()> {
        let listener = tokio::net::TcpListener::from_std(listener)?;
        let admission = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let mut stop = std::pin::pin!(stop);
        loop {
            let accepted = tokio::select! {
                biased;
                () = &mut stop => return Ok(()),
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, peer)) => self.accepted(stream, peer, &admission),
                Err(error) => {
                    tracing::warn!(%error, "admin: accept failed");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn accepted(
        &self,
        stream: tokio::net::TcpStream,
        peer: SocketAddr,
        admission: &Arc<Semaphore>,
    ) {
        if !self.allow.allows(peer.ip()) {
            tracing::debug!(%peer, "admin: peer not in node.allow");
            return;
        }
        let Ok(permit) = Arc::clone(admission).try_acquire_owned() else {
            tracing::warn!(%peer, "admin: too many connections");
            return;
        };
        let admin = self.clone();
        let Ok(local) = stream.local_addr() else { return };
        tokio::spawn(async move {
            let _permit = permit;
            let service = service_fn(move |request: Request<Incoming>| {
                let answer = admin.answer(&request, local, peer);
                async move { Ok::<_, Infallible>(answer.await) }
            });
            let connection = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_TIMEOUT)
                .max_buf_size(HEAD_BYTES_MAX)
                .serve_connection(TokioIo::new(stream), service);
            match tokio::time::timeout(CONNECTION_TIMEOUT, connection).await {
                Ok(Ok(())) | Err(_) => {}
                Ok(Err(error)) => tracing::debug!(%peer, %error, "admin: connection"),
            }
        });
    }

    /// Decided at once; only what an operator asked for is waited for.
    fn answer<B>(
        &self,
        request: &Request<B>,
        local: SocketAddr,
        peer: SocketAddr,
    ) -> impl Future<Output = Response<Full<Bytes>>> + use<B> {
        let (method, path) = (request.method(), request.uri().path());
        let answer = match self.pages.act(path) {
            None => Answer::Ready(self.page(method, path)),
            Some(act) => {
                act::refuse(request, local, peer).map_or(Answer::Awaited(act), Answer::Ready)
            }
        };
        async move {
            match answer {
                Answer::Ready(response) => response,
                Answer::Awaited(act) => act::answer(act.await),
            }
        }
    }

    fn page(&self, method: &Method, path: &str) -> Response<Full<Bytes>> {
        let known = matches!(path, "/metrics" | "/healthz" | "/readyz" | "/status");
        if known && method != Method::GET && method != Method::HEAD {
            return not_allowed("GET, HEAD");
        }
        match path {
            "/metrics" => {
                let kind = "text/plain; version=0.0.4; charset=utf-8";
                page(StatusCode::OK, kind, self.exporter.render())
            }
            "/healthz" => text(StatusCode::OK, "ok\n"),
            "/readyz" => match self.pages.ready() {
                Ok(()) => text(StatusCode::OK, "ready\n"),
                Err(reason) => text(StatusCode::SERVICE_UNAVAILABLE, reason + "\n"),
            },
            "/status" => {
                let status = format!("{:#}\n", self.pages.status());
                page(StatusCode::OK, "application/json", status)
            }
            _ => text(StatusCode::NOT_FOUND, "/metrics /healthz /readyz /status\n"),
        }
    }
}

fn not_allowed(methods: &'static str) -> Response<Full<Bytes>> {
    let mut response = text(StatusCode::METHOD_NOT_ALLOWED, format!("{methods}\n"));
    response.headers_mut().insert(ALLOW, HeaderValue::from_static(methods));
    response
}

fn text(status: StatusCode, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    page(status, "text/plain; charset=utf-8", body)
}

fn page(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{SocketAddr, TcpStream};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::{Admin, Pages, bind};
    use crate::access::AllowList;
    use crate::metrics::Exporter;
    use crate::role::{Act, ActError};

    crate::metric_table! {
        /// One counter.
        struct Sample;
        counter SEEN = "reel_admin_sample_total", Count, "Seen.";
    }

    struct Role {
        ready: AtomicBool,
    }

    impl Pages for Role {
        fn status(&self) -> serde_json::Value {
            serde_json::json!({"role": "sample"})
        }

        fn ready(&self) -> Result<(), String> {
            self.ready.load(Ordering::Relaxed).then_some(()).ok_or("no tracker answers".to_owned())
        }

        fn act(&self, path: &str) -> Option<Act> {
            let outcome = match path {
                "/lamp/on" => Ok(serde_json::json!({"lamp": "on"})),
                "/lamp/off" => Err(ActError::Needless("it is off".to_owned())),
                "/lamp/mend" => Err(ActError::Failed("no spare bulb".to_owned())),
                _ => return None,
            };
            Some(Box::pin(async move { outcome }))
        }
    }

    /// Serves on a thread of its own until the sender is dropped.
    fn start(role: Arc<Role>) -> (SocketAddr, tokio::sync::oneshot::Sender<()>) {
        let exporter = Exporter::new();
        exporter.registry::<Sample>("sample", &[]).cell().add(Sample::SEEN, 3);
        let listener = bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, stop) = tokio::sync::oneshot::channel();
        std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let admin = Admin::new(exporter, role, AllowList::loopback());
            let stop = async move { drop(stop.await) };
            runtime.block_on(admin.serve(listener, stop)).unwrap();
        });
        (address, sender)
    }

    fn ask(address: SocketAddr, request: &str) -> String {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    fn get(address: SocketAddr, path: &str) -> String {
        ask(address, &format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"))
    }

    #[test]
    fn the_four_pages() {
        let role = Arc::new(Role { ready: AtomicBool::new(false) });
        let (address, _stop) = start(Arc::clone(&role));
        let health = get(address, "/healthz");
        assert!(health.starts_with("HTTP/1.1 200 ") && health.ends_with("ok\n"), "{health}");
        let ready = get(address, "/readyz");
        assert!(ready.starts_with("HTTP/1.1 503 ") && ready.ends_with("no tracker answers\n"));
        role.ready.store(true, Ordering::Relaxed);
        assert!(get(address, "/readyz").starts_with("HTTP/1.1 200 "));
        let status = get(address, "/status");
        assert!(status.contains("content-type: application/json"), "{status}");
        assert!(status.contains("\"role\": \"sample\""), "{status}");
        let metrics = get(address, "/metrics");
        assert!(metrics.contains("reel_admin_sample_total{role=\"sample\"} 3"), "{metrics}");
    }

    #[test]
    fn what_is_no_page_is_refused() {
        let (address, _stop) = start(Arc::new(Role { ready: AtomicBool::new(true) }));
        assert!(get(address, "/").starts_with("HTTP/1.1 404 "));
        assert!(get(address, "/status/../etc").starts_with("HTTP/1.1 404 "));
        let post =
            "POST /status HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
        let refused = ask(address, post);
        assert!(refused.starts_with("HTTP/1.1 405 ") && refused.contains("GET, HEAD"), "{refused}");
        let head = "HEAD /status HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
        let head = ask(address, head);
        assert!(head.starts_with("HTTP/1.1 200 ") && head.ends_with("\r\n\r\n"), "{head}");
        assert!(ask(address, "rubbish\r\n\r\n").starts_with("HTTP/1.1 400 "));
        let long = format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(20_000));
        assert!(ask(address, &long).starts_with("HTTP/1.1 4"));
    }

    #[test]
    fn what_an_operator_asks_for_is_done_and_told() {
        let (address, _stop) = start(Arc::new(Role { ready: AtomicBool::new(true) }));
        let post = |path: &str, fields: &str| {
            ask(address, &format!("POST {path} HTTP/1.1\r\n{fields}Connection: close\r\n\r\n"))
        };
        let own = format!("Host: {address}\r\n");
        let done = post("/lamp/on", &own);
        assert!(done.starts_with("HTTP/1.1 200 ") && done.contains("\"lamp\": \"on\""), "{done}");
        for (path, status, text) in
            [("/lamp/off", "409", "it is off"), ("/lamp/mend", "503", "no spare bulb")]
        {
            let refused = post(path, &own);
            assert!(refused.starts_with(&format!("HTTP/1.1 {status} ")), "{refused}");
            assert!(refused.ends_with(&format!("{text}\n")), "{refused}");
        }
        assert!(post("/lamp", &own).starts_with("HTTP/1.1 404 "));
        let get = get(address, "/lamp/on");
        assert!(get.starts_with("HTTP/1.1 405 ") && get.contains("allow: POST"), "{get}");
        // What a web page, a rebound name or a proxy cannot leave out.
        for foreign in [
            String::new(),
            "Host: reel.example\r\n".to_owned(),
            "Host: localhost\r\nHost: reel.example\r\n".to_owned(),
            format!("{own}Origin: http://elsewhere.example\r\n"),
            format!("{own}Origin: null\r\n"),
            format!("{own}X-Forwarded-For: 192.0.2.1\r\n"),
        ] {
            let refused = post("/lamp/on", &foreign);
            assert!(refused.starts_with("HTTP/1.1 403 "), "{foreign:?}: {refused}");
        }
    }

    #[test]
    fn connections_are_bounded() {
        let (address, _stop) = start(Arc::new(Role { ready: AtomicBool::new(true) }));
        let idle: Vec<_> =
            (0..super::CONNECTIONS_MAX).map(|_| TcpStream::connect(address).unwrap()).collect();
        let mut one_more = TcpStream::connect(address).unwrap();
        assert_eq!(one_more.read(&mut [0]).unwrap(), 0);
        drop(idle);
    }

    #[test]
    fn a_port_in_use_is_an_error() {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let error = bind(taken.local_addr().unwrap()).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::AddrInUse);
    }
}
