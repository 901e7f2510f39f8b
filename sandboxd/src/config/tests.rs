use proptest::prelude::*;

use super::*;
use crate::config::check::Wrong;
use crate::pod::model::FlowKind;

#[test]
fn the_printed_default_is_the_default() {
    assert_eq!(Config::parse(DEFAULT_TOML).expect("parses"), Config::default());
    assert_eq!(check(&Config::default()), []);
}

#[test]
fn the_printed_default_shows_every_key_with_a_comment() {
    let text = toml::to_string(&Config::default()).expect("serialises");
    for key in text.lines().filter_map(|l| l.split_once(" = ").map(|(k, _)| k)) {
        let mut lines = DEFAULT_TOML.lines().rev().skip_while(|l| !l.starts_with(&format!("{key} = ")));
        assert!(lines.next().is_some(), "{key} is not in default.toml");
        assert!(lines.next().is_some_and(|l| l.starts_with("# ")), "{key} has no comment above it");
    }
}

#[test]
fn an_unknown_key_is_refused_with_its_line() {
    for (text, name) in [
        ("roots = '/x'", "roots"),
        ("[cni]\nbindirs = []", "bindirs"),
        ("[handlers.x]\nruntime='native'\nargs=1", "args"),
    ] {
        let message = Config::parse(text).expect_err("refused").to_string();
        assert!(message.contains(name) && message.contains("line"), "{message}");
    }
}

#[test]
fn wrong_types_and_values_are_refused() {
    for text in [
        "root = 1",
        "[cgroup]\ndriver = 'system'",
        "[log]\nformat = 'xml'",
        "[cni]\nadd_timeout = 5",
        "[cni]\nadd_timeout = '5 parsecs'",
        "[cni]\nadd_timeout = '-5s'",
        "[observer]\nhistory = -1",
        "[streaming]\naddress = 'localhost'",
        "[streaming]\ntls_min_version = '1.1'",
        "[handlers.x]\nflow = 'runtime-first'",
        "[handlers.x]\nruntime = 'native'\nflow = 'sideways'",
    ] {
        assert!(Config::parse(text).is_err(), "{text}");
    }
}

fn problems(text: &str) -> Vec<(String, Wrong)> {
    let config = Config::parse(text).expect("parses");
    check(&config).into_iter().map(|p| (p.key, p.wrong)).collect()
}

#[test]
fn a_console_on_the_network_needs_all_its_certificates() {
    let found = problems("[console]\naddress = '127.0.0.1:9466'\ntls_cert = '/no/such'");
    let others = "console.tls_key, console.client_ca".to_owned();
    let expected = [
        ("console.address".to_owned(), Wrong::ConsoleTls { others }),
        ("console.tls_cert".to_owned(), Wrong::NoFile),
    ];
    assert_eq!(found, expected);
    let found = problems("[console]\naddress = 'here'\ntls_cert = '/a'\ntls_key = '/b'\nclient_ca = '/c'");
    assert_eq!(found[0], ("console.address".to_owned(), Wrong::Address));
    assert_eq!(found.len(), 4, "{found:?}");
    assert_eq!(Config::default().console_socket_group(), "");
    let groups = |text| Config::parse(text).expect("parses").console_socket_group().to_owned();
    assert_eq!(groups("[console]\noperator_group = 'ops'"), "ops");
    assert_eq!(groups("socket_group = 'all'\n[console]\noperator_group = 'ops'"), "all");
    assert_eq!(groups("socket_group = 'all'\n[console]\nsocket_group = 'look'"), "look");
}

#[test]
fn values_that_cannot_work_are_named() {
    let one =
        |text: &str, key: &str, wrong: Wrong| assert_eq!(problems(text), [(key.to_owned(), wrong)], "{text}");
    one("root = 'var/lib'", "root", Wrong::NotAbsolute);
    one("state = '/var/lib/sandboxd'", "state", Wrong::SameAs { other: "root" });
    one("console_socket = '/run/sandboxd/cri.sock'", "console_socket", Wrong::SameAs { other: "cri_socket" });
    one(&format!("cri_socket = '/{}'", "s".repeat(107)), "cri_socket", Wrong::SocketPathLength { len: 108 });
    one("[cni]\nbin_dirs = []", "cni.bin_dirs", Wrong::NoBinDirs);
    one("[cni]\nbin_dirs = ['bin']", "cni.bin_dirs", Wrong::NotAbsolute);
    one("[cni]\nadd_timeout = '0s'", "cni.add_timeout", Wrong::Timeout);
    one("[cni]\ndel_timeout = '11m'", "cni.del_timeout", Wrong::Timeout);
    one("metrics_address = 'localhost'", "metrics_address", Wrong::MetricsAddress);
    one("[console]\noperator_group = 'no-such-group'", "console.operator_group", Wrong::NoGroup);
    one("[console]\ntls_key = '/k'", "console.tls_key", Wrong::NoAddress);
    one("[observer]\nhistory = 2000000", "observer.history", Wrong::History);
    one("[observer]\nhistory_mib = 0", "observer.history_mib", Wrong::Count { most: 1024 });
    one("[observer]\nhistory_age = '721h'", "observer.history_age", Wrong::HistoryAge);
    for endpoint in
        ["127.0.0.1:4317", "https://collector:4317", "http://collector", "http://:4317", "http://a/b:1"]
    {
        let text = format!("[tracing]\notlp_endpoint = '{endpoint}'");
        one(&text, "tracing.otlp_endpoint", Wrong::OtlpEndpoint);
    }
    for endpoint in ["http://127.0.0.1:4317", "http://[::1]:4317/", "http://collector.monitoring:4317"] {
        assert!(problems(&format!("[tracing]\notlp_endpoint = '{endpoint}'")).is_empty(), "{endpoint}");
    }
    one("socket_group = 'no-such-group'", "socket_group", Wrong::NoGroup);
    one("[pod]\nshim_path = '/no/such/shim'", "pod.shim_path", Wrong::NoFile);
    one("[streaming]\naddress = '0.0.0.0:10010'", "streaming.address", Wrong::PlainAddress);
    one("[streaming]\nidle_timeout = '0s'", "streaming.idle_timeout", Wrong::IdleTimeout);
    one("[streaming]\ncreation_timeout = '11m'", "streaming.creation_timeout", Wrong::Timeout);
    one("[streaming]\nmax_connections = 0", "streaming.max_connections", Wrong::Connections);
    one("[streaming]\ntls_cert = '/etc/passwd'", "streaming.tls_cert", Wrong::Half { other: "tls_key" });
    one(
        "[streaming]\ntls_client_ca = '/etc/passwd'",
        "streaming.tls_client_ca",
        Wrong::Half { other: "tls_cert" },
    );
    one("[streaming]\ntls_cert = '/no/cert'\ntls_key = '/etc/passwd'", "streaming.tls_cert", Wrong::NoFile);
    let found = problems("[streaming]\ntls_cert = '/etc/passwd'\ntls_key = '/etc/passwd'");
    assert!(
        matches!(&found[..], [(k, Wrong::Tls { reason })] if k == "streaming.tls_cert" && reason.contains("no certificate"))
    );
    one("[handlers.Big]\nruntime='native'", "handlers.Big", Wrong::HandlerName);
    one("[handlers.x]\nruntime='oci'", "handlers.x.runtime", Wrong::OciWithoutPath);
    one("[handlers.x]\nruntime='oci'\npath='/no/runc'", "handlers.x.path", Wrong::NoFile);
    one("[handlers.x]\nruntime='native'\npath='/bin/true'", "handlers.x.path", Wrong::NativeWithPath);
    one(
        "[handlers.network-first]\nruntime='native'",
        "handlers.network-first.flow",
        Wrong::NetworkFirstChanged,
    );
    for level in ["a=b=c", "warning", "info,tonic"] {
        let found = problems(&format!("[log]\nlevel = '{level}'"));
        assert!(matches!(&found[..], [(k, Wrong::LogFilter { .. })] if k == "log.level"), "{level}");
    }
    for level in ["warn", "off", "INFO", "info,sandboxd::network=debug,h2=warn", "sandboxd"] {
        assert!(problems(&format!("[log]\nlevel = '{level}'")).is_empty(), "{level}");
    }
    assert!(
        matches!(&problems("default_handler = 'gvisor'")[..], [(k, Wrong::NoHandler { .. })] if k == "default_handler")
    );
}

#[test]
fn native_and_network_first_are_always_there() {
    let handlers = Config::default().handlers();
    assert_eq!(handlers[NATIVE].flow, FlowKind::RuntimeFirst);
    assert_eq!(handlers[NETWORK_FIRST].flow, FlowKind::NetworkFirst);
}

#[test]
fn an_explicit_file_must_exist() {
    let error = Config::load(Some(Path::new("/nonexistent/c.toml"))).expect_err("refused");
    assert!(matches!(error, ConfigError::Read { .. }) && error.to_string().contains("/nonexistent/c.toml"));
}

prop_compose! {
    fn configs()(
        root in "/[a-z]{1,12}", state in "/[a-z]{1,12}/s", group in "[a-z]{0,6}",
        bins in prop::collection::vec("/[a-z/]{1,9}".prop_map(PathBuf::from), 0..4),
        add in 0u64..100_000, del in 0u64..100_000_000, history in 0usize..9_999_999,
        driver in prop::sample::select(vec![CgroupDriver::Auto, CgroupDriver::Cgroupfs, CgroupDriver::Systemd]),
        json: bool, ports: bool, icmp: bool, enabled: bool,
        handlers in prop::collection::btree_map(
            "[a-z][a-z0-9-]{0,8}",
            (any::<bool>(), prop::option::of("/[a-z]{1,6}"), any::<bool>()).prop_map(|(native, path, first)| Handler {
                runtime: if native { RuntimeKind::Native } else { RuntimeKind::Oci },
                path: path.map(PathBuf::from),
                flow: if first { FlowKind::RuntimeFirst } else { FlowKind::NetworkFirst },
            }),
            0..4,
        ),
    ) -> Config {
        Config {
            root: root.into(), state: state.into(), socket_group: group,
            cni: Cni {
                bin_dirs: bins,
                add_timeout: Duration::from_millis(add),
                del_timeout: Duration::from_secs(del),
                ..Cni::default()
            },
            cgroup: Cgroup { driver },
            log: Log { format: if json { LogFormat::Json } else { LogFormat::Text }, ..Log::default() },
            observer: Observer { enabled, history, ..Observer::default() },
            pod: Pod { unprivileged_ports: ports, unprivileged_icmp: icmp, ..Pod::default() },
            configured_handlers: handlers,
            ..Config::default()
        }
    }
}

proptest! {
    #[test]
    fn written_and_read_again_is_the_same(config in configs()) {
        let text = toml::to_string(&config).expect("serialises");
        prop_assert_eq!(Config::parse(&text).expect("parses"), config);
    }

    #[test]
    fn unknown_keys_are_refused_anywhere(
        section in prop::sample::select(vec!["", "[cni]\n", "[cgroup]\n", "[log]\n", "[observer]\n", "[pod]\n"]),
        key in "x[a-z_]{1,12}",
    ) {
        let text = format!("{section}{key} = 1");
        let message = Config::parse(&text).expect_err("refused").to_string();
        prop_assert!(message.contains(&key), "{}", message);
    }
}
