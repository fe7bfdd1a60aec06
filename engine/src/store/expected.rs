//! Which store belongs at a path: what the metadata remembers of earlier starts, and when that may change.
//!
//! A path whose disk is not mounted is an empty folder of another disk. A store begun there would take uploads that
//! are gone from sight with the next mount, and every file of the real store would be missing meanwhile. Only the
//! database can tell that folder from a new one: whatever marks a store lies on the disk that is not there.

use std::path::{Path, PathBuf};

use super::{api::StorePathConfig, identity::IdentityError, open::OpenError, path::StorePath};
use crate::metadata::{Metadata, RowError, StorePlace, wait};

/// What may lie at a store path.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Expected {
    /// Uuid of the store that the node had there. `None`: whatever lies there is believed, a new one is made.
    pub uuid: Option<String>,
    /// Uuid of the store whose place another one may take.
    pub replaced: Option<String>,
}

impl Expected {
    /// What the metadata and the configuration say of a path.
    pub(super) fn read(
        metadata: &Metadata,
        place: &StorePlace,
        path: &StorePathConfig,
    ) -> Result<Self, OpenError> {
        let expected = wait(metadata.expected_store(place.clone()))
            .map_err(refused(&path.path, "asking which store belongs here"))?;
        Ok(Self { uuid: expected.map(|store| store.uuid), replaced: path.replaced.clone() })
    }

    /// Whether the store `found` at `folder`, or a new one where there is none, may be opened. Looks at nothing and
    /// changes nothing.
    pub(super) fn check(&self, folder: &Path, found: Option<&str>) -> Result<(), IdentityError> {
        let Some(expected) = &self.uuid else { return Ok(()) };
        match found {
            Some(found) if found == expected => Ok(()),
            _ if self.replaced.as_ref() == Some(expected) => {
                tracing::warn!(path = %folder.display(), expected, found,
                    "another store begins in the place of the one that was here, as configured");
                Ok(())
            }
            None => {
                let (path, uuid) = (folder.to_owned(), expected.clone());
                Err(IdentityError::Missing { path, uuid })
            }
            Some(found) => {
                let (path, uuid) = (folder.to_owned(), expected.clone());
                Err(IdentityError::Another { path, uuid, found: found.to_owned() })
            }
        }
    }
}

/// The name of a store path in the metadata: absolute, without a slash at its end, links not followed (the folder may
/// not be there).
pub(super) fn place(node: &str, folder: &Path) -> Result<StorePlace, OpenError> {
    let absolute = std::path::absolute(folder).map_err(|error| OpenError::Disk {
        path: folder.to_owned(),
        doing: "making the path absolute",
        error,
    })?;
    let path = absolute.components().collect::<PathBuf>().into_os_string().into_string();
    let path = path.map_err(|_| OpenError::PathText { path: folder.to_owned() })?;
    Ok(StorePlace { node: node.to_owned(), path })
}

/// From now on `store` belongs there. A crash before this leaves a store that nothing expects, which the next start
/// believes.
pub(super) fn remember(
    metadata: &Metadata,
    place: StorePlace,
    store: &StorePath,
    now: u64,
) -> Result<(), OpenError> {
    wait(metadata.expect_store(place, store.identity.uuid.clone(), now))
        .map_err(refused(&store.folder, "writing down which store belongs here"))
}

fn refused(folder: &Path, doing: &'static str) -> impl FnOnce(RowError) -> OpenError {
    let path = folder.to_owned();
    move |error| OpenError::Metadata { path, doing, error }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn one_folder_has_one_name() {
        let of = |text: &str| place("node", Path::new(text)).unwrap().path;
        assert_eq!(of("/srv/one/"), "/srv/one");
        assert_eq!(of("/srv//./one"), "/srv/one");
        let here = std::env::current_dir().unwrap();
        assert_eq!(of("one"), here.join("one").to_str().unwrap());
    }

    #[test]
    fn a_path_that_no_database_can_name_is_refused() {
        use std::os::unix::ffi::OsStrExt as _;
        let path = Path::new(std::ffi::OsStr::from_bytes(b"/srv/\xFF"));
        assert!(matches!(place("node", path), Err(OpenError::PathText { .. })));
    }
}
