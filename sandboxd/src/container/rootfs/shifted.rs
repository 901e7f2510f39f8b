//! Where a file system cannot be idmapped: the layers are copied for this container, with the ids that the pod's
//! have on the host. It works everywhere and costs the image's size and the time to copy it, for each container.

use std::io;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};

use super::{Made, RootfsError, Userns, open_dir, overlay};
use crate::container::copy::{self, Options};

/// What could not be idmapped.
pub(super) struct Refusal {
    pub path: PathBuf,
    pub fs: String,
    pub source: io::Error,
}

/// The root, made of copies of the layers in `dir`.
pub(super) fn root(
    lowers: &[&Path],
    dir: &Path,
    userns: Userns<'_>,
    refusal: &Refusal,
) -> Result<Made, RootfsError> {
    use std::os::unix::fs::MetadataExt as _;
    let (copies, warning) = copies(lowers, dir, userns, refusal)?;
    let upper = dir.join("upper");
    let failed = || RootfsError::std(format!("giving {} to the pod's root", upper.display()));
    let meta = upper.metadata().map_err(failed())?;
    let (uid, gid) = (userns.maps.host_uid(meta.uid()), userns.maps.host_gid(meta.gid()));
    std::os::unix::fs::lchown(&upper, uid, gid).map_err(failed())?;
    let copies: Vec<&Path> = copies.iter().map(PathBuf::as_path).collect();
    let mount = overlay::mount(&copies, Some(dir), dir, None)?;
    Ok(Made { mount, warnings: vec![warning] })
}

/// An image's file system, made of copies of the layers in `dir`.
pub(super) fn image(
    lowers: &[&Path],
    dir: &Path,
    userns: Userns<'_>,
    refusal: &Refusal,
) -> Result<Made, RootfsError> {
    let (copies, warning) = copies(lowers, dir, userns, refusal)?;
    let copies: Vec<&Path> = copies.iter().map(PathBuf::as_path).collect();
    let mount = overlay::mount(&copies, None, dir, None)?;
    Ok(Made { mount, warnings: vec![warning] })
}

fn copies(
    lowers: &[&Path],
    dir: &Path,
    userns: Userns<'_>,
    refusal: &Refusal,
) -> Result<(Vec<PathBuf>, String), RootfsError> {
    let options = Options { shift: Some(userns.maps), overlay: true };
    let mut copies = Vec::new();
    let mut bytes = 0;
    for (i, lower) in lowers.iter().enumerate() {
        let copy = dir.join("lowers").join(i.to_string());
        std::fs::create_dir_all(&copy).map_err(RootfsError::std(format!("making {}", copy.display())))?;
        let copied = copy::copy(open_dir(lower)?.as_fd(), open_dir(&copy)?.as_fd(), options)
            .map_err(|error| io::Error::other(format!("{error}: {}", error.source)))
            .map_err(RootfsError::std(format!("copying the layer {}", lower.display())))?;
        bytes += copied.bytes;
        copies.push(copy);
    }
    let Refusal { path, fs, source } = refusal;
    let warning = format!(
        "the file system {fs} of {} cannot be idmapped ({source}): the image was copied for this container, \
         {} MiB",
        path.display(),
        bytes >> 20
    );
    Ok((copies, warning))
}
