//! An image's configuration document.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::content::Digest;
use crate::error::ImageError;
use crate::manifest::or_default;
use crate::model::{ImageConfig, LayerId, User};

/// What is read of it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Document {
    pub config: ImageConfig,
    /// Lowest first.
    pub diff_ids: Vec<LayerId>,
}

#[derive(Deserialize)]
struct Raw {
    #[serde(default, deserialize_with = "or_default")]
    config: RawConfig,
    #[serde(default, deserialize_with = "or_default")]
    rootfs: RawRootfs,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct RawConfig {
    #[serde(deserialize_with = "or_default")]
    user: String,
    #[serde(deserialize_with = "or_default")]
    env: Vec<String>,
    #[serde(deserialize_with = "or_default")]
    entrypoint: Vec<String>,
    #[serde(deserialize_with = "or_default")]
    cmd: Vec<String>,
    #[serde(deserialize_with = "or_default")]
    working_dir: String,
    #[serde(deserialize_with = "or_default")]
    volumes: BTreeMap<String, serde::de::IgnoredAny>,
    #[serde(deserialize_with = "or_default")]
    stop_signal: String,
    #[serde(deserialize_with = "or_default")]
    labels: BTreeMap<String, String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawRootfs {
    #[serde(deserialize_with = "or_default")]
    diff_ids: Vec<Digest>,
}

/// Reads a configuration document.
pub(crate) fn parse(digest: &Digest, bytes: &[u8]) -> Result<Document, ImageError> {
    let raw: Raw = serde_json::from_slice(bytes).map_err(|source| ImageError::Json {
        what: "image configuration",
        digest: digest.clone(),
        source,
    })?;
    let volumes = raw.config.volumes.into_keys();
    Ok(Document {
        config: ImageConfig {
            user: User(raw.config.user),
            env: raw.config.env,
            entrypoint: raw.config.entrypoint,
            cmd: raw.config.cmd,
            working_dir: raw.config.working_dir,
            volumes: volumes.map(|v| if v.starts_with('/') { v } else { format!("/{v}") }).collect(),
            stop_signal: raw.config.stop_signal,
            labels: raw.config.labels,
        },
        diff_ids: raw.rootfs.diff_ids.iter().map(|d| LayerId(d.to_string())).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_docker_writes() {
        let diff = Digest::of(b"layer");
        let text = format!(
            r#"{{"architecture":"amd64","os":"linux","config":{{"User":"app:1000","Env":["A=b"],"Entrypoint":null,
            "Cmd":["sh"],"WorkingDir":"/w","Volumes":{{"/data":{{}},"rel":{{}}}},"StopSignal":"SIGQUIT",
            "Labels":{{"k":"v"}},"ExposedPorts":{{"80/tcp":{{}}}}}},"rootfs":{{"type":"layers","diff_ids":["{diff}"]}},
            "history":[]}}"#
        );
        let document = parse(&Digest::of(b""), text.as_bytes()).unwrap();
        assert_eq!(document.config.user, User("app:1000".into()));
        assert!(document.config.entrypoint.is_empty());
        assert_eq!(document.config.volumes, ["/data", "/rel"]);
        assert_eq!(document.diff_ids, [LayerId(diff.to_string())]);
    }

    #[test]
    fn an_empty_document_is_an_image_of_nothing() {
        let document = parse(&Digest::of(b""), b"{}").unwrap();
        assert_eq!(document.config, ImageConfig::default());
        let error = parse(&Digest::of(b""), br#"{"rootfs":{"diff_ids":["sha256:../../x"]}}"#).unwrap_err();
        assert!(error.to_string().contains("image configuration"), "{error}");
    }
}
