//! CNI results: read for the addresses, handed on untouched.
//!
//! A result is kept as the bytes the plugin wrote, so that fields this client has never heard of reach the
//! next plugin and DEL unchanged. Only where a plugin answers in another version than the list's is the
//! result rewritten, and then only `cniVersion` and `ips[].version` (which 1.0.0 dropped).

use std::net::IpAddr;

use serde::Deserialize;
use serde_json::value::{RawValue, to_raw_value};

use super::conf::RawObject;
use super::error::{NetworkError, excerpt};
use super::exec::Verb;
use super::version::CniVersion;

/// A plugin's result.
#[derive(Debug, Clone)]
pub struct CniResult {
    raw: Box<RawValue>,
}

#[derive(Deserialize)]
struct View {
    #[serde(default)]
    interfaces: Option<Vec<Interface>>,
    #[serde(default)]
    ips: Option<Vec<Ip>>,
}

#[derive(Deserialize)]
struct Interface {
    #[serde(default)]
    name: String,
    /// Empty for interfaces of the host.
    #[serde(default)]
    sandbox: String,
}

#[derive(Deserialize)]
struct Ip {
    /// With its prefix length: "10.1.0.5/16".
    address: String,
    #[serde(default)]
    interface: Option<i64>,
}

impl CniResult {
    /// Reads what a plugin wrote, as a result of the list's version.
    pub(super) fn parse(plugin: &str, stdout: &[u8], version: CniVersion) -> Result<Self, NetworkError> {
        let bad = |source| NetworkError::BadResult {
            plugin: plugin.to_owned(),
            verb: Verb::Add,
            excerpt: excerpt(&String::from_utf8_lossy(stdout), 256).to_owned(),
            source,
        };
        let object: RawObject = serde_json::from_slice(stdout).map_err(bad)?;
        let declared: Option<String> = match object.get("cniVersion") {
            Some(raw) => serde_json::from_str(raw.get()).map_err(bad)?,
            None => None,
        };
        // Read once for errors: a result whose addresses make no sense must not become a pod's network.
        let view: View = serde_json::from_slice(stdout).map_err(bad)?;
        for ip in view.ips.iter().flatten() {
            address(ip).map_err(bad)?;
        }
        let raw = match declared.as_deref() {
            // Without a version it is the list's: that is also how plugins read `prevResult`.
            None => serde_json::from_slice(stdout).map_err(bad)?,
            Some(name) if name == version.name() => serde_json::from_slice(stdout).map_err(bad)?,
            Some(name) => {
                let from = CniVersion::parse(name).ok_or_else(|| NetworkError::ResultVersion {
                    plugin: plugin.to_owned(),
                    version: name.to_owned(),
                })?;
                convert(object, from, version).map_err(bad)?
            }
        };
        Ok(Self { raw })
    }

    /// A result that was stored.
    pub(super) fn from_raw(raw: Box<RawValue>) -> Self {
        Self { raw }
    }

    /// The JSON to hand on as `prevResult`.
    #[must_use]
    pub fn raw(&self) -> &RawValue {
        &self.raw
    }

    /// The pod's addresses in the order of the result: those on the interface of that name inside the
    /// pod, and those that name no interface.
    #[must_use]
    pub fn addresses(&self, ifname: &str) -> Vec<IpAddr> {
        let Ok(view) = serde_json::from_str::<View>(self.raw.get()) else { return Vec::new() };
        let interfaces = view.interfaces.unwrap_or_default();
        let ours = |ip: &Ip| match ip.interface.map(usize::try_from) {
            None => true,
            Some(index) => index
                .ok()
                .and_then(|i| interfaces.get(i))
                .is_some_and(|i| i.name == ifname && !i.sandbox.is_empty()),
        };
        let ips = view.ips.unwrap_or_default();
        let mut found: Vec<IpAddr> = Vec::new();
        for ip in ips.iter().filter(|ip| ours(ip)).filter_map(|ip| address(ip).ok()) {
            // Chained plugins may repeat an address; the pod has it once.
            if !found.contains(&ip) {
                found.push(ip);
            }
        }
        found
    }
}

fn address(ip: &Ip) -> Result<IpAddr, serde_json::Error> {
    let text = ip.address.split_once('/').map_or(ip.address.as_str(), |(a, _)| a);
    text.parse().map_err(|e| serde::de::Error::custom(format!("address {:?}: {e}", ip.address)))
}

fn convert(
    mut object: RawObject,
    from: CniVersion,
    to: CniVersion,
) -> Result<Box<RawValue>, serde_json::Error> {
    object.insert("cniVersion".to_owned(), to_raw_value(to.name())?);
    let families = |v: CniVersion| v < CniVersion::V1_0_0;
    if families(from) != families(to)
        && let Some(raw) = object.get("ips")
        && let Some(mut ips) = serde_json::from_str::<Option<Vec<RawObject>>>(raw.get())?
    {
        for ip in &mut ips {
            if families(to) {
                let text: String =
                    ip.get("address").map_or(Ok(String::new()), |a| serde_json::from_str(a.get()))?;
                let family = if text.contains(':') { "6" } else { "4" };
                ip.insert("version".to_owned(), to_raw_value(family)?);
            } else {
                ip.remove("version");
            }
        }
        object.insert("ips".to_owned(), to_raw_value(&ips)?);
    }
    to_raw_value(&object)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    fn parse(value: &Value, version: CniVersion) -> CniResult {
        CniResult::parse("p", value.to_string().as_bytes(), version).unwrap()
    }

    #[test]
    fn addresses_of_the_pods_interface_primary_first() {
        let result = parse(
            &json!({
                "cniVersion": "1.0.0",
                "interfaces": [
                    {"name": "cni0"}, {"name": "veth1"},
                    {"name": "eth0", "sandbox": "/n"}, {"name": "net1", "sandbox": "/n"}],
                "ips": [
                    {"address": "fd00::5/64", "interface": 2},
                    {"address": "10.0.0.5/16", "interface": 2, "gateway": "10.0.0.1"},
                    {"address": "10.9.0.1/16", "interface": 0},
                    {"address": "10.8.0.1/16", "interface": 3},
                    {"address": "10.7.0.1/16", "interface": 9},
                    {"address": "10.6.0.1/16"}],
            }),
            CniVersion::V1_0_0,
        );
        let expected: Vec<IpAddr> =
            ["fd00::5", "10.0.0.5", "10.6.0.1"].iter().map(|a| a.parse().unwrap()).collect();
        assert_eq!(result.addresses("eth0"), expected);
    }

    #[test]
    fn nulls_garbage_and_old_versions() {
        let result =
            parse(&json!({"cniVersion": "1.0.0", "ips": null, "interfaces": null}), CniVersion::V1_0_0);
        assert!(result.addresses("eth0").is_empty());
        for text in ["", "[]", "{\"ips\":7}", "hello", "{\"ips\":[{\"address\":\"x\"}]}"] {
            let error = CniResult::parse("p", text.as_bytes(), CniVersion::V1_0_0).unwrap_err();
            assert!(matches!(error, NetworkError::BadResult { .. }), "{text}: {error}");
        }
        let old = br#"{"cniVersion":"0.2.0","ip4":{"ip":"10.0.0.1/8"}}"#;
        let error = CniResult::parse("p", old, CniVersion::V0_4_0).unwrap_err();
        assert!(error.to_string().contains("\"0.2.0\""), "{error}");
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            "\\PC{0,8}".prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map("[a-z]{1,6}", inner, 0..4).prop_map(|m| json!(m)),
            ]
        })
    }

    fn any_version() -> impl Strategy<Value = CniVersion> {
        prop::sample::select(CniVersion::ALL.to_vec())
    }

    proptest! {
        /// Same version in and out: not a byte changes, exotic numbers included.
        #[test]
        fn handed_on_byte_for_byte(version in any_version(), extra in any_json(), float in "[1-9]\\.[0-9]{1,30}e[0-9]") {
            let text = format!(
                r#"{{ "cniVersion":"{version}","ips":[{{"address":"10.1.2.3/24","x":{extra}}}], "odd":{float},"y":{extra} }}"#
            );
            let result = CniResult::parse("p", text.as_bytes(), version).unwrap();
            prop_assert_eq!(result.raw().get(), &text);
            prop_assert_eq!(result.addresses("eth0"), vec!["10.1.2.3".parse::<IpAddr>().unwrap()]);
        }

        /// Another version: the addresses and every unknown field survive; only the versions change.
        #[test]
        fn converted_keeps_unknown_fields(from in any_version(), to in any_version(), extra in any_json(), v6 in any::<bool>()) {
            let address = if v6 { "fd00::7/64" } else { "10.1.2.3/24" };
            let mut ip = json!({"address": address, "x": extra});
            if from < CniVersion::V1_0_0 {
                ip["version"] = json!(if v6 { "6" } else { "4" });
            }
            let value = json!({"cniVersion": from.name(), "ips": [ip], "y": extra});
            let result = parse(&value, to);
            let back: Value = serde_json::from_str(result.raw().get()).unwrap();
            prop_assert_eq!(&back["cniVersion"], &json!(to.name()));
            prop_assert_eq!(&back["y"], &extra);
            prop_assert_eq!(&back["ips"][0]["x"], &extra);
            let family = (to < CniVersion::V1_0_0).then(|| json!(if v6 { "6" } else { "4" }));
            prop_assert_eq!(back["ips"][0].get("version").cloned(), family);
            prop_assert_eq!(result.addresses("eth0").len(), 1);
        }

        #[test]
        fn never_panics(bytes in prop::collection::vec(any::<u8>(), 0..64), value in any_json()) {
            let _ = CniResult::parse("p", &bytes, CniVersion::V1_1_0);
            let _ = CniResult::parse("p", value.to_string().as_bytes(), CniVersion::V0_3_1);
        }
    }
}
