//! Tells systemd how the service stands (`Type=notify`). Without `NOTIFY_SOCKET` nothing happens.

use sd_notify::NotifyState;

/// The roles are up and answer.
pub fn ready() {
    send(&[NotifyState::Ready]);
}

/// A drain has begun.
pub fn stopping() {
    send(&[NotifyState::Stopping]);
}

/// A line for `systemctl status`.
pub fn status(text: &str) {
    send(&[NotifyState::Status(text)]);
}

fn send(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        // The service works without; systemd will say that it waited in vain.
        tracing::warn!(%error, "cannot notify the service manager");
    }
}
