//! What commands ask a running storage node at its admin server.

use std::{future::Future, net::SocketAddr, path::PathBuf, time::Duration};

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use clap::Args;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::{Method, Request, StatusCode, header::HOST};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::{net::TcpStream, time::timeout};

use crate::settings::{self, Settings};

/// Longest wait for an answer of the node.
const ANSWER_MAX: Duration = Duration::from_secs(30);

/// Longest answer.
const BODY_BYTES_MAX: usize = 16 << 20;

/// Which storage node.
#[derive(Debug, Args)]
pub(crate) struct AdminOf {
    /// Configuration of the storage node, for its admin address.
    #[arg(long, env = "REEL_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Admin address of the storage node, instead of the configured one.
    #[arg(long, value_name = "ADDRESS:PORT")]
    admin: Option<SocketAddr>,
}

impl AdminOf {
    /// Its admin address.
    pub(crate) fn address(&self) -> Result<SocketAddr> {
        match self.admin {
            Some(admin) => Ok(admin),
            None => {
                let config = self.config.as_deref();
                let settings = settings::load(Settings::default(), config, &json!({}))?;
                Ok(settings.value.engine.admin_listen)
            }
        }
    }
}

/// Runs to the end of what is asked.
pub(crate) fn block_on<T>(asked: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?
        .block_on(asked)
}

/// The store paths, as `/status` has them.
pub(crate) async fn store_paths(admin: SocketAddr) -> Result<Vec<Value>> {
    let (status, answer) = exchange(admin, Method::GET, "/status").await?;
    if status != StatusCode::OK {
        bail!("{admin}/status: {status}: {}", answer.trim());
    }
    let status: Value = serde_json::from_str(&answer).context("/status is JSON")?;
    let stores = status["service"]["store_paths"].as_array().cloned();
    stores.with_context(|| format!("{admin} is not the admin address of a storage node"))
}

/// Has something done on a store path: what it says of it.
pub(crate) async fn act(admin: SocketAddr, store: u64, act: &str) -> Result<(StatusCode, String)> {
    exchange(admin, Method::POST, &format!("/store-paths/{store}/{act}")).await
}

/// One request on a connection of its own.
async fn exchange(admin: SocketAddr, method: Method, target: &str) -> Result<(StatusCode, String)> {
    let whole = async {
        let stream = TcpStream::connect(admin).await?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(target)
            .header(HOST, admin.to_string())
            .body(Empty::<Bytes>::new())?;
        let response = sender.send_request(request).await?;
        let status = response.status();
        let body = Limited::new(response.into_body(), BODY_BYTES_MAX).collect().await;
        let body = body.map_err(anyhow::Error::from_boxed)?.to_bytes();
        anyhow::Ok((status, String::from_utf8_lossy(&body).into_owned()))
    };
    timeout(ANSWER_MAX, whole)
        .await
        .unwrap_or_else(|_| bail!("no answer within {} s", ANSWER_MAX.as_secs()))
        .with_context(|| format!("the storage node at {admin} (is it running?)"))
}
