//! NetworkReady follows the files.

use super::*;

const NET: &str = r#"{"cniVersion":"1.0.0","name":"net","plugins":[{"type":"one","ipam":{"type":"ipam1"}}]}"#;

#[tokio::test]
async fn follows_the_conf_directory_through_its_lives() {
    let bed = Bed::new();
    bed.plugin("one", "true");
    bed.plugin("ipam1", "true");
    fs::remove_dir(bed.path("conf")).unwrap();
    let network = bed.network();
    let status = network.status();
    assert_eq!((status.ready, status.reason.as_str()), (false, "NoNetworkConfig"));
    let error = network.prepare(&pod("p1"), &spec()).await.unwrap_err();
    assert!(matches!(error, NetworkError::NotReady { .. }), "{error}");

    fs::create_dir(bed.path("conf")).unwrap();
    wait_status(&network, "an empty directory", |s| s.message.contains("no CNI configuration (")).await;
    bed.conf("20-net.conflist", "{ not json");
    let status = wait_status(&network, "a bad file", |s| s.reason == "InvalidNetworkConfig").await;
    assert!(status.message.contains("20-net.conflist"), "{status:?}");
    bed.conf("20-net.conflist", NET);
    wait_status(&network, "a good file", |s| s.ready).await;

    // A bad file in front is named, and the good one is used all the same.
    bed.conf("10-bad.conf", r#"{"cniVersion":"1.0.0","name":"x"}"#);
    let status = wait_status(&network, "a bad file in front", |s| s.message.contains("10-bad.conf")).await;
    assert!(status.ready);
    fs::remove_file(bed.path("conf/20-net.conflist")).unwrap();
    wait_status(&network, "the good file gone", |s| !s.ready).await;

    // The directory is replaced by another one.
    fs::create_dir(bed.path("fresh")).unwrap();
    fs::write(bed.path("fresh/a.conflist"), NET).unwrap();
    fs::rename(bed.path("conf"), bed.path("old")).unwrap();
    fs::rename(bed.path("fresh"), bed.path("conf")).unwrap();
    wait_status(&network, "another directory", |s| s.ready && s.message.is_empty()).await;
    fs::remove_file(bed.path("conf/a.conflist")).unwrap();
    wait_status(&network, "its file gone", |s| s.reason == "NoNetworkConfig").await;
}

#[tokio::test]
async fn missing_plugins_are_named_until_they_come() {
    let bed = Bed::new();
    bed.plugin("one", "true");
    bed.conf("a.conflist", NET);
    let network = bed.network();
    let status = network.status();
    assert_eq!((status.ready, status.reason.as_str()), (false, "PluginMissing"));
    assert!(status.message.contains("ipam1") && !status.message.contains("one,"), "{status:?}");
    bed.plugin("ipam1", "true");
    wait_status(&network, "the plugin came", |s| s.ready).await;
}

#[tokio::test]
async fn the_version_is_one_that_all_plugins_speak() {
    let bed = Bed::new();
    bed.plugin("new", r#"echo '{"cniVersion":"1.0.0"}'"#);
    let old = "#!/bin/sh\ncat >/dev/null\necho '{\"cniVersion\":\"1.0.0\",\"supportedVersions\":[\"0.4.0\",\"1.0.0\"]}'\n";
    fs::write(bed.path("bin/old"), old).unwrap();
    fs::set_permissions(bed.path("bin/old"), fs::Permissions::from_mode(0o755)).unwrap();
    let conf = |versions: &str| {
        format!(r#"{{"cniVersions":[{versions}],"name":"n","plugins":[{{"type":"new"}},{{"type":"old"}}]}}"#)
    };
    bed.conf("a.conflist", &conf(r#""0.4.0","1.0.0","1.1.0""#));
    let network = bed.network();
    let lease = network.prepare(&pod("p1"), &spec()).await.unwrap();
    assert_eq!(lease.network.version.name(), "1.0.0");
    bed.conf("a.conflist", &conf(r#""1.1.0""#));
    let status = wait_status(&network, "no common version", |s| s.reason == "PluginVersion").await;
    assert!(status.message.contains("\"old\"") && status.message.contains("1.1.0"), "{status:?}");
}

#[tokio::test]
async fn status_of_a_1_1_0_plugin_decides() {
    let bed = Bed::new();
    bed.plugin("one", r#"if [ -e $log.ill ]; then echo '{"code":50,"msg":"daemon away"}'; exit 1; fi"#);
    bed.conf("a.conf", r#"{"cniVersion":"1.1.0","name":"n","type":"one"}"#);
    fs::write(bed.path("log/one.ill"), "").unwrap();
    let network = bed.network();
    let status = wait_status(&network, "STATUS fails", |s| s.reason == "PluginNotReady").await;
    assert!(status.message.contains("daemon away") && status.message.contains("STATUS"), "{status:?}");
    fs::remove_file(bed.path("log/one.ill")).unwrap();
    wait_status(&network, "STATUS is asked again", |s| s.ready).await;
}
