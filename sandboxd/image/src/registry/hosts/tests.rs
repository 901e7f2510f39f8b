use super::*;

fn written(name: &str, text: &str) -> (tempfile::TempDir, Hosts) {
    let dir = tempfile::tempdir().expect("a directory");
    std::fs::create_dir(dir.path().join(name)).expect("made");
    std::fs::write(dir.path().join(name).join(file::NAME), text).expect("written");
    let hosts = Hosts::new(Some(dir.path().to_owned()));
    (dir, hosts)
}

fn bases(endpoints: &[Endpoint]) -> Vec<&str> {
    endpoints.iter().map(|e| e.base.as_str()).collect()
}

#[test]
fn nobody_configured() {
    let hosts = Hosts::default();
    let of = |domain| hosts.endpoints(domain, false).expect("defaults");
    assert_eq!(bases(&of("docker.io")), ["https://registry-1.docker.io/v2"]);
    assert_eq!(bases(&of("localhost:5000")), ["https://localhost:5000/v2", "http://localhost:5000/v2"]);
    assert_eq!(bases(&of("[::1]:5000")), ["https://[::1]:5000/v2", "http://[::1]:5000/v2"]);
    let plain = hosts.endpoints("registry.example", true).expect("defaults");
    assert_eq!(bases(&plain), ["http://registry.example/v2"]);
    let plain = hosts.endpoints("localhost:5000", true).expect("defaults");
    assert_eq!(bases(&plain), ["http://localhost:5000/v2"]);
}

#[test]
fn mirrors_in_the_order_of_the_file() {
    let text = r#"
        server = "https://registry-1.docker.io"
        [host."https://z.example"]
          capabilities = ["pull"]
          [host."https://z.example".header]
            x-one = "1"
            x-two = ["a", "b"]
        [host."http://a.example:5000/proxy"]
          skip_verify = true
        [host."https://m.example/v2/dir"]
          override_path = true
    "#;
    let (_dir, hosts) = written("docker.io", text);
    let found = hosts.endpoints("docker.io", false).expect("read");
    assert_eq!(
        bases(&found),
        [
            "https://z.example/v2",
            "http://a.example:5000/proxy/v2",
            "https://m.example/v2/dir",
            "https://registry-1.docker.io/v2"
        ]
    );
    assert!(found[0].pull && !found[0].resolve && found[0].is_mirror);
    assert_eq!(found[0].header.get_all("x-two").iter().count(), 2);
    assert!(found[1].skip_verify && found[1].plain_chosen);
    assert_eq!(found[1].namespace.as_deref(), Some("docker.io"));
    assert_eq!(found[3].namespace, None);
    assert!(!found[3].is_mirror);
}

#[test]
fn directories_by_port_and_default() {
    let (_dir, hosts) = written("registry.example_5000_", "server = \"http://legacy.example\"");
    assert_eq!(
        bases(&hosts.endpoints("registry.example:5000", false).expect("read")),
        ["http://legacy.example/v2"]
    );
    let (_dir, hosts) = written("registry.example:5000", "server = \"http://port.example\"");
    assert_eq!(
        bases(&hosts.endpoints("registry.example:5000", false).expect("read")),
        ["http://port.example/v2"]
    );
    let (_dir, hosts) = written("_default", "[host.\"https://mirror.example\"]");
    assert_eq!(
        bases(&hosts.endpoints("any.example", false).expect("read")),
        ["https://mirror.example/v2", "https://any.example/v2"]
    );
}

#[test]
fn certificates_relative_to_the_file() {
    let (dir, hosts) = written("x.example", "ca = \"ca.pem\"\nclient = [[\"c.cert\", \"c.key\"]]");
    let error = hosts.endpoints("x.example", false).expect_err("missing").to_string();
    assert!(error.contains("hosts.toml: ca:") && error.contains("ca.pem"), "{error}");
    for name in ["ca.pem", "c.cert", "c.key"] {
        std::fs::write(dir.path().join("x.example").join(name), "").expect("written");
    }
    let found = hosts.endpoints("x.example", false).expect("read");
    assert_eq!(found[0].client[0].key, dir.path().join("x.example/c.key"));
}

#[test]
fn dial_timeouts_of_each_host() {
    let text = "dial_timeout = \"1m30s\"\n[host.\"https://a\"]\ndial_timeout = \"300ms\"\n\
                [host.\"https://b\"]\n[host.\"https://c\"]\ndial_timeout = \"0s\"";
    let (_dir, hosts) = written("x.example", text);
    let found = hosts.endpoints("x.example", false).expect("read");
    let times: Vec<_> = found.iter().map(|e| e.dial_timeout.map(|t| t.as_millis())).collect();
    assert_eq!(times, [Some(300), None, None, Some(90_000)]);
}

#[test]
fn unknown_keys_are_named_and_passed_over() {
    let text = "sever = \"https://a\"\n[host.\"https://a\"]\ncapabilites = [\"pull\"]\n\
                [host.\"https://a\".header]\nx = \"1\"\n[extra]\nx = 1";
    let (dir, hosts) = written("x.example", text);
    let (found, unknown) = file::read(&dir.path().join("x.example"), "x.example").expect("read");
    assert_eq!(bases(&found), ["https://a/v2", "https://x.example/v2"]);
    assert_eq!(unknown, ["extra", "sever", "host.\"https://a\".capabilites"]);
    // Told of once, however often the file is read.
    for _ in 0..2 {
        hosts.endpoints("x.example", false).expect("read");
        assert_eq!(hosts.told.lock().expect("not poisoned").len(), 3);
    }
}

#[test]
fn errors_name_file_and_key() {
    for (text, key) in [
        ("server = 1", "server"),
        ("server = \"ftp://x\"", "server"),
        ("[host.\"https://a\"]\ncapabilities = [\"fly\"]", "capabilities"),
        ("[host.\"https://a\".header]\n\"b d\" = \"x\"", "header.b d"),
        ("server = \"https://u:p@x\"", "password"),
        ("dial_timeout = \"soon\"", "dial_timeout: \"soon\""),
        ("[host.\"https://a\"]\ndial_timeout = \"-1s\"", "dial_timeout"),
        ("nonsense", "hosts.toml"),
    ] {
        let (_dir, hosts) = written("x.example", text);
        let error = hosts.endpoints("x.example", false).expect_err(text).to_string();
        assert!(error.contains("x.example/hosts.toml") && error.contains(key), "{error}");
    }
}
