//! In the place of stores that this program was built without.

/// Gives a store's name the functions of one that is there, which all say that it is not.
macro_rules! missing {
    ($store:ident) => {
        pub(super) mod $store {
            use anyhow::{Error, Result, anyhow};

            use crate::app::registry::records::Identity;
            use crate::config::RegistryConfig;
            use portsplice_registry::SharedReporter;

            pub(in super::super) fn open(_: &RegistryConfig, _: &Identity) -> Result<SharedReporter> {
                Err(error())
            }

            pub(in super::super) fn check(_: &RegistryConfig) -> Result<()> {
                Err(error())
            }

            pub(in super::super) fn error() -> Error {
                anyhow!(concat!(
                    "`registry.store` is \"",
                    stringify!($store),
                    "\", which this build of portsplice lacks; use one with the feature `",
                    stringify!($store),
                    "`, or choose another store"
                ))
            }
        }
    };
}

#[cfg(not(feature = "arvados"))]
missing!(arvados);
#[cfg(not(feature = "etcd"))]
missing!(etcd);

#[cfg(test)]
mod tests {
    #[test]
    fn a_store_that_is_missing_says_so() {
        #[cfg(not(feature = "arvados"))]
        assert!(super::arvados::error().to_string().starts_with("`registry.store` is \"arvados\", which this build"));
        #[cfg(not(feature = "etcd"))]
        assert!(super::etcd::error().to_string().starts_with("`registry.store` is \"etcd\", which this build"));
    }
}
