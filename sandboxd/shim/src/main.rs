//! `sandboxd-shim`: one per pod. It makes the pod's namespaces, keeps its mounts and its infra container, and
//! outlives the daemon.
//!
//! One thread, no runtime: a process with one thread may fork, switch ids and join namespaces without asking
//! who else is affected. Standard input is the daemon's connection (`sandboxd_shim::proto`).

mod container;
mod infra;
mod io;
mod kernel;
mod root;
mod selftest;
mod serve;
mod step;

use std::process::ExitCode;

use rustix::net::sockopt::socket_type;

fn main() -> ExitCode {
    let stdin = std::io::stdin();
    if socket_type(&stdin) != Ok(rustix::net::SocketType::SEQPACKET) {
        eprintln!("sandboxd-shim is started by sandboxd, with a seqpacket socket as standard input");
        return ExitCode::from(2);
    }
    // Standard input itself stays open, so that nothing else gets the number 0: /dev/null takes it later.
    let Ok(daemon) = rustix::io::fcntl_dupfd_cloexec(&stdin, 3) else { return ExitCode::FAILURE };
    // A log that reaches a limit of file size is an error to report (EFBIG), not this process's end.
    for number in [libc::SIGHUP, libc::SIGXFSZ] {
        // SAFETY: no handler is installed. SIGPIPE is ignored already (std's runtime).
        unsafe { libc::signal(number, libc::SIG_IGN) };
    }
    // What is forked to enter a container is visible there: nothing in it may look into the shim's memory or
    // open its descriptors.
    let _ = rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable);
    // A spawned process leads no process group, so this cannot fail; if it did, SIGHUP is ignored anyway.
    let _ = rustix::process::setsid();
    serve::Shim::new(daemon).run();
    ExitCode::SUCCESS
}
