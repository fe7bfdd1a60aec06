//! Where a volume lies on its disk, and where it keeps the second name of each file.

use std::{
    fs,
    io::{self, Write as _},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use super::BrickFault;

/// The folder by which a GlusterFS brick is known.
const MARK: &str = ".glusterfs";

/// The node's own folder, beside the volume's.
const STATE: &str = "reel-brick";

/// Characters of a GFID's text.
const GFID_LEN: usize = 36;

/// The folder of the volume in whose brick `path` lies, if it lies in one: it, or one above it.
///
/// # Errors
/// The path is not there.
pub fn root_of(path: &Path) -> io::Result<Option<PathBuf>> {
    let path = path.canonicalize()?;
    let root = path.ancestors().find(|folder| folder.join(MARK).is_dir());
    Ok(root.map(Path::to_path_buf))
}

/// The folder of a store's own beside a brick, made if it is not there. It must lie on the file system of the brick, so that
/// a bad copy can be taken out of it by one rename, and outside of the volume.
pub(super) fn state_folder(
    volume: &Path,
    configured: Option<&Path>,
    uuid: &str,
) -> Result<PathBuf, BrickFault> {
    let parent = match (configured, volume.parent()) {
        (Some(configured), _) => configured.to_owned(),
        (None, Some(parent)) => parent.join(STATE),
        (None, None) => return Err(BrickFault::State(volume.to_owned())),
    };
    let folder = parent.join(uuid);
    fs::create_dir_all(&folder)?;
    let same_disk = fs::metadata(&folder)?.dev() == fs::metadata(volume)?.dev();
    if !same_disk || folder.canonicalize()?.starts_with(volume) {
        return Err(BrickFault::State(parent));
    }
    let aside = aside_folder(&folder);
    if !aside.is_dir() {
        fs::create_dir(&aside)?;
    }
    Ok(folder)
}

/// Where bad copies are kept until a good one is there.
pub(super) fn aside_folder(state: &Path) -> PathBuf {
    state.join("aside")
}

/// The second name of a file in its volume, by which the bricks find it. `None`: that is no GFID.
pub(super) fn second_name(volume: &Path, gfid: &str) -> Option<PathBuf> {
    let is_gfid =
        gfid.len() == GFID_LEN && gfid.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-');
    is_gfid.then(|| volume.join(MARK).join(&gfid[..2]).join(&gfid[2..4]).join(gfid))
}

/// Writes a small file whole, or not at all.
pub(super) fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let new = path.with_extension("new");
    let mut file = fs::File::create(&new)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&new, path)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_brick_is_known_by_the_folder_of_its_volume() {
        let disk = tempfile::tempdir().unwrap();
        let volume = disk.path().canonicalize().unwrap().join("brick");
        let store = volume.join("a/store");
        fs::create_dir_all(&store).unwrap();
        assert_eq!(root_of(&store).unwrap(), None);
        fs::create_dir(volume.join(MARK)).unwrap();
        assert_eq!(root_of(&store).unwrap(), Some(volume.clone()));
        assert_eq!(root_of(&volume).unwrap(), Some(volume.clone()));
        assert!(root_of(&disk.path().join("nothing")).is_err());

        let state = state_folder(&volume, None, "uuid").unwrap();
        assert_eq!(state, volume.parent().unwrap().join("reel-brick/uuid"));
        assert!(aside_folder(&state).is_dir());
        for wrong in [volume.join("own"), PathBuf::from("/proc/self")] {
            assert!(state_folder(&volume, Some(&wrong), "uuid").is_err(), "{}", wrong.display());
        }
    }

    #[test]
    fn only_a_gfid_has_a_second_name() {
        let volume = Path::new("/b");
        let gfid = "f858577e-0f3f-424a-a067-91998cee8c9c";
        let name = second_name(volume, gfid).unwrap();
        assert_eq!(name, Path::new("/b/.glusterfs/f8/58").join(gfid));
        for none in ["", "../../../../etc/passwd", &"x".repeat(36), &gfid[1..]] {
            assert_eq!(second_name(volume, none), None, "{none}");
        }
    }
}
