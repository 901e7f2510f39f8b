//! `apparmor_parser`, which compiles profiles and gives them to the kernel.

use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::AppArmorError;

/// Compiling takes a tenth of a second, on an emulated processor some.
const PATIENCE: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(5);
/// Of what it complains about; it names each rule it does not understand.
const SAID_MAX: u64 = 500;

/// Where it is. A PATH without the directories of the administrator's tools is not one to miss it for.
#[must_use]
pub fn find() -> Option<PathBuf> {
    find_in(&std::env::var_os("PATH").unwrap_or_default())
}

fn find_in(path: &std::ffi::OsStr) -> Option<PathBuf> {
    let system = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    let dirs = std::env::split_paths(path).filter(|dir| dir.is_absolute());
    dirs.chain(system).map(|dir| dir.join("apparmor_parser")).find(|path| path.is_file())
}

/// Runs it with `flags` on the profiles in `text`.
pub fn feed(parser: &Path, flags: &str, text: &str) -> Result<(), AppArmorError> {
    let run = |source| AppArmorError::Run { parser: parser.to_owned(), source };
    let mut command = Command::new(parser);
    command.arg(flags).current_dir("/");
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(run)?;
    let given = child.stdin.take().map_or(Ok(()), |mut stdin| stdin.write_all(text.as_bytes()));
    let deadline = Instant::now() + PATIENCE;
    let status = loop {
        match child.try_wait().map_err(run)? {
            Some(status) => break status,
            None if Instant::now() < deadline => std::thread::sleep(POLL),
            None => {
                // In the kernel it may not be killed yet: what waits for its end is nobody's request.
                child.kill().map_err(run)?;
                std::thread::spawn(move || child.wait());
                return Err(AppArmorError::Slow { parser: parser.to_owned(), after: PATIENCE });
            }
        }
    };
    if status.success() {
        return given.map_err(run);
    }
    let mut said = Vec::new();
    if let Some(stderr) = child.stderr.take() {
        // What it said is for words alone; that it failed is known.
        let _: io::Result<_> = stderr.take(SAID_MAX).read_to_end(&mut said);
    }
    let said = String::from_utf8_lossy(&said).split_whitespace().collect::<Vec<_>>().join(" ");
    Err(AppArmorError::Refused { parser: parser.to_owned(), status, said })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn it_is_found_by_an_absolute_path() {
        let dir = tempfile::tempdir().unwrap();
        let parser = dir.path().join("apparmor_parser");
        std::fs::write(&parser, "").unwrap();
        let path = std::env::join_paths(["relative".into(), dir.path().to_owned()]).unwrap();
        assert_eq!(find_in(&path), Some(parser));
    }

    #[test]
    fn what_it_says_becomes_the_error() {
        let dir = tempfile::tempdir().unwrap();
        let parser = dir.path().join("parser");
        let script = "#!/bin/sh\n[ \"$(cat)\" = profile ] && exit 0\necho \"line 3:\n no\" >&2\nexit 1\n";
        std::fs::write(&parser, script).unwrap();
        std::fs::set_permissions(&parser, std::fs::Permissions::from_mode(0o755)).unwrap();
        feed(&parser, "-Kr", "profile").unwrap();
        let error = feed(&parser, "-Kr", "other").unwrap_err().to_string();
        assert!(error.ends_with("ends with exit status: 1: line 3: no"), "{error}");
        let error = feed(&dir.path().join("none"), "-Kr", "").unwrap_err();
        assert!(matches!(error, AppArmorError::Run { .. }), "{error}");
    }
}
