//! Headless Chromium, driven by its DevTools protocol over a pipe (`--remote-debugging-pipe`: messages are JSON ended
//! by a NUL, in on descriptor 3, out on descriptor 4), so that no WebSocket library and no free port is needed.

use std::{
    fs::File,
    io::{BufRead, BufReader, Write},
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::process::CommandExt,
    },
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

/// Longest wait for one answer of the browser.
const ANSWER: Duration = Duration::from_secs(90);

/// A running browser with one page.
#[derive(Debug)]
pub struct Browser {
    child: Child,
    to: File,
    from: std::sync::mpsc::Receiver<Value>,
    session: String,
    sent: u64,
    _profile: tempfile::TempDir,
}

impl Browser {
    /// Starts one with an empty profile and an empty page.
    pub fn start() -> Result<Self> {
        let profile = tempfile::tempdir()?;
        let (child_reads, to) = pipe()?;
        let (from, child_writes) = pipe()?;
        let mut command = Command::new("chromium");
        command
            .args(["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"])
            .args(["--disable-background-networking", "--disable-component-update"])
            .args(["--disable-sync", "--mute-audio", "--disable-dev-shm-usage"])
            .args(["--autoplay-policy=no-user-gesture-required", "--window-size=1000,700"])
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .args(["--remote-debugging-pipe", "about:blank"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let (reads, writes) = (child_reads.as_raw_fd(), child_writes.as_raw_fd());
        let place = move || place_pipes(reads, writes);
        // SAFETY: between fork and exec `place` only duplicates descriptors; it allocates nothing.
        unsafe { command.pre_exec(place) };
        let child = command.spawn().context("starting chromium")?;
        drop((child_reads, child_writes));
        let (send, receive) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let mut from = BufReader::new(File::from(from));
            let mut message = Vec::new();
            while from.read_until(0, &mut message).is_ok_and(|length| length > 0) {
                message.pop();
                if let Ok(value) = serde_json::from_slice(&message)
                    && send.send(value).is_err()
                {
                    return;
                }
                message.clear();
            }
        });
        let mut browser = Self {
            child,
            to: File::from(to),
            from: receive,
            session: String::new(),
            sent: 0,
            _profile: profile,
        };
        let target = browser.call("Target.createTarget", json!({ "url": "about:blank" }))?;
        let attached = browser.call(
            "Target.attachToTarget",
            json!({ "targetId": target["targetId"], "flatten": true }),
        )?;
        attached["sessionId"].as_str().unwrap_or_default().clone_into(&mut browser.session);
        browser.call("Page.enable", json!({}))?;
        Ok(browser)
    }

    /// Opens an address in the page.
    pub fn open(&mut self, url: &str) -> Result<()> {
        let answer = self.call("Page.navigate", json!({ "url": url }))?;
        match answer["errorText"].as_str() {
            Some(text) => bail!("{url}: {text}"),
            None => Ok(()),
        }
    }

    /// Evaluates JavaScript in the page; a promise is waited for. An exception is an error.
    pub fn evaluate(&mut self, script: &str) -> Result<Value> {
        let answer = self.call(
            "Runtime.evaluate",
            json!({ "expression": script, "awaitPromise": true, "returnByValue": true }),
        )?;
        if let Some(exception) = answer.get("exceptionDetails") {
            bail!("the page threw: {exception}");
        }
        Ok(answer["result"]["value"].clone())
    }

    /// Writes a PNG of what the page shows.
    pub fn screenshot(&mut self, path: &Path) -> Result<()> {
        let answer = self.call("Page.captureScreenshot", json!({ "format": "png" }))?;
        let data = answer["data"].as_str().context("a screenshot without data")?;
        Ok(std::fs::write(path, base64(data)?)?)
    }

    fn call(&mut self, method: &str, parameters: Value) -> Result<Value> {
        self.sent += 1;
        let mut message = json!({ "id": self.sent, "method": method, "params": parameters });
        if !self.session.is_empty() {
            message["sessionId"] = json!(self.session);
        }
        let mut bytes = serde_json::to_vec(&message)?;
        bytes.push(0);
        self.to.write_all(&bytes)?;
        let deadline = Instant::now() + ANSWER;
        loop {
            let wait = deadline.saturating_duration_since(Instant::now());
            let answer =
                self.from.recv_timeout(wait).with_context(|| format!("waiting for {method}"))?;
            if answer["id"] != json!(self.sent) {
                continue; // An event, or the answer to nobody.
            }
            if let Some(error) = answer.get("error") {
                bail!("{method}: {error}");
            }
            return Ok(answer["result"].clone());
        }
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn pipe() -> Result<(OwnedFd, OwnedFd)> {
    let (reader, writer) = std::io::pipe()?;
    Ok((reader.into(), writer.into()))
}

// The browser wants exactly 3 and 4. Either pipe may lie there already, so both move out of the way first.
fn place_pipes(reads: i32, writes: i32) -> std::io::Result<()> {
    let away = |descriptor: i32| {
        // SAFETY: duplicates a descriptor; memory is not touched.
        match unsafe { libc::fcntl(descriptor, libc::F_DUPFD_CLOEXEC, 10) } {
            -1 => Err(std::io::Error::last_os_error()),
            copy => Ok(copy),
        }
    };
    let place = |descriptor: i32, at: i32| {
        // SAFETY: duplicates a descriptor onto another of this child, which nothing else uses before exec.
        match unsafe { libc::dup2(descriptor, at) } {
            -1 => Err(std::io::Error::last_os_error()),
            _ => Ok(()),
        }
    };
    let (reads, writes) = (away(reads)?, away(writes)?);
    place(reads, 3)?;
    place(writes, 4)
}

// The one place that needs it; the alphabet of RFC 4648, section 4.
fn base64(text: &str) -> Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
    let (mut bits, mut count) = (0u32, 0);
    for symbol in text.bytes().filter(|symbol| *symbol != b'=') {
        let value = match symbol {
            b'A'..=b'Z' => symbol - b'A',
            b'a'..=b'z' => symbol - b'a' + 26,
            b'0'..=b'9' => symbol - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => bail!("not base64: {symbol:#04x}"),
        };
        bits = (bits << 6) | u32::from(value);
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count) as u8);
        }
    }
    Ok(bytes)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    #[test]
    fn base64_of_rfc_4648() {
        for (text, bytes) in [("", ""), ("Zg==", "f"), ("Zm8=", "fo"), ("Zm9vYmFy", "foobar")] {
            assert_eq!(super::base64(text).unwrap(), bytes.as_bytes());
        }
        assert!(super::base64("Zm9*").is_err());
    }
}
