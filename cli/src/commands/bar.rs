//! A progress bar on standard error. Nothing at all where it would not be seen, so that logs stay clean.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// A bar of bytes; hidden where `quiet`.
pub(crate) struct Bar(ProgressBar);

impl Bar {
    pub(crate) fn new(bytes: u64, name: &str, quiet: bool) -> Self {
        let target =
            if quiet { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
        let bar = ProgressBar::with_draw_target(Some(bytes), target);
        let template = "{msg:30!} {wide_bar} {bytes}/{total_bytes} {binary_bytes_per_sec} {eta}";
        // A template that does not parse would be a mistake of ours; the default bar still shows the bytes.
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        bar.set_message(super::shown::safe(name));
        Self(bar)
    }

    pub(crate) fn at(&self, bytes: u64) {
        self.0.set_position(bytes);
    }

    pub(crate) fn end(&self) {
        self.0.finish_and_clear();
    }
}
