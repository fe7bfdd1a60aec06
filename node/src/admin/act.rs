//! What an operator asks of a role over the admin server: a POST, from this machine and from no web page.
//!
//! Pages of other sites reach loopback through the browser of whoever has one open here, so the rule is that of HTTP
//! writes without a token, also where the node has tokens or runs with `--insecure`.

use std::net::SocketAddr;

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{AsHeaderName, HOST, HeaderMap, ORIGIN};
use hyper::{Method, Request, Response, StatusCode};

use super::{not_allowed, page, text};
use crate::access::{HttpWriteRule, WriteRequest};
use crate::role::ActError;

/// The refusal, where the request may not have anything done.
pub(super) fn refuse<B>(
    request: &Request<B>,
    local: SocketAddr,
    peer: SocketAddr,
) -> Option<Response<Full<Bytes>>> {
    if request.method() != Method::POST {
        return Some(not_allowed("POST"));
    }
    let headers = request.headers();
    let asked = WriteRequest {
        local,
        peer,
        host: only(headers, HOST),
        origin: headers.contains_key(ORIGIN).then(|| only(headers, ORIGIN).unwrap_or_default()),
        authorization: None,
        forwarded: headers.keys().any(|name| HttpWriteRule::is_forwarding_header(name.as_str())),
        app: "",
        user: "",
    };
    let refusal = HttpWriteRule::local_only().check(&asked).err()?;
    Some(text(StatusCode::FORBIDDEN, format!("{refusal}\n")))
}

/// A field that is there once, as text.
fn only(headers: &HeaderMap, name: impl AsHeaderName) -> Option<&str> {
    let mut values = headers.get_all(name).iter();
    let value = values.next().filter(|_| values.next().is_none())?;
    value.to_str().ok()
}

pub(super) fn answer(outcome: Result<serde_json::Value, ActError>) -> Response<Full<Bytes>> {
    match outcome {
        Ok(done) => page(StatusCode::OK, "application/json", format!("{done:#}\n")),
        Err(ActError::Needless(reason)) => text(StatusCode::CONFLICT, reason + "\n"),
        Err(ActError::Failed(reason)) => text(StatusCode::SERVICE_UNAVAILABLE, reason + "\n"),
    }
}
