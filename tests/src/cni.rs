//! A CNI network nobody else uses: a subnet that is free, a bridge of an unused name.

use std::fs;
use std::net::Ipv4Addr;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::symlink;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

/// Tests, demo and bench take their /24s from here: 10.202.0.0/16.
const POOL: [u8; 2] = [10, 202];

/// A /24 of the pool, taken for as long as this value lives.
#[derive(Debug)]
pub struct Subnet {
    third: u8,
    // An abstract socket of that name: the kernel frees it with the process, however it ends.
    _claim: UnixListener,
}

impl Subnet {
    /// Takes a subnet that no route of this machine covers and no other run has taken.
    ///
    /// # Errors
    /// When the whole pool is taken.
    pub fn claim() -> Result<Self> {
        let routes = fs::read_to_string("/proc/net/route").unwrap_or_default();
        // Runs that start together begin their search at different places.
        let start = std::process::id().to_le_bytes()[0];
        for third in (0..=255u8).map(|step| start.wrapping_add(step)) {
            if routed(&routes, Ipv4Addr::new(POOL[0], POOL[1], third, 0)) {
                continue;
            }
            let name = format!("sandboxd-subnet-{}.{}.{third}", POOL[0], POOL[1]);
            let address = SocketAddr::from_abstract_name(name)?;
            if let Ok(claim) = UnixListener::bind_addr(&address) {
                return Ok(Self { third, _claim: claim });
            }
        }
        bail!("every /24 of {}.{}.0.0/16 is in use on this machine", POOL[0], POOL[1])
    }

    /// In CIDR notation.
    #[must_use]
    pub fn cidr(&self) -> String {
        format!("{}.{}.{}.0/24", POOL[0], POOL[1], self.third)
    }

    /// Whether an address is of this subnet.
    #[must_use]
    pub fn contains(&self, ip: &str) -> bool {
        ip.parse::<Ipv4Addr>().is_ok_and(|ip| ip.octets()[..3] == [POOL[0], POOL[1], self.third])
    }
}

/// Whether a route other than the default one covers the address. /proc/net/route holds addresses and
/// masks as hexadecimal numbers in the machine's byte order.
fn routed(routes: &str, address: Ipv4Addr) -> bool {
    let wanted = u32::from_ne_bytes(address.octets());
    routes.lines().skip(1).any(|line| {
        let fields: Vec<_> = line.split_whitespace().collect();
        let number = |index: usize| fields.get(index).and_then(|f| u32::from_str_radix(f, 16).ok());
        matches!((number(1), number(7)), (Some(net), Some(mask)) if mask != 0 && wanted & mask == net)
    })
}

/// The configuration list of a bridge network, as a node's administrator would write it.
#[must_use]
pub fn conflist(
    network: &str,
    subnet: &str,
    data_dir: &Path,
    masquerade: bool,
    last: Option<Value>,
) -> Value {
    let mut plugins = vec![
        json!({
            "type": "bridge", "bridge": network, "isGateway": true, "ipMasq": masquerade, "hairpinMode": true,
            "ipam": {
                "type": "host-local", "dataDir": data_dir,
                "ranges": [[{ "subnet": subnet }]], "routes": [{ "dst": "0.0.0.0/0" }],
            },
        }),
        json!({ "type": "portmap", "capabilities": { "portMappings": true }, "snat": true }),
    ];
    plugins.extend(last);
    json!({ "cniVersion": "1.0.0", "name": network, "plugins": plugins })
}

/// A directory of plugins: links to the standard ones, and to those of the tests.
///
/// # Errors
/// When the directory cannot be filled.
pub fn plugin_dir(dir: &Path, standard: &Path, extra: &[(&str, PathBuf)]) -> Result<()> {
    fs::create_dir(dir).with_context(|| format!("making {}", dir.display()))?;
    for name in ["bridge", "host-local", "portmap", "loopback"] {
        symlink(standard.join(name), dir.join(name))?;
    }
    for (name, program) in extra {
        symlink(program, dir.join(name))?;
    }
    Ok(())
}

/// Runs a tool of the system; its output.
///
/// # Errors
/// When it is missing or fails, in its own words.
pub fn tool(program: &str, args: &[&str]) -> Result<String> {
    let output = Command::new(program)
        .args(args)
        .env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin")
        .output()
        .with_context(|| format!("running {program}"))?;
    if !output.status.success() {
        bail!("{program} {}: {}", args.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_covered_subnet_is_not_free() {
        let hex = |a, b, c, d| format!("{:08X}", u32::from_ne_bytes([a, b, c, d]));
        let table = format!(
            "Iface Destination Gateway Flags RefCnt Use Metric Mask\n\
             eth0 {} 0 3 0 0 0 {}\nbr0 {} 0 1 0 0 0 {}\n",
            hex(0, 0, 0, 0),
            hex(0, 0, 0, 0),
            hex(10, 202, 7, 0),
            hex(255, 255, 255, 0),
        );
        assert!(routed(&table, Ipv4Addr::new(10, 202, 7, 0)));
        assert!(!routed(&table, Ipv4Addr::new(10, 202, 8, 0)));
    }

    #[test]
    fn two_claims_differ() {
        let (one, two) = (Subnet::claim().unwrap(), Subnet::claim().unwrap());
        assert_ne!(one.cidr(), two.cidr());
        assert!(one.contains(&one.cidr().replace("0/24", "9")));
        assert!(!one.contains("10.203.0.1"));
    }
}
