//! Who owns what: asked of the kernel, not of the daemon.

use std::os::fd::AsFd;

use anyhow::{Context, ensure};
use sandboxd_api::cri::NamespaceMode;
use sandboxd_tests::e2e::E2e;
use sandboxd_tests::pod::{USERNS_BASE, USERNS_LENGTH};
use sandboxd_tests::{ns, proc};

#[test]
fn every_namespace_of_a_userns_pod_is_owned_by_its_userns() {
    E2e::default().run(async |node| {
        let cri = node.cri().await?;
        let id = cri.run(node.pod("own").userns().build()).await?;
        let pid = cri.pid(&id).await?;
        let userns = ns::inode_of(pid, "user")?;
        ensure!(userns != ns::own("user")?, "the pod is in the host's user namespace");
        for kind in ns::KINDS {
            ensure!(ns::inode_of(pid, kind)? != ns::own(kind)?, "{kind} is the host's");
            if kind != "user" {
                let owner = ns::owner_of(pid, kind)?;
                ensure!(owner == userns, "{kind} is owned by {owner}, the pod's userns is {userns}");
            }
        }
        let user = ns::open(pid, "user")?;
        let parent = ns::inode(ns::parent(user.as_fd())?.as_fd())?;
        ensure!(parent == ns::own("user")?, "the parent of the pod's userns is {parent}");
        // ucounts are charged to whoever made it: the pod's own root, not the host's.
        let maker = ns::owner_uid(user.as_fd())?;
        ensure!(maker == USERNS_BASE, "the userns was made by uid {maker}");
        Ok(())
    });
}

#[test]
fn the_pinned_network_namespace_is_the_pods() {
    E2e::default().run(async |node| {
        let cri = node.cri().await?;
        let id = cri.run(node.pod("pin").userns().build()).await?;
        let info = cri.info(&id).await?;
        let path = info["netnsPath"].as_str().context("no netnsPath")?.to_owned();
        let pinned = ns::open_path(path.as_ref())?;
        let pid = cri.pid(&id).await?;
        ensure!(ns::inode(pinned.as_fd())? == ns::inode_of(pid, "net")?);
        ensure!(ns::inode(ns::owner(pinned.as_fd())?.as_fd())? == ns::inode_of(pid, "user")?);
        Ok(())
    });
}

#[test]
fn verbose_info_tells_the_same_as_the_kernel() {
    E2e::default().run(async |node| {
        let cri = node.cri().await?;
        let id = cri.run(node.pod("told").userns().build()).await?;
        let pid = cri.pid(&id).await?;
        let text = cri.info(&id).await?["namespaces"].to_string();
        for kind in ns::KINDS {
            let inode = ns::inode_of(pid, kind)?;
            ensure!(text.contains(&inode.to_string()), "{kind} {inode} is not in {text}");
        }
        Ok(())
    });
}

#[test]
fn sysfs_inside_is_the_pods_own() {
    E2e::default().run(async |node| {
        let cri = node.cri().await?;
        let id = cri.run(node.pod("sys").userns().build()).await?;
        let pid = cri.pid(&id).await?;
        let mounts = proc::mounts_of(pid)?;
        let sys = mounts.iter().find(|m| m.point == "/sys").context("no mount on /sys")?;
        ensure!(sys.fs_type == "sysfs", "{sys:?}");
        ensure!(sys.options.split(',').any(|o| o == "ro"), "{sys:?}");
        let links = proc::list_inside(pid, "/sys/class/net")?;
        ensure!(links == ["eth0", "lo"], "the pod's /sys/class/net has {links:?}");
        Ok(())
    });
}

// cri: NamespaceOption.userns_options, UserNamespace.uids, UserNamespace.gids, IDMapping.host_id
// cri: IDMapping.container_id, IDMapping.length
#[test]
fn ids_are_mapped_up_to_the_top_of_u32() {
    E2e::default().run(async |node| {
        let cri = node.cri().await?;
        // The base that a kubelet without a subuid file picked, a short map, and the last id but one:
        // u32::MAX itself is "no id" (user_namespaces(7)).
        let maps = [(4_221_435_904, 65_536), (USERNS_BASE, 1_000), (u32::MAX - 65_536, 65_536)];
        for (index, (base, length)) in maps.into_iter().enumerate() {
            let pod = node.pod(&format!("map{index}")).userns_at(base, length);
            let id = cri.run(pod.build()).await?;
            let pid = cri.pid(&id).await?;
            for file in ["uid_map", "gid_map"] {
                let text = std::fs::read_to_string(format!("/proc/{pid}/{file}"))?;
                let numbers: Vec<_> = text.split_whitespace().collect();
                let wanted = ["0".to_owned(), base.to_string(), length.to_string()];
                ensure!(numbers == wanted, "{file} is {text}");
            }
            let uid = proc::status_field(pid, "Uid")?;
            let first: u32 = uid.split(' ').next().unwrap_or_default().parse()?;
            ensure!(first >= base && first - base < length, "runs as host uid {first}, map {base}+{length}");
            cri.remove(&id).await?;
        }
        Ok(())
    });
}

#[test]
fn a_pod_without_a_userns_shares_the_hosts_and_owns_the_rest() {
    E2e::default().run(async |node| {
        let cri = node.cri().await?;
        let id = cri.run(node.pod("hostusers").build()).await?;
        let pid = cri.pid(&id).await?;
        ensure!(ns::inode_of(pid, "user")? == ns::own("user")?);
        for kind in ["net", "mnt", "ipc", "uts"] {
            ensure!(ns::inode_of(pid, kind)? != ns::own(kind)?, "{kind} is the host's");
        }
        let mounts = proc::mounts_of(pid)?;
        let sys = mounts.iter().find(|m| m.point == "/sys").context("no mount on /sys")?;
        ensure!(sys.fs_type == "sysfs" && sys.options.split(',').any(|o| o == "ro"), "{sys:?}");
        Ok(())
    });
}

// cri: LinuxSandboxSecurityContext.namespace_options, NamespaceOption.network, NamespaceOption.ipc
// cri: NamespaceOption.pid
#[test]
fn node_namespaces_are_the_nodes() {
    E2e::default().run(async |node| {
        let cri = node.cri().await?;
        let pod = node.pod("host").network(NamespaceMode::Node).ipc(NamespaceMode::Node);
        let id = cri.run(pod.pid(NamespaceMode::Node).hostname("").build()).await?;
        let pid = cri.pid(&id).await?;
        for kind in ["net", "ipc", "pid", "user"] {
            ensure!(ns::inode_of(pid, kind)? == ns::own(kind)?, "{kind} is not the node's");
        }
        ensure!(ns::inode_of(pid, "mnt")? != ns::own("mnt")?);
        let mounts = proc::mounts_of(pid)?;
        let sys = mounts.iter().find(|m| m.point == "/sys").context("no mount on /sys")?;
        ensure!(sys.options.split(',').any(|o| o == "ro"), "the node's /sys is writable: {sys:?}");
        Ok(())
    });
}

#[test]
fn two_pods_with_the_same_ids_share_no_namespace() {
    E2e::default().run(async |node| {
        let cri = node.cri().await?;
        let mut pids = Vec::new();
        for name in ["left", "right"] {
            let id = cri.run(node.pod(name).userns_at(USERNS_BASE, USERNS_LENGTH).build()).await?;
            pids.push(cri.pid(&id).await?);
        }
        for kind in ns::KINDS {
            ensure!(ns::inode_of(pids[0], kind)? != ns::inode_of(pids[1], kind)?, "{kind} is shared");
        }
        Ok(())
    });
}
