//! Streams of real containers of a real shim: logs, attached clients, terminals, execs.

#![expect(clippy::unwrap_used, reason = "helpers of tests: a panic is the verdict")]

mod clients;
mod logs;
mod pod;
mod terminals;

/// Skips a test that needs root, with words that the test runner looks for.
macro_rules! need_root {
    () => {
        if !rustix::process::geteuid().is_root() {
            println!("SKIPPED: not root: the shim makes namespaces and mounts");
            return;
        }
        if !std::path::Path::new("/bin/busybox").is_file() {
            println!("SKIPPED: /bin/busybox is missing: apt-get install busybox-static");
            return;
        }
    };
}
pub(crate) use need_root;
