//! The repository's rules that no linter knows: which crate may import which, that every module says what it is,
//! how large a file may grow, and words that do not belong in the tree.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

/// Who may import whom (ARCHITECTURE.md, "Folders"). `tests` and `xtask` may import anything.
const IMPORTS: &[(&str, &[&str])] = &[
    ("proto", &[]),
    ("node", &["reel-proto"]),
    ("meta", &["reel-proto"]),
    ("client", &["reel-proto"]),
    ("idgen", &["reel-proto", "reel-node", "reel-meta"]),
    ("tracker", &["reel-proto", "reel-node", "reel-meta"]),
    ("engine", &["reel-proto", "reel-node", "reel-meta"]),
    ("gateway", &["reel-proto", "reel-node", "reel-client"]),
    ("perf", &["reel-proto", "reel-client"]),
    (
        "cli",
        &[
            "reel-proto",
            "reel-node",
            "reel-meta",
            "reel-idgen",
            "reel-tracker",
            "reel-engine",
            "reel-gateway",
            "reel-client",
        ],
    ),
];

/// Lines of one source file. Style says 500; the rest is room for a table of cases at its end.
const FILE_LINES_MAX: usize = 700;

/// Columns of one line of Rust that rustfmt could not break (a long string, a URL).
const LINE_COLUMNS_MAX: usize = 160;

/// Module names that say nothing.
const EMPTY_NAMES: &[&str] = &["utils", "util", "helpers", "helper", "common", "manager", "misc"];

/// Fails with the list of everything that is out of order.
pub(crate) fn check(root: &Path) -> Result<()> {
    let mut faults = Vec::new();
    imports(root, &mut faults)?;
    for path in tracked(root)? {
        let Ok(text) = fs::read_to_string(root.join(&path)) else { continue };
        words(&path, &text, &mut faults);
        if path.extension().is_some_and(|extension| extension == "rs") {
            source(&path, &text, &mut faults);
        }
    }
    if !faults.is_empty() {
        bail!("tidy: {} faults\n{}", faults.len(), faults.join("\n"));
    }
    println!("== tidy: in order");
    Ok(())
}

// Also what is not added yet: a fault is found before the commit, not after it.
fn tracked(root: &Path) -> Result<Vec<PathBuf>> {
    let output = Command::new("git")
        .args(["ls-files", "--cached", "--others", "--exclude-standard"])
        .current_dir(root)
        .output()
        .context("tidy asks git for the files of the repository")?;
    if !output.status.success() {
        bail!("tidy: git ls-files failed: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(String::from_utf8_lossy(&output.stdout).lines().map(PathBuf::from).collect())
}

fn imports(root: &Path, faults: &mut Vec<String>) -> Result<()> {
    for (folder, allowed) in IMPORTS {
        let path = root.join(folder).join("Cargo.toml");
        let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        let manifest: toml::Table = text.parse().with_context(|| path.display().to_string())?;
        // Development dependencies are held to the same table: a test that needs more belongs in tests/.
        for section in ["dependencies", "dev-dependencies", "build-dependencies"] {
            let Some(toml::Value::Table(table)) = manifest.get(section) else { continue };
            for name in table.keys().filter(|name| name.starts_with("reel-")) {
                if !allowed.contains(&name.as_str()) {
                    faults.push(format!("{folder}/Cargo.toml: {folder} must not import {name}"));
                }
            }
        }
        if manifest.get("lints").is_none() {
            faults.push(format!("{folder}/Cargo.toml: no `[lints] workspace = true`"));
        }
    }
    Ok(())
}

fn source(path: &Path, text: &str, faults: &mut Vec<String>) {
    let shown = path.display();
    if !text.starts_with("//!") && !text.starts_with("#!") {
        faults.push(format!("{shown}: the first line must say what the module is (`//! …`)"));
    }
    let lines = text.lines().count();
    if lines > FILE_LINES_MAX {
        faults.push(format!("{shown}: {lines} lines; split it (limit {FILE_LINES_MAX})"));
    }
    for (index, line) in text.lines().enumerate() {
        if line.chars().count() > LINE_COLUMNS_MAX {
            faults.push(format!("{shown}:{}: longer than {LINE_COLUMNS_MAX} columns", index + 1));
        }
    }
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    if EMPTY_NAMES.contains(&stem.as_ref()) {
        faults.push(format!("{shown}: `{stem}` says nothing; name what it holds"));
    }
}

fn words(path: &Path, text: &str, faults: &mut Vec<String>) {
    // Written in two halves, or this file would find itself.
    let banned: BTreeMap<String, &str> = BTreeMap::from([
        (["/wo", "rk/"].concat(), "a path of one machine"),
        (["/ro", "ot/"].concat(), "a path of one machine"),
        (["todo", "!("].concat(), "unfinished work"),
        (["unimplemented", "!("].concat(), "unfinished work"),
        (["FIX", "ME"].concat(), "unfinished work"),
    ]);
    for (index, line) in text.lines().enumerate() {
        for (word, why) in &banned {
            if line.contains(word.as_str()) {
                faults.push(format!("{}:{}: `{word}`: {why}", path.display(), index + 1));
            }
        }
        if line.ends_with(' ') && path.extension().is_some_and(|extension| extension != "md") {
            faults.push(format!("{}:{}: space at the end of the line", path.display(), index + 1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_of_each_kind_is_found() {
        let mut faults = Vec::new();
        source(Path::new("a/utils.rs"), "fn main() {}\n", &mut faults);
        assert_eq!(faults.len(), 2, "no module doc, and an empty name: {faults:?}");
        words(Path::new("a.rs"), &["let x = \"/wo", "rk/x\"; \n"].concat(), &mut faults);
        assert_eq!(faults.len(), 4, "a machine's path, and a space at the end: {faults:?}");
    }
}
