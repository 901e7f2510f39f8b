//! Network configurations: the files of the conf directory, read as libcni reads them.
//!
//! Files with the extensions `conflist`, `conf` and `json` count, in the byte order of their names; the
//! first with a valid network wins, and the bad ones before it are named in the status. Sources: the CNI
//! specification 1.1.0, section 1; libcni `conf.go`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::version::CniVersion;

/// A JSON object whose values stay byte for byte as they were written.
pub type RawObject = BTreeMap<String, Box<RawValue>>;

/// No sane configuration is larger; a device node or a runaway file is not read to its end.
const MAX_FILE: u64 = 1 << 20;

/// A network: a list of plugins that run one after the other.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct NetworkConfig {
    pub name: String,
    /// The one in use; the highest of `versions` until the plugins were asked.
    pub version: CniVersion,
    /// What the file offers (`cniVersion`, `cniVersions`), ascending.
    pub versions: Vec<CniVersion>,
    pub disable_check: bool,
    pub disable_gc: bool,
    pub plugins: Vec<PluginConfig>,
    pub source: PathBuf,
}

/// One plugin of a network.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PluginConfig {
    /// The name of its executable.
    #[serde(rename = "type")]
    pub kind: String,
    /// The plugin it runs itself for addresses, if any.
    pub ipam: Option<String>,
    pub capabilities: BTreeSet<String>,
    /// The configuration object as the file has it.
    pub object: RawObject,
}

impl NetworkConfig {
    /// Whether some plugin declares the capability.
    #[must_use]
    pub fn declares(&self, capability: &str) -> bool {
        self.plugins.iter().any(|p| p.capabilities.contains(capability))
    }

    /// All executables it needs, each once.
    #[must_use]
    pub fn executables(&self) -> BTreeSet<&str> {
        self.plugins.iter().flat_map(|p| [Some(p.kind.as_str()), p.ipam.as_deref()]).flatten().collect()
    }
}

/// What is wrong with a configuration file.
#[derive(Debug, thiserror::Error)]
pub enum ConfError {
    #[error("cannot be read: {0}")]
    Read(#[from] io::Error),
    #[error("is larger than {MAX_FILE} bytes")]
    TooLarge,
    #[error("is not valid: {0}")]
    Json(#[from] serde_json::Error),
    #[error("offers CNI version {0:?}: supported are {list}", list = CniVersion::SUPPORTED)]
    Version(String),
    #[error("has no cniVersion: supported are {list}", list = CniVersion::SUPPORTED)]
    NoVersion,
    #[error("has the network name {0:?}: expected a letter or digit, then letters, digits, '_', '.' or '-'")]
    Name(String),
    #[error("has no plugins")]
    NoPlugins,
    #[error("has a plugin of type {0:?}: expected the name of an executable, without '/'")]
    PluginType(String),
    #[error("has {0:?} for a flag: expected true or false")]
    Flag(String),
}

/// A list file, or the network part of a single-plugin file.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ListFile {
    #[serde(default)]
    cni_version: Option<String>,
    #[serde(default)]
    cni_versions: Vec<String>,
    #[serde(default)]
    name: String,
    #[serde(default)]
    disable_check: Option<Flag>,
    #[serde(default, rename = "disableGC")]
    disable_gc: Option<Flag>,
    #[serde(default)]
    load_only_inlined_plugins: Option<Flag>,
    #[serde(default)]
    plugins: Option<Vec<RawObject>>,
}

/// libcni takes flags as booleans and as strings.
#[derive(Deserialize)]
#[serde(untagged)]
enum Flag {
    Bool(bool),
    Text(String),
}

fn flag(value: Option<Flag>) -> Result<bool, ConfError> {
    match value {
        None => Ok(false),
        Some(Flag::Bool(b)) => Ok(b),
        Some(Flag::Text(t)) => match t.to_ascii_lowercase().as_str() {
            "true" => Ok(true),
            "false" => Ok(false),
            _ => Err(ConfError::Flag(t)),
        },
    }
}

/// What a look at the conf directory found.
#[derive(Debug)]
pub struct Found {
    pub network: Option<NetworkConfig>,
    /// Files that come before the winner and are of no use, with the reason.
    pub bad: Vec<(PathBuf, ConfError)>,
    /// The directory itself could not be read.
    pub dir_error: Option<io::Error>,
}

/// Reads the conf directory.
#[must_use]
pub fn scan(dir: &Path) -> Found {
    let mut found = Found { network: None, bad: Vec::new(), dir_error: None };
    let files = match conf_files(dir, &["conflist", "conf", "json"]) {
        Ok(files) => files,
        Err(source) => {
            found.dir_error = Some(source);
            return found;
        }
    };
    for path in files {
        match load(&path) {
            Ok(network) => {
                found.network = Some(network);
                break;
            }
            Err(problem) => found.bad.push((path, problem)),
        }
    }
    found
}

fn conf_files(dir: &Path, extensions: &[&str]) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let wanted = path.extension().and_then(|e| e.to_str()).is_some_and(|e| extensions.contains(&e));
        if wanted && path.is_file() {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn read(path: &Path) -> Result<Vec<u8>, ConfError> {
    if fs::metadata(path)?.len() > MAX_FILE {
        return Err(ConfError::TooLarge);
    }
    Ok(fs::read(path)?)
}

/// Reads one file: a list, or a single plugin's configuration as a list of one.
///
/// # Errors
/// When it is no valid network.
pub fn load(path: &Path) -> Result<NetworkConfig, ConfError> {
    let bytes = read(path)?;
    let file: ListFile = serde_json::from_slice(&bytes)?;
    let is_list = path.extension().is_some_and(|e| e == "conflist") || file.plugins.is_some();
    let mut objects = match file.plugins {
        Some(plugins) => plugins,
        None if is_list => Vec::new(),
        None => vec![serde_json::from_slice(&bytes)?],
    };
    if !is_name(&file.name) {
        return Err(ConfError::Name(file.name));
    }
    // libcni 1.3: vendors may drop plugins into a folder of the network's name beside its list.
    if is_list && !flag(file.load_only_inlined_plugins)? {
        objects.extend(dropped_in(path, &file.name)?);
    }
    let versions = offered(file.cni_version.as_deref(), &file.cni_versions)?;
    let version = versions.last().copied().ok_or(ConfError::NoVersion)?;
    let plugins = objects.into_iter().map(plugin).collect::<Result<Vec<_>, _>>()?;
    if plugins.is_empty() {
        return Err(ConfError::NoPlugins);
    }
    Ok(NetworkConfig {
        name: file.name,
        version,
        versions,
        disable_check: flag(file.disable_check)?,
        disable_gc: flag(file.disable_gc)?,
        plugins,
        source: path.to_owned(),
    })
}

fn dropped_in(list: &Path, name: &str) -> Result<Vec<RawObject>, ConfError> {
    let dir = list.with_file_name(name);
    let files = match conf_files(&dir, &["conf"]) {
        Ok(files) => files,
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(Vec::new());
        }
        Err(e) => return Err(e.into()),
    };
    files.iter().map(|f| Ok(serde_json::from_slice(&read(f)?)?)).collect()
}

/// The offered versions this client speaks. A single unknown version is an error; unknown ones beside
/// known ones are another runtime's.
fn offered(single: Option<&str>, several: &[String]) -> Result<Vec<CniVersion>, ConfError> {
    let names: Vec<&str> = several.iter().map(String::as_str).chain(single).collect();
    let known: BTreeSet<CniVersion> = names.iter().filter_map(|n| CniVersion::parse(n)).collect();
    match names.last() {
        Some(name) if known.is_empty() => Err(ConfError::Version((*name).to_owned())),
        _ => Ok(known.into_iter().collect()),
    }
}

fn plugin(object: RawObject) -> Result<PluginConfig, ConfError> {
    #[derive(Deserialize)]
    struct Ipam {
        #[serde(default, rename = "type")]
        kind: String,
    }
    let get = |key: &str| object.get(key).map(|raw| raw.get());
    let kind: String = get("type").map(serde_json::from_str).transpose()?.unwrap_or_default();
    let ipam: Option<Ipam> = get("ipam").map(serde_json::from_str).transpose()?.flatten();
    let declared: Option<BTreeMap<String, bool>> =
        get("capabilities").map(serde_json::from_str).transpose()?.flatten();
    let ipam = ipam.map(|i| i.kind).filter(|k| !k.is_empty());
    for name in [Some(&kind), ipam.as_ref()].into_iter().flatten() {
        if name.is_empty() || name.contains(['/', '\\', '\0']) || name.starts_with('.') {
            return Err(ConfError::PluginType(name.clone()));
        }
    }
    let capabilities =
        declared.unwrap_or_default().into_iter().filter_map(|(name, on)| on.then_some(name)).collect();
    Ok(PluginConfig { kind, ipam, capabilities, object })
}

fn is_name(name: &str) -> bool {
    let mut bytes = name.bytes();
    bytes.next().is_some_and(|b| b.is_ascii_alphanumeric())
        && bytes.all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dir_with(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        dir
    }

    #[test]
    fn first_valid_file_wins_and_bad_ones_are_named() {
        let dir = dir_with(&[
            ("00-bad.conflist", "{"),
            ("05-old.conf", r#"{"cniVersion":"0.2.0","name":"old","type":"bridge"}"#),
            ("10-net.conf", r#"{"cniVersion":"0.4.0","name":"one","type":"bridge","mtu":1e3}"#),
            ("20-later.conflist", r#"{"cniVersion":"1.0.0","name":"two","plugins":[{"type":"ptp"}]}"#),
            ("01-ignored.txt", "{}"),
        ]);
        let found = scan(dir.path());
        let network = found.network.unwrap();
        assert_eq!((network.name.as_str(), network.version), ("one", CniVersion::V0_4_0));
        assert_eq!(network.plugins[0].object["mtu"].get(), "1e3", "numbers stay as written");
        assert_eq!(found.bad.len(), 2);
        assert!(found.bad[1].1.to_string().contains("\"0.2.0\""), "{}", found.bad[1].1);
    }

    #[test]
    fn versions_capabilities_flags_and_dropped_in_plugins() {
        let dir = dir_with(&[
            (
                "n.conflist",
                r#"{"cniVersion":"1.0.0","cniVersions":["1.1.0","9.9.9"],"name":"n","disableCheck":"true",
                    "plugins":[{"type":"bridge","ipam":{"type":"host-local"},
                                "capabilities":{"portMappings":true,"mac":false}}]}"#,
            ),
            ("n/50-extra.conf", r#"{"type":"tuning"}"#),
        ]);
        let network = scan(dir.path()).network.unwrap();
        assert_eq!(network.versions, [CniVersion::V1_0_0, CniVersion::V1_1_0]);
        assert!(network.disable_check && !network.disable_gc);
        assert!(network.declares("portMappings") && !network.declares("mac"));
        assert_eq!(network.executables(), BTreeSet::from(["bridge", "host-local", "tuning"]));
    }

    #[test]
    fn untrusted_names_are_refused() {
        for text in [
            r#"{"cniVersion":"1.0.0","name":"../x","type":"bridge"}"#,
            r#"{"cniVersion":"1.0.0","name":"x","type":"../../bin/sh"}"#,
            r#"{"cniVersion":"1.0.0","name":"x","type":"bridge","ipam":{"type":"a/b"}}"#,
            r#"{"cniVersion":"1.0.0","name":"x","plugins":[]}"#,
            r#"{"name":"x","type":"bridge"}"#,
        ] {
            let dir = dir_with(&[("a.conf", text)]);
            let found = scan(dir.path());
            assert!(found.network.is_none() && found.bad.len() == 1, "{text}");
        }
    }
}
