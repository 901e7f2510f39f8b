//! The system calls that the cases are made of.

use std::ffi::CString;
use std::fs::{self, File};
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};
use std::path::Path;

use nix::errno::Errno;
use nix::libc;
use nix::mount::MsFlags;
use nix::sched::CloneFlags;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork};

use super::NOT_PREPARED;

pub(super) const CLONE_NEWTIME: i32 = 0x80;

/// How a case went: the call that was to fail.
pub(super) type Called = nix::Result<()>;
/// The outer one is about what comes before the call.
pub(super) type Ran = Result<Called, String>;

/// Ends this process without anything of its parent's.
pub fn exit(status: i32) -> ! {
    // SAFETY: ends the process.
    unsafe { libc::_exit(status) }
}

#[track_caller]
pub(super) fn before<T>(result: nix::Result<T>) -> Result<T, String> {
    let line = std::panic::Location::caller().line();
    result.map_err(|error| format!("line {line}: {error}"))
}

pub(super) fn open(path: &str) -> Result<OwnedFd, String> {
    File::open(path).map(Into::into).map_err(|error| format!("{path}: {error}"))
}

pub(super) fn open_ns(kind: &str) -> Result<OwnedFd, String> {
    open(&format!("/proc/self/ns/{kind}"))
}

pub(super) fn write(path: &str, text: &str) -> Result<(), String> {
    fs::write(path, text).map_err(|error| format!("{path}: {error}"))
}

pub(super) fn called(returned: libc::c_long) -> nix::Result<libc::c_long> {
    Errno::result(returned)
}

pub(super) fn descriptor(returned: libc::c_long) -> Result<OwnedFd, String> {
    let fd = before(called(returned))?;
    let fd = RawFd::try_from(fd).map_err(|error| error.to_string())?;
    // SAFETY: a descriptor that a system call has just given, and nobody else has.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

pub(super) fn setns(fd: &OwnedFd, kinds: i32) -> Called {
    setns_raw(fd.as_raw_fd(), kinds)
}

pub(super) fn setns_raw(fd: RawFd, kinds: i32) -> Called {
    // SAFETY: numbers only.
    Errno::result(unsafe { libc::setns(fd, kinds) }).map(drop)
}

pub(super) fn unshare(kinds: i32) -> Called {
    nix::sched::unshare(CloneFlags::from_bits_retain(kinds))
}

pub(super) fn pidfd(pid: Pid) -> Result<OwnedFd, String> {
    // SAFETY: numbers only.
    descriptor(unsafe { libc::syscall(libc::SYS_pidfd_open, pid.as_raw(), 0) })
}

pub(super) fn mount(
    source: Option<&Path>,
    target: &Path,
    kind: Option<&str>,
    flags: MsFlags,
    options: Option<&str>,
) -> Called {
    nix::mount::mount(source.or(Some(Path::new("none"))), target, kind, flags, options)
}

/// Says so on `ready`, and ends when its parent does.
pub(super) fn wait_for_the_end(ready: RawFd) -> ! {
    // SAFETY: numbers, and one byte to write; pause returns after a signal that was handled, and none is.
    unsafe {
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
        libc::write(ready, c"x".as_ptr().cast(), 1);
        loop {
            libc::pause();
        }
    }
}

/// Runs in a child, and gives how its call went.
pub(super) fn in_child(run: impl FnOnce() -> Ran) -> Ran {
    // SAFETY: this process has one thread.
    match before(unsafe { fork() })? {
        ForkResult::Child => exit(match run() {
            Ok(called) => called.err().map_or(0, |errno| errno as i32),
            Err(problem) => {
                eprintln!("{problem}");
                NOT_PREPARED
            }
        }),
        ForkResult::Parent { child } => match before(waitpid(child, None))? {
            WaitStatus::Exited(_, 0) => Ok(Ok(())),
            WaitStatus::Exited(_, NOT_PREPARED) => Err("the child was not prepared".to_string()),
            WaitStatus::Exited(_, errno) => Ok(Err(Errno::from_raw(errno))),
            other => Err(format!("{other:?}")),
        },
    }
}

/// A process that has done something, and waits.
pub(super) fn another(prepare: impl FnOnce() -> Called) -> Result<Pid, String> {
    let (ready, done) = before(nix::unistd::pipe())?;
    // SAFETY: this process has one thread.
    match before(unsafe { fork() })? {
        ForkResult::Child => {
            if prepare().is_err() {
                exit(NOT_PREPARED);
            }
            wait_for_the_end(done.as_raw_fd())
        }
        ForkResult::Parent { child } => {
            drop(done);
            if before(nix::unistd::read(&ready, &mut [0]))? == 0 {
                return Err("the other process could not do what it was to".to_string());
            }
            Ok(child)
        }
    }
}

/// A user namespace that another process is in.
pub(super) fn another_userns() -> Result<OwnedFd, String> {
    let child = another(|| unshare(libc::CLONE_NEWUSER))?;
    open(&format!("/proc/{child}/ns/user"))
}

pub(super) const A_THREAD: i32 =
    libc::CLONE_VM | libc::CLONE_FS | libc::CLONE_FILES | libc::CLONE_SIGHAND | libc::CLONE_THREAD;

/// A task beside this one that shares with it what the flags say, and waits.
pub(super) fn beside(flags: i32) -> Result<(), String> {
    extern "C" fn wait(ready: *mut libc::c_void) -> libc::c_int {
        // SAFETY: the descriptor that was given as an argument outlives this task's first step.
        wait_for_the_end(unsafe { *ready.cast::<RawFd>() })
    }
    const STACK: usize = 64 * 1024;
    let stack = Box::leak(vec![0u8; STACK].into_boxed_slice());
    let (ready, write_end) = before(nix::unistd::pipe())?;
    let mut done = write_end.as_raw_fd();
    let signal = if flags & libc::CLONE_THREAD == 0 { libc::SIGCHLD } else { 0 };
    // SAFETY: the end of a stack that is never freed, aligned to sixteen; what runs on it touches no memory of others.
    let task = unsafe {
        let top = stack.as_mut_ptr().add(STACK).map_addr(|top| top & !15);
        libc::clone(wait, top.cast(), flags | signal, (&raw mut done).cast())
    };
    before(Errno::result(task))?;
    before(nix::unistd::read(&ready, &mut [0])).map(drop)
}

/// This process's ids as root in the user namespace it has just made.
pub(super) fn map_root() -> Result<(), String> {
    write("/proc/self/setgroups", "deny")?;
    write("/proc/self/uid_map", "0 0 1")?;
    write("/proc/self/gid_map", "0 0 1")
}

pub(super) fn own_userns() -> Result<(), String> {
    before(unshare(libc::CLONE_NEWUSER))?;
    map_root()
}

pub(super) fn deeper(levels: u32) -> Ran {
    if let Err(error) = unshare(libc::CLONE_NEWPID) {
        return Ok(Err(error));
    }
    if levels == 0 { Ok(Ok(())) } else { in_child(|| deeper(levels - 1)) }
}

pub(super) fn private_mounts() -> Result<(), String> {
    before(unshare(libc::CLONE_NEWNS))?;
    before(mount(None, Path::new("/"), None, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None))
}

/// A read-only mount that has come into this mount namespace from a more privileged one.
pub(super) fn read_only(dir: &Path) -> Result<(), String> {
    private_mounts()?;
    before(mount(None, dir, Some("tmpfs"), MsFlags::MS_RDONLY | MsFlags::MS_NOSUID, None))?;
    before(unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWNS))
}

/// A mount with one below it; gives the latter's place.
pub(super) fn mount_below(dir: &Path) -> Result<std::path::PathBuf, String> {
    private_mounts()?;
    before(mount(None, dir, Some("tmpfs"), MsFlags::empty(), None))?;
    let inner = dir.join("inner");
    fs::create_dir(&inner).map_err(|error| error.to_string())?;
    before(mount(None, &inner, Some("tmpfs"), MsFlags::empty(), None))?;
    Ok(inner)
}

/// A tmpfs that is mounted nowhere.
pub(super) fn detached_tmpfs() -> Result<OwnedFd, String> {
    const CREATE: libc::c_uint = 6;
    // SAFETY: NUL-terminated strings, null where nothing is given, and descriptors that are open.
    unsafe {
        let context = descriptor(libc::syscall(libc::SYS_fsopen, c"tmpfs".as_ptr(), 0))?;
        let none = std::ptr::null::<libc::c_char>();
        before(called(libc::syscall(libc::SYS_fsconfig, context.as_raw_fd(), CREATE, none, none, 0)))?;
        descriptor(libc::syscall(libc::SYS_fsmount, context.as_raw_fd(), 0, 0))
    }
}

pub(super) fn move_mount(fd: &OwnedFd, target: &Path) -> Called {
    const EMPTY_FROM: libc::c_uint = 4;
    let target = CString::new(target.as_os_str().as_encoded_bytes()).map_err(|_| Errno::EINVAL)?;
    // SAFETY: NUL-terminated strings.
    let returned = unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            fd.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_FDCWD,
            target.as_ptr(),
            EMPTY_FROM,
        )
    };
    called(returned).map(drop)
}

/// Puts this process into a Landlock domain that says something about files, which forbids it every mount.
pub(super) fn landlock() -> Result<(), String> {
    const WRITE_FILE: u64 = 1 << 1;
    // struct landlock_ruleset_attr, as of its first version: handled_access_fs.
    let handled = WRITE_FILE;
    // SAFETY: eight bytes, which is what is said to be there; then numbers only.
    unsafe {
        let ruleset = descriptor(libc::syscall(libc::SYS_landlock_create_ruleset, &raw const handled, 8, 0))?;
        before(Errno::result(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)))?;
        before(called(libc::syscall(libc::SYS_landlock_restrict_self, ruleset.as_raw_fd(), 0)))?;
    }
    Ok(())
}

/// A seccomp filter that ends one system call with EPERM.
pub(super) fn filter(number: libc::c_long) -> Result<(), String> {
    const LOAD: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS
    const EQUAL: u16 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
    const RETURN: u16 = 0x06; // BPF_RET | BPF_K
    let line = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    let number = u32::try_from(number).map_err(|error| error.to_string())?;
    let mut program = [
        line(LOAD, 0, 0, 0),
        line(EQUAL, 0, 1, number),
        line(RETURN, 0, 0, libc::SECCOMP_RET_ERRNO | libc::EPERM.cast_unsigned()),
        line(RETURN, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog { len: 4, filter: program.as_mut_ptr() };
    // SAFETY: a program of four lines, which outlives the call.
    unsafe {
        before(Errno::result(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)))?;
        before(Errno::result(libc::prctl(
            libc::PR_SET_SECCOMP,
            libc::SECCOMP_MODE_FILTER,
            &raw const program,
        )))?;
    }
    Ok(())
}
