//! Port mappings: portmap's work, alone on the machine because its chains are everybody's.

use std::io::Read;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sched::{CloneFlags, setns};
use sandboxd_api::cri::Protocol;
use sandboxd_tests::e2e::E2e;
use sandboxd_tests::{cni, ns};

/// A listener in the pod's network namespace that says hello once, on a thread that joined it.
fn greeter(pid: i32, port: u16) -> Result<std::thread::JoinHandle<Result<()>>> {
    let netns = ns::open(pid, "net")?;
    let (ready, listening) = std::sync::mpsc::channel();
    let thread = std::thread::spawn(move || -> Result<()> {
        setns(netns.as_fd(), CloneFlags::CLONE_NEWNET).context("joining the pod's network")?;
        let listener = TcpListener::bind(("0.0.0.0", port))?;
        ready.send(())?;
        let (mut stream, _) = listener.accept()?;
        std::io::Write::write_all(&mut stream, b"hello")?;
        Ok(())
    });
    listening.recv_timeout(Duration::from_secs(5)).context("the listener did not start")?;
    Ok(thread)
}

/// This machine's address towards the pods: the bridge's.
fn bridge_address(bridge: &str) -> Result<std::net::Ipv4Addr> {
    let text = cni::tool("ip", &["-4", "-o", "addr", "show", "dev", bridge])?;
    let address = text.split_whitespace().skip_while(|w| *w != "inet").nth(1).context("no address")?;
    Ok(address.split('/').next().unwrap_or_default().parse()?)
}

// cri: PodSandboxConfig.port_mappings, PortMapping.host_port, PortMapping.container_port
#[test]
fn a_port_of_the_node_leads_into_the_pod() {
    E2e::alone().run(async |node| {
        let cri = node.cri().await?;
        let pod = node.pod("ports").userns().port(Protocol::Tcp, 23_456, 8080);
        let id = cri.run(pod.build()).await?;
        let pid = cri.pid(&id).await?;
        let greeter = greeter(pid, 8080)?;
        let target = SocketAddr::from((bridge_address(&node.scope.name)?, 23_456));
        let mut stream = TcpStream::connect_timeout(&target, Duration::from_secs(5)).context("connecting")?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        let mut words = String::new();
        stream.read_to_string(&mut words)?;
        ensure!(words == "hello", "{words:?}");
        greeter.join().map_err(|_| anyhow::anyhow!("the listener panicked"))??;

        cri.stop(&id).await?;
        let saved = cni::tool("iptables-save", &["-t", "nat"])?;
        ensure!(!saved.contains("23456"), "the mapping is still there after StopPodSandbox");
        Ok(())
    });
}

#[test]
fn a_mapping_without_a_host_port_maps_nothing() {
    E2e::alone().run(async |node| {
        let cri = node.cri().await?;
        cri.run(node.pod("unmapped").userns().port(Protocol::Tcp, 0, 18_080).build()).await?;
        let saved = cni::tool("iptables-save", &["-t", "nat"])?;
        ensure!(!saved.contains("18080"), "{saved}");
        Ok(())
    });
}
