//! The signed envelope between nodes: what it lets through, once, within its window, and what it keeps out.

use proptest::prelude::*;
use reel_proto::{
    limits::{NONCES_MAX, SIGN_WINDOW_SECONDS},
    sign::{Nonce, NonceCache, OVERHEAD, SignError, open, seal},
};

const SECRET: Option<&[u8]> = Some(b"0123456789abcdef");
const NOW: u64 = 1_710_188_042;
const COMMAND: u8 = 220;

fn nonce(number: u64) -> Nonce {
    let mut nonce = [0; 16];
    nonce[..8].copy_from_slice(&number.to_be_bytes());
    nonce
}

fn sealed(time: u64, number: u64) -> Vec<u8> {
    seal(SECRET, COMMAND, time, nonce(number), b"payload")
}

/// Computed apart, by `hmac.new(secret, b"reel node 1\0" + command + time + nonce + payload, sha256)` of Python.
#[test]
fn golden_bytes() {
    let body = sealed(NOW, 1);
    assert_eq!(body.len(), OVERHEAD + b"payload".len());
    let mac = super::captures::hex(GOLDEN_MAC);
    let mut expected =
        super::captures::hex("01 0000000065ef660a 0000000000000001 0000000000000000");
    expected.extend_from_slice(b"payload");
    expected.extend_from_slice(&mac);
    assert_eq!(body, expected);
}

const GOLDEN_MAC: &str = "601b2f6656152e54a2dac603294ef93b55bfa5dfb9d75db00a61bd416e1a7c78";

#[test]
fn once_and_only_once() {
    let mut seen = NonceCache::default();
    let body = sealed(NOW, 1);
    assert_eq!(open(SECRET, COMMAND, NOW, &body, &mut seen), Ok(&b"payload"[..]));
    assert_eq!(open(SECRET, COMMAND, NOW, &body, &mut seen), Err(SignError::Repeated));
    assert_eq!(open(SECRET, COMMAND, NOW + 60, &body, &mut seen), Err(SignError::Repeated));
    assert!(open(SECRET, COMMAND, NOW, &sealed(NOW, 2), &mut seen).is_ok());
}

#[test]
fn the_window_to_the_second() {
    const W: u64 = SIGN_WINDOW_SECONDS;
    for (now, fits) in
        [(NOW - W - 1, false), (NOW - W, true), (NOW + W, true), (NOW + W + 1, false), (0, false)]
    {
        let opened =
            open(SECRET, COMMAND, now, &sealed(NOW, 1), &mut NonceCache::default()).is_ok();
        assert_eq!(opened, fits, "{now}");
    }
    let far = sealed(u64::MAX, 1);
    let last = open(SECRET, COMMAND, 0, &far, &mut NonceCache::default());
    assert_eq!(last, Err(SignError::Stale { time: u64::MAX, now: 0 }));
}

#[test]
fn another_secret_command_or_byte_is_a_forgery() {
    let body = sealed(NOW, 1);
    let mut seen = NonceCache::default();
    let other: Option<&[u8]> = Some(b"0123456789abcdeg");
    assert_eq!(open(other, COMMAND, NOW, &body, &mut seen), Err(SignError::Forged));
    assert_eq!(open(SECRET, COMMAND + 1, NOW, &body, &mut seen), Err(SignError::Forged));
    for bit in 8..body.len() * 8 {
        let mut flipped = body.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(open(SECRET, COMMAND, NOW, &flipped, &mut seen), Err(SignError::Forged));
    }
    for end in 0..body.len() {
        assert!(open(SECRET, COMMAND, NOW, &body[..end], &mut seen).is_err());
    }
    assert!(seen.is_empty(), "a forgery leaves nothing in memory");
}

#[test]
fn unsigned_only_where_nobody_has_a_secret() {
    let mut seen = NonceCache::default();
    let plain = seal(None, COMMAND, NOW, nonce(1), b"payload");
    assert_eq!(open(None, COMMAND, NOW, &plain, &mut seen), Ok(&b"payload"[..]));
    assert_eq!(open(SECRET, COMMAND, NOW, &plain, &mut seen), Err(SignError::Unsigned));
    assert_eq!(open(None, COMMAND, NOW, &sealed(NOW, 1), &mut seen), Err(SignError::NoSecret));
    assert_eq!(open(None, COMMAND, NOW, b"", &mut seen), Err(SignError::Malformed));
    assert_eq!(open(None, COMMAND, NOW, b"\x02abc", &mut seen), Err(SignError::Malformed));
}

#[test]
fn memory_is_bounded_and_a_full_one_refuses() {
    let mut seen = NonceCache::new(4);
    for number in 0..4 {
        assert!(open(SECRET, COMMAND, NOW, &sealed(NOW, number), &mut seen).is_ok());
    }
    assert_eq!(open(SECRET, COMMAND, NOW, &sealed(NOW, 9), &mut seen), Err(SignError::Busy));
    // Full or not, what was here is known.
    assert_eq!(open(SECRET, COMMAND, NOW, &sealed(NOW, 0), &mut seen), Err(SignError::Repeated));
    // They can be repeated for as long as their time fits, and are kept for exactly that long.
    let later = NOW + SIGN_WINDOW_SECONDS;
    assert_eq!(open(SECRET, COMMAND, later, &sealed(later, 9), &mut seen), Err(SignError::Busy));
    assert!(open(SECRET, COMMAND, later + 1, &sealed(later, 9), &mut seen).is_ok());
    assert_eq!(seen.len(), 1);
    assert_eq!(NonceCache::default().len(), 0);
    const { assert!(NONCES_MAX > 0) };
}

/// A clock that is set back must not make room for a request that was here and was forgotten.
#[test]
fn a_clock_set_back_opens_nothing_again() {
    let mut seen = NonceCache::default();
    let body = sealed(NOW, 1);
    assert!(open(SECRET, COMMAND, NOW, &body, &mut seen).is_ok());
    let jumped = NOW + 1000;
    assert!(open(SECRET, COMMAND, jumped, &sealed(jumped, 2), &mut seen).is_ok());
    let repeated = open(SECRET, COMMAND, NOW, &body, &mut seen);
    assert_eq!(repeated, Err(SignError::Stale { time: NOW, now: NOW }));
    // New requests go on at once: they are later than anything forgotten.
    assert!(open(SECRET, COMMAND, NOW + 1, &sealed(NOW + 1, 3), &mut seen).is_ok());
}

proptest! {
    #[test]
    fn round_trip(
        payload in any::<Vec<u8>>(),
        secret in proptest::collection::vec(any::<u8>(), 0..100),
        command in any::<u8>(),
        time in any::<u64>(),
        nonce in any::<Nonce>(),
    ) {
        let body = seal(Some(&secret), command, time, nonce, &payload);
        let mut seen = NonceCache::default();
        prop_assert_eq!(open(Some(&secret), command, time, &body, &mut seen), Ok(&payload[..]));
    }

    #[test]
    fn any_bytes_are_refused(body in any::<Vec<u8>>()) {
        prop_assert!(open(SECRET, COMMAND, NOW, &body, &mut NonceCache::default()).is_err());
    }
}
