//! The network room against scripted plugins ([`fake`]), changing files ([`status`]) and the standard
//! plugins ([`real`]).

mod fake;
mod real;
mod status;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;

use super::*;
use crate::pod::spec::{
    Dns, IpcMode, Metadata, Namespaces, NetworkMode, PidMode, PodSpec, Resources, Security,
};

/// Directories of one test.
struct Bed {
    dir: TempDir,
}

impl Bed {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        for name in ["conf", "bin", "log"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        Self { dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn conf(&self, name: &str, text: &str) {
        fs::write(self.path("conf").join(name), text).unwrap();
    }

    /// A plugin that records its environment and input under log/, then runs the script.
    /// `$log` is its log's prefix, `$CNI_COMMAND` what is asked.
    fn plugin(&self, name: &str, script: &str) {
        let log = self.path("log");
        let text = format!(
            "#!/bin/sh\nlog={}/{name}\ninput=$(cat)\n\
             printf '%s' \"$input\" > $log.$CNI_COMMAND.in\nenv > $log.$CNI_COMMAND.env\n\
             echo {name} $CNI_COMMAND >> {}/order\n\
             if [ $CNI_COMMAND = VERSION ]; then echo '{{\"cniVersion\":\"1.1.0\",\
             \"supportedVersions\":[\"0.3.1\",\"0.4.0\",\"1.0.0\",\"1.1.0\"]}}'; exit 0; fi\n{script}\n",
            log.display(),
            log.display()
        );
        let path = self.path("bin").join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn log(&self, name: &str) -> String {
        fs::read_to_string(self.path("log").join(name)).unwrap_or_default()
    }

    /// The operations so far, without the probes.
    fn order(&self) -> Vec<String> {
        let probe = |l: &&str| !l.ends_with(" VERSION") && !l.ends_with(" STATUS");
        self.log("order").lines().filter(probe).map(str::to_owned).collect()
    }

    fn settings(&self) -> NetworkSettings {
        NetworkSettings {
            conf_dir: self.path("conf"),
            bin_dirs: vec![self.path("bin")],
            lease_dir: self.path("leases"),
            add_timeout: Duration::from_secs(20),
            del_timeout: Duration::from_secs(20),
        }
    }

    fn network(&self) -> Arc<Network> {
        Network::new(self.settings()).unwrap()
    }

    fn leases_left(&self) -> usize {
        fs::read_dir(self.path("leases")).unwrap().count()
    }
}

fn pod(id: &str) -> PodId {
    PodId::from_string(id.to_owned())
}

fn spec() -> PodSpec {
    PodSpec {
        metadata: Metadata { name: "web".into(), uid: "u-1".into(), namespace: "prod".into(), attempt: 0 },
        hostname: String::new(),
        log_directory: None,
        dns: Dns::default(),
        port_mappings: Vec::new(),
        labels: BTreeMap::new(),
        annotations: BTreeMap::new(),
        handler: "native".into(),
        runtime_handler: String::new(),
        cgroup_parent: String::new(),
        sysctls: BTreeMap::new(),
        resources: Resources::default(),
        overhead: Resources::default(),
        namespaces: Namespaces {
            network: NetworkMode::Pod,
            pid: PidMode::Container,
            ipc: IpcMode::Pod,
            user: None,
        },
        security: Security::default(),
    }
}

/// Waits until the status is as wanted; panics with the last one after ten seconds.
async fn wait_status(
    network: &Network,
    what: &str,
    wanted: impl Fn(&NetworkStatus) -> bool,
) -> NetworkStatus {
    let mut watch = network.watch();
    let waited = tokio::time::timeout(Duration::from_secs(10), watch.wait_for(|s| wanted(s))).await;
    match waited {
        Ok(Ok(status)) => status.clone(),
        _ => panic!("{what}: never came; last {:?}", network.status()),
    }
}

fn exists(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok()
}

/// Says that a test did not run, past the harness's capture.
fn skipped(test: &str, reason: &str) {
    let _ =
        std::io::Write::write_all(&mut std::io::stderr(), format!("SKIPPED: {test}: {reason}\n").as_bytes());
}
