//! How results are shown: times, sizes and tables for people, one JSON object a line for programs.

use std::{
    io::{self, Write},
    time::{Duration, UNIX_EPOCH},
};

use comfy_table::{CellAlignment, Table, presets};

/// A time for people, in UTC: `2026-03-11T20:14:02Z`.
pub(crate) fn time(seconds: u64) -> String {
    // Past the year 9999 the format ends; such a time is a broken row, shown as its number.
    match UNIX_EPOCH.checked_add(Duration::from_secs(seconds)) {
        Some(time) if seconds < 253_402_300_800 => {
            humantime::format_rfc3339_seconds(time).to_string()
        }
        _ => seconds.to_string(),
    }
}

/// A checksum as all parts of the system write it.
pub(crate) fn checksum(checksum: u64) -> String {
    format!("{checksum:016x}")
}

/// A table without frames, so that its columns can be cut and grepped. Columns named here are right-aligned.
pub(crate) fn table(header: &[&str], numbers: &[usize]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(header.iter().copied());
    for index in numbers {
        if let Some(column) = table.column_mut(*index) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

/// Prints a line to standard output. A reader that has gone ends the program by SIGPIPE, before any error.
pub(crate) fn line(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.write_all(b"\n")
}

/// Prints a table without the spaces that fill its last column; with its header or only its rows.
pub(crate) fn print_table(table: &Table, header: bool) -> io::Result<()> {
    let skipped = usize::from(!header);
    table.lines().skip(skipped).try_for_each(|shown| line(shown.trim_end()))
}

/// Text of a peer or a row, safe for a terminal: control characters are escaped.
pub(crate) fn safe(text: &str) -> String {
    text.chars()
        .flat_map(|c| {
            let escaped = c.is_control().then(|| c.escape_default());
            let plain = escaped.is_none().then_some(c);
            escaped.into_iter().flatten().chain(plain)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_utc_and_never_panic() {
        assert_eq!(time(1_710_188_042), "2024-03-11T20:14:02Z");
        assert_eq!(time(u64::MAX), u64::MAX.to_string());
    }

    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        assert_eq!(safe("a\u{1b}[31m用\n"), "a\\u{1b}[31m用\\n");
    }
}
