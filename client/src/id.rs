//! New file ids, in the shape of the deployed clients': seconds (8 hex digits), microseconds (6), 16 that were an MD5
//! over user, process, thread and a random number, a 4-digit counter and 2 random digits. Ours put 64 bits of the
//! kernel's randomness where the MD5 was: the deployed form collides when two hosts share clock and process number.

use std::{
    sync::atomic::{AtomicU32, Ordering},
    time::{SystemTime, UNIX_EPOCH},
};

use reel_proto::name::FileId;

use crate::error::ClientError;

/// Ids of this process tell themselves apart within one microsecond by it, whatever the random bits are.
static COUNTER: AtomicU32 = AtomicU32::new(0);

/// Makes a file id that nobody has used: 36 ASCII characters.
pub fn new_file_id() -> Result<FileId, ClientError> {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let counter = COUNTER.fetch_add(1, Ordering::Relaxed);
    let text = compose(
        since.as_secs(),
        since.subsec_micros(),
        getrandom::u64()?,
        counter,
        getrandom::u32()?,
    );
    Ok(FileId::parse(&text)?)
}

fn compose(seconds: u64, micros: u32, random: u64, counter: u32, more_random: u32) -> String {
    format!(
        "{:08x}{:06x}{random:016x}{:04}{:02}",
        seconds as u32,
        micros,
        counter % 10_000,
        more_random % 100
    )
}

/// Whether an id has the shape of [`new_file_id`]: by its 64 random bits nobody else has it.
pub(crate) fn is_made(file: &FileId) -> bool {
    let text = file.as_str().as_bytes();
    let Some((hex, decimal)) = text.split_at_checked(30) else { return false };
    let is_hex = |byte: &u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    decimal.len() == 6 && hex.iter().all(is_hex) && decimal.iter().all(u8::is_ascii_digit)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn the_shape_is_that_of_deployed_clients() {
        let text = compose(0x65F1_560C, 999_999, 0xABC, 12_345, 107);
        assert_eq!(text, "65f1560c0f423f0000000000000abc234507");
        let made = |text: &str| is_made(&FileId::parse(text).unwrap());
        assert!(made(&text));
        assert!(!made("film") && !made(&text.to_uppercase()) && !made(&text[1..]));
        assert!(!made(&format!("{}a", &text[..35])) && !made(&"用".repeat(12)));
    }

    #[test]
    fn ids_of_many_threads_differ() {
        let threads: Vec<_> = (0..8)
            .map(|_| std::thread::spawn(|| (0..2000).map(|_| new_file_id().unwrap()).collect()))
            .collect();
        let mut seen = HashSet::new();
        for thread in threads {
            let ids: Vec<FileId> = thread.join().unwrap();
            for id in ids {
                assert_eq!(id.as_str().len(), 36);
                assert!(seen.insert(id.as_str().to_owned()), "{id} twice");
            }
        }
    }
}
