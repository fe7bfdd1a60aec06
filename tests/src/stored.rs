//! What lies in a store path, as an operator sees it.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// Every file below a store path, or below a folder of several, in their order; none of our own in `.reel`.
///
/// # Errors
/// The file system's.
pub fn files_below(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            if !path.is_dir() {
                found.push(path);
            } else if path.file_name().is_some_and(|name| name != ".reel") {
                folders.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}
