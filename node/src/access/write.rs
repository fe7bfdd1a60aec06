//! The rule for HTTP writes (PUT, POST, DELETE).
//!
//! With tokens: a bearer token bound to the app, and to the user where the token names one.
//! Without: only a program on this machine that speaks to us directly. A browser on this machine
//! also connects from loopback, so a page of another site (`Origin`), a rebound name (`Host`) and
//! a proxy in front (forwarding headers) are told apart by what they cannot leave out.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use crate::config::{ConfigError, TokenConfig};

/// What the rule looks at in a request.
#[derive(Clone, Copy, Debug)]
pub struct WriteRequest<'a> {
    /// Our address of the connection.
    pub local: SocketAddr,
    /// The peer's address.
    pub peer: SocketAddr,
    /// The `Host` field, with its port if it has one.
    pub host: Option<&'a str>,
    /// The `Origin` field.
    pub origin: Option<&'a str>,
    /// The `Authorization` field.
    pub authorization: Option<&'a [u8]>,
    /// Whether any of `Forwarded`, `Via`, `X-Forwarded-*` and their like is there; see
    /// [`HttpWriteRule::is_forwarding_header`].
    pub forwarded: bool,
    /// The app that is written to.
    pub app: &'a str,
    /// The user that is written to.
    pub user: &'a str,
}

/// Why a write is refused; the peer's fault, and trying again does not help.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
pub enum Refusal {
    /// A token is needed and none came, or an unknown one: 401 with `WWW-Authenticate: Bearer`.
    #[error("a write needs a bearer token")]
    Unauthorized,
    /// The token is known, for another app or user: 403.
    #[error("the token is for another app or user")]
    OtherOwner,
    /// No token is configured, and the request does not come straight from this machine: 403.
    #[error("writes without a configured token are taken from this machine only: {0}")]
    NotLocal(&'static str),
}

impl Refusal {
    /// The HTTP status of the refusal.
    pub fn status(self) -> u16 {
        match self {
            Self::Unauthorized => 401,
            Self::OtherOwner | Self::NotLocal(_) => 403,
        }
    }
}

struct Token {
    token: Box<[u8]>,
    app: String,
    user: Option<String>,
}

/// Decides about writes. Cheap to clone.
#[derive(Clone)]
pub struct HttpWriteRule {
    tokens: Arc<[Token]>,
    insecure: bool,
}

impl std::fmt::Debug for HttpWriteRule {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "HttpWriteRule({} tokens, insecure: {})", self.tokens.len(), self.insecure)
    }
}

impl HttpWriteRule {
    /// The rule of the configured tokens; reads the files that they name.
    ///
    /// # Errors
    /// A token file that cannot be read, is open to other users, or holds no usable token; a token
    /// for an app or user that no file can have.
    pub fn new(tokens: &[TokenConfig], insecure: bool) -> Result<Self, ConfigError> {
        let tokens = tokens
            .iter()
            .map(|config| {
                let secret = config.secret()?;
                config.check_owner()?;
                Ok(Token {
                    token: Box::from(secret.expose()),
                    app: config.app.clone(),
                    user: config.user.clone(),
                })
            })
            .collect::<Result<Vec<_>, ConfigError>>()?;
        Ok(Self { tokens: tokens.into(), insecure })
    }

    /// The rule where no token counts: programs on this machine that speak to us directly.
    pub fn local_only() -> Self {
        Self { tokens: Arc::from([]), insecure: false }
    }

    /// Whether a header field (its name in any case) shows that a proxy passed the request on: the
    /// registered ones, and the families by which proxies, tunnels and CDNs tell of their client.
    pub fn is_forwarding_header(name: &str) -> bool {
        let named =
            ["via", "cdn-loop", "x-real-ip", "true-client-ip", "client-ip", "x-proxyuser-ip"];
        let begins = ["forwarded", "x-forwarded", "x-original-"];
        let ends = ["-client-ip", "-connecting-ip"];
        let same = |part: Option<&str>, known: &str| {
            part.is_some_and(|part| part.eq_ignore_ascii_case(known))
        };
        let end = |known: &str| name.len().checked_sub(known.len()).and_then(|at| name.get(at..));
        named.iter().any(|known| same(Some(name), known))
            || begins.iter().any(|known| same(name.get(..known.len()), known))
            || ends.iter().any(|known| same(end(known), known))
    }

    /// Whether tokens decide (a client that has none may ask for one).
    pub fn has_tokens(&self) -> bool {
        !self.tokens.is_empty()
    }

    /// Whether the write may go ahead.
    ///
    /// # Errors
    /// The refusal with its HTTP status; nothing has been done.
    pub fn check(&self, request: &WriteRequest<'_>) -> Result<(), Refusal> {
        if self.insecure {
            return Ok(());
        }
        if self.tokens.is_empty() {
            return check_local(request);
        }
        let sent = request.authorization.and_then(bearer).ok_or(Refusal::Unauthorized)?;
        // Every token is compared, so that the time says nothing about which one came close.
        let mut known = false;
        let mut owner = false;
        for token in self.tokens.iter() {
            let same = equal_constant_time(&token.token, sent);
            let bound = token.app == request.app
                && token.user.as_deref().is_none_or(|user| user == request.user);
            known |= same;
            owner |= same & bound;
        }
        match (known, owner) {
            (_, true) => Ok(()),
            (true, false) => Err(Refusal::OtherOwner),
            (false, false) => Err(Refusal::Unauthorized),
        }
    }
}

fn check_local(request: &WriteRequest<'_>) -> Result<(), Refusal> {
    if !request.local.ip().to_canonical().is_loopback() {
        return Err(Refusal::NotLocal("the listener is not on loopback"));
    }
    if !request.peer.ip().to_canonical().is_loopback() {
        return Err(Refusal::NotLocal("the peer is not on loopback"));
    }
    if !request.host.is_some_and(is_loopback_authority) {
        return Err(Refusal::NotLocal("the Host is not a loopback name"));
    }
    if let Some(origin) = request.origin {
        // The origin of our own pages is exactly http:// and the Host. "null" is foreign: it is
        // what sandboxed frames and local files send.
        let own = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
        if own.is_none_or(|own| Some(own) != request.host) {
            return Err(Refusal::NotLocal("the Origin is another site"));
        }
    }
    if request.forwarded {
        return Err(Refusal::NotLocal("a proxy passed the request on"));
    }
    Ok(())
}

/// `localhost`, a loopback address, either with a port.
fn is_loopback_authority(authority: &str) -> bool {
    if let Some(rest) = authority.strip_prefix('[') {
        let Some((inner, port)) = rest.split_once(']') else { return false };
        return is_port(port)
            && inner.parse::<std::net::Ipv6Addr>().is_ok_and(|ip| ip.is_loopback());
    }
    let (name, port) = match authority.split_once(':') {
        Some((name, _)) => (name, &authority[name.len()..]),
        None => (authority, ""),
    };
    let loopback = name.eq_ignore_ascii_case("localhost")
        || name.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
    loopback && is_port(port)
}

fn is_port(text: &str) -> bool {
    text.is_empty() || text.strip_prefix(':').is_some_and(|port| port.parse::<u16>().is_ok())
}

/// The token of `Bearer TOKEN` (RFC 6750 section 2.1; the scheme in any case, RFC 9110 11.1).
fn bearer(field: &[u8]) -> Option<&[u8]> {
    let (scheme, rest) = field.split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"bearer ").then(|| rest.trim_ascii())
}

/// Compares without an early end; only the lengths show in the time.
fn equal_constant_time(one: &[u8], other: &[u8]) -> bool {
    if one.len() != other.len() {
        return false;
    }
    let difference = one.iter().zip(other).fold(0_u8, |sum, (a, b)| sum | (a ^ b));
    std::hint::black_box(difference) == 0
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::{HttpWriteRule, Refusal, WriteRequest};
    use crate::config::{Secret, TokenConfig};

    fn local() -> WriteRequest<'static> {
        WriteRequest {
            local: "127.0.0.1:23080".parse().unwrap(),
            peer: "127.0.0.1:50000".parse().unwrap(),
            host: Some("127.0.0.1:23080"),
            origin: None,
            authorization: None,
            forwarded: false,
            app: "tnvideo",
            user: "tnv001",
        }
    }

    fn token(text: &str, app: &str, user: Option<&str>) -> TokenConfig {
        TokenConfig {
            token: Some(Secret::from(text)),
            token_file: None,
            token_env: None,
            app: app.to_owned(),
            user: user.map(str::to_owned),
        }
    }

    #[test]
    fn without_tokens_only_this_machine_writes() {
        let rule = HttpWriteRule::new(&[], false).unwrap();
        assert_eq!(rule.check(&local()), Ok(()));
        for host in ["localhost", "LOCALHOST:80", "[::1]:8080", "[::1]", "127.9.9.9"] {
            assert_eq!(rule.check(&WriteRequest { host: Some(host), ..local() }), Ok(()), "{host}");
        }
        let own = Some("http://127.0.0.1:23080");
        assert_eq!(rule.check(&WriteRequest { origin: own, ..local() }), Ok(()));

        let refused = |request: WriteRequest<'_>| {
            let refusal = rule.check(&request).unwrap_err();
            assert_eq!(refusal.status(), 403, "{request:?}");
        };
        refused(WriteRequest { local: "10.0.0.1:23080".parse().unwrap(), ..local() });
        refused(WriteRequest { peer: "10.0.0.2:4".parse().unwrap(), ..local() });
        refused(WriteRequest { forwarded: true, ..local() });
        let hosts = [
            "evil.example",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "",
            "[::1",
            "[::2]",
            "127.0.0.1:x",
            "127.0.0.1@evil",
            "0.0.0.0",
        ];
        for host in hosts {
            refused(WriteRequest { host: Some(host), ..local() });
        }
        refused(WriteRequest { host: None, ..local() });
        for origin in ["http://evil.example", "null", "http://127.0.0.1:8080", "file://", ""] {
            refused(WriteRequest { origin: Some(origin), ..local() });
        }
    }

    #[test]
    fn with_tokens_the_token_decides_from_anywhere() {
        let tokens = [
            token("aaaaaaaaaaaaaaaa", "tnvideo", None),
            token("bbbbbbbbbbbbbbbb", "tnvideo", Some("bob")),
        ];
        let rule = HttpWriteRule::new(&tokens, false).unwrap();
        let remote = WriteRequest {
            local: "10.0.0.1:23080".parse().unwrap(),
            peer: "10.0.0.9:1".parse().unwrap(),
            host: Some("media.example"),
            forwarded: true,
            ..local()
        };
        let with = |authorization: &'static [u8], user| {
            rule.check(&WriteRequest { authorization: Some(authorization), user, ..remote })
        };
        assert_eq!(rule.check(&remote), Err(Refusal::Unauthorized));
        assert_eq!(rule.check(&local()), Err(Refusal::Unauthorized));
        assert_eq!(with(b"Bearer aaaaaaaaaaaaaaaa", "anyone"), Ok(()));
        assert_eq!(with(b"bearer   aaaaaaaaaaaaaaaa ", "anyone"), Ok(()));
        assert_eq!(with(b"Bearer bbbbbbbbbbbbbbbb", "bob"), Ok(()));
        assert_eq!(with(b"Bearer bbbbbbbbbbbbbbbb", "eve"), Err(Refusal::OtherOwner));
        for wrong in [
            &b"Bearer "[..],
            b"Bearer aaaaaaaaaaaaaaa",
            b"Bearer aaaaaaaaaaaaaaaab",
            b"Basic aaaaaaaaaaaaaaaa",
            b"",
            b"Bearer",
            b"\xff",
        ] {
            assert_eq!(with(wrong, "bob"), Err(Refusal::Unauthorized));
        }
        let other = WriteRequest {
            authorization: Some(b"Bearer aaaaaaaaaaaaaaaa"),
            app: "other",
            ..remote
        };
        assert_eq!(rule.check(&other), Err(Refusal::OtherOwner));
    }

    #[test]
    fn a_token_that_could_never_be_used_is_refused() {
        let rule = |secret, app, user| HttpWriteRule::new(&[token(secret, app, user)], false);
        let good = "aaaaaaaaaaaaaaaa";
        let long = "u".repeat(129);
        assert!(rule(good, "tnvideo", Some("")).is_ok());
        for (app, user) in [("a-b", None), ("", None), ("tnvideo", Some(&*long))] {
            let error = rule(good, app, user).unwrap_err().to_string();
            assert!(error.contains(if user.is_some() { "user id" } else { "app id" }), "{error}");
        }
        for secret in ["aaaaaaaa aaaaaaaa", "aaaaaaaa\naaaaaaaa", "aaaaaaaa\0aaaaaaaa"] {
            let error = rule(secret, "tnvideo", None).unwrap_err().to_string();
            assert!(error.contains("Authorization") && !error.contains("aaa"), "{error}");
        }
    }

    #[test]
    fn insecure_lifts_the_rule() {
        let rule = HttpWriteRule::new(&[], true).unwrap();
        let remote = WriteRequest { peer: "10.0.0.9:1".parse().unwrap(), ..local() };
        assert_eq!(rule.check(&remote), Ok(()));
    }

    #[test]
    fn forwarding_headers_in_any_case() {
        let proxies = ["Forwarded", "VIA", "x-forwarded-for", "X-Forwarded-Proto", "X-Real-IP"];
        let older = ["X-Forwarded", "Forwarded-For", "X-Original-For", "X-ProxyUser-Ip"];
        let clouds = ["CF-Connecting-IP", "CDN-Loop", "Fastly-Client-IP", "X-Cluster-Client-IP"];
        for name in [&proxies[..], &older, &clouds, &["True-Client-IP", "Client-IP"]].concat() {
            assert!(HttpWriteRule::is_forwarding_header(name), "{name}");
        }
        for name in ["X-Forward", "Range", "X-F", "", "Vi", "Via-X", "IP", "\u{fc}-ip"] {
            assert!(!HttpWriteRule::is_forwarding_header(name), "{name}");
        }
    }

    #[test]
    fn nothing_shows_a_token() {
        let rule =
            HttpWriteRule::new(&[token("aaaaaaaaaaaaaaaa", "tnvideo", None)], false).unwrap();
        assert!(!format!("{rule:?}").contains("aaaa"));
        let config = token("aaaaaaaaaaaaaaaa", "tnvideo", None);
        assert!(!format!("{config:?}").contains("aaaa"));
        assert!(!serde_json::to_string(&config).unwrap().contains("aaaa"));
    }
}
