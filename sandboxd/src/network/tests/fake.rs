//! Scripted plugins: what they are told, and what becomes of their failures.

use std::time::Instant;

use serde_json::{Value, json};

use super::*;
use crate::pod::spec::{PortMapping, Protocol};

/// ADD prints a result with `prevResult`'s unknown field kept by the last plugin; the rest is quiet.
const RESULT: &str = r#"if [ $CNI_COMMAND = ADD ]; then printf '%s' '{"cniVersion":"1.0.0","odd": 1.50,"interfaces":[{"name":"eth0","sandbox":"/n"}],"ips":[{"address":"10.0.0.2/24","interface":0},{"address":"fd00::2/64","interface":0}]}'; fi"#;

const CHAIN: &str = r#"{"cniVersion":"1.0.0","name":"net","plugins":[
    {"type":"one","mtu": 1.4e3,"capabilities":{"portMappings":true}},
    {"type":"two","capabilities":{"dns":true,"bandwidth":true,"ipRanges":true}}]}"#;

fn chain() -> Bed {
    let bed = Bed::new();
    bed.plugin("one", RESULT);
    bed.plugin("two", RESULT);
    bed.conf("10-net.conflist", CHAIN);
    bed
}

fn netns() -> &'static Path {
    Path::new("/proc/self/ns/net")
}

async fn add_error(bed: &Bed, settings: NetworkSettings) -> NetworkError {
    let network = Network::new(settings).unwrap();
    let lease = network.prepare(&pod("p1"), &spec()).await.unwrap();
    let error = network.add(&lease, netns()).await.unwrap_err();
    assert!(bed.path("leases/p1.json").exists(), "the intent stays for DEL");
    error
}

// cri: PortMapping.protocol, PortMapping.host_ip
#[tokio::test]
async fn the_chain_is_told_everything_and_undone_in_reverse() {
    let bed = chain();
    let network = bed.network();
    network.set_pod_cidrs(vec!["10.0.0.0/24".into(), "fd00::/64".into()]);
    let mut spec = spec();
    spec.dns.servers = vec!["10.96.0.10".into()];
    let host_ip = Some("10.9.8.7".parse().unwrap());
    spec.port_mappings = vec![
        PortMapping { protocol: Protocol::Udp, container_port: 53, host_port: 5353, host_ip },
        PortMapping { protocol: Protocol::Tcp, container_port: 80, host_port: 0, host_ip: None },
    ];
    spec.annotations.insert("kubernetes.io/ingress-bandwidth".into(), "10M".into());
    let id = pod("p1");
    let lease = network.prepare(&id, &spec).await.unwrap();
    assert!(bed.order().is_empty(), "prepare runs nothing");
    let attached = network.add(&lease, netns()).await.unwrap();
    assert_eq!(attached.ips, ["10.0.0.2", "fd00::2"].map(|a| a.parse::<IpAddr>().unwrap()));

    let env = bed.log("one.ADD.env");
    for line in [
        "CNI_COMMAND=ADD",
        "CNI_CONTAINERID=p1",
        "CNI_NETNS=/proc/self/ns/net",
        "CNI_IFNAME=eth0",
        "CNI_ARGS=IgnoreUnknown=1;K8S_POD_NAMESPACE=prod;K8S_POD_NAME=web;K8S_POD_INFRA_CONTAINER_ID=p1;K8S_POD_UID=u-1",
    ] {
        assert!(env.lines().any(|l| l == line), "{line} not in {env}");
    }
    assert!(!env.contains("CARGO"), "the environment is clean: {env}");

    let one: Value = serde_json::from_str(&bed.log("one.ADD.in")).unwrap();
    assert!(bed.log("one.ADD.in").contains("\"mtu\":1.4e3"), "as written");
    assert_eq!((&one["name"], &one["cniVersion"]), (&json!("net"), &json!("1.0.0")));
    assert!(one.get("prevResult").is_none() && one.get("capabilities").is_none());
    let ports = json!([{"hostPort": 5353, "containerPort": 53, "protocol": "udp", "hostIP": "10.9.8.7"}]);
    assert_eq!(one["runtimeConfig"], json!({ "portMappings": ports }), "only what it declares");
    let two: Value = serde_json::from_str(&bed.log("two.ADD.in")).unwrap();
    assert!(bed.log("two.ADD.in").contains("\"odd\": 1.50"), "prevResult is byte for byte");
    assert_eq!(two["runtimeConfig"]["bandwidth"]["ingressRate"], 10_000_000);
    assert_eq!(
        two["runtimeConfig"]["ipRanges"],
        json!([[{"subnet": "10.0.0.0/24"}], [{"subnet": "fd00::/64"}]])
    );
    assert_eq!(two["runtimeConfig"]["dns"]["servers"], json!(["10.96.0.10"]));

    network.check(&id, netns()).await.unwrap();
    // The configuration goes, and the daemon too: DEL still knows everything.
    fs::remove_file(bed.path("conf/10-net.conflist")).unwrap();
    drop(network);
    let network = bed.network();
    assert_eq!(network.leases().unwrap().len(), 1);
    network.del(&id, Some(Path::new("/nonexistent"))).await.unwrap();
    let order = ["one ADD", "two ADD", "one CHECK", "two CHECK", "two DEL", "one DEL"];
    assert_eq!(bed.order(), order);
    assert!(bed.log("one.DEL.env").lines().any(|l| l == "CNI_NETNS="), "a namespace that is gone");
    let del: Value = serde_json::from_str(&bed.log("one.DEL.in")).unwrap();
    assert_eq!(del["prevResult"]["ips"].as_array().unwrap().len(), 2);
    assert_eq!(del["runtimeConfig"], one["runtimeConfig"]);
    assert_eq!(bed.leases_left(), 0);
    network.del(&id, None).await.unwrap();
    assert_eq!(bed.order().len(), order.len(), "without a lease nothing runs");
}

#[tokio::test]
async fn errors_are_in_the_plugins_words() {
    let bed = chain();
    bed.plugin("two", r#"echo noise >&2; echo '{"cniVersion":"1.0.0","code":11,"msg":"no addresses left","details":"range 10.0.0.0/30"}'; exit 1"#);
    let error = add_error(&bed, bed.settings()).await.to_string();
    for part in
        ["two", "ADD", "no addresses left", "range 10.0.0.0/30", "code 11, try again later", "stderr: noise"]
    {
        assert!(error.contains(part), "{part:?} not in {error}");
    }
    bed.plugin("two", "echo just text; exit 3");
    let error = add_error(&bed, bed.settings()).await.to_string();
    assert!(error.contains("exit status 3") && error.contains("just text"), "{error}");
    bed.plugin("two", "kill -9 $$");
    let error = add_error(&bed, bed.settings()).await.to_string();
    assert!(error.contains("killed by signal 9 without an error message"), "{error}");
    bed.plugin("two", "echo hello");
    let error = add_error(&bed, bed.settings()).await;
    assert!(matches!(error, NetworkError::BadResult { .. }), "{error}");
    bed.plugin("two", "true");
    assert!(matches!(add_error(&bed, bed.settings()).await, NetworkError::BadResult { .. }), "empty output");
    bed.plugin("two", r#"echo '{"cniVersion":"1.0.0"}'"#);
    assert!(matches!(add_error(&bed, bed.settings()).await, NetworkError::NoAddress { .. }));
}

#[tokio::test]
async fn a_hanging_plugin_dies_with_its_children() {
    let bed = chain();
    bed.plugin("two", "echo slow >&2; sleep 300 & echo $! > $log.child; wait");
    let mut settings = bed.settings();
    settings.add_timeout = Duration::from_millis(700);
    let begun = Instant::now();
    let error = add_error(&bed, settings).await;
    assert!(matches!(&error, NetworkError::Timeout { plugin, .. } if plugin == "two"), "{error}");
    assert!(error.to_string().contains("700 ms") && error.to_string().contains("slow"), "{error}");
    assert!(begun.elapsed() < Duration::from_secs(60));
    assert!(ended(&bed.log("two.child")), "the plugin's child lives on");
}

/// Waits for a process to be gone or a zombie.
fn ended(pid: &str) -> bool {
    (0..100).any(|_| {
        std::thread::sleep(Duration::from_millis(20));
        let stat = fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
        stat.is_empty() || stat.contains(" Z ")
    })
}

#[tokio::test]
async fn an_add_that_is_given_up_takes_its_plugin_along() {
    let bed = chain();
    bed.plugin("two", "echo $$ > $log.pid; sleep 300");
    let network = bed.network();
    let lease = network.prepare(&pod("p1"), &spec()).await.unwrap();
    let given_up = tokio::time::timeout(Duration::from_secs(30), async {
        tokio::select! {
            _ = network.add(&lease, netns()) => panic!("a plugin that sleeps came back"),
            () = async {
                while bed.log("two.pid").is_empty() {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            } => {}
        }
    });
    given_up.await.expect("the plugin never began");
    let pid = bed.log("two.pid");
    assert!(ended(&pid), "plugin {pid} lives on");
    bed.plugin("two", "true");
    network.del(&pod("p1"), None).await.unwrap();
    assert_eq!(bed.leases_left(), 0);
}

#[tokio::test]
async fn output_is_bounded_and_pipes_left_open_do_not_block() {
    let bed = chain();
    bed.plugin("two", "exec cat /dev/zero");
    let begun = Instant::now();
    let error = add_error(&bed, bed.settings()).await;
    assert!(matches!(error, NetworkError::TooMuchOutput { limit: 1_048_576, .. }), "{error}");
    // Much on stderr and a result is fine.
    bed.plugin("two", &format!("head -c 300000 /dev/zero >&2; {RESULT}"));
    let network = bed.network();
    let lease = network.prepare(&pod("p2"), &spec()).await.unwrap();
    network.add(&lease, netns()).await.unwrap();
    // So is a child that keeps the pipes.
    bed.plugin("two", &format!("sleep 30 & {RESULT}"));
    let lease = network.prepare(&pod("p3"), &spec()).await.unwrap();
    let attached = network.add(&lease, netns()).await.unwrap();
    assert!(attached.cni < Duration::from_secs(20), "{:?}", attached.cni);
    assert!(begun.elapsed() < Duration::from_secs(60));
}

#[tokio::test]
async fn what_no_plugin_declares_is_refused_by_name() {
    let bed = Bed::new();
    bed.plugin("one", RESULT);
    bed.conf("a.conf", r#"{"cniVersion":"0.4.0","name":"plain","type":"one"}"#);
    let network = bed.network();
    let refused = async |change: &dyn Fn(&mut PodSpec)| {
        let mut spec = spec();
        change(&mut spec);
        network.prepare(&pod("p1"), &spec).await.unwrap_err().to_string()
    };
    let port = PortMapping { protocol: Protocol::Tcp, container_port: 80, host_port: 8080, host_ip: None };
    let text = refused(&|s| s.port_mappings.push(port.clone())).await;
    assert!(text.contains("8080/tcp") && text.contains("portMappings") && text.contains("plain"), "{text}");
    let text =
        refused(&|s| drop(s.annotations.insert("kubernetes.io/egress-bandwidth".into(), "1M".into()))).await;
    assert!(text.contains("kubernetes.io/egress-bandwidth"), "{text}");
    let text = refused(&|s| s.metadata.name = "a;K8S_POD_UID=x".into()).await;
    assert!(text.contains("K8S_POD_NAME"), "{text}");
    assert_eq!(bed.leases_left(), 0, "nothing was written");
}

#[tokio::test]
async fn a_failed_del_keeps_the_lease_and_goes_on_without_its_caller() {
    let bed = chain();
    let network = bed.network();
    let id = pod("p1");
    let lease = network.prepare(&id, &spec()).await.unwrap();
    network.add(&lease, netns()).await.unwrap();
    bed.plugin("two", r#"echo '{"code":100,"msg":"busy"}'; exit 1"#);
    let error = network.del(&id, None).await.unwrap_err();
    assert!(error.to_string().contains("busy"), "{error}");
    assert_eq!(network.leases().unwrap().len(), 1);
    bed.plugin("two", "sleep 0.5");
    let impatient = tokio::time::timeout(Duration::from_millis(100), network.del(&id, None)).await;
    assert!(impatient.is_err(), "the caller gave up");
    for _ in 0..100 {
        if bed.leases_left() == 0 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("DEL did not finish on its own: {:?}", bed.order());
}

#[tokio::test]
async fn pods_do_not_wait_for_each_other_but_operations_of_one_pod_do() {
    let bed = chain();
    bed.plugin("one", &format!("sleep 2; {RESULT}"));
    let network = bed.network();
    let begun = Instant::now();
    let mut adds = tokio::task::JoinSet::new();
    for n in 0..8 {
        let network = network.clone();
        adds.spawn(async move {
            let lease = network.prepare(&pod(&format!("p{n}")), &spec()).await?;
            network.add(&lease, netns()).await
        });
    }
    while let Some(done) = adds.join_next().await {
        done.unwrap().unwrap();
    }
    assert!(begun.elapsed() < Duration::from_secs(12), "{:?}", begun.elapsed());
    let id = pod("p1");
    let (first, second) = tokio::join!(network.del(&id, None), network.del(&id, None));
    assert!(first.is_ok() && second.is_ok());
    assert_eq!(bed.order().iter().filter(|l| l.as_str() == "two DEL").count(), 1);
}

#[tokio::test]
async fn gc_names_the_valid_pods_where_the_version_has_it() {
    let bed = Bed::new();
    bed.plugin("one", RESULT);
    bed.conf(
        "a.conflist",
        r#"{"cniVersion":"1.0.0","cniVersions":["1.1.0"],"name":"n","plugins":[{"type":"one"}]}"#,
    );
    let network = bed.network();
    let lease = network.prepare(&pod("p1"), &spec()).await.unwrap();
    assert_eq!(lease.network.version.name(), "1.1.0");
    network.gc(&[pod("p1")]).await.unwrap();
    let asked: Value = serde_json::from_str(&bed.log("one.GC.in")).unwrap();
    assert_eq!(asked["cni.dev/valid-attachments"], json!([{"containerID": "p1", "ifname": "eth0"}]));
    bed.conf(
        "a.conflist",
        r#"{"cniVersion":"1.0.0","name":"n","disableGC":true,"plugins":[{"type":"one"}]}"#,
    );
    drop(network);
    fs::remove_file(bed.path("log/one.GC.in")).unwrap();
    bed.network().gc(&[]).await.unwrap();
    assert!(!exists(&bed.path("log/one.GC.in")));
}
