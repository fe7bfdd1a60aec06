//! What lies in a store path, as an operator sees it.

use std::{
    ffi::CString,
    fs, io,
    os::unix::ffi::OsStrExt,
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

/// An extended attribute of a file, of at most 4 KiB.
///
/// # Errors
/// The file system's; it has no such attribute.
pub fn attribute(file: &Path, name: &str) -> io::Result<Vec<u8>> {
    let (path, name) = (CString::new(file.as_os_str().as_bytes())?, CString::new(name)?);
    let mut value = vec![0_u8; 4096];
    // SAFETY: both texts end with a zero, and the system call writes no more than the length that it is told.
    let length = unsafe {
        libc::getxattr(path.as_ptr(), name.as_ptr(), value.as_mut_ptr().cast(), value.len())
    };
    let length = usize::try_from(length).map_err(|_| io::Error::last_os_error())?;
    value.truncate(length);
    Ok(value)
}

/// Sets an extended attribute of a file.
///
/// # Errors
/// The file system's.
pub fn set_attribute(file: &Path, name: &str, value: &[u8]) -> io::Result<()> {
    let (path, name) = (CString::new(file.as_os_str().as_bytes())?, CString::new(name)?);
    // SAFETY: both texts end with a zero, and the system call reads no more than the length that it is told.
    let done = unsafe {
        libc::setxattr(path.as_ptr(), name.as_ptr(), value.as_ptr().cast(), value.len(), 0)
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
