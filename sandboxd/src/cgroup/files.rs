//! The file operations on a hierarchy: make, write, attach, remove.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::error::CgroupError;
use super::layout::Layout;
use super::limits::Write;
use super::path::{DEFAULT, Planned, Unit};

/// Another pod's end may take the empty default parent away between making it and making what is in it.
const MAKE_TRIES: u32 = 20;
/// How long removal waits for processes that were killed to be gone.
const REMOVE_WITHIN: Duration = Duration::from_secs(3);
/// A process that is still being forked cannot be moved (EINVAL, TASK_NEW).
const ATTACH_TRIES: u32 = 5;
/// What a pod can nest in its own cgroup is its affair; a daemon does not recurse without an end.
const MAX_DEPTH: u32 = 64;

fn io_error(action: &'static str, path: &Path) -> impl Fn(io::Error) -> CgroupError {
    let path = path.to_owned();
    move |source| CgroupError::Io { action, path: path.clone(), source }
}

/// Writes one value. The kernel takes it whole or not at all.
pub(super) fn put(path: &Path, value: &str) -> Result<(), CgroupError> {
    let open = fs::OpenOptions::new().write(true).open(path);
    open.and_then(|mut file| io::Write::write_all(&mut file, value.as_bytes()))
        .map_err(|source| CgroupError::Write { value: value.to_owned(), path: path.to_owned(), source })
}

/// Makes the pod's directory in every hierarchy, with its parents.
pub(super) fn make(layout: &Layout, cgroup: &Planned) -> Result<(), CgroupError> {
    make_with(layout, cgroup, enable_controllers)
}

/// [`make`] below a v2 cgroup that has a process in it. That hands on the threaded controllers and no others, and
/// what is in it then takes no processes (EOPNOTSUPP, cgroups(7)).
pub(super) fn make_bare(layout: &Layout, cgroup: &Planned) -> Result<(), CgroupError> {
    make_with(layout, cgroup, |_| Ok(()))
}

fn make_with(
    layout: &Layout,
    cgroup: &Planned,
    hand_on: impl Fn(&Path) -> Result<(), CgroupError>,
) -> Result<(), CgroupError> {
    for hierarchy in &layout.v1 {
        let cpuset = hierarchy.controllers.contains("cpuset");
        make_down(
            &hierarchy.mount,
            cgroup,
            |parent, dir| {
                if cpuset { inherit_cpuset(parent, dir) } else { Ok(()) }
            },
        )?;
    }
    if let Some(mount) = &layout.v2 {
        // On a hybrid machine cgroup2 has the few controllers that v1 does not have, or none.
        make_down(mount, cgroup, |parent, _| hand_on(parent))?;
    }
    Ok(())
}

fn make_down(
    mount: &Path,
    cgroup: &Planned,
    prepare: impl Fn(&Path, &Path) -> Result<(), CgroupError>,
) -> Result<(), CgroupError> {
    let mut tries = 0;
    'again: loop {
        tries += 1;
        let mut parent = mount.to_owned();
        for part in cgroup.path().split('/').filter(|p| !p.is_empty()) {
            let dir = parent.join(part);
            match fs::create_dir(&dir) {
                Err(e) if is_gone(&e) && tries < MAKE_TRIES => continue 'again,
                Err(e) if e.kind() != io::ErrorKind::AlreadyExists => {
                    return Err(io_error("making cgroup", &dir)(e));
                }
                _ => {}
            }
            match prepare(&parent, &dir) {
                Err(CgroupError::Io { source: e, .. } | CgroupError::Write { source: e, .. })
                    if is_gone(&e) && tries < MAKE_TRIES =>
                {
                    continue 'again;
                }
                outcome => outcome?,
            }
            parent = dir;
        }
        return Ok(());
    }
}

/// Of a cgroup that is being removed, or of a file of it.
fn is_gone(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENODEV))
}

/// A new v1 cpuset is empty, and takes no process before it has CPUs and memory nodes (cpuset(7)).
fn inherit_cpuset(parent: &Path, dir: &Path) -> Result<(), CgroupError> {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let read = |dir: &Path| {
            let path = dir.join(file);
            fs::read_to_string(&path).map_err(io_error("reading", &path))
        };
        if read(dir)?.trim().is_empty() {
            put(&dir.join(file), read(parent)?.trim())?;
        }
    }
    Ok(())
}

/// Hands all controllers a v2 cgroup has to its children. One by one: one that cannot be handed on (a
/// threaded child, processes in the cgroup itself) must not keep the others; a limit that needs it fails
/// by name later.
fn enable_controllers(dir: &Path) -> Result<(), CgroupError> {
    let read = |file: &str| {
        let path = dir.join(file);
        fs::read_to_string(&path).map_err(io_error("reading", &path))
    };
    let enabled = read("cgroup.subtree_control")?;
    for controller in read("cgroup.controllers")?.split_whitespace() {
        if !enabled.split_whitespace().any(|c| c == controller)
            && let Err(error) = put(&dir.join("cgroup.subtree_control"), &format!("+{controller}"))
        {
            tracing::debug!(controller, dir = %dir.display(), %error, "controller not handed on");
        }
    }
    Ok(())
}

/// Sets the limits of a cgroup.
pub(super) fn limit(layout: &Layout, cgroup: &Planned, writes: &[Write]) -> Result<(), CgroupError> {
    for write in writes {
        if let Some(path) = target(layout, cgroup, write)? {
            put(&path, &write.value)?;
        }
    }
    Ok(())
}

/// The file that a limit is written to; `None`: there is nothing to limit.
pub(super) fn target(
    layout: &Layout,
    cgroup: &Planned,
    write: &Write,
) -> Result<Option<PathBuf>, CgroupError> {
    let dir = directory_of(layout, cgroup, &write.controller);
    let path = dir.as_ref().map(|dir| dir.join(&write.file));
    // Controllers that are on the cgroup2 of a hybrid machine have v2's files.
    if let (None, Some(v2), Some(size)) = (&dir, &layout.v2, write.file.strip_suffix(".limit_in_bytes")) {
        let path = cgroup.below(v2).join(format!("{size}.max"));
        if path.exists() {
            return Ok(Some(path));
        }
    }
    match (dir, path) {
        (_, Some(path)) if path.exists() => Ok(Some(path)),
        // No huge pages where none can be had: kubelet sends a 0 for every page size.
        _ if write.controller == "hugetlb" && write.value == "0" => Ok(None),
        // No swap where there is none: kubelet sends a limit of memory and swap that is the one of memory.
        _ if write.no_swap && !swaps() => Ok(None),
        (Some(dir), _) if has_controller(layout, &dir, &write.controller) => {
            let (file, value) = (write.file.clone(), write.value.clone());
            Err(CgroupError::NoFile { file, value, dir })
        }
        (dir, _) => Err(CgroupError::NoController {
            controller: write.controller.clone(),
            file: write.file.clone(),
            value: write.value.clone(),
            layout: layout.name(),
            dir: dir.unwrap_or_else(|| PathBuf::from(cgroup.path())),
        }),
    }
}

/// Whether the machine swaps at all.
fn swaps() -> bool {
    fs::read_to_string("/proc/swaps").is_ok_and(|text| text.lines().count() > 1)
}

/// A value of a file of "key value" lines.
pub(super) fn keyed(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok())
}

fn directory_of(layout: &Layout, cgroup: &Planned, controller: &str) -> Option<PathBuf> {
    let mount = if layout.is_v2() {
        layout.v2.as_deref()
    } else {
        layout.v1_of(controller).map(|h| h.mount.as_path())
    };
    mount.map(|mount| cgroup.below(mount))
}

fn has_controller(layout: &Layout, dir: &Path, controller: &str) -> bool {
    let listed = || fs::read_to_string(dir.join("cgroup.controllers")).unwrap_or_default();
    !layout.is_v2() || listed().split_whitespace().any(|c| c == controller)
}

/// Moves a process into the pod's cgroup of every hierarchy.
pub(super) fn attach(layout: &Layout, cgroup: &Planned, pid: i32) -> Result<(), CgroupError> {
    for mount in layout.mounts() {
        let procs = cgroup.below(mount).join("cgroup.procs");
        let mut tries = 0;
        loop {
            tries += 1;
            match put(&procs, &pid.to_string()) {
                Err(CgroupError::Write { source, .. })
                    if source.raw_os_error() == Some(libc::EINVAL) && tries < ATTACH_TRIES =>
                {
                    sleep(Duration::from_millis(10));
                }
                outcome => break outcome?,
            }
        }
    }
    Ok(())
}

/// Removes the pod's cgroup, with what the pod made inside it, from every hierarchy, and the default
/// parent where it is empty. Idempotent.
pub(super) fn remove(layout: &Layout, cgroup: &Planned) -> Result<(), CgroupError> {
    let begun = Instant::now();
    let mut outcome = Ok(());
    for mount in layout.mounts() {
        let dir = cgroup.below(mount);
        let removed = remove_patiently(&dir, begun);
        // The other hierarchies are worth removing all the same.
        outcome = outcome.and(removed);
        if cgroup.default_parent {
            // Fails where another pod is in it, which is right.
            let _ = fs::remove_dir(mount.join(DEFAULT.trim_start_matches('/')));
        }
    }
    // Where v1 has the controllers, kubelet neither makes its cgroups in the cgroup2 beside them nor removes them
    // there: what was made on the way goes with the last that is in it.
    if let (None, false, Some(mount)) = (&cgroup.unit, layout.is_v2(), &layout.v2) {
        let mut parent = cgroup.below(mount);
        while parent.pop() && parent != *mount && fs::remove_dir(&parent).is_ok() {}
    }
    outcome
}

/// Removes what systemd left of a pod's scope. Idempotent.
pub(super) fn remove_scope(layout: &Layout, unit: &Unit) -> Result<(), CgroupError> {
    let begun = Instant::now();
    let mut outcome = Ok(());
    for mount in layout.mounts() {
        outcome = outcome.and(remove_patiently(&unit.below(mount), begun));
    }
    outcome
}

fn remove_patiently(dir: &Path, begun: Instant) -> Result<(), CgroupError> {
    let mut pause = Duration::from_millis(1);
    loop {
        match remove_tree(dir, 0) {
            Err(e) if matches!(e.raw_os_error(), Some(libc::EBUSY | libc::ENOTEMPTY)) => {
                if begun.elapsed() >= REMOVE_WITHIN {
                    let millis = begun.elapsed().as_millis();
                    return Err(CgroupError::Busy { path: dir.to_owned(), millis });
                }
                sleep(pause);
                pause = (pause * 2).min(Duration::from_millis(100));
            }
            Err(e) => return Err(io_error("removing cgroup", dir)(e)),
            Ok(()) => return Ok(()),
        }
    }
}

/// rmdir from the leaves up. A cgroup's files are no entries for rmdir.
fn remove_tree(dir: &Path, depth: u32) -> io::Result<()> {
    match fs::remove_dir(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) if !matches!(e.raw_os_error(), Some(libc::EBUSY | libc::ENOTEMPTY)) => return Err(e),
        Err(e) if depth >= MAX_DEPTH => return Err(e),
        Err(_) => {}
        Ok(()) => return Ok(()),
    }
    for inner in inner(dir)? {
        remove_tree(&inner, depth + 1)?;
    }
    match fs::remove_dir(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        outcome => outcome,
    }
}

/// The cgroups in one. systemd may be removing it too: one that is gone has none.
fn inner(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let list = || {
        let mut inner = Vec::new();
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                inner.push(entry.path());
            }
        }
        Ok(inner)
    };
    match list() {
        Err(e) if is_gone(&e) => Ok(Vec::new()),
        listed => listed,
    }
}

/// Kills everything in the pod's cgroup: at once with `cgroup.kill` (cgroup2, kernel 5.14), else process by
/// process, again while there are any: what is being forked is seen the next time. Idempotent.
pub(super) fn kill(layout: &Layout, cgroup: &Planned) -> Result<(), CgroupError> {
    if let Some(file) = layout.v2.as_ref().map(|mount| cgroup.below(mount).join("cgroup.kill"))
        && file.exists()
    {
        return match put(&file, "1") {
            // With it all that was in it.
            Err(CgroupError::Write { source, .. }) if is_gone(&source) => Ok(()),
            outcome => outcome,
        };
    }
    let Some(dir) = layout.mounts().map(|mount| cgroup.below(mount)).next() else { return Ok(()) };
    let begun = Instant::now();
    loop {
        let mut pids = Vec::new();
        processes(&dir, 0, &mut pids).map_err(io_error("reading the processes of cgroup", &dir))?;
        if pids.is_empty() {
            return Ok(());
        }
        if begun.elapsed() >= REMOVE_WITHIN {
            return Err(CgroupError::Busy { path: dir, millis: begun.elapsed().as_millis() });
        }
        for pid in pids {
            // ESRCH: it has ended. Anything else shows as processes that stay.
            let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::SIGKILL);
        }
        sleep(Duration::from_millis(5));
    }
}

/// The processes of a cgroup and of those inside it. A cgroup that is gone has none; pid 0 stands for one of
/// another pid namespace, which cannot be signalled.
pub(super) fn processes(dir: &Path, depth: u32, pids: &mut Vec<i32>) -> io::Result<()> {
    let listed = match fs::read_to_string(dir.join("cgroup.procs")) {
        Err(e) if is_gone(&e) => return Ok(()),
        listed => listed?,
    };
    pids.extend(listed.lines().filter_map(|line| line.parse::<i32>().ok()).filter(|pid| *pid > 0));
    if depth < MAX_DEPTH {
        for inner in inner(dir)? {
            processes(&inner, depth + 1, pids)?;
        }
    }
    Ok(())
}
