//! The files of vendors: JSON or YAML of the CDI specification.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use serde::Deserialize;

/// Longest file read, in bytes.
const FILE_MAX: u64 = 4 << 20;
const FILES_MAX: usize = 1024;
/// Versions of the specification whose every field is known here.
const VERSIONS: [&str; 8] = ["0.3.0", "0.4.0", "0.5.0", "0.6.0", "0.7.0", "0.8.0", "1.0.0", "1.1.0"];

/// A file that was read.
#[derive(Debug)]
pub(super) struct File {
    pub path: PathBuf,
    kind: String,
    devices: Vec<Device>,
    /// What goes with every device of the file.
    pub general: Changes,
}

impl File {
    /// The changes of a device by its full name.
    pub fn device(&self, name: &str) -> Option<&Changes> {
        let (kind, device) = name.split_once('=')?;
        let known = self.devices.iter().find(|known| known.name == device);
        known.filter(|_| self.kind == kind).map(|known| &known.container_edits)
    }
}

// Of annotations nothing is needed; all else that is not known here would be left out silently, so it is refused.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Text {
    cdi_version: String,
    kind: String,
    #[serde(default, rename = "annotations")]
    _annotations: Option<serde::de::IgnoredAny>,
    #[serde(default)]
    devices: Vec<Device>,
    #[serde(default)]
    container_edits: Changes,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Device {
    name: String,
    #[serde(default, rename = "annotations")]
    _annotations: Option<serde::de::IgnoredAny>,
    #[serde(default)]
    container_edits: Changes,
}

/// `containerEdits`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct Changes {
    pub env: Vec<String>,
    pub device_nodes: Vec<Node>,
    pub net_devices: Vec<serde::de::IgnoredAny>,
    pub mounts: Vec<Mount>,
    pub hooks: Vec<Hook>,
    pub additional_gids: Vec<u32>,
    pub intel_rdt: Option<serde::de::IgnoredAny>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Node {
    pub path: String,
    #[serde(default)]
    pub host_path: Option<String>,
    #[serde(default, rename = "type")]
    pub typ: Option<String>,
    #[serde(default)]
    pub major: Option<i64>,
    #[serde(default)]
    pub minor: Option<i64>,
    #[serde(default)]
    pub file_mode: Option<u32>,
    #[serde(default)]
    pub permissions: Option<String>,
    #[serde(default)]
    pub uid: Option<u32>,
    #[serde(default)]
    pub gid: Option<u32>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Mount {
    pub host_path: String,
    pub container_path: String,
    #[serde(default, rename = "type")]
    pub typ: Option<String>,
    #[serde(default)]
    pub options: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Hook {
    pub hook_name: String,
    pub path: String,
}

/// The files of a directory, in the order of their names. What cannot be read goes to `broken`, in words: it is
/// of no matter, unless a device is not found.
pub(super) fn read_all(directory: &Path, broken: &mut Vec<String>) -> Vec<File> {
    let Ok(entries) = std::fs::read_dir(directory) else { return Vec::new() };
    let wanted = |path: &PathBuf| {
        path.extension().and_then(|e| e.to_str()).is_some_and(|e| ["json", "yaml", "yml"].contains(&e))
    };
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).filter(wanted).collect();
    paths.sort();
    if paths.len() > FILES_MAX {
        broken.push(format!("all but {FILES_MAX} files of {}", directory.display()));
        paths.truncate(FILES_MAX);
    }
    let mut files = Vec::new();
    for path in paths {
        match read(&path) {
            Ok(file) => files.push(file),
            Err(problem) => broken.push(format!("{}: {problem}", path.display())),
        }
    }
    files
}

fn read(path: &Path) -> Result<File, String> {
    let mut text = String::new();
    let file = std::fs::File::open(path).map_err(|error| error.to_string())?;
    file.take(FILE_MAX + 1).read_to_string(&mut text).map_err(|error| error.to_string())?;
    if text.len() as u64 > FILE_MAX {
        return Err(format!("longer than {FILE_MAX} bytes"));
    }
    let json = path.extension().is_some_and(|extension| extension == "json");
    let parsed: Text = if json {
        serde_json::from_str(&text).map_err(|error| error.to_string())?
    } else {
        // As Go's readers: 0640 is octal. The first line of an error says it; the rest shows the file.
        serde_saphyr::from_str_with_options(&text, serde_saphyr::options! { legacy_octal_numbers: true })
            .map_err(|error| error.to_string().lines().next().unwrap_or_default().to_owned())?
    };
    let version = parsed.cdi_version.trim_start_matches('v');
    if !VERSIONS.contains(&version) {
        return Err(format!("version {version:?} of the CDI specification is not known"));
    }
    Ok(File {
        path: path.to_owned(),
        kind: parsed.kind,
        devices: parsed.devices,
        general: parsed.container_edits,
    })
}
