//! Signals by name.

/// `SIGRTMIN` and `SIGRTMAX` as programs know them: the C library keeps the first two for itself.
const RTMIN: i32 = 34;
const RTMAX: i32 = 64;

/// The number of a signal by its name, as the CRI, images (`SIGRTMIN+3`) or people write it.
#[must_use]
pub fn by_name(name: &str) -> Option<i32> {
    let name = name.to_ascii_uppercase();
    let name = name.strip_prefix("SIG").unwrap_or(&name);
    let offset = |rest: &str, word: &str, sign: char| -> Option<i32> {
        if rest.is_empty() {
            return Some(0);
        }
        let digits = rest.strip_prefix(word).or_else(|| rest.strip_prefix(sign))?;
        digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse().ok()).flatten()
    };
    if let Some(rest) = name.strip_prefix("RTMIN") {
        return offset(rest, "PLUS", '+').map(|n| RTMIN + n).filter(|n| *n <= RTMAX);
    }
    if let Some(rest) = name.strip_prefix("RTMAX") {
        return offset(rest, "MINUS", '-').map(|n| RTMAX - n).filter(|n| *n >= RTMIN);
    }
    Some(match name {
        "ABRT" | "IOT" => libc::SIGABRT,
        "ALRM" => libc::SIGALRM,
        "BUS" => libc::SIGBUS,
        "CHLD" | "CLD" => libc::SIGCHLD,
        "CONT" => libc::SIGCONT,
        "FPE" => libc::SIGFPE,
        "HUP" => libc::SIGHUP,
        "ILL" => libc::SIGILL,
        "INT" => libc::SIGINT,
        "IO" | "POLL" => libc::SIGIO,
        "KILL" => libc::SIGKILL,
        "PIPE" => libc::SIGPIPE,
        "PROF" => libc::SIGPROF,
        "PWR" => libc::SIGPWR,
        "QUIT" => libc::SIGQUIT,
        "SEGV" => libc::SIGSEGV,
        "STKFLT" => libc::SIGSTKFLT,
        "STOP" => libc::SIGSTOP,
        "SYS" => libc::SIGSYS,
        "TERM" => libc::SIGTERM,
        "TRAP" => libc::SIGTRAP,
        "TSTP" => libc::SIGTSTP,
        "TTIN" => libc::SIGTTIN,
        "TTOU" => libc::SIGTTOU,
        "URG" => libc::SIGURG,
        "USR1" => libc::SIGUSR1,
        "USR2" => libc::SIGUSR2,
        "VTALRM" => libc::SIGVTALRM,
        "WINCH" => libc::SIGWINCH,
        "XCPU" => libc::SIGXCPU,
        "XFSZ" => libc::SIGXFSZ,
        _ => return None,
    })
}

/// The signal of an image's configuration: a name or a number.
#[must_use]
pub fn of_image(text: &str) -> Option<i32> {
    let text = text.trim();
    match text.parse::<i32>() {
        Ok(number) => (1..=RTMAX).contains(&number).then_some(number),
        Err(_) => by_name(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_numbers_and_what_is_neither() {
        for (text, number) in [
            ("SIGTERM", Some(15)),
            ("term", Some(15)),
            ("9", Some(9)),
            ("SIGRTMIN", Some(34)),
            ("SIGRTMIN+3", Some(37)),
            ("RTMAX-14", Some(50)),
            ("SIGRTMAXMINUS1", Some(63)),
            ("SIGRTMIN+31", None),
            ("SIGRTMIN+", None),
            ("0", None),
            ("65", None),
            ("-1", None),
            ("SIGFOO", None),
            ("", None),
        ] {
            assert_eq!(of_image(text), number, "{text}");
        }
    }
}
