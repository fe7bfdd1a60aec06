//! Addresses as people write them: `HOST:PORT`. Whether a name has an address is for the resolver; whether a text can
//! be one is told here, before anything waits for an answer that cannot come.

use std::net::SocketAddrV6;

/// A text that is no `HOST:PORT`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("write HOST:PORT, as 10.0.0.1:21000, [::1]:21000 or tracker.example:21000")]
pub struct AddressError;

/// Checks `HOST:PORT`: a name or an IP address (one of version 6 in brackets), and a port from 1 on.
///
/// # Errors
/// [`AddressError`]
pub fn check(text: &str) -> Result<(), AddressError> {
    let (host, port) = text.rsplit_once(':').ok_or(AddressError)?;
    let digits = port.bytes().all(|byte| byte.is_ascii_digit());
    let port = port.parse::<u16>().map_err(|_| AddressError)?;
    let named = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
    let host = if host.starts_with('[') {
        text.parse::<SocketAddrV6>().is_ok()
    } else {
        !host.is_empty() && host.bytes().all(named)
    };
    (digits && port != 0 && host).then_some(()).ok_or(AddressError)
}

#[cfg(test)]
mod tests {
    use super::check;

    #[test]
    fn hosts_and_ports() {
        for good in ["127.0.0.1:21000", "[::1]:1", "[fe80::1%1]:5", "a:65535", "t-1.example_x:80"] {
            assert!(check(good).is_ok(), "{good}");
        }
        let bad = [
            "",
            "a",
            "a:",
            ":1",
            "a:0",
            "a:65536",
            "a:+1",
            "a: 1",
            "a b:1",
            "::1:1",
            "[::1]",
            "[a]:1",
            "http://a:1",
            "a:1/x",
            "[::1:1",
            "a:b",
            "a:b:1",
            "ä:1",
        ];
        for bad in bad {
            assert!(check(bad).is_err(), "{bad}");
        }
    }
}
