//! Compiles the two wire definitions in pure Rust: no protoc on the machine.

const CONSOLE: &str = ".sandboxd.console.v1";

/// The enum-typed fields of the console protocol and the module of `json.rs` that names their values.
const ENUM_FIELDS: [(&str, &str); 9] = [
    ("Observer.state", "observer_state"),
    ("Pod.state", "pod_state"),
    ("Namespace.owner", "owner"),
    ("Sysfs.verdict", "sysfs_verdict"),
    ("Check.verdict", "check_verdict"),
    ("DoctorCheck.verdict", "doctor_verdict"),
    ("Container.state", "container_state"),
    ("Event.severity", "severity"),
    ("HostNamespace.state", "namespace_state"),
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = ["proto/runtime_v1.proto", "proto/console_v1.proto"];
    for file in files {
        println!("cargo:rerun-if-changed={file}");
    }
    let descriptors = protox::compile(files, ["proto"])?;
    let mut builder = tonic_prost_build::configure();
    if std::env::var_os("CARGO_FEATURE_JSON").is_some() {
        builder = builder
            .type_attribute(CONSOLE, "#[derive(serde::Serialize, serde::Deserialize)]")
            .message_attribute(CONSOLE, "#[serde(default)]");
        for oneof in ["WatchResponse.message", "Delta.change"] {
            builder =
                builder.enum_attribute(format!("{CONSOLE}.{oneof}"), "#[serde(rename_all = \"snake_case\")]");
        }
        for (field, module) in ENUM_FIELDS {
            builder = builder.field_attribute(
                format!("{CONSOLE}.{field}"),
                format!("#[serde(with = \"crate::json::{module}\")]"),
            );
        }
    }
    builder.compile_fds(descriptors)?;
    Ok(())
}
