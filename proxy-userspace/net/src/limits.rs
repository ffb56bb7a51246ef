//! Caps on what is under way: connections, in all and for each client address; requests of one key.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::Arc;

use parking_lot::Mutex;

use portsplice_model::Scope;

/// Counts what each holder has under way. What is taken comes back when it is dropped.
#[derive(Debug)]
pub struct RequestSlots<H> {
    taken: Mutex<HashMap<H, u32>>,
}

impl<H> Default for RequestSlots<H> {
    fn default() -> Self {
        Self { taken: Mutex::default() }
    }
}

/// One place of each of `N` holders; dropping it gives them back.
#[derive(Debug)]
pub struct RequestSlot<H: Eq + Hash, const N: usize> {
    slots: Arc<RequestSlots<H>>,
    holders: [H; N],
}

impl<H: Clone + Eq + Hash> RequestSlots<H> {
    /// Takes a place of each holder, or none at all. Each comes with the most that it may have; 0 is no limit.
    ///
    /// # Errors
    /// The index of the first holder that has none left.
    pub fn take<const N: usize>(self: &Arc<Self>, wanted: [(H, u32); N]) -> Result<RequestSlot<H, N>, usize> {
        let mut taken = self.taken.lock();
        let is_full = |(holder, most): &(H, u32)| *most != 0 && taken.get(holder).is_some_and(|taken| taken >= most);
        if let Some(full) = wanted.iter().position(is_full) {
            return Err(full);
        }
        let holders = wanted.map(|(holder, _)| holder);
        for holder in &holders {
            *taken.entry(holder.clone()).or_default() += 1;
        }
        Ok(RequestSlot { slots: Arc::clone(self), holders })
    }

    /// How many places of `holder` are taken.
    pub fn taken(&self, holder: &H) -> u32 {
        self.taken.lock().get(holder).copied().unwrap_or(0)
    }
}

impl<H: Eq + Hash, const N: usize> Drop for RequestSlot<H, N> {
    fn drop(&mut self) {
        let mut taken = self.slots.taken.lock();
        for holder in &self.holders {
            if let Some(count) = taken.get_mut(holder) {
                *count -= 1;
                if *count == 0 {
                    taken.remove(holder);
                }
            }
        }
    }
}

/// Counts open connections.
#[derive(Debug, Default)]
pub struct ConnectionLimits {
    slots: Arc<RequestSlots<Holder>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Holder {
    /// Everybody together.
    All,
    Client(IpAddr),
}

/// A connection that was admitted; dropping it gives its place back.
#[derive(Debug)]
pub struct Admission {
    _place: RequestSlot<Holder, 2>,
}

impl ConnectionLimits {
    /// Connections open now.
    pub fn open(&self) -> usize {
        self.slots.taken(&Holder::All) as usize
    }

    /// Admits a connection of `client` unless `all` or `each` (0: no limit) are reached already.
    ///
    /// # Errors
    /// Which cap was reached.
    pub fn admit(&self, client: IpAddr, all: u32, each: u32) -> Result<Admission, Scope> {
        match self.slots.take([(Holder::All, all), (Holder::Client(client.to_canonical()), each)]) {
            Ok(place) => Ok(Admission { _place: place }),
            Err(0) => Err(Scope::Node),
            Err(_) => Err(Scope::Client),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn caps_hold_and_places_come_back() {
        let limits = ConnectionLimits::default();
        let (one, two) = ("192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap());
        let first = limits.admit(one, 2, 1).unwrap();
        assert_eq!(limits.admit(one, 2, 1).unwrap_err(), Scope::Client);
        let second = limits.admit(two, 2, 1).unwrap();
        assert_eq!(limits.admit("192.0.2.3".parse().unwrap(), 2, 1).unwrap_err(), Scope::Node);
        drop(first);
        let again = limits.admit("::ffff:192.0.2.1".parse().unwrap(), 2, 1).unwrap();
        assert_eq!(limits.admit(one, 0, 1).unwrap_err(), Scope::Client, "a mapped address is the same client");
        drop((second, again));
        assert_eq!(limits.open(), 0);
        assert!(limits.slots.taken.lock().is_empty());
    }

    #[test]
    fn nothing_is_taken_of_one_when_another_is_full() {
        let slots = Arc::<RequestSlots<char>>::default();
        let first = slots.take([('a', 1), ('b', 2)]).unwrap();
        assert_eq!(slots.take([('b', 2), ('a', 1)]).unwrap_err(), 1);
        assert_eq!((slots.taken(&'a'), slots.taken(&'b')), (1, 1));
        let unlimited: Vec<_> = (0..3).map(|_| slots.take([('a', 0)]).unwrap()).collect();
        assert_eq!(slots.taken(&'a'), 4);
        drop((first, unlimited));
        assert!(slots.taken.lock().is_empty());
    }
}
