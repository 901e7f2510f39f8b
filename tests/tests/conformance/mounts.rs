//! Mounts of a container, and the files a pod gives it.

use std::fs;
use std::os::unix::fs::MetadataExt;

use anyhow::{Context, ensure};
use sandboxd_api::cri::{ImageSpec, Mount, MountPropagation, NamespaceMode};
use sandboxd_tests::cni::tool;
use tonic::Code;

use crate::support::{IMAGE, both, refused, userns};

// cri: ContainerConfig.mounts, Mount.container_path, Mount.host_path, Mount.readonly, Mount.uidMappings
// cri: Mount.gidMappings, ContainerStatus.mounts, IDMapping.host_id, IDMapping.container_id, IDMapping.length
#[test]
fn a_bind_mount_is_the_hosts_directory_with_the_pods_ids() {
    both(async |stage| {
        let dir = stage.node.path("volume");
        fs::create_dir(&dir)?;
        fs::write(dir.join("from-host"), "hello")?;
        let request = stage.container("bind").bind(&dir, "/vol").mount(Mount {
            host_path: dir.to_string_lossy().into_owned(),
            container_path: "/ro".into(),
            readonly: true,
            ..Mount::default()
        });
        let script = "cat /vol/from-host; stat -c ' %u' /vol/from-host; echo made > /vol/made; chown 7:7 /vol/made; \
                      echo x > /ro/y && echo writable; true";
        let id = stage.kube.run(&stage.pod, request.sh(script)).await?;
        let status = stage.kube.ended(&id).await?;
        let text = sandboxd_tests::workload::log(status.log_path.as_ref())?.of("stdout");
        ensure!(text == "hello 0\n", "{text:?}");
        // The mappings of the mount take the pod's ids back to the host's.
        let made = fs::metadata(dir.join("made"))?;
        ensure!((made.uid(), made.gid()) == (7, 7), "{}:{}", made.uid(), made.gid());
        ensure!(!dir.join("y").exists());
        let mounts: Vec<_> = status.mounts.iter().map(|m| (m.container_path.as_str(), m.readonly)).collect();
        ensure!(mounts == [("/vol", false), ("/ro", true)], "{mounts:?}");
        ensure!(
            status.mounts.iter().all(|m| m.uid_mappings.is_empty() != stage.userns),
            "{:?}",
            status.mounts
        );
        Ok(())
    });
}

#[test]
fn sources_may_be_files_links_behind_closed_doors_or_missing() {
    both(async |stage| {
        let base = stage.node.path("sources");
        fs::create_dir_all(base.join("closed/inner"))?;
        fs::write(base.join("closed/inner/file"), "inside")?;
        // Nobody but the host's root gets through.
        fs::set_permissions(base.join("closed"), std::os::unix::fs::PermissionsExt::from_mode(0o700))?;
        std::os::unix::fs::symlink(base.join("closed/inner"), base.join("link"))?;
        let request = stage
            .container("sources")
            .bind(&base.join("closed/inner"), "/a")
            .bind(&base.join("closed/inner/file"), "/b/c/d")
            .bind(&base.join("link"), "/e")
            .bind(&base.join("new"), "/f")
            .bind(&base.join("closed/inner/file"), "/etc/hosts");
        let text = stage.printed(request, "cat /a/file /b/c/d /e/file /etc/hosts; touch /f/x; echo").await?;
        ensure!(text == "insideinsideinsideinside", "{text}");
        ensure!(base.join("new/x").exists(), "a missing source is made as a directory");
        Ok(())
    });
}

#[test]
fn a_hostile_link_in_the_image_does_not_lead_a_mount_out() {
    both(async |stage| {
        let dir = stage.node.path("volume");
        fs::create_dir(&dir)?;
        // In the image /evil is a link to /../../../../tmp/out.
        let text = stage.printed(stage.container("evil").bind(&dir, "/evil/x"), "ls -d /tmp/out/x").await?;
        ensure!(text == "/tmp/out/x", "{text}");
        ensure!(!std::path::Path::new("/tmp/out").exists(), "the host's /tmp/out was made");
        Ok(())
    });
}

// cri: Mount.recursive_read_only, RuntimeHandlerFeatures.recursive_read_only_mounts
#[test]
fn recursive_read_only_reaches_what_is_mounted_below() {
    both(async |stage| {
        let dir = stage.node.path("tree");
        fs::create_dir_all(dir.join("sub"))?;
        let sub = dir.join("sub").to_string_lossy().into_owned();
        tool("mount", &["-t", "tmpfs", "below", &sub])?;
        let guard = Unmount(sub);
        let mount = |recursive_read_only| Mount {
            host_path: dir.to_string_lossy().into_owned(),
            container_path: "/tree".into(),
            readonly: true,
            recursive_read_only,
            ..Mount::default()
        };
        let script =
            "for d in /tree /tree/sub; do if touch $d/x 2>/dev/null; then echo rw; else echo ro; fi; done";
        let text = stage.printed(stage.container("rro").mount(mount(true)), script).await?;
        ensure!(text == "ro\nro", "recursive: {text}");
        let text = stage.printed(stage.container("ro").mount(mount(false)), script).await?;
        ensure!(text == "ro\nrw", "not recursive: {text}");
        let bad = Mount { readonly: false, ..mount(true) };
        let refusal = stage.kube.create(&stage.pod, stage.container("bad").mount(bad)).await;
        refused(refusal, Code::InvalidArgument, &["recursive_read_only"])?;
        drop(guard);
        Ok(())
    });
}

struct Unmount(String);

impl Drop for Unmount {
    fn drop(&mut self) {
        let _ = tool("umount", &["-l", &self.0]);
    }
}

// cri: Mount.propagation
#[test]
fn propagation_is_as_asked() {
    both(async |stage| {
        let base = stage.node.path("shared");
        fs::create_dir(&base)?;
        let base_text = base.to_string_lossy().into_owned();
        tool("mount", &["-t", "tmpfs", "shared", &base_text])?;
        let guard = Unmount(base_text.clone());
        tool("mount", &["--make-shared", &base_text])?;
        fs::create_dir(base.join("later"))?;
        let mount = |propagation: MountPropagation| Mount {
            host_path: base_text.clone(),
            container_path: "/shared".into(),
            propagation: propagation.into(),
            ..Mount::default()
        };
        let request = |name: &str, propagation| stage.container(name).mount(mount(propagation)).waits();
        let private =
            stage.kube.run(&stage.pod, request("private", MountPropagation::PropagationPrivate)).await?;
        let slave = stage
            .kube
            .run(&stage.pod, request("slave", MountPropagation::PropagationHostToContainer))
            .await?;
        let later = base.join("later").to_string_lossy().into_owned();
        tool("mount", &["-t", "tmpfs", "later", &later])?;
        let later_guard = Unmount(later.clone());
        fs::write(base.join("later/seen"), "")?;
        let sees = async |id: &str| -> anyhow::Result<bool> {
            Ok(stage.kube.exec(id, &["ls", "/shared/later/seen"]).await?.exit_code == 0)
        };
        ensure!(!sees(&private).await?, "private sees a later mount of the host");
        ensure!(sees(&slave).await?, "HostToContainer does not see a later mount of the host");
        drop(later_guard);
        stage.kube.remove(&private).await?;
        stage.kube.remove(&slave).await?;
        if !stage.userns {
            let both = stage.container("both").mount(mount(MountPropagation::PropagationBidirectional));
            let both = both.with_security(|security| security.privileged = true).waits();
            let pod = stage.node.pod("privileged").with_security(|security| security.privileged = true);
            let pod = stage.kube.pod(pod).await?;
            let id = stage.kube.run(&pod, both).await?;
            stage
                .kube
                .asked(
                    &id,
                    &["sh", "-c", "mount -t tmpfs x /shared/later && touch /shared/later/from-inside"],
                )
                .await?;
            ensure!(base.join("later/from-inside").exists(), "a mount made inside does not reach the host");
            stage.kube.asked(&id, &["umount", "/shared/later"]).await?;
            stage.kube.remove(&id).await?;
        }
        drop(guard);
        Ok(())
    });
}

// cri: Mount.image, Mount.image_sub_path
#[test]
fn an_images_files_can_be_mounted() {
    both(async |stage| {
        let image = |sub_path: &str, at: &str| Mount {
            image: Some(ImageSpec { image: IMAGE.into(), ..ImageSpec::default() }),
            image_sub_path: sub_path.into(),
            container_path: at.into(),
            readonly: true,
            ..Mount::default()
        };
        let request = stage.container("image").mount(image("", "/img")).mount(image("etc", "/sub"));
        let text = stage
            .printed(
                request,
                "ls /img/bin/busybox /sub/passwd; touch /img/x 2>/dev/null || echo ro; stat -c %u /img/etc",
            )
            .await?;
        ensure!(text == "/img/bin/busybox\n/sub/passwd\nro\n0", "{text}");
        let id = stage.kube.create(&stage.pod, stage.container("told").mount(image("", "/img"))).await?;
        let status = stage.kube.status(&id).await?;
        let told = status.mounts[0].image.clone().unwrap_or_default();
        ensure!(told.image == IMAGE && told.image_ref == status.image_id, "{told:?}, {}", status.image_id);
        let writable = Mount { readonly: false, ..image("", "/x") };
        let refusal = stage.kube.create(&stage.pod, stage.container("bad").mount(writable)).await;
        refused(refusal, Code::InvalidArgument, &["mounts[0].readonly", "read-only"])?;
        for bad in ["../etc", "/nosuch"] {
            let refusal = stage.kube.create(&stage.pod, stage.container("bad").mount(image(bad, "/x"))).await;
            ensure!(refusal.is_err(), "{bad} was taken");
        }
        Ok(())
    });
}

// cri: Mount.selinux_relabel
#[test]
fn selinux_relabelling_is_taken_where_there_is_no_selinux() {
    userns(async |stage| {
        let dir = stage.node.path("volume");
        fs::create_dir(&dir)?;
        let mount = Mount {
            host_path: dir.to_string_lossy().into_owned(),
            container_path: "/vol".into(),
            selinux_relabel: true,
            ..Mount::default()
        };
        ensure!(
            stage.printed(stage.container("label").mount(mount), "touch /vol/x; echo done").await? == "done"
        );
        Ok(())
    });
}

#[test]
fn the_pods_files_and_the_usual_mounts_are_there() {
    both(async |stage| {
        let pod = stage.node.pod("files").hostname("named").dns(&["10.1.2.3"], &["a.test"], &[]);
        let pod = stage.kube.pod(if stage.userns { pod.userns() } else { pod }).await?;
        let script = "hostname; cat /etc/hostname; grep -c 10.1.2.3 /etc/resolv.conf; stat -c '%u' /etc/resolv.conf /etc/hostname /etc/hosts; \
                      ls -l /dev/null /dev/zero /dev/full /dev/random /dev/urandom /dev/tty | wc -l; stat -c %F /dev/null; \
                      readlink /dev/fd; readlink /dev/stdin; stat -f -c %T /dev/shm /proc /sys; echo x > /dev/shm/x && echo shm";
        let text = stage.kube.printed(&pod, stage.container("files").sh(script)).await?;
        let expected = "named\nnamed\n1\n0\n0\n0\n6\ncharacter special file\n/proc/self/fd\n/proc/self/fd/0\ntmpfs\nproc\nsysfs\nshm";
        ensure!(text == expected, "{text}");
        // One /dev/shm for the pod.
        let text = stage.kube.printed(&pod, stage.container("other").sh("ls /dev/shm")).await?;
        ensure!(text == "x", "{text}");
        Ok(())
    });
}

#[test]
fn volumes_of_the_image_hold_what_the_image_has_there() {
    both(async |stage| {
        // The image has a VOLUME /data with a file of uid 1000.
        let script = "cat /data/file; stat -c ' %u' /data/file; echo more > /data/more; grep -c ' /data ' /proc/self/mountinfo";
        let text = stage.printed(stage.container("volume"), script).await?;
        ensure!(text == "content 1000\n1", "{text}");
        let dir = stage.node.path("mine");
        fs::create_dir(&dir)?;
        let text = stage.printed(stage.container("replaced").bind(&dir, "/data"), "ls /data | wc -l").await?;
        ensure!(text == "0", "a mount of the request replaces it: {text}");
        Ok(())
    });
}

#[test]
fn a_mount_without_a_place_or_a_source_is_refused() {
    userns(async |stage| {
        for (field, mount) in [
            ("container_path", Mount { host_path: "/tmp".into(), ..Mount::default() }),
            ("host_path", Mount { container_path: "/x".into(), ..Mount::default() }),
        ] {
            let refusal = stage.kube.create(&stage.pod, stage.container("bad").mount(mount)).await;
            refused(refusal, Code::InvalidArgument, &[field])?;
        }
        Ok(())
    });
}

#[test]
fn nothing_of_a_container_is_in_the_hosts_mount_table() {
    both(async |stage| {
        let before = fs::read_to_string("/proc/self/mountinfo")?;
        let dir = stage.node.path("volume");
        fs::create_dir(&dir)?;
        stage.kube.run(&stage.pod, stage.container("hidden").bind(&dir, "/vol").waits()).await?;
        let after = fs::read_to_string("/proc/self/mountinfo")?;
        let name = &stage.node.scope.name;
        let own = |text: &str| text.lines().filter(|line| line.contains(name.as_str())).count();
        ensure!(own(&after) == own(&before), "{after}");
        Ok(())
    });
}

#[test]
fn host_network_sees_the_hosts_sys_read_only() {
    userns(async |stage| {
        let pod = stage.kube.pod(stage.node.pod("hostnet").hostname("").network(NamespaceMode::Node)).await?;
        let text = stage.kube.printed(&pod, stage.container("sys").sh("ls -d /sys/class/net/lo; touch /sys/x 2>&1 | grep -c -i 'read-only'; readlink /proc/self/ns/net")).await?;
        let host = fs::read_link("/proc/self/ns/net")?;
        let lines: Vec<_> = text.lines().collect();
        ensure!(lines.first() == Some(&"/sys/class/net/lo"), "{text}");
        ensure!(lines.last().context("nothing")? == &host.to_string_lossy(), "{text}");
        Ok(())
    });
}
