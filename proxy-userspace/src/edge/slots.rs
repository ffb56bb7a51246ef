//! Places for requests: what one key holder or one host has under way, others do not wait for.

use std::net::IpAddr;
use std::sync::Arc;

use portsplice_net::limits::{RequestSlot, RequestSlots};

/// Requests that one key has signed and that are read or done at once. Nodes send one after the other; one that was given up
/// may still be under way.
const OF_ONE_KEY: u32 = 4;
/// Requests of one address, whoever has signed them: a node may hold many keys, and several nodes may share an address.
const OF_ONE_CLIENT: u32 = 16;

/// Counts requests that are under way.
#[derive(Debug, Default)]
pub(super) struct RequestLimits {
    slots: Arc<RequestSlots<Holder>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Holder {
    Key(String),
    Client(IpAddr),
}

impl RequestLimits {
    /// Takes a place for a request that was signed with the key of `identity` and came from `client`, until what is returned
    /// is dropped; none if there is none left for one of the two.
    pub(super) fn take(&self, identity: &str, client: IpAddr) -> Option<RequestSlot<Holder, 2>> {
        let key = (Holder::Key(identity.to_owned()), OF_ONE_KEY);
        self.slots.take([key, (Holder::Client(client.to_canonical()), OF_ONE_CLIENT)]).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_has_its_own_and_they_come_back() {
        let limits = RequestLimits::default();
        let (here, there): (IpAddr, IpAddr) = ("192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap());
        let take = |key: &str, client| limits.take(key, client);
        let one_key: Vec<_> = (0..OF_ONE_KEY).map(|_| take("a", here).unwrap()).collect();
        assert!(take("a", here).is_none() && take("a", there).is_none());
        let others: Vec<_> = (0..).map_while(|n| take(&format!("b{n}"), here)).collect();
        assert_eq!(one_key.len() + others.len(), OF_ONE_CLIENT as usize);
        assert!(take("c", "::ffff:192.0.2.1".parse().unwrap()).is_none(), "a mapped address is the same client");
        let elsewhere = take("c", there);
        assert!(elsewhere.is_some());
        drop(one_key);
        assert!(take("a", here).is_some());
        drop((others, elsewhere));
        for holder in [Holder::Client(here), Holder::Client(there), Holder::Key("a".to_owned())] {
            assert_eq!(limits.slots.taken(&holder), 0);
        }
    }
}
