//! Devices of a container: of the host, and by name of a CDI file.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use sandboxd_api::cri::{CdiDevice, Device, HugepageLimit};
use sandboxd_tests::leftovers::cgroup_dirs;
use tonic::Code;

use crate::support::{Stage, both, refused, userns};

/// A file that goes with the test.
struct Made(PathBuf);

impl Drop for Made {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// The kernel's log (1:11), which no container has by itself, as a device of everybody's.
fn host_device(stage: &Stage<'_>) -> Result<Made> {
    let path = PathBuf::from("/dev").join(format!("{}-kmsg", stage.node.scope.name));
    mknod(&path, SFlag::S_IFCHR, Mode::empty(), makedev(1, 11)).context("making a device")?;
    let made = Made(path);
    fs::set_permissions(&made.0, Permissions::from_mode(0o666))?;
    Ok(made)
}

const OPENS: &str =
    "ls -l /dev/mine | grep -c ' 1, *11 '; (: > /dev/mine) 2>/dev/null && echo write || echo denied";

// cri: ContainerConfig.devices, Device.container_path, Device.host_path, Device.permissions
#[test]
fn a_device_of_the_host_with_its_permissions() {
    both(async |stage| {
        let made = host_device(stage)?;
        for (permissions, wanted) in [("w", "1\nwrite"), ("rw", "1\nwrite"), ("r", "1\ndenied")] {
            let request = stage.container(&format!("by-{permissions}")).with(|c| {
                c.devices.push(Device {
                    container_path: "/dev/mine".into(),
                    host_path: made.0.to_string_lossy().into_owned(),
                    permissions: permissions.into(),
                });
            });
            let text = stage.printed(request, OPENS).await?;
            ensure!(text == wanted, "{permissions}: {text}");
        }
        // Without it there is none, and none can be made.
        let script = "ls /dev/mine 2>/dev/null; mknod /mine c 1 11 2>/dev/null && (: > /mine) 2>/dev/null && echo opened; true";
        let text = stage.printed(stage.container("without"), script).await?;
        ensure!(text.is_empty(), "{text}");
        for (host_path, word) in
            [("/dev/no-such-device", "/dev/no-such-device"), ("/etc/passwd", "/etc/passwd")]
        {
            let request = stage.container("bad").waits().with(|c| {
                c.devices.push(Device {
                    container_path: "/dev/mine".into(),
                    host_path: host_path.into(),
                    permissions: "rw".into(),
                });
            });
            let refusal = stage.kube.create(&stage.pod, request).await;
            ensure!(refusal.is_err_and(|status| status.message().contains(word)), "{host_path}");
        }
        Ok(())
    });
}

/// A vendor's file, and the directory where it had to be made.
fn cdi_file(stage: &Stage<'_>, text: &str) -> Result<(Made, MadeDir)> {
    let dir = PathBuf::from("/etc/cdi");
    let existed = dir.exists();
    fs::create_dir_all(&dir)?;
    let guard = MadeDir((!existed).then(|| dir.clone()));
    let path = dir.join(format!("{}.json", stage.node.scope.name));
    fs::write(&path, text)?;
    Ok((Made(path), guard))
}

struct MadeDir(Option<PathBuf>);

impl Drop for MadeDir {
    fn drop(&mut self) {
        if let Some(dir) = &self.0 {
            // Another test's file may be in it.
            let _ = fs::remove_dir(dir);
        }
    }
}

// cri: ContainerConfig.CDI_devices, CDIDevice.name
#[test]
fn a_cdi_device_is_what_its_file_says() {
    both(async |stage| {
        let class = &stage.node.scope.name;
        let data = stage.node.path("vendor");
        fs::create_dir(&data)?;
        fs::write(data.join("library"), "vendor's")?;
        let spec = serde_json::json!({
            "cdiVersion": "0.6.0",
            "kind": format!("sandboxd.test/{class}"),
            "devices": [
                {
                    "name": "one",
                    "containerEdits": {
                        "env": ["VENDOR_DEVICE=one"],
                        "deviceNodes": [{ "path": "/dev/vendor0", "hostPath": "/dev/zero" }],
                        "mounts": [{
                            "hostPath": data,
                            "containerPath": "/vendor",
                            "options": ["ro", "bind"],
                        }],
                    },
                },
                { "name": "two", "containerEdits": { "env": ["VENDOR_DEVICE=two"] } },
            ],
        });
        let guards = cdi_file(stage, &spec.to_string())?;
        let with = |name: &str, device: &str| {
            let name = stage.container(name);
            let device = CdiDevice { name: format!("sandboxd.test/{class}={device}") };
            name.with(|c| c.cdi_devices.push(device))
        };
        let script = "echo $VENDOR_DEVICE; head -c 4 /dev/vendor0 | wc -c; cat /vendor/library; \
                      touch /vendor/x 2>/dev/null || echo ' ro'";
        let text = stage.printed(with("one", "one"), script).await?;
        ensure!(text.split_whitespace().eq(["one", "4", "vendor's", "ro"]), "{text}");
        let script = "echo $VENDOR_DEVICE; ls /dev/vendor0 /vendor 2>/dev/null; true";
        let text = stage.printed(with("two", "two"), script).await?;
        ensure!(text == "two", "{text}");
        let missing = format!("sandboxd.test/{class}=three");
        let refusal = stage.kube.create(&stage.pod, with("three", "three").waits()).await;
        ensure!(refusal.is_err_and(|status| status.message().contains(&missing)), "{missing} was taken");
        drop(guards);
        Ok(())
    });
}

#[test]
fn a_cdi_name_that_is_none_is_refused() {
    userns(async |stage| {
        let request = stage.container("bad").waits();
        let request = request.with(|c| c.cdi_devices.push(CdiDevice { name: "no-such".into() }));
        refused(stage.kube.create(&stage.pod, request).await, Code::InvalidArgument, &["no-such"])
    });
}

// cri: LinuxContainerResources.hugepage_limits, HugepageLimit.page_size, HugepageLimit.limit
#[test]
fn hugepages_are_limited_where_the_machine_counts_them() {
    both(async |stage| {
        let request = stage.container("huge").waits().with_resources(|r| {
            r.hugepage_limits.push(HugepageLimit { page_size: "2MB".into(), limit: 4 << 20 });
        });
        let counted = cgroup_dirs(&stage.node.scope.name).iter().any(|dir| {
            ["hugetlb.2MB.limit_in_bytes", "hugetlb.2MB.max"].iter().any(|file| dir.join(file).exists())
        });
        let made = stage.kube.create(&stage.pod, request).await;
        if !counted {
            ensure!(
                made.is_err_and(|status| status.message().contains("hugetlb")),
                "nobody would count them"
            );
            return Ok(());
        }
        let id = made?;
        let dirs = cgroup_dirs(&format!("{}/{id}", stage.node.scope.name));
        let files = dirs
            .iter()
            .flat_map(|dir| ["hugetlb.2MB.limit_in_bytes", "hugetlb.2MB.max"].map(|file| dir.join(file)));
        let limit = files.map(fs::read_to_string).find_map(Result::ok).context("no limit")?;
        ensure!(limit.trim() == (4u64 << 20).to_string(), "{limit}");
        Ok(())
    });
}
