//! Which of a container's labels come from its image.
//!
//! A container carries its image's labels as if they were its own. Whoever makes an image may be anybody; whoever starts a
//! container is somebody who may start containers. So a label that claims a name or publishes a port counts only where it
//! was given at the start: where the image does not carry the same label with the same value.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

use super::api::{Api, Failure, Inspected};
use crate::container::policy::label;

/// Images whose labels are remembered. What an image's id names never changes.
const REMEMBERED: usize = 256;
/// The most bytes of labels that are remembered of one image.
const BYTES: usize = 16 * 1024;

type Labels = HashMap<String, String>;

/// What is known of images.
#[derive(Clone, Default)]
pub(super) struct Images {
    /// Their labels say what a container's own would.
    trusted: bool,
    known: Arc<Mutex<HashMap<String, Arc<Labels>>>>,
}

impl Images {
    pub(super) fn new(trusted: bool) -> Self {
        Self { trusted, ..Self::default() }
    }

    /// Takes those labels out of `container` that claim something and come from its image; gives their names.
    ///
    /// # Errors
    /// The engine cannot tell what the image carries.
    pub(super) async fn take_out(&self, api: &Api, container: &mut Inspected) -> Result<Vec<String>, Failure> {
        let image = container.image.clone();
        let Some(labels) = container.config.as_mut().and_then(|config| config.labels.as_mut()) else {
            return Ok(Vec::new());
        };
        if self.trusted || !labels.keys().any(|name| claims(name)) {
            return Ok(Vec::new());
        }
        let carried = match image {
            Some(image) => self.claims_of(api, &image).await?,
            None => None,
        };
        let mut out = Vec::new();
        labels.retain(|name, value| {
            // Of an image that is no more nobody knows what it carried.
            let own = carried.as_ref().is_some_and(|carried| carried.get(name) != Some(value));
            let stays = own || !claims(name);
            if !stays {
                out.push(name.clone());
            }
            stays
        });
        out.sort_unstable();
        Ok(out)
    }

    /// The labels of an image that claim something; none when the engine does not know it.
    async fn claims_of(&self, api: &Api, image: &str) -> Result<Option<Arc<Labels>>, Failure> {
        if let Some(known) = self.known.lock().get(image) {
            return Ok(Some(known.clone()));
        }
        let mut labels = match api.image_labels(image).await {
            Ok(labels) => labels,
            Err(Failure::NotFound) => return Ok(None),
            Err(failure) => return Err(failure),
        };
        labels.retain(|name, _| claims(name));
        let labels = Arc::new(labels);
        if labels.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>() <= BYTES {
            let mut known = self.known.lock();
            if known.len() >= REMEMBERED {
                known.clear();
            }
            known.insert(image.to_owned(), labels.clone());
        }
        Ok(Some(labels))
    }
}

/// Whether a label claims a name, or publishes something.
fn claims(name: &str) -> bool {
    [label::UUID, label::ARVADOS_UUID, label::REQUEST, label::OWNER].contains(&name)
        || name.starts_with(label::PUBLISH_PREFIX)
}
