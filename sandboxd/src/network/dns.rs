//! The pod's /etc/resolv.conf (resolv.conf(5)).

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use crate::pod::spec::Dns;

use super::error::NetworkError;

/// What pods without a DNS configuration of their own get.
pub const HOST_RESOLV_CONF: &str = "/etc/resolv.conf";

/// A resolv.conf of the host beyond this is a mistake.
const MAX_HOST: u64 = 64 << 10;

/// The contents of the pod's resolv.conf: from `dns`, or the host's where that is empty. The values are
/// written as they are: `cri` has validated them.
///
/// # Errors
/// When the host's file is needed and is unreadable or larger than 64 KiB. A missing one is an empty one.
pub fn resolv_conf(dns: &Dns, host: &Path) -> Result<Vec<u8>, NetworkError> {
    if dns.servers.is_empty() && dns.searches.is_empty() && dns.options.is_empty() {
        return host_file(host);
    }
    let mut text = String::new();
    if !dns.searches.is_empty() {
        text.push_str(&format!("search {}\n", dns.searches.join(" ")));
    }
    for server in &dns.servers {
        text.push_str(&format!("nameserver {server}\n"));
    }
    if !dns.options.is_empty() {
        text.push_str(&format!("options {}\n", dns.options.join(" ")));
    }
    Ok(text.into_bytes())
}

fn host_file(path: &Path) -> Result<Vec<u8>, NetworkError> {
    let error = |source| NetworkError::Io { action: "reading", path: path.to_owned(), source };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(error(e)),
    };
    let mut contents = Vec::new();
    let length = file.take(MAX_HOST + 1).read_to_end(&mut contents).map_err(error)?;
    if length as u64 > MAX_HOST {
        return Err(NetworkError::ResolvConfSize { path: path.to_owned(), limit: MAX_HOST });
    }
    Ok(contents)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strings(values: &[&str]) -> Vec<String> {
        values.iter().map(|v| (*v).to_owned()).collect()
    }

    #[test]
    fn written_from_the_pods_configuration() {
        let dns = Dns {
            servers: strings(&["10.96.0.10", "fd00::a"]),
            searches: strings(&["ns.svc.cluster.local", "svc.cluster.local"]),
            options: strings(&["ndots:5", "edns0"]),
        };
        let text = resolv_conf(&dns, Path::new("/nonexistent")).unwrap();
        assert_eq!(
            String::from_utf8(text).unwrap(),
            "search ns.svc.cluster.local svc.cluster.local\nnameserver 10.96.0.10\nnameserver fd00::a\n\
             options ndots:5 edns0\n"
        );
    }

    #[test]
    fn the_hosts_where_empty_and_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let host = dir.path().join("resolv.conf");
        assert!(resolv_conf(&Dns::default(), &host).unwrap().is_empty());
        std::fs::write(&host, "nameserver 1.1.1.1\n").unwrap();
        assert_eq!(resolv_conf(&Dns::default(), &host).unwrap(), b"nameserver 1.1.1.1\n");
        std::fs::write(&host, vec![b'#'; 65_537]).unwrap();
        let error = resolv_conf(&Dns::default(), &host).unwrap_err();
        assert!(matches!(error, NetworkError::ResolvConfSize { .. }), "{error}");
    }
}
