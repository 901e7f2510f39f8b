//! Images come, are found, share, are held, and go.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use crate::content::Digest;
use crate::error::ImageError;
use crate::ingest::{Names, Slot};
use crate::manifest::Descriptor;
use crate::model::{Image, LayerId};
use crate::settings::{Limits, Settings, Usage};
use crate::store::Images;
use crate::testing::{image_archive, layer_tar, open};

async fn import(images: &Arc<Images>, dir: &Path, name: &str, layers: &[&str]) -> Arc<Image> {
    let archive = image_archive(dir, name, layers);
    Arc::clone(&images.import(&archive, None).await.unwrap()[0])
}

/// What the store's directories really take.
pub(super) fn measured(root: &Path) -> Usage {
    fn walk(path: &Path, usage: &mut Usage) {
        let stat = fs::symlink_metadata(path).unwrap();
        usage.bytes += if stat.is_dir() { 4096 } else { stat.len().next_multiple_of(4096) };
        usage.inodes += 1;
        if stat.is_dir() {
            // The mark of a sync is empty and not worth counting. It may come at any time.
            let entries = fs::read_dir(path).unwrap().map(|entry| entry.unwrap());
            entries
                .filter(|entry| entry.file_name() != "synced")
                .for_each(|entry| walk(&entry.path(), usage));
        }
    }
    let mut usage = Usage::default();
    for dir in ["blobs/sha256", "blobs/sha512", "layers"] {
        for entry in fs::read_dir(root.join(dir)).unwrap() {
            walk(&entry.unwrap().path(), &mut usage);
        }
    }
    usage
}

fn names_in(path: &Path) -> usize {
    fs::read_dir(path).unwrap().count()
}

/// Partial files; what is being deleted may still be there.
fn parts(path: &Path) -> usize {
    let part = |e: &fs::DirEntry| e.path().extension().is_some_and(|x| x == "part");
    fs::read_dir(path).unwrap().filter(|e| part(e.as_ref().unwrap())).count()
}

#[tokio::test]
async fn found_by_all_its_names() {
    let dir = tempfile::tempdir().unwrap();
    let images = open(dir.path());
    let image = import(&images, dir.path(), "one", &["a"]).await;
    let hex = image.id.0.strip_prefix("sha256:").unwrap();
    let manifest = images.manifest_of(&image.id).unwrap();
    let digests = vec![format!("docker.io/library/box@{manifest}")];
    let names = Names { tags: vec!["docker.io/library/box:latest".into()], digests };
    images.name(&image.id, &names).unwrap();
    let by_digest = format!("box@{manifest}");
    let by_both = format!("box:any@{manifest}");
    let manifest = manifest.to_string();
    let fits = [&image.id.0, hex, &hex[..3], &hex[..40], "box", "docker.io/box:latest", "example.org/one:1"];
    for reference in fits.into_iter().chain([by_digest.as_str(), &by_both, &manifest]) {
        assert_eq!(images.find(reference).unwrap().unwrap().id, image.id, "{reference}");
    }
    for reference in ["", "example.org/one", "box:2", &hex[..2], "sha256:", "nothing", "a b", "../x"] {
        assert_eq!(images.find(reference).unwrap(), None, "{reference}");
    }
}

#[tokio::test]
async fn the_beginning_of_two_ids_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let images = open(dir.path());
    let mut seen: std::collections::HashMap<String, String> = std::collections::HashMap::new();
    // Among 4,096 beginnings of three digits a pair comes soon: two configurations are enough when searched for.
    let (first, second) = (0..)
        .find_map(|n: u32| {
            let name = format!("n{n}");
            let archive = crate::testing::config_of(&name, &["a"]);
            let prefix = Digest::of(archive.as_bytes()).hex()[..3].to_owned();
            seen.insert(prefix, name.clone()).map(|other| (other, name))
        })
        .unwrap();
    let one = import(&images, dir.path(), &first, &["a"]).await;
    let two = import(&images, dir.path(), &second, &["a"]).await;
    let prefix = &one.id.0["sha256:".len()..][..3];
    assert_ne!(one.id, two.id);
    let error = images.find(prefix).unwrap_err();
    assert!(matches!(error, ImageError::Ambiguous { .. }), "{error}");
    assert!(images.remove(prefix).is_err());
    assert_eq!(images.list().len(), 2);
}

#[tokio::test]
async fn shared_layers_stay_until_the_last_image_goes() {
    let dir = tempfile::tempdir().unwrap();
    let images = open(dir.path());
    let root = images.mountpoint().to_owned();
    let one = import(&images, dir.path(), "one", &["a", "b"]).await;
    let two = import(&images, dir.path(), "two", &["a", "c"]).await;
    assert_eq!(one.layers[0], two.layers[0]);
    assert_eq!(images.usage(), measured(&root));
    images.remove("example.org/one:1").unwrap();
    assert!(one.layers[0].path.exists() && !one.layers[1].path.exists());
    assert_eq!(images.usage(), measured(&root));
    images.remove("example.org/one:1").unwrap();
    images.remove(&one.id.0).unwrap();
    images.remove(&two.id.0[..20]).unwrap();
    assert_eq!(images.usage(), Usage::default());
    for dir in ["blobs/sha256", "layers", "ingest", "images"] {
        assert_eq!(names_in(&root.join(dir)), 0, "{dir}");
    }
}

#[tokio::test]
async fn held_layers_stay_and_go_with_the_hold() {
    let dir = tempfile::tempdir().unwrap();
    let images = open(dir.path());
    let image = import(&images, dir.path(), "one", &["a", "b"]).await;
    let hold = images.hold(&[image.layers[0].id.clone(), image.layers[0].id.clone()]).unwrap();
    let second = images.hold(&[image.layers[0].id.clone()]).unwrap();
    images.remove("example.org/one:1").unwrap();
    assert!(images.list().is_empty());
    assert!(image.layers[0].path.exists() && !image.layers[1].path.exists());
    let error = images.hold(&[image.layers[0].id.clone(), image.layers[1].id.clone()]).unwrap_err();
    assert!(matches!(&error, ImageError::NoLayer(id) if *id == image.layers[1].id), "{error}");
    drop(hold);
    assert!(image.layers[0].path.exists());
    drop(second);
    assert!(!image.layers[0].path.exists());
    assert_eq!(images.usage(), Usage::default());
}

#[tokio::test]
async fn holds_are_taken_again_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let images = open(dir.path());
    let image = import(&images, dir.path(), "one", &["a", "b"]).await;
    let (used, unused) = (&image.layers[0], &image.layers[1]);
    let hold = images.hold(&[used.id.clone(), unused.id.clone()]).unwrap();
    images.remove("example.org/one:1").unwrap();
    // A daemon that is killed drops nothing.
    let root = images.mountpoint().to_owned();
    std::mem::forget(hold);
    let again = reopen(images, &root);
    assert!(used.path.exists() && unused.path.exists());
    let hold = again.hold(std::slice::from_ref(&used.id)).unwrap();
    again.collect();
    assert!(used.path.exists() && !unused.path.exists());
    drop(hold);
    assert!(!used.path.exists());
}

/// Opens a store again whose first opening never ends.
fn reopen(images: Arc<Images>, root: &Path) -> Arc<Images> {
    std::mem::forget(images);
    // The lock is the file's: another file, another lock.
    fs::remove_file(root.join("lock")).unwrap();
    Images::open(root, Settings::default()).unwrap()
}

#[tokio::test]
async fn a_tag_moves_and_is_where_it_was_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let images = open(dir.path());
    let old = import(&images, dir.path(), "one", &["a"]).await;
    let new = import(&images, dir.path(), "one", &["b"]).await;
    let check = |images: &Arc<Images>| {
        assert_eq!(images.find("example.org/one:1").unwrap().unwrap().id, new.id);
        let old = images.find(&old.id.0).unwrap().unwrap();
        assert!(old.repo_tags.is_empty());
        assert_eq!(images.list().len(), 2);
    };
    check(&images);
    let root = images.mountpoint().to_owned();
    drop(images);
    check(&Images::open(&root, Settings::default()).unwrap());
}

#[tokio::test]
async fn a_tag_that_two_records_have_is_the_later_ones() {
    let dir = tempfile::tempdir().unwrap();
    let images = open(dir.path());
    let root = images.mountpoint().to_owned();
    let old = import(&images, dir.path(), "one", &["a"]).await;
    let record = root.join(format!("images/{}.json", &old.id.0["sha256:".len()..]));
    let before = fs::read(&record).unwrap();
    let new = import(&images, dir.path(), "one", &["b"]).await;
    drop(images);
    // Killed between the two records.
    fs::write(&record, before).unwrap();
    for _ in 0..2 {
        let images = Images::open(&root, Settings::default()).unwrap();
        assert_eq!(images.find("example.org/one:1").unwrap().unwrap().id, new.id);
        assert!(images.find(&old.id.0).unwrap().unwrap().repo_tags.is_empty());
    }
}

#[tokio::test]
async fn an_image_keeps_its_names_when_it_comes_again() {
    let dir = tempfile::tempdir().unwrap();
    let images = open(dir.path());
    let image = import(&images, dir.path(), "one", &["a"]).await;
    images.name(&image.id, &Names { tags: vec!["example.org/also:2".into()], digests: Vec::new() }).unwrap();
    let again = import(&images, dir.path(), "one", &["a"]).await;
    assert_eq!(again.repo_tags, ["example.org/also:2", "example.org/one:1"]);
    let before = images.usage();
    assert_eq!(before, measured(images.mountpoint()));
    images.remove("example.org/also:2").unwrap();
    assert!(images.list().is_empty() && images.find("example.org/one:1").unwrap().is_none());
}

#[tokio::test]
async fn pinned_by_the_settings() {
    let dir = tempfile::tempdir().unwrap();
    let settings = Settings { pinned: vec!["example.org/one:1".into()], ..Settings::default() };
    let images = Images::open(&dir.path().join("store"), settings).unwrap();
    assert!(import(&images, dir.path(), "one", &["a"]).await.pinned);
    assert!(!import(&images, dir.path(), "two", &["a"]).await.pinned);
    // Pinned is a word to garbage collection; who asks for its removal means it.
    images.remove("example.org/one:1").unwrap();
}

#[tokio::test]
async fn the_same_layer_twice_and_none_at_all() {
    let dir = tempfile::tempdir().unwrap();
    let images = open(dir.path());
    let image = import(&images, dir.path(), "twice", &["a", "a"]).await;
    assert_eq!(image.layers[0], image.layers[1]);
    let empty = import(&images, dir.path(), "none", &[]).await;
    assert!(empty.layers.is_empty());
    images.remove(&image.id.0).unwrap();
    images.remove(&empty.id.0).unwrap();
    assert_eq!(images.usage(), Usage::default());
}

#[tokio::test]
async fn a_store_is_opened_once() {
    let dir = tempfile::tempdir().unwrap();
    let images = open(dir.path());
    let root = images.mountpoint().to_owned();
    assert!(matches!(Images::open(&root, Settings::default()), Err(ImageError::Locked { .. })));
    drop(images);
    Images::open(&root, Settings::default()).unwrap();
}

fn descriptor(bytes: &[u8]) -> Descriptor {
    Descriptor::new("application/vnd.oci.image.layer.v1.tar", Digest::of(bytes), bytes.len() as u64)
}

async fn missing(ingest: &crate::Ingest, blob: &Descriptor) -> Box<crate::BlobWriter> {
    match ingest.blob(blob).await.unwrap() {
        Slot::Missing(writer) => writer,
        Slot::Present => panic!("present"),
    }
}

#[tokio::test]
async fn blobs_are_resumed_within_an_ingest_and_gone_after_it() {
    let dir = tempfile::tempdir().unwrap();
    let images = open(dir.path());
    let partials = images.mountpoint().join("ingest");
    let bytes = b"0123456789";
    let blob = descriptor(bytes);
    let ingest = images.begin();
    let mut writer = missing(&ingest, &blob).await;
    writer.write(&bytes[..4]).unwrap();
    let error = writer.commit().await.unwrap_err();
    assert!(matches!(error, ImageError::Size { expected: 10, got: 4, .. }), "{error}");
    let mut writer = missing(&ingest, &blob).await;
    assert_eq!(writer.offset(), 4);
    let error = writer.write(&bytes[..7]).unwrap_err();
    assert!(matches!(error, ImageError::Size { expected: 10, got: 11, .. }), "{error}");
    writer.write(&bytes[4..]).unwrap();
    writer.commit().await.unwrap();
    assert!(images.has_blob(&blob.digest));
    assert!(matches!(ingest.blob(&blob).await.unwrap(), Slot::Present));
    // Nobody committed an image.
    let other = descriptor(b"other");
    let mut writer = missing(&ingest, &other).await;
    writer.write(b"oth").unwrap();
    drop(writer);
    assert_eq!(parts(&partials), 1);
    drop(ingest);
    assert_eq!(parts(&partials), 0);
    assert!(!images.has_blob(&blob.digest));
    assert_eq!(images.usage(), Usage::default());
}

#[tokio::test]
async fn a_writer_that_outlives_its_ingest_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let images = open(dir.path());
    let ingest = images.begin();
    let mut writer = missing(&ingest, &descriptor(b"0123456789")).await;
    writer.write(b"01").unwrap();
    drop(ingest);
    drop(writer);
    assert_eq!(parts(&images.mountpoint().join("ingest")), 0);
}

#[tokio::test]
async fn bytes_of_another_digest_are_refused_and_not_resumed() {
    let dir = tempfile::tempdir().unwrap();
    let images = open(dir.path());
    let ingest = images.begin();
    let blob = descriptor(b"right");
    let mut writer = missing(&ingest, &blob).await;
    writer.write(b"wrong").unwrap();
    let error = writer.commit().await.unwrap_err();
    assert!(matches!(error, ImageError::Mismatch { .. }), "{error}");
    let mut writer = missing(&ingest, &blob).await;
    assert_eq!(writer.offset(), 0);
    writer.write(b"rig").unwrap();
    writer.restart().unwrap();
    writer.write(b"right").unwrap();
    writer.commit().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_pull_that_failed_is_gone_on_with_for_a_while() {
    let dir = tempfile::tempdir().unwrap();
    let images = open(dir.path());
    let partials = images.mountpoint().join("ingest");
    let (done, half) = (descriptor(b"done"), descriptor(b"0123456789"));
    let ingest = images.begin();
    ingest.bytes("", &done.digest, b"done").await.unwrap();
    missing(&ingest, &half).await.write(b"0123").unwrap();
    ingest.keep_for_retry();
    drop(ingest);
    tokio::time::sleep(images.settings.retry_window / 2).await;
    let again = images.begin();
    assert!(matches!(again.blob(&done).await.unwrap(), Slot::Present));
    assert_eq!(missing(&again, &half).await.offset(), 4);
    again.keep_for_retry();
    drop(again);
    tokio::time::sleep(images.settings.retry_window * 2).await;
    assert_eq!(parts(&partials), 0);
    assert!(!images.has_blob(&done.digest));
}

#[tokio::test]
async fn a_blob_that_the_disk_changed_comes_again() {
    let dir = tempfile::tempdir().unwrap();
    let images = open(dir.path());
    let image = import(&images, dir.path(), "one", &["a"]).await;
    let blob = images.mountpoint().join("blobs/sha256").join(&image.layers[0].id.0["sha256:".len()..]);
    let hold = images.begin();
    let digest: Digest = image.layers[0].id.0.parse().unwrap();
    hold.keep(&digest).unwrap();
    images.remove(&image.id.0).unwrap();
    let mut bytes = fs::read(&blob).unwrap();
    bytes[600] ^= 1;
    fs::write(&blob, bytes).unwrap();
    let archive = dir.path().join("one.tar");
    let error = images.import(&archive, None).await.unwrap_err();
    assert!(matches!(error, ImageError::Mismatch { .. }), "{error}");
    assert!(!images.has_blob(&digest));
    images.import(&archive, None).await.unwrap();
    drop(hold);
    assert!(images.has_blob(&digest));
    assert_eq!(images.usage(), measured(images.mountpoint()));
    images.remove("example.org/one:1").unwrap();
    assert_eq!(images.usage(), Usage::default());
}

#[tokio::test]
async fn too_large_or_of_another_size() {
    let dir = tempfile::tempdir().unwrap();
    let limits = Limits { max_blob: 10, ..Limits::default() };
    let images = Images::open(&dir.path().join("store"), Settings { limits, ..Settings::default() }).unwrap();
    let ingest = images.begin();
    let error = ingest.blob(&descriptor(&[0; 11])).await.unwrap_err();
    assert!(matches!(error, ImageError::TooLarge { size: 11, limit: 10, .. }), "{error}");
    let blob = descriptor(b"abc");
    let mut writer = missing(&ingest, &blob).await;
    writer.write(b"abc").unwrap();
    writer.commit().await.unwrap();
    let error = ingest.blob(&Descriptor { size: 4, ..blob }).await.unwrap_err();
    assert!(matches!(error, ImageError::Size { expected: 4, got: 3, .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_ingests_of_the_same_blob_write_it_once() {
    let dir = tempfile::tempdir().unwrap();
    let images = open(dir.path());
    let tar = layer_tar("shared");
    let blob = descriptor(&tar);
    let (one, two) = (images.begin(), images.begin());
    let mut writer = missing(&one, &blob).await;
    let waiting = {
        let (two, blob) = (two.clone(), blob.clone());
        tokio::spawn(async move { matches!(two.blob(&blob).await.unwrap(), Slot::Present) })
    };
    tokio::task::yield_now().await;
    writer.write(&tar).unwrap();
    assert!(!waiting.is_finished());
    writer.commit().await.unwrap();
    assert!(waiting.await.unwrap());
    let diff_id = LayerId(blob.digest.to_string());
    let (a, b) = tokio::join!(one.unpack_layer(&blob, &diff_id), two.unpack_layer(&blob, &diff_id));
    assert_eq!(a.unwrap(), b.unwrap());
    drop(one);
    assert!(images.has_blob(&blob.digest) && images.layer(&diff_id).is_some());
    drop(two);
    assert!(!images.has_blob(&blob.digest) && images.layer(&diff_id).is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unpack_that_is_dropped_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let images = open(dir.path());
    let mut tar = crate::tar::testing::Tar::default();
    for n in 0..20_000 {
        tar = tar.file(&format!("f{n}"), b"x");
    }
    let tar = tar.end();
    let blob = descriptor(&tar);
    let diff_id = LayerId(blob.digest.to_string());
    let ingest = images.begin();
    let mut writer = missing(&ingest, &blob).await;
    writer.write(&tar).unwrap();
    writer.commit().await.unwrap();
    let brief = std::time::Duration::from_millis(20);
    let unpacked = tokio::time::timeout(brief, ingest.unpack_layer(&blob, &diff_id)).await;
    assert!(unpacked.is_err(), "too fast to be called off");
    drop(ingest);
    let layers = images.mountpoint().join("layers");
    let begun = std::time::Instant::now();
    while names_in(&layers) > 0 || images.has_blob(&blob.digest) {
        assert!(begun.elapsed().as_secs() < 20, "{:?}", fs::read_dir(&layers).unwrap().collect::<Vec<_>>());
        tokio::time::sleep(brief).await;
    }
    assert_eq!(images.usage(), Usage::default());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_at_once_leave_the_books_right() {
    let dir = tempfile::tempdir().unwrap();
    let images = open(dir.path());
    let texts = ["a", "b", "c", "d"];
    let archives: Vec<_> =
        (0..4).map(|n| image_archive(dir.path(), &format!("i{n}"), &texts[..=n])).collect();
    let mut tasks = tokio::task::JoinSet::new();
    for task in 0..6 {
        let (images, archives) = (Arc::clone(&images), archives.clone());
        tasks.spawn(async move {
            for round in 0..12 {
                let n = (task * 7 + round * 5) % 4;
                let image = Arc::clone(&images.import(&archives[n], None).await.unwrap()[0]);
                let ids: Vec<_> = image.layers.iter().map(|l| l.id.clone()).collect();
                // Another task may have removed it just now; a hold that was given holds.
                let hold = images.hold(&ids);
                let images = Arc::clone(&images);
                tokio::task::spawn_blocking(move || images.remove(&image.id.0).unwrap()).await.unwrap();
                if let Ok(hold) = hold {
                    tokio::task::yield_now().await;
                    assert_eq!(hold.layers().count(), ids.len());
                }
            }
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    assert!(images.list().is_empty());
    assert_eq!(images.usage(), Usage::default());
    let root = images.mountpoint().to_owned();
    drop(images);
    for dir in ["blobs/sha256", "layers", "ingest", "images"] {
        assert_eq!(names_in(&root.join(dir)), 0, "{dir}");
    }
}

#[tokio::test]
async fn layers_of_no_tar_and_images_that_lack_something() {
    let dir = tempfile::tempdir().unwrap();
    let images = open(dir.path());
    let ingest = images.begin();
    let blob = Descriptor {
        media_type: "application/vnd.oci.image.layer.v1.tar+gzip+encrypted".into(),
        ..descriptor(b"x")
    };
    ingest.bytes("", &blob.digest, b"x").await.unwrap();
    let error = ingest.unpack_layer(&blob, &LayerId(Digest::of(b"").to_string())).await.unwrap_err();
    assert!(matches!(error, ImageError::LayerType { .. }), "{error}");
    let error = ingest.unpack_layer(&descriptor(b"absent"), &LayerId("nonsense".into())).await.unwrap_err();
    assert!(matches!(error, ImageError::Digest(_)), "{error}");
    let config = crate::testing::config_of("x", &["a"]);
    let manifest = serde_json::json!({
        "schemaVersion": 2, "config": descriptor(config.as_bytes()), "layers": [descriptor(&layer_tar("a"))],
    });
    let manifest = manifest.to_string().into_bytes();
    let error = ingest.commit(manifest, config.into_bytes(), Names::default()).await.unwrap_err();
    assert!(matches!(error, ImageError::NoBlob(_)), "{error}");
    assert!(images.list().is_empty());
    assert_eq!(images.usage(), Usage::default());
}

#[tokio::test]
async fn the_directories_are_roots_alone() {
    let dir = tempfile::tempdir().unwrap();
    let images = open(dir.path());
    import(&images, dir.path(), "one", &["a"]).await;
    for path in ["", "blobs", "blobs/sha256", "ingest", "layers", "images"] {
        let mode = fs::metadata(images.mountpoint().join(path)).unwrap().mode() & 0o777;
        assert_eq!(mode, 0o700, "{path}");
    }
}
