//! What pods need, tried out: a user namespace with its own sysfs, an idmapped mount, a recursively read-only
//! one. Probed, never concluded from a version.

use std::mem::size_of;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::fs::{AtFlags, statat};
use rustix::io::Errno;
use rustix::process::{Signal, WaitId, WaitIdOptions, pidfd_send_signal, waitid};
use sandboxd_shim::plan::{Attrs, Device, IdMaps};
use sandboxd_shim::proto::SelfTest;

use crate::infra::write_maps;
use crate::kernel::{Forked, Kernel, Linux, here};
use crate::root;
use crate::step::{Step, StepError};

/// A host id that no one is expected to use; nothing is left that it could own.
const HOST_ID: u32 = 0x7fff_0000;
const LENGTH: u32 = 65536;

/// Runs the three. The process must not serve pods afterwards: it has left the host's mounts.
pub fn run() -> SelfTest {
    let failure = |error: StepError| error.failure(None);
    let mut result = SelfTest::default();
    let null = Device { path: "/dev/null".into(), major: 1, minor: 3 };
    if let Err(error) = root::leave_host(&Linux).and_then(|()| root::enter(&Linux, &[null], &[])) {
        let failure = failure(error);
        result.user_namespace = Some(failure.clone());
        result.idmapped_mount = Some(failure.clone());
        result.recursive_read_only = Some(failure);
        return result;
    }
    match user_namespace() {
        Ok(userns) => result.idmapped_mount = idmapped_mount(&userns).err().map(failure),
        Err(error) => {
            let failure = failure(error);
            result.user_namespace = Some(failure.clone());
            result.idmapped_mount = Some(failure);
        }
    }
    result.recursive_read_only = recursive_read_only().err().map(failure);
    result
}

/// A user namespace in which sysfs and proc could be mounted.
fn user_namespace() -> Result<OwnedFd, StepError> {
    let (ours, theirs) =
        rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).step(|| "make a pipe".into())?;
    let flags = [
        libc::CLONE_NEWUSER,
        libc::CLONE_NEWNS,
        libc::CLONE_NEWNET,
        libc::CLONE_NEWPID,
        libc::CLONE_NEWIPC,
        libc::CLONE_NEWUTS,
    ];
    let flags = flags.iter().fold(0, |bits, flag| bits | u64::from(flag.unsigned_abs()));
    let forked = Linux.clone3(flags).step(|| "make a user namespace (clone3)".into())?;
    let Forked::Parent { pid, pidfd } = forked else {
        drop(theirs);
        // SAFETY: ends the child without running destructors of the parent's copy.
        unsafe { libc::_exit(mounts_inside(&ours)) }
    };
    drop(ours);
    let lines = vec![(0, HOST_ID, LENGTH)];
    let maps = IdMaps { uids: lines.clone(), gids: lines, owner: (0, 0) };
    let made = write_maps(&Linux, &maps, pid).and_then(|()| {
        let userns = Linux.open(here(), &format!("/proc/{pid}/ns/user"), false);
        let userns = userns.step(|| "open the user namespace".into())?;
        rustix::io::write(&theirs, b"m").step(|| "wake the child".into())?;
        Ok(userns)
    });
    if made.is_err() {
        let _ = pidfd_send_signal(&pidfd, Signal::KILL);
    }
    let status =
        waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED).step(|| "await the child".into())?;
    let userns = made?;
    match status.and_then(|status| status.exit_status()) {
        Some(0) => Ok(userns),
        Some(errno) => Err(Errno::from_raw_os_error(errno))
            .step(|| "mount sysfs and proc in a new user namespace".into()),
        None => Err(Errno::CHILD).step(|| "mount sysfs and proc in a new user namespace".into()),
    }
}

/// In the child: 0, or the errno.
fn mounts_inside(start: &OwnedFd) -> i32 {
    let attempt = || {
        if rustix::io::read(start, &mut [0u8; 1])? == 0 {
            return Err(Errno::CANCELED);
        }
        Linux.gids(0)?;
        Linux.uids(0)?;
        Linux.new_mount("sysfs", &[], Attrs::default())?;
        Linux.new_mount("proc", &[], Attrs::default())
    };
    attempt().map_or_else(Errno::raw_os_error, |_| 0)
}

/// A file of root's seen through an idmapped mount must be the mapped root's.
fn idmapped_mount(userns: &OwnedFd) -> Result<(), StepError> {
    let words = || "idmap a tmpfs (mount_setattr with MOUNT_ATTR_IDMAP)".to_owned();
    let mount = Linux.new_mount("tmpfs", &[], Attrs::default()).step(|| "mount tmpfs".into())?;
    let attr = libc::mount_attr {
        attr_set: libc::MOUNT_ATTR_IDMAP,
        attr_clr: 0,
        propagation: 0,
        userns_fd: u64::try_from(userns.as_raw_fd()).unwrap_or_default(),
    };
    // SAFETY: path and attr outlive the call, which reads them.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const attr,
            size_of::<libc::mount_attr>(),
        )
    };
    if result < 0 {
        let errno = std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO);
        return Err(Errno::from_raw_os_error(errno)).step(words);
    }
    let stat = statat(&mount, "", AtFlags::EMPTY_PATH).step(words)?;
    if stat.st_uid == HOST_ID { Ok(()) } else { Err(Errno::IO).step(|| "see the mapped owner on it".into()) }
}

fn recursive_read_only() -> Result<(), StepError> {
    let mount = Linux.new_mount("tmpfs", &[], Attrs::default()).step(|| "mount tmpfs".into())?;
    let attrs = Attrs { read_only: true, recursive: true, ..Attrs::default() };
    Linux
        .restrict(mount.as_fd(), "", attrs)
        .step(|| "make mounts read-only recursively (mount_setattr)".into())?;
    match Linux.make_dir(mount.as_fd(), "probe") {
        Err(Errno::ROFS) => Ok(()),
        other => other.and(Err(Errno::IO)).step(|| "be refused a write on it".into()),
    }
}
