//! What has changed between two lists of ports.

use std::cmp::Ordering;

use portsplice_model::ListeningPort;

/// A change.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Change<'a> {
    /// It listens now, or more is known of it now.
    Opened(&'a ListeningPort),
    /// It listens no more.
    Closed(&'a ListeningPort),
}

/// The changes from `old` to `new`, both in the order of ports and addresses. A port that closed and opened again in
/// between, which its new beginning shows, is both.
pub(super) fn diff<'a>(old: &'a [ListeningPort], new: &'a [ListeningPort], mut emit: impl FnMut(Change<'a>)) {
    let (mut old, mut new) = (old.iter().peekable(), new.iter().peekable());
    loop {
        let order = match (old.peek(), new.peek()) {
            (None, None) => return,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(old), Some(new)) => (old.port, old.address).cmp(&(new.port, new.address)),
        };
        let was = if order.is_le() { old.next() } else { None };
        let is = if order.is_ge() { new.next() } else { None };
        match (was, is) {
            (Some(was), Some(is)) if was == is => {}
            (Some(was), Some(is)) if was.since == is.since => emit(Change::Opened(is)),
            (was, is) => {
                was.into_iter().for_each(|was| emit(Change::Closed(was)));
                is.into_iter().for_each(|is| emit(Change::Opened(is)));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};
    use std::time::{Duration, SystemTime};

    use super::*;

    fn port(port: u16, since: u64) -> ListeningPort {
        let since = (SystemTime::UNIX_EPOCH + Duration::from_secs(since)).into();
        ListeningPort { port, address: IpAddr::V4(Ipv4Addr::LOCALHOST), dual_stack: false, since, process: None }
    }

    fn changes<'a>(old: &'a [ListeningPort], new: &'a [ListeningPort]) -> Vec<Change<'a>> {
        let mut changes = Vec::new();
        diff(old, new, |change| changes.push(change));
        changes
    }

    #[test]
    fn what_stays_is_not_told() {
        let ports = [port(1, 0), port(2, 0)];
        assert_eq!(changes(&ports, &ports), []);
        assert_eq!(changes(&[], &[]), []);
    }

    #[test]
    fn each_change_is_told_once_and_in_order() {
        let (old, new) = ([port(1, 0), port(3, 0), port(4, 0)], [port(2, 0), port(3, 0), port(5, 0)]);
        let expected =
            [Change::Closed(&old[0]), Change::Opened(&new[0]), Change::Closed(&old[2]), Change::Opened(&new[2])];
        assert_eq!(changes(&old, &new), expected);
    }

    #[test]
    fn more_knowledge_is_told_again_and_a_new_beginning_is_an_end_too() {
        let (old, mut named) = ([port(1, 0)], [port(1, 0)]);
        named[0].process = Some("nginx".into());
        assert_eq!(changes(&old, &named), [Change::Opened(&named[0])]);
        let again = [port(1, 9)];
        assert_eq!(changes(&old, &again), [Change::Closed(&old[0]), Change::Opened(&again[0])]);
    }
}
