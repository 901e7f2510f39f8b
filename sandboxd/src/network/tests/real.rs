//! The standard plugins on real network namespaces: bridge, host-local, portmap. Needs root.

use std::fs::File;
use std::os::fd::AsFd;
use std::process::Command;

use super::*;
use crate::pod::spec::{PortMapping, Protocol};

const BIN: [&str; 2] = ["/opt/cni/bin", "/usr/lib/cni"];

/// A network namespace pinned in a directory of the test, and the bridge of its network: both go with it.
struct Real {
    bed: Bed,
    bridge: String,
    pins: Vec<PathBuf>,
}

impl Real {
    /// `None`, with a line on stderr: not possible here.
    fn new(test: &str, bridge: &str) -> Option<Self> {
        let missing: Vec<&str> = ["bridge", "host-local", "portmap"]
            .into_iter()
            .filter(|p| !BIN.iter().any(|dir| Path::new(dir).join(p).exists()))
            .collect();
        if !missing.is_empty() {
            skipped(test, &format!("CNI plugins missing: {}", missing.join(", ")));
            return None;
        }
        if !rustix::process::geteuid().is_root() {
            skipped(test, "needs root");
            return None;
        }
        Some(Self { bed: Bed::new(), bridge: bridge.to_owned(), pins: Vec::new() })
    }

    fn network(&self, conf: &str, text: &str) -> Arc<Network> {
        let data = self.bed.path("ipam");
        self.bed.conf(conf, &text.replace("BRIDGE", &self.bridge).replace("DATA", data.to_str().unwrap()));
        Network::new(self.settings()).unwrap()
    }

    fn settings(&self) -> NetworkSettings {
        let bin_dirs = BIN.iter().map(PathBuf::from).collect();
        NetworkSettings { bin_dirs, ..self.bed.settings() }
    }

    fn netns(&mut self, name: &str) -> PathBuf {
        let pin = self.bed.path(name);
        File::create(&pin).unwrap();
        run("unshare", &[&format!("--net={}", pin.display()), "true"]);
        self.pins.push(pin.clone());
        pin
    }

    fn gone(&self, pin: &Path) {
        run("umount", &[pin.to_str().unwrap()]);
    }

    /// Addresses that host-local has given out.
    fn reserved(&self, network: &str) -> Vec<String> {
        let dir = self.bed.path("ipam").join(network);
        let names =
            fs::read_dir(dir).into_iter().flatten().filter_map(|e| e.ok()?.file_name().into_string().ok());
        let mut names: Vec<String> = names.filter(|n| n.starts_with(['1', 'f'])).collect();
        names.sort();
        names
    }
}

impl Drop for Real {
    fn drop(&mut self) {
        // A test that failed half-way leaves leases: what they stand for must not stay on the machine.
        let settings = self.settings();
        let undo = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let network = Network::new(settings).unwrap();
                for lease in network.leases().unwrap() {
                    let _ = network.del(&lease.pod, None).await;
                }
            });
        });
        let _ = undo.join();
        for pin in &self.pins {
            let _ = Command::new("umount").arg("-q").arg(pin).status();
        }
        let _ = Command::new("ip").args(["link", "del", &self.bridge]).output();
    }
}

/// portmap keeps its three base chains for the next mapping of the node. Where they were not there before,
/// they go with the test that brought them.
struct BaseChains {
    /// The tools in whose nat table there were none.
    fresh: Vec<&'static str>,
}

impl BaseChains {
    fn look() -> Self {
        let none = |tool: &&str| !rules(tool).iter().any(|rule| rule.contains("CNI-HOSTPORT-"));
        Self { fresh: ["iptables", "ip6tables"].into_iter().filter(none).collect() }
    }
}

fn rules(tool: &str) -> Vec<String> {
    let listed = Command::new(tool).args(["-t", "nat", "-S"]).output();
    listed
        .map(|out| String::from_utf8_lossy(&out.stdout).lines().map(str::to_owned).collect())
        .unwrap_or_default()
}

impl Drop for BaseChains {
    fn drop(&mut self) {
        const CHAINS: [&str; 3] = ["CNI-HOSTPORT-DNAT", "CNI-HOSTPORT-SETMARK", "CNI-HOSTPORT-MASQ"];
        for tool in &self.fresh {
            let nat = |args: &[&str]| drop(Command::new(tool).args(["-t", "nat"]).args(args).output());
            let jumps =
                rules(tool).into_iter().filter(|r| r.starts_with("-A ") && r.contains("-j CNI-HOSTPORT-"));
            for jump in jumps {
                // Only the comment has spaces, and it stands between quotes.
                let mut words = Vec::new();
                for (n, part) in jump.replacen("-A ", "-D ", 1).split('"').enumerate() {
                    if n % 2 == 1 {
                        words.push(part.to_owned());
                    } else {
                        words.extend(part.split_whitespace().map(str::to_owned));
                    }
                }
                nat(&words.iter().map(String::as_str).collect::<Vec<_>>());
            }
            CHAINS.iter().for_each(|chain| nat(&["-F", chain]));
            CHAINS.iter().for_each(|chain| nat(&["-X", chain]));
        }
    }
}

fn run(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    text
}

fn inside(netns: &Path, args: &[&str]) -> String {
    let mut all = vec![];
    let net = format!("--net={}", netns.display());
    all.push(net.as_str());
    all.extend(args);
    run("nsenter", &all)
}

const DUAL: &str = r#"{"cniVersion":"1.0.0","name":"sntdual","plugins":[
    {"type":"bridge","bridge":"BRIDGE","isGateway":true,
     "ipam":{"type":"host-local","dataDir":"DATA","ranges":[
        [{"subnet":"10.201.1.0/24"}],[{"subnet":"fd00:201::/64"}]]}},
    {"type":"portmap","capabilities":{"portMappings":true},"snat":true}]}"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dual_stack_with_a_host_port_and_everything_released() {
    let _chains = BaseChains::look();
    let Some(mut real) = Real::new("dual_stack", "sntbr1") else { return };
    let netns = real.netns("ns1");
    let network = real.network("10-dual.conflist", DUAL);
    let mut spec = spec();
    spec.port_mappings =
        vec![PortMapping { protocol: Protocol::Tcp, container_port: 80, host_port: 20_180, host_ip: None }];
    let id = pod("sntdual1");
    // The first one waits for the plugins' VERSION answers.
    network.prepare(&id, &spec).await.unwrap();
    let begun = Instant::now();
    let lease = network.prepare(&id, &spec).await.unwrap();
    eprintln!("prepare: {:?}", begun.elapsed());
    let attached = network.add(&lease, &netns).await.unwrap();
    eprintln!("ADD of bridge, host-local, portmap: {:?}", attached.cni);
    assert_eq!(attached.ips.len(), 2);
    assert!(attached.ips[0].is_ipv4() && attached.ips[1].is_ipv6(), "{:?}", attached.ips);
    let addresses = inside(&netns, &["ip", "addr", "show", "eth0"]);
    for ip in &attached.ips {
        assert!(addresses.contains(&format!(" {ip}/")), "{ip} not in {addresses}");
    }
    // No CHECK here: portmap 1.1.1 looks for the IPv4 rules in ip6tables and fails on dual stack.
    assert!(run("iptables-save", &["-t", "nat"]).contains("--dport 20180"));
    assert_eq!(real.reserved("sntdual").len(), 2);
    let begun = Instant::now();
    network.del(&id, Some(&netns)).await.unwrap();
    eprintln!("DEL: {:?}", begun.elapsed());
    assert!(real.reserved("sntdual").is_empty());
    assert!(!run("iptables-save", &["-t", "nat"]).contains("--dport 20180"));
    assert!(!inside(&netns, &["ip", "addr"]).contains("eth0"));
    assert_eq!(real.bed.leases_left(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn single_configuration_of_0_4_0_and_del_after_the_namespace_is_gone() {
    let Some(mut real) = Real::new("single", "sntbr2") else { return };
    let (first, second) = (real.netns("ns1"), real.netns("ns2"));
    let network = real.network(
        "10-single.conf",
        r#"{"cniVersion":"0.4.0","name":"sntone","type":"bridge","bridge":"BRIDGE",
            "ipam":{"type":"host-local","dataDir":"DATA","subnet":"10.201.2.0/24"}}"#,
    );
    let (one, two) = (pod("sntone1"), pod("sntone2"));
    let prepare = async |id| network.prepare(id, &spec()).await.unwrap();
    let (lease1, lease2) = (prepare(&one).await, prepare(&two).await);
    let (a, b) = tokio::join!(network.add(&lease1, &first), network.add(&lease2, &second));
    assert_ne!(a.unwrap().ips, b.unwrap().ips);
    assert_eq!(real.reserved("sntone").len(), 2);
    network.check(&one, &first).await.unwrap();
    inside(&second, &["ip", "link", "del", "eth0"]);
    let error = network.check(&two, &second).await.unwrap_err().to_string();
    assert!(error.contains("failed on CHECK"), "{error}");
    // The pin is an empty file from here on, as after a reboot.
    real.gone(&first);
    network.del(&one, Some(&first)).await.unwrap();
    network.del(&two, None).await.unwrap();
    assert!(real.reserved("sntone").is_empty(), "{:?}", real.reserved("sntone"));
    assert_eq!(real.bed.leases_left(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_real_plugins_error_reaches_the_caller_and_del_releases_the_rest() {
    let Some(mut real) = Real::new("exhausted", "sntbr3") else { return };
    let netns = real.netns("ns1");
    // portmap refuses what it cannot read after bridge has done its part.
    let network = real.network(
        "10-full.conflist",
        r#"{"cniVersion":"1.0.0","name":"sntfull","plugins":[
            {"type":"bridge","bridge":"BRIDGE",
             "ipam":{"type":"host-local","dataDir":"DATA","subnet":"10.201.3.0/24"}},
            {"type":"portmap","externalSetMarkChain":"X","markMasqBit":5}]}"#,
    );
    let id = pod("sntfull1");
    let lease = network.prepare(&id, &spec()).await.unwrap();
    let error = network.add(&lease, &netns).await.unwrap_err().to_string();
    assert!(error.contains("portmap failed on ADD") && error.contains("externalSetMarkChain"), "{error}");
    assert_eq!(real.reserved("sntfull").len(), 1, "bridge's part is there");
    // DEL meets the same configuration error in portmap: the address stays journaled, not forgotten.
    let error = network.del(&id, Some(&netns)).await.unwrap_err().to_string();
    assert!(error.contains("portmap failed on DEL"), "{error}");
    assert_eq!(network.leases().unwrap().len(), 1);
}

#[test]
fn lo_comes_up_in_a_namespace_of_another() {
    let Some(mut real) = Real::new("lo", "sntbr4") else { return };
    let netns = real.netns("ns1");
    assert!(!inside(&netns, &["ip", "addr", "show", "lo"]).contains("127.0.0.1"));
    let begun = Instant::now();
    loopback_up(File::open(&netns).unwrap().as_fd()).unwrap();
    eprintln!("lo up: {:?}", begun.elapsed());
    assert!(inside(&netns, &["ip", "addr", "show", "lo"]).contains("127.0.0.1/8"));
    let error = loopback_up(File::open("/proc/self/ns/uts").unwrap().as_fd()).unwrap_err();
    assert!(error.to_string().contains("entering"), "{error}");
}
