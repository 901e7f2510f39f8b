//! Which file a command is, as the container's process sees it.

use std::ffi::CString;

use rustix::io::Errno;
use sandboxd_shim::proto::SAID;

use crate::kernel::Guest;
use crate::step::StepError;

/// Where the environment has no PATH.
const PATH: &[u8] = b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The file to execute. The words of an error are those that operators know from other runtimes.
pub fn command<K: Guest>(kernel: &K, name: &str, env: &[CString]) -> Result<CString, StepError> {
    let said = |words: &str| StepError {
        step: format!("exec: \"{name}\": {words}"),
        errno: Errno::from_raw_os_error(SAID),
    };
    let try_path = |path: Vec<u8>| {
        let path = CString::new(path).map_err(|_| Errno::INVAL)?;
        kernel.executable(&path).map(|()| path)
    };
    if name.contains('/') {
        return try_path(name.into()).map_err(|errno| match errno {
            Errno::NOENT => said(&format!("stat {name}: no such file or directory")),
            Errno::NOTDIR => said(&format!("stat {name}: not a directory")),
            Errno::LOOP => said(&format!("stat {name}: too many levels of symbolic links")),
            Errno::ACCESS => said("permission denied"),
            Errno::ISDIR => said("is a directory"),
            errno => StepError { step: format!("exec: \"{name}\""), errno },
        });
    }
    // The last one counts, as for most who read an environment.
    let path = env.iter().rev().find_map(|entry| entry.to_bytes().strip_prefix(b"PATH=")).unwrap_or(PATH);
    let mut denied = false;
    for dir in path.split(|byte| *byte == b':') {
        let dir = if dir.is_empty() { b"." } else { dir };
        match try_path([dir, b"/", name.as_bytes()].concat()) {
            Ok(found) if !name.is_empty() => return Ok(found),
            Err(Errno::ACCESS) => denied = true,
            _ => {}
        }
    }
    Err(said(if denied { "permission denied" } else { "executable file not found in $PATH" }))
}
