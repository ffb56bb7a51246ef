//! What a container's owner publishes: goes into the cluster's record, and opens the ports that it names.

use std::collections::BTreeMap;

use portsplice_model::{Access, PublishedPort};

/// What the labels (or the registration) say about the cluster's record.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Publication {
    /// The name under which the container is recorded; none: its ordinary name.
    pub uuid: Option<String>,
    /// The container request that it runs for.
    pub request: Option<String>,
    /// Whether it is a service.
    pub service: bool,
    /// Its published ports.
    pub ports: BTreeMap<u16, PublishedPort>,
}

impl Publication {
    /// Reads `portsplice.publish.REST` = `value`, where REST is `PORT`, `PORT.label` or `PORT.path`.
    ///
    /// # Errors
    /// What to write instead.
    pub(super) fn add_label(&mut self, rest: &str, value: &str) -> Result<(), &'static str> {
        let (port, what) = rest.split_once('.').unwrap_or((rest, ""));
        let port = super::policy::parse_port(port)
            .ok_or("the label goes on with a port, 1-65535, and perhaps with .label or .path")?;
        let published = self.ports.entry(port).or_default();
        match what {
            "" => {
                published.access = match value {
                    "public" => Access::Public,
                    "private" => Access::Private,
                    _ => return Err("use public (everybody) or private (those who may read the container request)"),
                }
            }
            "label" => value.clone_into(&mut published.label),
            "path" => value.trim_start_matches('/').clone_into(&mut published.initial_path),
            _ => return Err("after the port only .label and .path are known"),
        }
        Ok(())
    }
}
