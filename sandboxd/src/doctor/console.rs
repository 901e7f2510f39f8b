//! The console's endpoints: who can open them, who acts.

use std::path::Path;

use super::Check;
use crate::config::Config;

const NAME: &str = "console";

pub(super) fn check(config: &Config) -> Check {
    let console = &config.console;
    let said = [
        socket(config.console_socket_group(), &console.operator_group),
        match console.network() {
            Some((address, _)) if console.operator_organization.is_empty() => {
                format!("every certificate of its authority reads on {address}, none acts")
            }
            Some((address, _)) => {
                let organization = &console.operator_organization;
                format!("certificates read on {address}, those with O={organization} act")
            }
            None => "nobody connects from other machines".to_owned(),
        },
    ]
    .join("; ");
    if let Some((_, tls)) = console.network() {
        if let Err(error) = tls.check() {
            let cause =
                std::error::Error::source(&error).map(|cause| format!(": {cause}")).unwrap_or_default();
            return Check::fail(
                NAME,
                format!("{said}, but {error}{cause}"),
                "correct the files of [console]",
            );
        }
        if open_to_others(&tls.key) {
            let reason = format!("{said}, but others than root can read the key {}", tls.key.display());
            return Check::warn(NAME, reason, format!("chmod 600 {}", tls.key.display()));
        }
    }
    let (opens, acts) = (config.console_socket_group(), console.operator_group.as_str());
    if !acts.is_empty() && opens != acts {
        let remedy = format!("make the members of {acts:?} members of {opens:?} as well");
        return Check::warn(NAME, format!("{said}, those of them who are also in {opens:?}"), remedy);
    }
    Check::ok(NAME, said)
}

fn socket(opens: &str, acts: &str) -> String {
    match (opens, acts) {
        ("", _) => "root alone uses its socket".to_owned(),
        (opens, "") => format!("root acts, the group {opens:?} reads on its socket"),
        (opens, acts) if opens == acts => format!("root and the group {acts:?} act on its socket"),
        (opens, acts) => format!("root acts, the group {opens:?} reads on its socket, and {acts:?} acts"),
    }
}

fn open_to_others(path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata(path).is_ok_and(|meta| meta.mode() & 0o077 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Verdict;

    fn of(text: &str) -> Check {
        check(&Config::parse(text).unwrap())
    }

    #[test]
    fn who_reads_and_who_acts_is_said() {
        assert_eq!(of("").verdict, Verdict::Ok);
        let same = of("[console]\noperator_group = 'ops'");
        assert_eq!(same.verdict, Verdict::Ok);
        assert!(same.reason.contains("\"ops\" act"), "{same:?}");
        let two = of("[console]\nsocket_group = 'look'\noperator_group = 'ops'");
        assert_eq!(two.verdict, Verdict::Warn);
        assert!(two.remedy.contains("\"look\""), "{two:?}");
        let tls =
            "[console]\naddress = '127.0.0.1:1'\ntls_cert = '/no/such'\ntls_key = '/k'\nclient_ca = '/c'";
        assert_eq!(of(tls).verdict, Verdict::Fail);
    }
}
