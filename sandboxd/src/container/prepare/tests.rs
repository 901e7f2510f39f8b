use std::fs;
use std::os::unix::fs::{MetadataExt as _, symlink};

use oci_spec::runtime::Mount as OciMount;

use super::*;
use crate::container::rootfs::tests::{Held, disk, layer, root_only};
use crate::container::spec::{ImageRef, MountSource, Propagation, RunAs};
use crate::pod::model::test_pod;
use crate::runtime::spec::container::tests::{image, mount, spec};

struct Case {
    dir: tempfile::TempDir,
    input: Input,
    held: Option<Held>,
}

/// Each time in a directory of its own, as each container has.
fn prepare(input: &Input) -> Result<Prepared, PrepareError> {
    static COUNT: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
    let number = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let dir = input.dir.join(number.to_string());
    let (id, pod, image) = (input.id.clone(), Arc::clone(&input.pod), Arc::clone(&input.image));
    let find_image = Arc::clone(&input.find_image);
    super::prepare(&Input {
        id,
        pod,
        spec: input.spec.clone(),
        image,
        find_image,
        features: input.features,
        pod_dir: input.pod_dir.clone(),
        dir,
        cgroup: input.cgroup.clone(),
        cancelled: Arc::clone(&input.cancelled),
    })
}

impl Drop for Case {
    fn drop(&mut self) {
        let _ = namespaces::unpin(&self.input.pod_dir.join("ns/user"));
    }
}

fn case(user_namespace: bool) -> Case {
    let dir = disk();
    let pod_dir = dir.path().join("pod");
    fs::create_dir_all(pod_dir.join("ns")).unwrap();
    fs::write(pod_dir.join("hostname"), "web-0\n").unwrap();
    fs::write(pod_dir.join("resolv.conf"), "nameserver 1.1.1.1\n").unwrap();
    let base = layer(dir.path().join("layer"));
    fs::create_dir_all(base.path.join("etc")).unwrap();
    fs::create_dir_all(base.path.join("data")).unwrap();
    fs::write(base.path.join("data/f"), "from the image").unwrap();
    fs::write(base.path.join("etc/passwd"), "app:x:1000:1001::/home/app:/bin/sh\n").unwrap();
    let mut image = image();
    image.layers = vec![base];
    image.config.volumes = vec!["/data".into()];
    image.config.user.0 = "app".into();
    image.config.stop_signal = "SIGQUIT".into();
    let mut pod = test_pod("web");
    pod.ips = vec!["10.1.2.3".parse().unwrap()];
    let held = user_namespace.then(Held::new);
    pod.spec.namespaces.user = held.as_ref().map(|held| held.maps.clone());
    if let Some(held) = &held {
        namespaces::pin(held.fd.as_fd(), &pod_dir.join("ns/user")).unwrap();
    }
    let image = Arc::new(image);
    let volume = Arc::clone(&image);
    let input = Input {
        id: ContainerId::from_string("c".into()),
        pod: Arc::new(pod),
        spec: spec(),
        image,
        find_image: Arc::new(move |id: &str| (id == "sha256:da7a").then(|| Arc::clone(&volume))),
        features: HandlerFeatures { recursive_read_only_mounts: true, user_namespaces: true },
        dir: dir.path().join("c"),
        pod_dir,
        cgroup: "/pod/c".into(),
        cancelled: Arc::default(),
    };
    Case { dir, input, held }
}

fn index(prepared: &Prepared, destination: &str) -> usize {
    let mounts = prepared.spec.mounts().as_ref().unwrap();
    mounts.iter().position(|m| m.destination().to_str() == Some(destination)).unwrap()
}

fn source<'a>(prepared: &'a Prepared, destination: &str) -> Option<&'a OwnedFd> {
    let index = index(prepared, destination);
    prepared.sources.iter().find(|(i, _)| *i == index).map(|(_, fd)| fd)
}

fn at<'a>(prepared: &'a Prepared, destination: &str) -> &'a OciMount {
    &prepared.spec.mounts().as_ref().unwrap()[index(prepared, destination)]
}

#[test]
fn all_of_a_container() {
    if !root_only() {
        return;
    }
    for user_namespace in [false, true] {
        let mut case = case(user_namespace);
        let offset = case.held.as_ref().map_or(0, |held| held.maps.host_root().0);
        let host = case.dir.path().join("host");
        fs::create_dir(&host).unwrap();
        fs::write(host.join("f"), "").unwrap();
        symlink(&host, case.dir.path().join("link")).unwrap();
        let mut linked = mount("/linked", Propagation::Private);
        linked.source = MountSource::Host(case.dir.path().join("link"));
        let mut missing = mount("/missing", Propagation::Private);
        missing.source = MountSource::Host(case.dir.path().join("not/yet"));
        let mut of_image = mount("/image", Propagation::Private);
        let named = ImageRef {
            image: "data:1".into(),
            image_id: "sha256:da7a".into(),
            ..case.input.spec.image.clone()
        };
        of_image.source = MountSource::Image { image: named, sub_path: "data".into() };
        case.input.spec.mounts = vec![linked, missing, of_image];
        let prepared = prepare(&case.input).unwrap();

        assert_eq!(prepared.ids, Ids { uid: 1000, gid: 1001, groups: vec![1001] });
        assert_eq!(prepared.stop_signal, libc::SIGQUIT);
        assert_eq!(at(&prepared, "/linked").source().as_deref(), Some(host.as_path()));
        assert!(case.dir.path().join("not/yet").is_dir());
        let stat =
            |fd: &OwnedFd, path: &str| rustix::fs::statat(fd, path, rustix::fs::AtFlags::EMPTY_PATH).unwrap();
        assert_eq!(stat(source(&prepared, "/image").unwrap(), "f").st_uid, offset);
        let env = prepared.spec.process().as_ref().unwrap().env().clone().unwrap();
        assert!(env.contains(&"HOSTNAME=web-0".to_owned()) && env.contains(&"HOME=/home/app".to_owned()));
        let volume = at(&prepared, "/data").source().clone().unwrap();
        assert_eq!(fs::read_to_string(volume.join("f")).unwrap(), "from the image");
        assert_eq!(fs::metadata(volume.join("f")).unwrap().uid(), offset);
        assert!(source(&prepared, "/data").is_none());
        let hosts = fs::read_to_string(at(&prepared, "/etc/hosts").source().as_ref().unwrap()).unwrap();
        assert!(hosts.contains("10.1.2.3\tweb-0"), "{hosts}");
        for path in ["/linked", "/missing", "/etc/hosts", "/etc/hostname", "/etc/resolv.conf"] {
            let fd = source(&prepared, path);
            assert_eq!(fd.is_some(), user_namespace, "{path}");
            assert!(fd.is_none_or(|fd| stat(fd, "").st_uid == offset), "{path}");
        }
        // What has no ids to map is mounted as it is.
        let mut proc = mount("/host-proc", Propagation::Private);
        proc.source = MountSource::Host("/proc".into());
        case.input.spec.mounts = vec![proc];
        let prepared = prepare(&case.input).unwrap();
        assert!(source(&prepared, "/host-proc").is_none());
        assert_eq!(prepared.warnings.iter().any(|w| w.contains("/proc")), user_namespace);
        if let Some(held) = &case.held {
            let maps = Some(held.maps.clone());
            case.input.spec.mounts[0].id_mappings = maps;
            let error = prepare(&case.input).unwrap_err().to_string();
            assert!(error.contains("file system proc of /proc"), "{error}");
        }
    }
}

#[test]
fn ids_that_the_pod_does_not_have_are_named() {
    if !root_only() {
        return;
    }
    let mut case = case(true);
    let mut image = (*case.input.image).clone();
    image.layers[0].max_uid = 70_000;
    case.input.image = Arc::new(image);
    let warnings = prepare(&case.input).unwrap().warnings;
    assert!(warnings.iter().any(|warning| warning.contains("70000:0")), "{warnings:?}");
}

#[test]
fn refusals_name_what_and_why() {
    if !root_only() {
        return;
    }
    let mut case = case(true);
    let refused = |input: &Input| prepare(input).unwrap_err().to_string();
    case.input.spec.security.user = RunAs::Name("nobody".into());
    assert!(refused(&case.input).contains("\"nobody\""));
    case.input.spec.security.user = RunAs::Image;

    let mut rro = mount("/rro", Propagation::Private);
    rro.source = MountSource::Host(case.dir.path().into());
    (rro.read_only, rro.recursive_read_only) = (true, true);
    case.input.spec.mounts = vec![rro];
    prepare(&case.input).unwrap();
    case.input.features.recursive_read_only_mounts = false;
    assert!(refused(&case.input).starts_with("RROUnsupported: "));

    let mut volume = mount("/image", Propagation::Private);
    let named = ImageRef { image: "none:1".into(), ..case.input.spec.image.clone() };
    volume.source = MountSource::Image { image: named, sub_path: String::new() };
    case.input.spec.mounts = vec![volume.clone()];
    let error = refused(&case.input);
    assert!(error.starts_with("ImageVolumeMountFailed: ") && error.contains("none:1"), "{error}");
    let named =
        ImageRef { image: "data:1".into(), image_id: "sha256:da7a".into(), ..case.input.spec.image.clone() };
    volume.source = MountSource::Image { image: named, sub_path: "no/such".into() };
    case.input.spec.mounts = vec![volume];
    assert!(refused(&case.input).starts_with("ImageVolumeMountFailed: image \"data:1\" on /image"));

    case.input.spec.mounts.clear();
    case.input.spec.cdi_devices = vec!["example.com/none=0".into()];
    assert!(refused(&case.input).contains("example.com/none=0"));
    case.input.spec.cdi_devices.clear();

    namespaces::unpin(&case.input.pod_dir.join("ns/user")).unwrap();
    assert!(refused(&case.input).contains("not pinned"));
}

// cri: Mount.selinux_relabel
#[test]
fn sources_are_relabelled_where_it_is_asked_for_and_the_container_has_a_label() {
    if !root_only() {
        return;
    }
    let mut case = case(false);
    let [asked, other] = ["asked", "other"].map(|name| {
        let path = case.dir.path().join(name);
        fs::create_dir(&path).unwrap();
        fs::write(path.join("f"), "").unwrap();
        path
    });
    let label = |path: &Path| {
        let mut buffer = [0; 256];
        let length = rustix::fs::lgetxattr(path, c"security.selinux", &mut buffer[..]).ok()?;
        Some(String::from_utf8_lossy(&buffer[..length]).into_owned())
    };
    let probe =
        rustix::fs::setxattr(&other, c"security.selinux", b"u:r:t:s0", rustix::fs::XattrFlags::empty());
    if let Err(errno) = probe {
        eprintln!("SKIPPED: {} takes no security.selinux: {errno}", case.dir.path().display());
        return;
    }
    let before = label(&asked.join("f"));
    symlink(&asked, case.dir.path().join("link")).unwrap();
    let mut first = mount("/asked", Propagation::Private);
    (first.source, first.selinux_relabel) = (MountSource::Host(case.dir.path().join("link")), true);
    let mut second = mount("/other", Propagation::Private);
    second.source = MountSource::Host(other.clone());
    let mut of_image = mount("/image", Propagation::Private);
    let named =
        ImageRef { image: "data:1".into(), image_id: "sha256:da7a".into(), ..case.input.spec.image.clone() };
    (of_image.source, of_image.selinux_relabel) =
        (MountSource::Image { image: named, sub_path: String::new() }, true);
    case.input.spec.mounts = vec![first, second, of_image];
    // A container without a label.
    assert!(!prepare(&case.input).unwrap().warnings.iter().any(|warning| warning.contains("SELinux")));
    assert_eq!(label(&asked.join("f")), before);

    let process = "system_u:system_r:container_t:s0:c3,c4";
    case.input.spec.security.selinux = Some(process.into());
    let prepared = prepare(&case.input).unwrap();
    let wanted = crate::container::relabel::file_label(process);
    assert!(wanted.ends_with(":s0:c3,c4") && wanted.contains(":object_r:"), "{wanted}");
    assert_eq!((label(&asked), label(&asked.join("f"))), (Some(wanted.clone()), Some(wanted)));
    assert_eq!(label(&other.join("f")), before);
    let of_image = |warning: &String| warning.contains("\"data:1\" on /image") && warning.contains("SELinux");
    assert!(prepared.warnings.iter().any(of_image), "{:?}", prepared.warnings);

    case.input.spec.mounts[0].source = MountSource::Host("/etc/".into());
    let error = prepare(&case.input).unwrap_err().to_string();
    assert!(error.starts_with("/etc ") && error.contains("selinux_relabel"), "{error}");
}

#[test]
fn mounts_get_through_only_where_the_node_lets_them() {
    if !root_only() {
        return;
    }
    use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags, mount_change};
    let mut case = case(false);
    let place = case.dir.path().join("place");
    fs::create_dir(&place).unwrap();
    rustix::mount::mount("tmpfs", &place, "tmpfs", MountFlags::empty(), None).unwrap();
    let mut tried = |flags, propagation| {
        mount_change(&place, flags).unwrap();
        let mut asked = mount("/m", propagation);
        asked.source = MountSource::Host(place.clone());
        case.input.spec.mounts = vec![asked];
        prepare(&case.input).map(drop).map_err(|error| error.to_string())
    };
    let results = [
        tried(MountPropagationFlags::PRIVATE, Propagation::Private),
        tried(MountPropagationFlags::PRIVATE, Propagation::HostToContainer),
        tried(MountPropagationFlags::SHARED, Propagation::Bidirectional),
        tried(MountPropagationFlags::SHARED, Propagation::HostToContainer),
    ];
    rustix::mount::unmount(&place, UnmountFlags::DETACH).unwrap();
    assert!(results[0].is_ok() && results[2].is_ok() && results[3].is_ok(), "{results:?}");
    let error = results[1].clone().unwrap_err();
    assert!(error.contains("make-shared") && error.contains("place"), "{error}");
}
