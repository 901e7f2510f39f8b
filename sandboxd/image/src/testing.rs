//! Stores and images for tests.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::content::Digest;
use crate::settings::Settings;
use crate::store::Images;
use crate::tar::testing::Tar;

/// A store under a test's directory.
pub(crate) fn open(dir: &Path) -> Arc<Images> {
    Images::open(&dir.join("store"), Settings::default()).unwrap()
}

/// Whether the tools a test needs are there.
pub(crate) fn needs(tools: &[&str]) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let has = |tool: &&&str| std::env::split_paths(&path).any(|dir| dir.join(tool).exists());
    match tools.iter().find(|tool| !has(tool)) {
        Some(tool) => {
            eprintln!("SKIPPED: {tool} is not installed");
            false
        }
        None => true,
    }
}

/// A layer with one file, named and filled with `text`.
pub(crate) fn layer_tar(text: &str) -> Vec<u8> {
    Tar::default().dir("dir/").file(&format!("dir/{text}"), text.as_bytes()).end()
}

/// The configuration of an image with such layers.
pub(crate) fn config_of(name: &str, layers: &[&str]) -> String {
    let diff_ids: Vec<_> = layers.iter().map(|text| Digest::of(&layer_tar(text)).to_string()).collect();
    let config = serde_json::json!({
        "architecture": "amd64", "os": "linux", "config": { "Env": [format!("NAME={name}")] },
        "rootfs": { "type": "layers", "diff_ids": diff_ids },
    });
    config.to_string()
}

/// A docker archive of "example.org/NAME:1" with a layer for each text.
pub(crate) fn image_archive(dir: &Path, name: &str, layers: &[&str]) -> PathBuf {
    let tars: Vec<_> = layers.iter().map(|text| layer_tar(text)).collect();
    let paths: Vec<_> = (0..tars.len()).map(|n| format!("{n}/layer.tar")).collect();
    let manifest = serde_json::json!([
        { "Config": "config.json", "RepoTags": [format!("example.org/{name}:1")], "Layers": paths },
    ]);
    let mut tar = Tar::default()
        .file("config.json", config_of(name, layers).as_bytes())
        .file("manifest.json", manifest.to_string().as_bytes());
    for (path, layer) in paths.iter().zip(&tars) {
        tar = tar.file(path, layer);
    }
    let path = dir.join(format!("{name}.tar"));
    fs::write(&path, tar.end()).unwrap();
    path
}
