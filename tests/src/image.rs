//! Images made on the spot: OCI layouts in a tar, with what a test puts into them.
//!
//! [`busybox`] is the image that most tests run: the machine's own static busybox, and around it what the
//! tests ask for by name.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result, ensure};
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

/// The name of [`busybox`].
pub const BUSYBOX: &str = "sandboxd.test/busybox:1";

/// How a layer's tar is compressed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Compression {
    Plain,
    #[default]
    Gzip,
    Zstd,
}

/// A layer being put together.
pub struct Layer {
    tar: tar::Builder<Vec<u8>>,
    compression: Compression,
}

impl std::fmt::Debug for Layer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let bytes = self.tar.get_ref().len();
        f.debug_struct("Layer").field("bytes", &bytes).field("compression", &self.compression).finish()
    }
}

impl Default for Layer {
    fn default() -> Self {
        Self { tar: tar::Builder::new(Vec::new()), compression: Compression::default() }
    }
}

impl Layer {
    /// Compresses it this way instead of with gzip.
    #[must_use]
    pub fn compressed(mut self, compression: Compression) -> Self {
        self.compression = compression;
        self
    }

    /// A file. The path is relative to the root of the image ("etc/passwd"), as in all of these.
    #[must_use]
    pub fn file(mut self, path: &str, mode: u32, (uid, gid): (u64, u64), content: impl AsRef<[u8]>) -> Self {
        let content = content.as_ref();
        let mut header = header(tar::EntryType::Regular, mode, uid, gid);
        header.set_size(content.len() as u64);
        self.tar.append_data(&mut header, path, content).expect("a file fits a tar in memory");
        self
    }

    /// A directory.
    #[must_use]
    pub fn dir(mut self, path: &str, mode: u32, (uid, gid): (u64, u64)) -> Self {
        let mut header = header(tar::EntryType::Directory, mode, uid, gid);
        self.tar.append_data(&mut header, path, &[][..]).expect("a directory fits a tar in memory");
        self
    }

    /// A symbolic link; its target is written as it is, whatever it is.
    #[must_use]
    pub fn symlink(mut self, path: &str, target: &str) -> Self {
        let mut header = header(tar::EntryType::Symlink, 0o777, 0, 0);
        header.set_link_name_literal(target).expect("the target fits a header");
        self.tar.append_data(&mut header, path, &[][..]).expect("a link fits a tar in memory");
        self
    }

    /// A hard link to a path of the same layer.
    #[must_use]
    pub fn hard_link(mut self, path: &str, target: &str) -> Self {
        let mut header = header(tar::EntryType::Link, 0o644, 0, 0);
        self.tar.append_link(&mut header, path, target).expect("a link fits a tar in memory");
        self
    }

    /// The blob: tar, compressed tar, and what to call it.
    fn blob(self) -> Result<(Vec<u8>, Vec<u8>, &'static str)> {
        let tar = self.tar.into_inner()?;
        let (blob, media_type) = match self.compression {
            Compression::Plain => (tar.clone(), "application/vnd.oci.image.layer.v1.tar"),
            Compression::Gzip => {
                let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
                encoder.write_all(&tar)?;
                (encoder.finish()?, "application/vnd.oci.image.layer.v1.tar+gzip")
            }
            Compression::Zstd => {
                (zstd::encode_all(&tar[..], 1)?, "application/vnd.oci.image.layer.v1.tar+zstd")
            }
        };
        Ok((tar, blob, media_type))
    }
}

fn header(kind: tar::EntryType, mode: u32, uid: u64, gid: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(uid);
    header.set_gid(gid);
    header.set_mtime(1_700_000_000);
    header.set_size(0);
    header
}

/// An image being put together.
#[derive(Debug)]
pub struct Image {
    name: String,
    config: Map<String, Value>,
    annotations: Map<String, Value>,
    layers: Vec<Layer>,
}

/// What an archive holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// "sandboxd.test/busybox:1"
    pub name: String,
    /// The digest of its configuration: what CRI calls its id.
    pub id: String,
    /// The digest of its manifest.
    pub digest: String,
    /// Of each layer's blob, lowest first.
    pub layers: Vec<String>,
    /// Bytes of all blobs.
    pub size: u64,
}

impl Image {
    /// An image of nothing, with a whole name ("sandboxd.test/name:tag").
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self { name: name.to_owned(), config: Map::new(), annotations: Map::new(), layers: Vec::new() }
    }

    /// One more layer, on top.
    #[must_use]
    pub fn layer(mut self, layer: Layer) -> Self {
        self.layers.push(layer);
        self
    }

    fn set(mut self, key: &str, value: Value) -> Self {
        self.config.insert(key.to_owned(), value);
        self
    }

    /// "KEY=value" each.
    #[must_use]
    pub fn env(self, env: &[&str]) -> Self {
        self.set("Env", json!(env))
    }

    #[must_use]
    pub fn entrypoint(self, words: &[&str]) -> Self {
        self.set("Entrypoint", json!(words))
    }

    #[must_use]
    pub fn cmd(self, words: &[&str]) -> Self {
        self.set("Cmd", json!(words))
    }

    /// "user[:group]"
    #[must_use]
    pub fn user(self, user: &str) -> Self {
        self.set("User", json!(user))
    }

    #[must_use]
    pub fn working_dir(self, path: &str) -> Self {
        self.set("WorkingDir", json!(path))
    }

    #[must_use]
    pub fn volumes(self, paths: &[&str]) -> Self {
        let volumes: Map<_, _> = paths.iter().map(|path| ((*path).to_owned(), json!({}))).collect();
        self.set("Volumes", Value::Object(volumes))
    }

    #[must_use]
    pub fn stop_signal(self, signal: &str) -> Self {
        self.set("StopSignal", json!(signal))
    }

    #[must_use]
    pub fn labels(self, labels: &[(&str, &str)]) -> Self {
        let labels: Map<_, _> = labels.iter().map(|(k, v)| ((*k).to_owned(), json!(v))).collect();
        self.set("Labels", Value::Object(labels))
    }

    /// An annotation of its manifest.
    #[must_use]
    pub fn annotation(mut self, key: &str, value: &str) -> Self {
        self.annotations.insert(key.to_owned(), json!(value));
        self
    }

    /// Writes the archive.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(self, path: &Path) -> Result<Written> {
        let mut archive = Archive::create(path)?;
        let (mut diff_ids, mut layers, mut digests) = (Vec::new(), Vec::new(), Vec::new());
        for layer in self.layers {
            let (tar, blob, media_type) = layer.blob()?;
            diff_ids.push(digest(&tar));
            let descriptor = archive.blob(media_type, &blob)?;
            digests.push(digest(&blob));
            layers.push(descriptor);
        }
        let config = json!({
            "architecture": architecture(), "os": "linux", "config": self.config,
            "rootfs": { "type": "layers", "diff_ids": diff_ids },
        });
        let config = serde_json::to_vec(&config)?;
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": archive.blob("application/vnd.oci.image.config.v1+json", &config)?,
            "layers": layers,
            "annotations": self.annotations,
        });
        let manifest = serde_json::to_vec(&manifest)?;
        let mut top = archive.blob("application/vnd.oci.image.manifest.v1+json", &manifest)?;
        let size = archive.size;
        let tag = self.name.rsplit_once(':').map_or("latest", |(_, tag)| tag);
        top["annotations"] =
            json!({ "io.containerd.image.name": self.name, "org.opencontainers.image.ref.name": tag });
        archive
            .file("index.json", &serde_json::to_vec(&json!({ "schemaVersion": 2, "manifests": [top] }))?)?;
        archive.file("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        archive.tar.into_inner()?.sync_all()?;
        Ok(Written { name: self.name, id: digest(&config), digest: digest(&manifest), layers: digests, size })
    }
}

struct Archive {
    tar: tar::Builder<File>,
    written: Vec<String>,
    size: u64,
}

impl Archive {
    fn create(path: &Path) -> Result<Self> {
        let file = File::create(path).with_context(|| format!("making {}", path.display()))?;
        Ok(Self { tar: tar::Builder::new(file), written: Vec::new(), size: 0 })
    }

    fn file(&mut self, path: &str, bytes: &[u8]) -> Result<()> {
        let mut header = header(tar::EntryType::Regular, 0o644, 0, 0);
        header.set_size(bytes.len() as u64);
        Ok(self.tar.append_data(&mut header, path, bytes)?)
    }

    /// Writes a blob, once; its descriptor.
    fn blob(&mut self, media_type: &str, bytes: &[u8]) -> Result<Value> {
        let digest = digest(bytes);
        if !self.written.contains(&digest) {
            self.file(&format!("blobs/{}", digest.replace(':', "/")), bytes)?;
            self.size += bytes.len() as u64;
            self.written.push(digest.clone());
        }
        Ok(json!({ "mediaType": media_type, "digest": digest, "size": bytes.len() }))
    }
}

/// "sha256:…" of bytes.
#[must_use]
pub fn digest(bytes: &[u8]) -> String {
    let hex: String = Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect();
    format!("sha256:{hex}")
}

fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\n\
    app:x:1000:1000:app:/home/app:/bin/sh\n\
    nobody:x:65534:65534:nobody:/nonexistent:/bin/false\n";
const GROUP: &str = "root:x:0:\nwheel:x:10:root\napp:x:1000:\nextra:x:2000:app\nnogroup:x:65534:\n";

const ROOT: (u64, u64) = (0, 0);
const APP: (u64, u64) = (1000, 1000);

/// The layer with busybox, its applets, users and directories.
///
/// # Errors
/// When the machine has no static busybox.
pub fn busybox_layer() -> Result<Layer> {
    let program = Path::new("/bin/busybox");
    let binary = fs::read(program).context("reading /bin/busybox: install busybox-static")?;
    let output = Command::new(program).arg("--list").output().context("running busybox --list")?;
    ensure!(output.status.success(), "busybox --list ended with {}", output.status);
    let applets = String::from_utf8(output.stdout)?;
    let mut layer = Layer::default().dir("bin", 0o755, ROOT).file("bin/busybox", 0o755, ROOT, binary);
    for applet in applets.lines().filter(|applet| *applet != "busybox") {
        layer = layer.symlink(&format!("bin/{applet}"), "busybox");
    }
    for dir in ["etc", "home", "work", "mnt", "var", "var/run", "proc", "sys", "dev"] {
        layer = layer.dir(dir, 0o755, ROOT);
    }
    Ok(layer
        .dir("tmp", 0o1777, ROOT)
        .dir("root", 0o700, ROOT)
        .dir("home/app", 0o755, APP)
        .file("etc/passwd", 0o644, ROOT, PASSWD)
        .file("etc/group", 0o644, ROOT, GROUP)
        .symlink("evil", "/../../../../tmp/out"))
}

/// A program of this machine with the libraries it is linked to.
///
/// # Errors
/// When one of them cannot be read.
pub fn program_layer(program: &Path, place: &str) -> Result<Layer> {
    let read = |path: &Path| fs::read(path).with_context(|| format!("reading {}", path.display()));
    let mut layer = Layer::default().file(place, 0o755, ROOT, read(program)?);
    // A static program has none: ldd says so with a failure.
    let libraries = Command::new("ldd").arg(program).output().context("running ldd")?.stdout;
    let libraries = String::from_utf8(libraries)?;
    for path in libraries.split_whitespace().filter(|word| word.starts_with('/')) {
        layer = layer.file(path.trim_start_matches('/'), 0o755, ROOT, read(Path::new(path))?);
    }
    Ok(layer)
}

/// The image most tests run, under a name.
///
/// # Errors
/// When the machine has no static busybox.
pub fn busybox_named(name: &str) -> Result<Image> {
    let data = Layer::default().dir("data", 0o755, APP).file("data/file", 0o644, APP, "content");
    Ok(Image::new(name)
        .layer(busybox_layer()?)
        .layer(data.compressed(Compression::Zstd))
        .env(&[
            "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "FROM_IMAGE=image",
            "ONLY_IMAGE=yes",
        ])
        .entrypoint(&["/bin/echo", "entry"])
        .cmd(&["cmd"])
        .working_dir("/work")
        .volumes(&["/data"])
        .stop_signal("SIGUSR2"))
}

/// [`busybox_named`] under [`BUSYBOX`].
///
/// # Errors
/// When the machine has no static busybox.
pub fn busybox() -> Result<Image> {
    busybox_named(BUSYBOX)
}

/// The archive of [`busybox`], made once: packing it takes a debug build longer than many a test.
///
/// # Errors
/// When the machine has no static busybox, or no room in its temporary directory.
pub fn busybox_archive() -> Result<Arc<[u8]>> {
    static MADE: Mutex<Option<Arc<[u8]>>> = Mutex::new(None);
    let mut made = MADE.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(archive) = &*made {
        return Ok(archive.clone());
    }
    let file = tempfile::NamedTempFile::new().context("making a temporary file")?;
    busybox()?.write(file.path())?;
    let archive: Arc<[u8]> = fs::read(file.path())?.into();
    *made = Some(archive.clone());
    Ok(archive)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn skopeo_reads_what_is_written() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("busybox.tar");
        let written = busybox().unwrap().write(&path).unwrap();
        let inspect =
            Command::new("skopeo").arg("inspect").arg(format!("oci-archive:{}", path.display())).output();
        let Ok(output) = inspect else {
            eprintln!("SKIPPED: skopeo is not installed");
            return;
        };
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let seen: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(seen["Digest"], json!(written.digest));
        assert_eq!(seen["Layers"], json!(written.layers));
        assert_eq!(seen["Env"][1], json!("FROM_IMAGE=image"));
    }
}
