//! Archives made by the tools that people have, and what those tools make of ours.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use super::Format;
use crate::settings::Settings;
use crate::store::Images;
use crate::testing::{image_archive, needs, open};

/// Runs a tool; its output is the test's when it fails.
fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    text
}

/// An OCI layout with one image of busybox and a few layers, by umoci.
fn umoci_layout(dir: &Path) -> PathBuf {
    let layout = dir.join("layout");
    let image = format!("{}:one", layout.display());
    run("umoci", &["init", "--layout", layout.to_str().unwrap()]);
    run("umoci", &["new", "--image", &image]);
    let bundle = dir.join("bundle");
    let bundle_name = bundle.to_str().unwrap();
    run("umoci", &["unpack", "--image", &image, bundle_name]);
    let bin = bundle.join("rootfs/bin");
    fs::create_dir_all(&bin).unwrap();
    fs::copy("/bin/busybox", bin.join("busybox")).unwrap();
    std::os::unix::fs::symlink("busybox", bin.join("sh")).unwrap();
    fs::write(bundle.join("rootfs/gone"), "soon").unwrap();
    run("umoci", &["repack", "--refresh-bundle", "--image", &image, bundle_name]);
    fs::remove_file(bundle.join("rootfs/gone")).unwrap();
    run("umoci", &["repack", "--refresh-bundle", "--image", &image, bundle_name]);
    run(
        "umoci",
        &["config", "--image", &image, "--config.user", "app", "--config.cmd", "sh", "--config.label", "k=v"],
    );
    layout
}

#[tokio::test]
async fn an_oci_layout_of_umoci() {
    if !needs(&["umoci", "skopeo"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let layout = umoci_layout(dir.path());
    let images = open(dir.path());
    let [image] = &images.import(&layout, Some("example.org/box")).await.unwrap()[..] else { panic!() };
    assert_eq!(image.repo_tags, ["example.org/box:one"]);
    assert!(image.repo_digests[0].starts_with("example.org/box@sha256:"));
    assert_eq!((image.config.user.0.as_str(), &image.config.cmd[..]), ("app", &["sh".to_owned()][..]));
    assert_eq!(image.config.labels["k"], "v");
    assert_eq!(image.layers.len(), 2);
    let busybox = image.layers[0].path.join("bin/busybox");
    assert_eq!(fs::read(busybox).unwrap(), fs::read("/bin/busybox").unwrap());
    assert_eq!(fs::read_link(image.layers[0].path.join("bin/sh")).unwrap(), Path::new("busybox"));
    let whiteout = fs::symlink_metadata(image.layers[1].path.join("gone")).unwrap();
    assert!(std::os::unix::fs::FileTypeExt::is_char_device(&whiteout.file_type()));
    assert_eq!(std::os::unix::fs::MetadataExt::rdev(&whiteout), 0);
}

/// What goes out is read by skopeo, and comes in again as the same image.
async fn round_trip(images: &Arc<Images>, name: &str, format: Format, dir: &Path) {
    let (ours, transport, other) = match format {
        Format::Oci => (dir.join("ours-oci.tar"), "oci-archive", "docker-archive"),
        Format::Docker => (dir.join("ours-docker.tar"), "docker-archive", "oci-archive"),
    };
    images.export(&[name.to_owned()], format, &ours).await.unwrap();
    let theirs = dir.join(format!("theirs-{other}.tar"));
    let from = format!("{transport}:{}", ours.display());
    run(
        "skopeo",
        &["--insecure-policy", "copy", "-q", &from, &format!("{other}:{}:{name}", theirs.display())],
    );
    let before = images.find(name).unwrap().unwrap();
    for (number, archive) in [ours, theirs].iter().enumerate() {
        let root = dir.join(format!("again-{transport}-{number}"));
        let again = Images::open(&root, Settings::default()).unwrap();
        let [image] = &again.import(archive, None).await.unwrap()[..] else { panic!("{archive:?}") };
        assert_eq!(image.repo_tags, [name], "{archive:?}");
        let ids = |layers: &[crate::Layer]| layers.iter().map(|l| l.id.clone()).collect::<Vec<_>>();
        assert_eq!(ids(&image.layers), ids(&before.layers), "{archive:?}");
        assert_eq!(image.config, before.config);
        if number == 0 {
            assert_eq!(image.id, before.id);
        }
    }
}

#[tokio::test]
async fn exported_read_by_skopeo_imported_again() {
    if !needs(&["umoci", "skopeo"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let layout = umoci_layout(dir.path());
    let images = open(dir.path());
    images.import(&layout, Some("example.org/box")).await.unwrap();
    round_trip(&images, "example.org/box:one", Format::Oci, dir.path()).await;
    round_trip(&images, "example.org/box:one", Format::Docker, dir.path()).await;
}

#[tokio::test]
async fn several_images_in_one_archive() {
    let dir = tempfile::tempdir().unwrap();
    let images = open(dir.path());
    for name in ["one", "two"] {
        let archive = image_archive(dir.path(), name, &[name]);
        images.import(&archive, None).await.unwrap();
    }
    let names = ["example.org/one:1".to_owned(), "example.org/two:1".to_owned()];
    for (format, file) in [(Format::Oci, "oci.tar"), (Format::Docker, "docker.tar")] {
        let archive = dir.path().join(file);
        images.export(&names, format, &archive).await.unwrap();
        let root = dir.path().join(format!("{format:?}"));
        let again = Images::open(&root, Settings::default()).unwrap();
        let found = again.import(&archive, None).await.unwrap();
        let mut tags: Vec<_> = found.iter().flat_map(|image| image.repo_tags.clone()).collect();
        tags.sort();
        assert_eq!(tags, names);
    }
}

#[tokio::test]
async fn what_is_no_archive_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let images = open(dir.path());
    let path = dir.path().join("x");
    fs::write(&path, "this is no tar").unwrap();
    let error = images.import(&path, None).await.unwrap_err().to_string();
    assert!(error.contains("it is no tar"), "{error}");
    fs::write(&path, [0; 1024]).unwrap();
    let error = images.import(&path, None).await.unwrap_err().to_string();
    assert!(error.contains("neither an index.json"), "{error}");
    fs::write(
        &path,
        crate::tar::testing::Tar::default()
            .file("manifest.json", br#"[{"Config":"../../etc/passwd","Layers":[]}]"#)
            .end(),
    )
    .unwrap();
    let error = images.import(&path, None).await.unwrap_err().to_string();
    assert!(error.contains("it has no file ../../etc/passwd"), "{error}");
    assert!(images.list().is_empty());
}

#[tokio::test]
async fn a_compressed_archive() {
    let dir = tempfile::tempdir().unwrap();
    let images = open(dir.path());
    let archive = image_archive(dir.path(), "one", &["a"]);
    let packed = dir.path().join("packed.tar.gz");
    let mut encoder =
        flate2::write::GzEncoder::new(fs::File::create(&packed).unwrap(), flate2::Compression::fast());
    std::io::copy(&mut fs::File::open(archive).unwrap(), &mut encoder).unwrap();
    encoder.finish().unwrap();
    assert_eq!(images.import(&packed, None).await.unwrap()[0].repo_tags, ["example.org/one:1"]);
}

#[tokio::test]
async fn what_is_sent_is_bounded_and_nameless() {
    let dir = tempfile::tempdir().unwrap();
    let limits = crate::settings::Limits { max_layer: 1000, ..Default::default() };
    let images = Images::open(dir.path(), Settings { limits, ..Settings::default() }).unwrap();
    let mut inbox = images.inbox().unwrap();
    inbox.write(&[0; 600]).unwrap();
    let error = inbox.write(&[0; 600]).unwrap_err().to_string();
    assert!(error.contains("(as sent)") && error.contains("1000"), "{error}");
    assert_eq!(fs::read_dir(dir.path().join("ingest")).unwrap().count(), 0);
    let mut inbox = images.inbox().unwrap();
    inbox.write(b"no tar at all, but not too long").unwrap();
    let error = images.import_sent(inbox, None).await.unwrap_err().to_string();
    assert!(error.contains("(as sent)"), "{error}");
}
