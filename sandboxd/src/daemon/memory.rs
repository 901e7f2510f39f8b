//! glibc's allocator, tuned for a small daemon with bursts.

/// Keeps one arena for all threads and gives freed memory back early. glibc's default of eight arenas per
/// core, each with memory of its own, costs a daemon with two workers more than the lock does.
///
/// Call it before the first thread is made.
pub fn tune() {
    #[cfg(target_env = "gnu")]
    for (option, value) in [(libc::M_ARENA_MAX, 1), (libc::M_TRIM_THRESHOLD, 128 * 1024)] {
        // SAFETY: mallopt(3) takes two integers and is called before other threads exist.
        unsafe { libc::mallopt(option, value) };
    }
}
