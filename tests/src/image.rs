//! Images made on the spot: a tar of files is a layer, layers are an OCI layout or an archive of `docker save`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use sandboxd_image::Digest;
use serde_json::{Value, json};

/// The name of [`busybox`].
pub const BUSYBOX: &str = "sandboxd.test/busybox:1";

/// A tar, entry by entry.
#[derive(Debug, Default, Clone)]
pub struct Layer(Vec<u8>);

impl Layer {
    /// A directory, owned by `id` as user and group.
    #[must_use]
    pub fn dir(self, path: &str, mode: u32, id: u32) -> Self {
        self.entry(path, b'5', mode, id, "", &[])
    }

    /// A file.
    #[must_use]
    pub fn file(self, path: &str, mode: u32, id: u32, bytes: &[u8]) -> Self {
        self.entry(path, b'0', mode, id, "", bytes)
    }

    /// A symbolic link.
    #[must_use]
    pub fn link(self, path: &str, target: &str) -> Self {
        self.entry(path, b'2', 0o777, 0, target, &[])
    }

    /// The finished tar.
    #[must_use]
    pub fn end(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 1024, 0);
        self.0
    }

    /// ustar; names end at 100 bytes.
    fn entry(mut self, path: &str, kind: u8, mode: u32, id: u32, target: &str, bytes: &[u8]) -> Self {
        let mut header = [0_u8; 512];
        let mut put = |at: usize, text: &str| header[at..at + text.len()].copy_from_slice(text.as_bytes());
        put(0, path);
        put(100, &format!("{mode:07o}"));
        put(108, &format!("{id:07o}"));
        put(116, &format!("{id:07o}"));
        put(124, &format!("{:011o}", bytes.len()));
        put(136, "00000000000");
        put(148, "        ");
        put(157, target);
        put(257, "ustar\x0000");
        header[156] = kind;
        let sum: u32 = header.iter().map(|&b| u32::from(b)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        self.0.extend(header);
        self.0.extend(bytes);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }
}

/// The files of the image tests run: busybox with its applets, a few users, a directory of somebody's.
///
/// # Errors
/// When busybox is not installed.
pub fn busybox_layer() -> Result<Vec<u8>> {
    let program = ["/bin/busybox", "/usr/bin/busybox"].into_iter().find(|path| Path::new(path).exists());
    let program = program.context("no busybox: install busybox-static")?;
    let bytes = fs::read(program).with_context(|| format!("reading {program}"))?;
    let listed = Command::new(program).arg("--list").output().context("asking busybox for its applets")?;
    ensure!(listed.status.success(), "busybox --list failed");
    let mut layer = Layer::default();
    for (path, mode, id) in [
        ("bin", 0o755, 0),
        ("etc", 0o755, 0),
        ("tmp", 0o1777, 0),
        ("root", 0o700, 0),
        ("home", 0o755, 0),
        ("home/app", 0o755, 1000),
        ("work", 0o755, 0),
        ("mnt", 0o755, 0),
        ("var", 0o755, 0),
        ("var/run", 0o755, 0),
        ("data", 0o755, 1000),
        ("proc", 0o755, 0),
        ("sys", 0o755, 0),
        ("dev", 0o755, 0),
    ] {
        layer = layer.dir(path, mode, id);
    }
    layer = layer.file("bin/busybox", 0o755, 0, &bytes);
    for applet in String::from_utf8_lossy(&listed.stdout).lines().filter(|applet| *applet != "busybox") {
        layer = layer.link(&format!("bin/{applet}"), "busybox");
    }
    let passwd = "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1000::/home/app:/bin/sh\n\
                  nobody:x:65534:65534::/:/bin/false\n";
    let group = "root:x:0:\nwheel:x:10:root\napp:x:1000:\nextra:x:2000:app\n";
    layer =
        layer.file("etc/passwd", 0o644, 0, passwd.as_bytes()).file("etc/group", 0o644, 0, group.as_bytes());
    // A link that leads out of the image, if anybody follows it on the node.
    layer = layer.file("data/file", 0o644, 1000, b"content").link("evil", "/../../../../tmp/out");
    Ok(layer.end())
}

/// The configuration of [`busybox`], without its layers.
#[must_use]
pub fn busybox_config() -> Value {
    json!({
        "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "FROM_IMAGE=image",
                "ONLY_IMAGE=yes"],
        "Entrypoint": ["/bin/echo", "entry"], "Cmd": ["cmd"], "WorkingDir": "/work", "StopSignal": "SIGUSR2",
        "Volumes": { "/data": {} },
    })
}

/// Writes the image tests run, as an archive of `docker save` named [`BUSYBOX`].
///
/// # Errors
/// When busybox is not installed, or the file cannot be written.
pub fn busybox(dir: &Path) -> Result<PathBuf> {
    let layer = busybox_layer()?;
    let path = dir.join("busybox.tar");
    fs::write(&path, docker_archive(BUSYBOX, &busybox_config(), &[layer])).context("writing the archive")?;
    Ok(path)
}

fn document(config: &Value, layers: &[Vec<u8>], architecture: &str) -> Vec<u8> {
    let diff_ids: Vec<_> = layers.iter().map(|layer| Digest::of(layer).to_string()).collect();
    let document = json!({
        "architecture": architecture, "os": "linux", "config": config,
        "rootfs": { "type": "layers", "diff_ids": diff_ids },
    });
    document.to_string().into_bytes()
}

/// What an image of this machine says it is for.
#[must_use]
pub fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// A tar as `docker save` writes it.
#[must_use]
pub fn docker_archive(name: &str, config: &Value, layers: &[Vec<u8>]) -> Vec<u8> {
    let names: Vec<_> = (0..layers.len()).map(|n| format!("{n}/layer.tar")).collect();
    let manifest = json!([{ "Config": "config.json", "RepoTags": [name], "Layers": names }]);
    let mut tar = Layer::default()
        .file("config.json", 0o644, 0, &document(config, layers, architecture()))
        .file("manifest.json", 0o644, 0, manifest.to_string().as_bytes());
    for (name, layer) in names.iter().zip(layers) {
        tar = tar.file(name, 0o644, 0, layer);
    }
    tar.end()
}

/// Writes an OCI layout with an index as its tag "1": this machine's image, and one of another architecture.
/// Returns the configuration's digest, which is the image's id.
///
/// # Errors
/// When the directory cannot be written.
pub fn layout(dir: &Path, config: &Value, layers: &[Vec<u8>]) -> Result<String> {
    let blobs = dir.join("blobs/sha256");
    fs::create_dir_all(&blobs).context("making the layout")?;
    let blob = |media_type: &str, bytes: &[u8]| -> Result<Value> {
        let digest = Digest::of(bytes);
        fs::write(blobs.join(digest.hex()), bytes).context("writing a blob")?;
        Ok(json!({ "mediaType": media_type, "digest": digest.to_string(), "size": bytes.len() }))
    };
    let oci = |kind: &str| format!("application/vnd.oci.image.{kind}");
    let tars = layers.iter().map(|layer| blob(&oci("layer.v1.tar"), layer)).collect::<Result<Vec<_>>>()?;
    let mut manifests = Vec::new();
    for architecture in ["s390x", architecture()] {
        let document = blob(&oci("config.v1+json"), &document(config, layers, architecture))?;
        let manifest = json!({
            "schemaVersion": 2, "mediaType": oci("manifest.v1+json"), "config": document, "layers": tars,
            "annotations": { "test.note": "from the manifest" },
        });
        let mut descriptor = blob(&oci("manifest.v1+json"), manifest.to_string().as_bytes())?;
        descriptor["platform"] = json!({ "os": "linux", "architecture": architecture });
        manifests.push(descriptor);
    }
    let index = json!({ "schemaVersion": 2, "mediaType": oci("index.v1+json"), "manifests": manifests });
    let mut top = blob(&oci("index.v1+json"), index.to_string().as_bytes())?;
    top["annotations"] = json!({ "org.opencontainers.image.ref.name": "1" });
    let index = json!({ "schemaVersion": 2, "manifests": [top] });
    fs::write(dir.join("index.json"), index.to_string()).context("writing the index")?;
    fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).context("writing the layout")?;
    Ok(Digest::of(&document(config, layers, architecture())).to_string())
}
