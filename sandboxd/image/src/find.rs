//! Images by whatever names them.

use std::sync::Arc;

use crate::content::Digest;
use crate::error::ImageError;
use crate::model::{Image, ImageId};
use crate::names::{self, Name};
use crate::state::Known;
use crate::store::Images;

impl Images {
    /// Finds an image by its id ("sha256:…" or bare), by the beginning of its id (three digits or more), by a
    /// tag as people write it, by repository and digest, or by a manifest's digest.
    ///
    /// # Errors
    /// When the beginning of an id fits several images.
    pub fn find(&self, reference: &str) -> Result<Option<Arc<Image>>, ImageError> {
        let state = self.state();
        let id = ImageId(with_algorithm(reference));
        if let Some(known) = state.image(&id) {
            return Ok(Some(Arc::clone(&known.image)));
        }
        if let Ok(digest) = id.0.parse::<Digest>() {
            let of_digest = |known: &&Known| {
                known.manifest == digest
                    || known.image.repo_digests.iter().any(|d| d.ends_with(&format!("@{digest}")))
            };
            return Ok(state.images().find(of_digest).map(|known| Arc::clone(&known.image)));
        }
        if let Some(Name::Tag(name) | Name::Digest(name)) = names::normalise(reference)
            && let Some(known) = state.named(&name)
        {
            return Ok(Some(Arc::clone(&known.image)));
        }
        let prefix = reference.strip_prefix("sha256:").unwrap_or(reference);
        if prefix.len() < 3 || !prefix.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)) {
            return Ok(None);
        }
        let begins =
            |known: &&Known| known.image.id.0.split_once(':').is_some_and(|(_, hex)| hex.starts_with(prefix));
        let mut fits = state.images().filter(begins);
        match (fits.next(), fits.next()) {
            (Some(first), Some(second)) => Err(ImageError::Ambiguous {
                reference: reference.to_owned(),
                first: first.image.id.0.clone(),
                second: second.image.id.0.clone(),
            }),
            (found, _) => Ok(found.map(|known| Arc::clone(&known.image))),
        }
    }
}

/// "HEX" as "sha256:HEX".
fn with_algorithm(reference: &str) -> String {
    let bare = reference.len() == 64 && reference.bytes().all(|b| b.is_ascii_hexdigit());
    if bare { format!("sha256:{reference}") } else { reference.to_owned() }
}
