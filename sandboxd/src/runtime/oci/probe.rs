//! What a runtime says of itself. Nothing is run but `--version`, `features` and `exec --help`.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use serde::Deserialize;
use tokio::process::Command;

use super::SubCgroups;

/// For an answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// Where the v2 hierarchy of a hybrid layout is.
const HYBRID: &str = "/sys/fs/cgroup/unified/cgroup.controllers";

/// What was found.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Found {
    pub version: String,
    pub user_namespaces: bool,
    pub recursive_read_only: bool,
    pub sub_cgroups: SubCgroups,
    /// Why something is not reported, for an operator.
    pub lacking: Vec<String>,
}

/// `features` of the OCI runtime spec, as far as it matters here.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Features {
    mount_options: Vec<String>,
    linux: LinuxFeatures,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct LinuxFeatures {
    namespaces: Vec<String>,
}

pub async fn probe(binary: &Path) -> Found {
    // Beside each other: the daemon serves nobody meanwhile.
    let (version, features, help) = tokio::join!(
        ask(binary, &["--version"]),
        ask(binary, &["features"]),
        ask(binary, &["exec", "--help"])
    );
    let version = match version {
        Ok(text) => text.lines().next().unwrap_or_default().to_owned(),
        Err(problem) => return Found { lacking: vec![problem], ..Found::default() },
    };
    if version.starts_with("crun") && !std::fs::read_to_string(HYBRID).unwrap_or_default().trim().is_empty() {
        let problem = "crun makes no containers where cgroup v1 and v2 both have controllers";
        return Found { version, lacking: vec![problem.to_owned()], ..Found::default() };
    }
    let mut found = match features {
        Ok(text) => judge(version, &text),
        Err(problem) => known(version, &problem),
    };
    found.sub_cgroups = sub_cgroups(&found.version, &help.unwrap_or_default());
    if found.sub_cgroups == SubCgroups::None {
        let problem = "its exec has no --cgroup: what an exec that is killed left behind may live on";
        found.lacking.push(problem.to_owned());
    }
    found
}

/// What a runtime without `features` can do: crun has the command from 1.8.6 on, user namespaces since ever and `rro`
/// from 1.4 on.
fn known(version: String, problem: &str) -> Found {
    let crun = version.strip_prefix("crun version ").and_then(|rest| {
        let mut numbers = rest.split('.').map(|number| number.parse::<u32>().ok());
        Some((numbers.next()??, numbers.next()??, numbers.next().flatten().unwrap_or(0)))
    });
    if crun.is_some_and(|crun| ((1, 4, 0)..(1, 8, 6)).contains(&crun)) {
        return Found { version, user_namespaces: true, recursive_read_only: true, ..Found::default() };
    }
    let problem = format!("{problem}: user namespaces and recursively read-only mounts are not reported");
    Found { version, lacking: vec![problem], ..Found::default() }
}

/// crun wants a cgroup of that name in every hierarchy of cgroup v1.
fn sub_cgroups(version: &str, help: &str) -> SubCgroups {
    match (help.contains("--cgroup"), version.starts_with("runc")) {
        (false, _) => SubCgroups::None,
        (true, false) => SubCgroups::Unified,
        (true, true) => SubCgroups::All,
    }
}

fn judge(version: String, features: &str) -> Found {
    let features: Features = match serde_json::from_str(features) {
        Ok(features) => features,
        Err(error) => {
            let problem = format!("its features are not as the OCI runtime spec has them: {error}");
            return Found { version, lacking: vec![problem], ..Found::default() };
        }
    };
    let has = |list: &[String], name: &str| list.iter().any(|known| known == name);
    let user_namespaces = has(&features.linux.namespaces, "user");
    let recursive_read_only = has(&features.mount_options, "rro");
    let lacking = [
        (user_namespaces, "it knows no user namespaces"),
        (recursive_read_only, "it knows no recursively read-only mounts (rro)"),
    ];
    let lacking = lacking.into_iter().filter(|(has, _)| !has).map(|(_, words)| words.to_owned()).collect();
    Found { version, user_namespaces, recursive_read_only, lacking, ..Found::default() }
}

async fn ask(binary: &Path, words: &[&str]) -> Result<String, String> {
    let what = words.join(" ");
    let run = Command::new(binary)
        .args(words)
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .current_dir("/")
        .kill_on_drop(true)
        .output();
    match tokio::time::timeout(PATIENCE, run).await {
        Err(_) => Err(format!("`{} {what}` does not end", binary.display())),
        Ok(Err(error)) => Err(format!("`{} {what}` cannot be run: {error}", binary.display())),
        Ok(Ok(done)) if !done.status.success() => {
            Err(format!("`{} {what}` ends with {}", binary.display(), done.status))
        }
        Ok(Ok(done)) => Ok(String::from_utf8_lossy(&done.stdout).into_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_said_is_reported() {
        let runc =
            r#"{"ociVersionMin":"1.0.0","mountOptions":["ro","rro"],"linux":{"namespaces":["pid","user"]}}"#;
        let found = judge("runc".into(), runc);
        assert!(found.user_namespaces && found.recursive_read_only && found.lacking.is_empty());
        let found = judge("old".into(), r#"{"mountOptions":["ro"]}"#);
        assert!(!found.user_namespaces && !found.recursive_read_only);
        assert_eq!(found.lacking.len(), 2);
        assert!(judge("odd".into(), "no JSON").lacking[0].contains("OCI runtime spec"));
    }

    #[test]
    fn a_crun_without_features_is_known_by_its_version() {
        let found = known("crun version 1.8.1".into(), "no features");
        assert!(found.user_namespaces && found.recursive_read_only && found.lacking.is_empty(), "{found:?}");
        for version in
            ["crun version 1.3", "crun version 1.21", "crun version 1.UNKNOWN", "runc version 1.0.0", ""]
        {
            let found = known(version.into(), "no features");
            assert!(!found.user_namespaces && found.lacking[0].starts_with("no features"), "{found:?}");
        }
    }

    #[test]
    fn cgroups_of_execs_by_what_exec_knows() {
        let help = "   --cgroup value   run the process in an (existing) sub-cgroup(s)";
        assert_eq!(sub_cgroups("runc version 1.1.5", help), SubCgroups::All);
        assert_eq!(sub_cgroups("crun version 1.8.1", help), SubCgroups::Unified);
        assert_eq!(sub_cgroups("runc version 1.0.0", "--cwd value"), SubCgroups::None);
    }

    #[tokio::test]
    async fn what_cannot_be_run_has_no_features() {
        let found = probe(Path::new("/nonexistent/runc")).await;
        assert!(found.lacking[0].contains("/nonexistent/runc"), "{found:?}");
        let found = probe(Path::new("/bin/false")).await;
        assert!(!found.user_namespaces && found.lacking[0].contains("/bin/false"), "{found:?}");
    }
}
