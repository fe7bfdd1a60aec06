//! Who a store is: `.reel/store.toml` with its uuid, format version, id key and group, made once and then believed.
//!
//! Every node that mounts the same volume reads the same file, so all draw path ids from one sequence, whatever
//! their mount point is called.

use std::{
    fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use reel_proto::name::GroupName;
use serde::{Deserialize, Serialize};

use super::adoption;
pub use super::expected::Expected;

/// Our folder below a store's root.
pub const FOLDER: &str = ".reel";

/// Doubtful files are moved here, never removed.
pub const QUARANTINE: &str = ".reel/quarantine";

/// Longest id key: the ID node's column is that wide.
pub const ID_KEY_LEN_MAX: usize = 64;

/// The format of what this version writes.
pub const FORMAT: u32 = 1;

const FILE: &str = ".reel/store.toml";

/// The content of `store.toml`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Identity {
    /// Format of everything below the store's root.
    pub format: u32,
    /// Names the store for ever.
    pub uuid: String,
    /// Its key at the ID node, and the first part of `file_path` in its rows.
    pub id_key: String,
    /// The group whose files it holds.
    pub group: String,
}

/// Why a store's identity is not accepted.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// A file or folder could not be read or made.
    #[error("{path}: {error}")]
    Io {
        /// Which.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// Not a file that we wrote.
    #[error("{path}: {text}")]
    Syntax {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        text: String,
    },
    /// Made by a newer version.
    #[error("{path}: format {found}, this version knows {FORMAT}")]
    Format {
        /// The file.
        path: PathBuf,
        /// The format found.
        found: u32,
    },
    /// The store was made for another group.
    #[error("{path}: the store belongs to group {found}, this node to {wanted}")]
    Group {
        /// The file.
        path: PathBuf,
        /// The store's group.
        found: String,
        /// The node's group.
        wanted: String,
    },
    /// The configuration names another id key than the store has.
    #[error("{path}: the store's id key is {found:?}, configured is {wanted:?}")]
    IdKey {
        /// The file.
        path: PathBuf,
        /// The store's key.
        found: String,
        /// The configured key.
        wanted: String,
    },
    /// The node had a store here, and there is none: most often an empty folder under a disk that is not mounted.
    #[error(
        "{}: store {uuid} belongs here, and there is none: is its disk mounted? If it is gone for good, \
         `replaced = \"{uuid}\"` in this [[store_path]] begins an empty store in its place",
        path.display()
    )]
    Missing {
        /// The store path.
        path: PathBuf,
        /// Uuid of the store that the node had there.
        uuid: String,
    },
    /// The node had another store here.
    #[error(
        "{}: store {uuid} belongs here, and store {found} is found: is the right disk mounted? If {uuid} is gone \
         for good, `replaced = \"{uuid}\"` in this [[store_path]] lets {found} take its place",
        path.display()
    )]
    Another {
        /// The store path.
        path: PathBuf,
        /// Uuid of the store that the node had there.
        uuid: String,
        /// Uuid of the one that is there.
        found: String,
    },
    /// Not a key that the ID node can hold.
    #[error("an id key has 1 to {ID_KEY_LEN_MAX} bytes and no control characters: {0:?}")]
    BadIdKey(String),
}

/// Reads the identity of the store at `folder`, or makes one. Durable on return.
///
/// # Errors
/// See [`IdentityError`]. Nothing is changed where an identity exists, and nothing is made where another store, or
/// none, lies than is `expected`.
pub fn open(
    folder: &Path,
    group: &GroupName,
    id_key: Option<&str>,
    expected: &Expected,
) -> Result<Identity, IdentityError> {
    if let Some(key) = id_key {
        check_key(key)?;
    }
    let path = folder.join(FILE);
    let found = find(&path)?;
    // Before anything is made: the folder may be one of another disk.
    expected.check(folder, found.as_ref().map(|identity| identity.uuid.as_str()))?;
    let ours = folder.join(FOLDER);
    for made in [folder, &ours, &folder.join(super::mark::FOLDER), &folder.join(QUARANTINE)] {
        fs::create_dir_all(made).map_err(|error| at(made, error))?;
    }
    let identity = match found {
        Some(identity) => identity,
        None => {
            adoption::begin(folder).map_err(|error| at(folder, error))?;
            make(&path, folder, group, id_key)?
        }
    };
    if identity.group != group.as_str() {
        let wanted = group.as_str().to_owned();
        return Err(IdentityError::Group { path, found: identity.group, wanted });
    }
    match id_key {
        Some(wanted) if wanted != identity.id_key => {
            let wanted = wanted.to_owned();
            Err(IdentityError::IdKey { path, found: identity.id_key, wanted })
        }
        _ => Ok(identity),
    }
}

fn find(path: &Path) -> Result<Option<Identity>, IdentityError> {
    match fs::read_to_string(path) {
        Ok(text) => parse(path, &text).map(Some),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(at(path, error)),
    }
}

/// Reads an identity that must exist, whatever its group: for the tools that work on a store at rest.
///
/// # Errors
/// See [`IdentityError`].
pub fn read(folder: &Path) -> Result<Identity, IdentityError> {
    let path = folder.join(FILE);
    let text = fs::read_to_string(&path).map_err(|error| at(&path, error))?;
    parse(&path, &text)
}

fn parse(path: &Path, text: &str) -> Result<Identity, IdentityError> {
    // The format first: a newer one may well have fields that this version does not know.
    #[derive(Deserialize)]
    struct Versioned {
        format: u32,
    }
    let syntax = |error: toml::de::Error| IdentityError::Syntax {
        path: path.to_owned(),
        text: error.to_string(),
    };
    let versioned: Versioned = toml::from_str(text).map_err(syntax)?;
    if versioned.format != FORMAT {
        return Err(IdentityError::Format { path: path.to_owned(), found: versioned.format });
    }
    let identity: Identity = toml::from_str(text).map_err(syntax)?;
    check_key(&identity.id_key)?;
    Ok(identity)
}

/// Two nodes may meet here on a shared volume: the one whose link comes first wins, and the other reads its file.
fn make(
    path: &Path,
    folder: &Path,
    group: &GroupName,
    id_key: Option<&str>,
) -> Result<Identity, IdentityError> {
    let uuid = new_uuid().map_err(|error| at(path, error))?;
    let id_key = match id_key {
        Some(key) => key.to_owned(),
        None => default_key(folder, &uuid),
    };
    let identity = Identity { format: FORMAT, uuid, id_key, group: group.as_str().to_owned() };
    let text = toml::to_string(&identity).map_err(|error| IdentityError::Syntax {
        path: path.to_owned(),
        text: error.to_string(),
    })?;
    let temporary = folder.join(format!("{FOLDER}/store-{}.new", identity.uuid));
    let written = fs::File::create_new(&temporary).and_then(|mut file| {
        file.write_all(text.as_bytes())?;
        file.sync_all()
    });
    written.map_err(|error| at(&temporary, error))?;
    let linked = fs::hard_link(&temporary, path);
    fs::remove_file(&temporary).map_err(|error| at(&temporary, error))?;
    match linked {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let text = fs::read_to_string(path).map_err(|error| at(path, error))?;
            return parse(path, &text);
        }
        Err(error) => return Err(at(path, error)),
    }
    // The file: on a mount its sync is what makes its names durable.
    for synced in [path, &folder.join(FOLDER), folder] {
        let done = fs::File::open(synced).and_then(|file| file.sync_all());
        done.map_err(|error| at(synced, error))?;
    }
    Ok(identity)
}

fn default_key(folder: &Path, uuid: &str) -> String {
    match folder.to_str() {
        Some(text) if check_key(text).is_ok() => text.trim_end_matches('/').to_owned(),
        _ => format!("store-{uuid}"),
    }
}

fn check_key(key: &str) -> Result<(), IdentityError> {
    let trimmed = key.trim_end_matches('/');
    if trimmed.is_empty() || key.len() > ID_KEY_LEN_MAX || key.chars().any(char::is_control) {
        return Err(IdentityError::BadIdKey(key.to_owned()));
    }
    Ok(())
}

/// A random (version 4) uuid.
fn new_uuid() -> io::Result<String> {
    let mut bytes = [0_u8; 16];
    getrandom::fill(&mut bytes).map_err(io::Error::other)?;
    bytes[6] = bytes[6] & 0x0F | 0x40;
    bytes[8] = bytes[8] & 0x3F | 0x80;
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    Ok([&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-"))
}

fn at(path: &Path, error: io::Error) -> IdentityError {
    IdentityError::Io { path: path.to_owned(), error }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn open(
        folder: &Path,
        group: &GroupName,
        id_key: Option<&str>,
    ) -> Result<Identity, IdentityError> {
        super::open(folder, group, id_key, &Expected::default())
    }

    fn group(name: &str) -> GroupName {
        GroupName::parse(name).unwrap()
    }

    #[test]
    fn made_once_then_read() {
        let place = tempfile::tempdir().unwrap();
        let first = open(place.path(), &group("group001"), None).unwrap();
        assert_eq!(first.id_key, place.path().to_str().unwrap());
        assert_eq!(first.uuid.len(), 36);
        assert_eq!(open(place.path(), &group("group001"), None).unwrap(), first);
        assert_eq!(read(place.path()).unwrap(), first);
    }

    #[test]
    fn a_store_seen_under_another_name_keeps_its_key() {
        let place = tempfile::tempdir().unwrap();
        let (before, after) = (place.path().join("before"), place.path().join("after"));
        let first = open(&before, &group("g"), None).unwrap();
        fs::rename(&before, &after).unwrap();
        assert_eq!(open(&after, &group("g"), None).unwrap(), first);
    }

    #[test]
    fn a_long_path_gets_a_generated_key() {
        let place = tempfile::tempdir().unwrap();
        let long = place.path().join("x".repeat(80));
        let identity = open(&long, &group("g"), None).unwrap();
        assert_eq!(identity.id_key, format!("store-{}", identity.uuid));
        assert!(identity.id_key.len() <= ID_KEY_LEN_MAX);
    }

    #[test]
    fn what_disagrees_refuses_to_open() {
        let place = tempfile::tempdir().unwrap();
        open(place.path(), &group("one"), Some("../data")).unwrap();
        let refused = |name, key| open(place.path(), &group(name), key).unwrap_err();
        assert!(matches!(refused("two", None), IdentityError::Group { .. }));
        assert!(matches!(refused("one", Some("other")), IdentityError::IdKey { .. }));
        assert!(matches!(refused("one", Some("")), IdentityError::BadIdKey(_)));
        let file = place.path().join(FILE);
        let text = fs::read_to_string(&file).unwrap();
        fs::write(&file, text.replace("format = 1", "format = 2\nnew = true")).unwrap();
        assert!(matches!(refused("one", None), IdentityError::Format { found: 2, .. }));
        fs::write(&file, "nonsense").unwrap();
        assert!(matches!(refused("one", None), IdentityError::Syntax { .. }));
    }

    #[test]
    fn an_empty_folder_in_the_place_of_a_store_is_refused_and_left_as_it_is() {
        let place = tempfile::tempdir().unwrap();
        let expecting = |uuid: &str, replaced: &str| Expected {
            uuid: Some(uuid.to_owned()),
            replaced: Some(replaced.to_owned()),
        };
        for folder in [place.path().to_owned(), place.path().join("not there")] {
            let refused = super::open(&folder, &group("g"), None, &expecting("old", "older"));
            let error = refused.unwrap_err();
            assert!(matches!(&error, IdentityError::Missing { uuid, .. } if uuid == "old"));
            let text = error.to_string();
            for told in [folder.to_str().unwrap(), "store old", "mounted?", "replaced = \"old\""] {
                assert!(text.contains(told), "{told:?} is not in {text:?}");
            }
            assert_eq!(fs::read_dir(place.path()).unwrap().count(), 0);
        }
        let begun = super::open(place.path(), &group("g"), None, &expecting("old", "old")).unwrap();
        let again = super::open(place.path(), &group("g"), None, &expecting(&begun.uuid, "old"));
        assert_eq!(again.unwrap(), begun);
    }

    #[test]
    fn another_store_than_the_expected_one_is_refused() {
        let place = tempfile::tempdir().unwrap();
        let found = open(place.path(), &group("g"), None).unwrap();
        let expecting = |replaced: &str| Expected {
            uuid: Some("old".to_owned()),
            replaced: Some(replaced.to_owned()),
        };
        let error = super::open(place.path(), &group("g"), None, &expecting("older")).unwrap_err();
        assert!(matches!(&error, IdentityError::Another { .. }), "{error}");
        let text = error.to_string();
        assert!(text.contains("store old") && text.contains(&found.uuid), "{text}");
        let taken = super::open(place.path(), &group("g"), None, &expecting("old")).unwrap();
        assert_eq!(taken, found);
    }
}
