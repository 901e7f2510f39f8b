//! DNS and port mappings.

use std::net::{IpAddr, Ipv6Addr};

use sandboxd_api::cri;

use super::{Invalid, Why, count, known, text};
use crate::pod::spec::{Dns, NetworkMode, PortMapping, Protocol};

/// glibc reads three servers and musl three; kubelet warns and cuts. More than this is a mistake.
const DNS_SERVERS_MAX: usize = 32;
/// kubelet's own bounds (`MaxDNSSearchPaths`, `MaxDNSSearchListChars`).
const DNS_SEARCHES_MAX: usize = 32;
const DNS_SEARCH_BYTES_MAX: usize = 2048;
const DNS_OPTIONS_MAX: usize = 32;
const DNS_WORD_MAX: usize = 255;
const PORT_MAPPINGS_MAX: usize = 4096;

pub(super) fn dns(dns: cri::DnsConfig) -> Result<Dns, Invalid> {
    count("config.dns_config.servers", dns.servers.len(), DNS_SERVERS_MAX)?;
    count("config.dns_config.searches", dns.searches.len(), DNS_SEARCHES_MAX)?;
    count("config.dns_config.options", dns.options.len(), DNS_OPTIONS_MAX)?;
    for (i, server) in dns.servers.iter().enumerate() {
        if !is_server(server) {
            return Err(Invalid::new(format!("config.dns_config.servers[{i}]"), server, Why::DnsServer));
        }
    }
    words("config.dns_config.searches", &dns.searches)?;
    words("config.dns_config.options", &dns.options)?;
    // With the spaces between them.
    let bytes = dns.searches.iter().map(String::len).sum::<usize>() + dns.searches.len().saturating_sub(1);
    if bytes > DNS_SEARCH_BYTES_MAX {
        let value = format_args!("{bytes} bytes");
        return Err(Invalid::new(
            "config.dns_config.searches",
            value,
            Why::TooLong { max: DNS_SEARCH_BYTES_MAX },
        ));
    }
    Ok(Dns { servers: dns.servers, searches: dns.searches, options: dns.options })
}

/// An address as resolv.conf(5) takes it: IPv6 ones may have a zone (`fe80::1%eth0`).
fn is_server(server: &str) -> bool {
    match server.split_once('%') {
        Some((address, zone)) => {
            address.parse::<Ipv6Addr>().is_ok()
                && (1..=15).contains(&zone.len())
                && zone.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
        }
        None => server.parse::<IpAddr>().is_ok(),
    }
}

fn words(field: &str, words: &[String]) -> Result<(), Invalid> {
    for (i, word) in words.iter().enumerate() {
        let field = format!("{field}[{i}]");
        if word.is_empty() {
            return Err(Invalid::new(field, word, Why::Missing));
        }
        if word.contains(|c: char| c.is_whitespace() || c == '#' || c == ';') {
            return Err(Invalid::new(field, word, Why::ResolvConf));
        }
        text(&field, word, DNS_WORD_MAX)?;
    }
    Ok(())
}

/// Keeps what maps a port of the node. A mapping without one (kubelet sends every container port) asks for
/// nothing, and on the node's network a port is the node's already.
pub(super) fn port_mappings(
    mappings: &[cri::PortMapping],
    network: NetworkMode,
) -> Result<Vec<PortMapping>, Invalid> {
    count("config.port_mappings", mappings.len(), PORT_MAPPINGS_MAX)?;
    let mut kept: Vec<PortMapping> = Vec::new();
    for (i, m) in mappings.iter().enumerate() {
        let field = |name: &str| format!("config.port_mappings[{i}].{name}");
        let protocol = match known(&field("protocol"), m.protocol)? {
            cri::Protocol::Tcp => Protocol::Tcp,
            cri::Protocol::Udp => Protocol::Udp,
            cri::Protocol::Sctp => Protocol::Sctp,
        };
        let container_port = u16::try_from(m.container_port).ok().filter(|p| *p != 0);
        let Some(container_port) = container_port else {
            return Err(Invalid::new(field("container_port"), m.container_port, Why::ContainerPort));
        };
        let Ok(host_port) = u16::try_from(m.host_port) else {
            return Err(Invalid::new(field("host_port"), m.host_port, Why::HostPort));
        };
        let host_ip = match m.host_ip.as_str() {
            "" => None,
            ip => Some(ip.parse().map_err(|_| Invalid::new(field("host_ip"), ip, Why::HostIp))?),
        };
        if host_port == 0 {
            continue;
        }
        if network == NetworkMode::Node {
            if host_port != container_port {
                return Err(Invalid::new(field("host_port"), host_port, Why::HostPortOnNode));
            }
            continue;
        }
        let mapping = PortMapping { protocol, container_port, host_port, host_ip };
        let same = |k: &&PortMapping| (k.protocol, k.host_port, k.host_ip) == (protocol, host_port, host_ip);
        match kept.iter().find(same) {
            Some(k) if k.container_port != container_port => {
                let why = Why::HostPortTaken { other: k.container_port };
                return Err(Invalid::new(field("host_port"), host_port, why));
            }
            Some(_) => {}
            None => kept.push(mapping),
        }
    }
    Ok(kept)
}
