//! What a start makes of a store that a crash left.

use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::model::Image;
use crate::settings::Settings;
use crate::store::Images;
use crate::testing::{image_archive, open};

/// A store with one image of two layers, closed; its root and the image.
async fn closed(dir: &Path) -> (PathBuf, Arc<Image>) {
    let images = open(dir);
    let archive = image_archive(dir, "one", &["a", "b"]);
    let image = Arc::clone(&images.import(&archive, None).await.unwrap()[0]);
    (images.mountpoint().to_owned(), image)
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> = fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).collect();
    files.sort();
    files
}

fn is_whole(images: &Images, image: &Image) -> bool {
    let found = images.find("example.org/one:1").unwrap();
    found.is_some_and(|found| *found == *image && found.layers.iter().all(|l| l.path.join("dir").is_dir()))
}

/// Nothing on disk that no image needs, and nothing temporary.
fn is_clean(root: &Path, images: &Images) -> bool {
    images.collect();
    let whole = images.list();
    let layers: usize = whole.iter().map(|i| i.layers.len()).sum();
    let blobs: usize = whole.iter().map(|i| i.layers.len() + 2).sum();
    files(&root.join("ingest")).is_empty()
        && files(&root.join("layers")).len() == layers
        && files(&root.join("blobs/sha256")).len() == blobs
        && files(&root.join("images")).len() == whole.len()
}

#[tokio::test]
async fn a_whole_store_is_whole_again() {
    let dir = tempfile::tempdir().unwrap();
    let (root, image) = closed(dir.path()).await;
    let images = Images::open(&root, Settings::default()).unwrap();
    assert!(is_whole(&images, &image) && is_clean(&root, &images));
}

/// Every file that is replaced by rename, torn at every byte: as no crash of the process leaves it, but as a
/// file system may after the power failed.
#[tokio::test]
async fn a_record_torn_at_any_byte_drops_its_image() {
    let dir = tempfile::tempdir().unwrap();
    let (root, image) = closed(dir.path()).await;
    let record = files(&root.join("images")).remove(0);
    let whole = fs::read(&record).unwrap();
    for end in 0..whole.len() {
        fs::write(&record, &whole[..end]).unwrap();
        let images = Images::open(&root, Settings::default()).unwrap();
        assert!(images.list().is_empty(), "torn at {end}");
        assert!(!record.exists());
    }
    // And what it needed was kept for the one that is whole.
    fs::write(&record, &whole).unwrap();
    let images = Images::open(&root, Settings::default()).unwrap();
    assert!(is_whole(&images, &image) && is_clean(&root, &images));
}

#[tokio::test]
async fn a_blob_torn_anywhere_drops_its_image() {
    let dir = tempfile::tempdir().unwrap();
    let (root, image) = closed(dir.path()).await;
    let record = files(&root.join("images")).remove(0);
    let kept = fs::read(&record).unwrap();
    for blob in files(&root.join("blobs/sha256")) {
        let whole = fs::read(&blob).unwrap();
        for end in (0..whole.len()).step_by(whole.len() / 7 + 1) {
            fs::write(&blob, &whole[..end]).unwrap();
            let images = Images::open(&root, Settings::default()).unwrap();
            assert!(images.list().is_empty(), "{} torn at {end}", blob.display());
            drop(images);
            fs::write(&record, &kept).unwrap();
        }
        // Gone altogether.
        fs::remove_file(&blob).unwrap();
        assert!(Images::open(&root, Settings::default()).unwrap().list().is_empty());
        fs::write(&blob, &whole).unwrap();
        fs::write(&record, &kept).unwrap();
    }
    assert!(is_whole(&Images::open(&root, Settings::default()).unwrap(), &image));
}

#[tokio::test]
async fn a_manifest_or_configuration_with_other_bytes_drops_its_image() {
    let dir = tempfile::tempdir().unwrap();
    let (root, image) = closed(dir.path()).await;
    let config = root.join("blobs/sha256").join(&image.id.0["sha256:".len()..]);
    let mut bytes = fs::read(&config).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&config, bytes).unwrap();
    let images = Images::open(&root, Settings::default()).unwrap();
    assert!(images.list().is_empty() && is_clean(&root, &images));
}

#[tokio::test]
async fn a_layer_that_is_damaged_is_unpacked_again() {
    let dir = tempfile::tempdir().unwrap();
    let (root, image) = closed(dir.path()).await;
    let home = image.layers[0].path.parent().unwrap().to_owned();
    let note = home.join("layer.json");
    let whole = fs::read(&note).unwrap();
    for end in 0..whole.len() {
        fs::write(&note, &whole[..end]).unwrap();
        assert!(is_whole(&Images::open(&root, Settings::default()).unwrap(), &image), "torn at {end}");
    }
    for damage in [
        (|home: &Path| fs::remove_dir_all(home)) as fn(&Path) -> std::io::Result<()>,
        |home| fs::remove_dir_all(home.join("fs")),
        |home| fs::remove_file(home.join("layer.json")),
        |home| fs::rename(home.join("fs"), home.join("sf")),
    ] {
        damage(&home).unwrap();
        let images = Images::open(&root, Settings::default()).unwrap();
        assert!(is_whole(&images, &image) && is_clean(&root, &images));
    }
}

#[tokio::test]
async fn a_layer_of_another_boot_counts_if_it_was_synced() {
    let dir = tempfile::tempdir().unwrap();
    let (root, image) = closed(dir.path()).await;
    let home = image.layers[0].path.parent().unwrap().to_owned();
    assert!(home.join("synced").exists(), "closing waits for the sync");
    let note = home.join("layer.json");
    let mut other: serde_json::Value = serde_json::from_slice(&fs::read(&note).unwrap()).unwrap();
    other["boot_id"] = "another".into();
    fs::write(&note, other.to_string()).unwrap();
    // A file that the power took.
    fs::write(image.layers[0].path.join("dir/a"), "").unwrap();
    assert!(is_whole(&Images::open(&root, Settings::default()).unwrap(), &image));
    assert_eq!(fs::read(image.layers[0].path.join("dir/a")).unwrap(), b"", "synced: taken as it is");
    fs::remove_file(home.join("synced")).unwrap();
    assert!(is_whole(&Images::open(&root, Settings::default()).unwrap(), &image));
    assert_eq!(fs::read(image.layers[0].path.join("dir/a")).unwrap(), b"a", "not synced: unpacked again");
}

#[tokio::test]
async fn what_is_half_made_goes() {
    let dir = tempfile::tempdir().unwrap();
    let (root, image) = closed(dir.path()).await;
    let outside = dir.path().join("outside");
    fs::create_dir_all(outside.join("kept")).unwrap();
    fs::write(root.join("ingest/sha256-00.part"), "half").unwrap();
    fs::write(root.join("ingest/.del-0"), "").unwrap();
    fs::create_dir_all(root.join("layers/.tmp-1-2/fs/deep/er")).unwrap();
    fs::create_dir_all(root.join("layers/.del-1-2/fs")).unwrap();
    fs::create_dir_all(root.join("layers/nonsense")).unwrap();
    std::os::unix::fs::symlink(&outside, root.join("layers/.tmp-link")).unwrap();
    std::os::unix::fs::symlink(&outside, root.join("layers/.del-1-2/fs/link")).unwrap();
    std::os::unix::fs::symlink(&outside, root.join("ingest/link")).unwrap();
    std::os::unix::fs::symlink(&outside, root.join("blobs/sha256").join("a".repeat(64))).unwrap();
    fs::write(root.join("blobs/sha256/nonsense"), "").unwrap();
    fs::write(root.join("images/nonsense.json"), "{}").unwrap();
    fs::write(root.join(format!("images/{}.tmp", "a".repeat(64))), "{").unwrap();
    let images = Images::open(&root, Settings::default()).unwrap();
    assert!(is_whole(&images, &image) && is_clean(&root, &images));
    assert!(outside.join("kept").exists());
}

#[tokio::test]
async fn layers_without_an_image_wait_for_the_containers() {
    let dir = tempfile::tempdir().unwrap();
    let (root, image) = closed(dir.path()).await;
    fs::remove_file(files(&root.join("images")).remove(0)).unwrap();
    let images = Images::open(&root, Settings::default()).unwrap();
    assert!(images.list().is_empty());
    assert_eq!(images.layer(&image.layers[0].id).as_ref(), Some(&image.layers[0]));
    assert!(is_clean(&root, &images));
    assert!(images.layer(&image.layers[0].id).is_none());
    assert_eq!(images.usage(), crate::Usage::default());
}

#[tokio::test]
async fn a_record_of_a_later_layout_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let (root, _) = closed(dir.path()).await;
    let record = files(&root.join("images")).remove(0);
    fs::write(&record, r#"{"version":9}"#).unwrap();
    let error = Images::open(&root, Settings::default()).unwrap_err();
    assert!(matches!(error, crate::ImageError::Version { found: 9, .. }), "{error}");
    assert!(record.exists());
}

/// The work of the process that the next test kills; nothing by itself.
#[tokio::test]
async fn imports_until_it_is_killed() {
    let Some(dir) = std::env::var_os("SANDBOXD_IMAGE_KILLED_IN").map(PathBuf::from) else { return };
    let images = open(&dir);
    for archive in ["one.tar", "two.tar"].into_iter().cycle() {
        let image = Arc::clone(&images.import(&dir.join(archive), None).await.unwrap()[0]);
        images.remove(&image.id.0).unwrap();
    }
}

#[tokio::test]
async fn a_process_killed_at_any_time_leaves_a_store_that_opens() {
    let dir = tempfile::tempdir().unwrap();
    let texts: Vec<_> = (0..40).map(|n| n.to_string()).collect();
    let layers: Vec<_> = texts.iter().map(String::as_str).collect();
    image_archive(dir.path(), "one", &layers);
    image_archive(dir.path(), "two", &layers[20..]);
    for round in 0..12 {
        let mut child = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["tests::crash::imports_until_it_is_killed", "--exact"])
            .env("SANDBOXD_IMAGE_KILLED_IN", dir.path())
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let begun = std::time::Instant::now();
        while !dir.path().join("store/images").exists() && begun.elapsed().as_secs() < 20 {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        std::thread::sleep(std::time::Duration::from_millis(20 + round * 37));
        assert_eq!(child.try_wait().unwrap(), None, "it imports without an error until it is killed");
        child.kill().unwrap();
        child.wait().unwrap();
        let images = open(dir.path());
        let root = images.mountpoint().to_owned();
        images.collect();
        for image in images.list() {
            assert!(image.layers.iter().all(|l| l.path.join("dir").is_dir()), "round {round}");
        }
        assert_eq!(images.usage(), super::life::measured(&root), "round {round}");
        assert!(files(&root.join("ingest")).is_empty(), "round {round}");
        let image = Arc::clone(&images.import(&dir.path().join("one.tar"), None).await.unwrap()[0]);
        assert_eq!(image.layers.len(), 40);
        images.list().iter().for_each(|image| images.remove(&image.id.0).unwrap());
        assert_eq!(images.usage(), crate::Usage::default());
        drop(images);
        fs::remove_dir(root.join("images")).unwrap();
    }
}

#[tokio::test]
async fn partial_files_torn_at_any_byte_do_no_harm() {
    let dir = tempfile::tempdir().unwrap();
    let (root, image) = closed(dir.path()).await;
    let blobs = files(&root.join("blobs/sha256"));
    let layer = blobs.iter().max_by_key(|b| fs::metadata(b).unwrap().len()).unwrap();
    let name = layer.file_name().unwrap().to_str().unwrap().to_owned();
    let partial = root.join(format!("ingest/sha256-{name}.part"));
    let whole = fs::read(layer).unwrap();
    for end in (0..=whole.len()).step_by(509) {
        fs::write(&partial, &whole[..end]).unwrap();
        let images = Images::open(&root, Settings::default()).unwrap();
        assert!(is_whole(&images, &image) && files(&root.join("ingest")).is_empty());
    }
    // A lock file is not the lock.
    OpenOptions::new().write(true).open(root.join("lock")).unwrap();
    Images::open(&root, Settings::default()).unwrap();
}
