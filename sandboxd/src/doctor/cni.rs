//! CNI: a configuration, and every plugin it names.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use rustix::fs::Access;
use serde_json::Value;

use super::Check;
use crate::config::Config;

pub(super) fn checks(config: &Config) -> Vec<Check> {
    let dir = &config.cni.conf_dir;
    let first = match first_conf(dir) {
        Ok(Some(file)) => file,
        Ok(None) => {
            return vec![Check::fail(
                "cni config",
                format!("no *.conf, *.conflist or *.json in {}", dir.display()),
                "install a network plugin that writes one there; until then pods need the node's network",
            )];
        }
        Err(e) => {
            return vec![Check::fail(
                "cni config",
                format!("reading {}: {e}", dir.display()),
                "make the directory, or set cni.conf_dir",
            )];
        }
    };
    let plugins = std::fs::read(&first).map_err(|e| e.to_string()).and_then(|bytes| plugins(&bytes));
    match plugins {
        Err(problem) => vec![Check::fail(
            "cni config",
            format!("{}: {problem}", first.display()),
            "correct or remove the file",
        )],
        Ok(names) => {
            let list = names.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
            let config_check = Check::ok("cni config", format!("{} uses {list}", first.display()));
            vec![config_check, binaries(&names, &config.cni.bin_dirs)]
        }
    }
}

fn first_conf(dir: &Path) -> std::io::Result<Option<PathBuf>> {
    let is_conf = |p: &PathBuf| {
        p.extension().is_some_and(|e| ["conf", "conflist", "json"].iter().any(|known| e == *known))
    };
    let entries = std::fs::read_dir(dir)?.filter_map(|e| e.ok().map(|e| e.path()));
    Ok(entries.filter(is_conf).min())
}

/// The plugins' names: of a list, or of a single configuration, with their IPAM plugins.
fn plugins(bytes: &[u8]) -> Result<BTreeSet<String>, String> {
    let json: Value = serde_json::from_slice(bytes).map_err(|e| e.to_string())?;
    let single = std::slice::from_ref(&json);
    let list = json.get("plugins").and_then(Value::as_array).map_or(single, Vec::as_slice);
    let mut names = BTreeSet::new();
    for plugin in list {
        let Some(kind) = plugin.get("type").and_then(Value::as_str) else {
            return Err("a plugin has no \"type\"".to_owned());
        };
        names.insert(kind.to_owned());
        if let Some(ipam) = plugin.pointer("/ipam/type").and_then(Value::as_str) {
            names.insert(ipam.to_owned());
        }
    }
    Ok(names)
}

fn binaries(names: &BTreeSet<String>, dirs: &[PathBuf]) -> Check {
    let there = |name: &str| dirs.iter().any(|d| rustix::fs::access(d.join(name), Access::EXEC_OK).is_ok());
    let missing: Vec<_> = names.iter().filter(|n| !there(n)).map(String::as_str).collect();
    let searched = dirs.iter().map(|d| d.display().to_string()).collect::<Vec<_>>().join(", ");
    if missing.is_empty() {
        return Check::ok("cni plugins", format!("all of them are in {searched}"));
    }
    Check::fail(
        "cni plugins",
        format!("not in {searched}: {}", missing.join(", ")),
        "install them (Debian: containernetworking-plugins), or set cni.bin_dirs",
    )
}
