//! The table of running containers and the names they are found under.
//!
//! Readers see an immutable snapshot and take no lock; writers, who are rare, build a new one.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::Mutex;

use super::process::uptime;
use super::{Container, Observer};
use crate::events::{Events, StateEvent};
use portsplice_net::netns::{Netns, NetnsId};

/// The shortest beginning of an id that counts as a name, what `docker ps` shows.
const ID_PREFIX: usize = 12;

/// What a name leads to.
#[derive(Debug)]
pub(super) enum Lookup {
    Found(Arc<Container>),
    /// The ids of several running containers begin like this.
    Ambiguous,
    Missing,
}

/// All containers that run, of all resolvers.
pub(super) struct Cache {
    snapshot: ArcSwap<Snapshot>,
    table: Mutex<Table>,
    events: Events,
    observer: Arc<dyn Observer>,
}

#[derive(Default)]
struct Table {
    /// By container id; ordered, so that a snapshot can find the beginnings of ids.
    members: BTreeMap<String, Member>,
    /// How many members live in each namespace that the observer knows of.
    namespaces: HashMap<NetnsId, (usize, Arc<Netns>)>,
}

#[derive(Clone)]
struct Member {
    container: Arc<Container>,
    claims: Vec<Claim>,
}

/// A name that a container goes by, and since when (after the machine's start).
#[derive(Clone)]
struct Claim {
    name: String,
    since: Duration,
}

#[derive(Default)]
struct Snapshot {
    /// Those who claim a name, the first first.
    by_name: HashMap<Box<str>, Vec<(Duration, Arc<Container>)>>,
    /// Sorted by id.
    by_id: Vec<Arc<Container>>,
}

impl Cache {
    /// Tells `events` of containers that come and go, and `observer` of their namespaces.
    pub(super) fn new(events: Events, observer: Arc<dyn Observer>) -> Self {
        Self { snapshot: ArcSwap::default(), table: Mutex::default(), events, observer }
    }

    /// Finds the running container that goes by `name`: its name, one of its labels, or the beginning of its id. All of
    /// these count alike, and the first who claims a name has it for as long as it runs: so nobody can take over another
    /// container's name, nor make it useless by claiming it too.
    pub(super) fn lookup(&self, name: &str) -> Lookup {
        let snapshot = self.snapshot.load();
        let named = snapshot.by_name.get(name).map(Vec::as_slice).unwrap_or_default();
        let named = named.iter().find(|(_, container)| !container.is_gone());
        let mut with_id = snapshot.with_id(name).iter().filter(|container| !container.is_gone());
        match (named, with_id.next(), with_id.next()) {
            (None, None, _) => Lookup::Missing,
            (None, Some(container), None) => Lookup::Found(container.clone()),
            (Some((since, container)), with_id, other) => match [with_id, other].into_iter().flatten().next() {
                Some(first) if first.since < *since && other.is_none() => Lookup::Found(first.clone()),
                Some(first) if first.since < *since => Lookup::Ambiguous,
                _ => Lookup::Found(container.clone()),
            },
            (None, Some(_), Some(_)) => Lookup::Ambiguous,
        }
    }

    /// All running containers, in the order of their ids.
    pub(super) fn list(&self) -> Vec<Arc<Container>> {
        self.snapshot.load().by_id.iter().filter(|c| !c.is_gone()).cloned().collect()
    }

    /// The running container of this id, in full.
    pub(super) fn get(&self, id: &str) -> Option<Arc<Container>> {
        let snapshot = self.snapshot.load();
        let found = snapshot.by_id.binary_search_by(|container| container.id.as_str().cmp(id)).ok()?;
        Some(&snapshot.by_id[found]).filter(|container| !container.is_gone()).cloned()
    }

    /// Does something with each running container of a namespace.
    pub(super) fn each_in(&self, netns: NetnsId, act: impl Fn(&Container)) {
        let snapshot = self.snapshot.load();
        snapshot.by_id.iter().filter(|container| container.netns.id() == netns).for_each(|container| act(container));
    }

    /// Adds a container under `names`, in the place of the one with the same id. That one is gone then, unless the new
    /// one is the same container under other names or another policy.
    pub(super) fn insert(&self, container: Arc<Container>, names: Vec<String>) {
        self.warn_of_doubles(&container, &names);
        let mut table = self.table.lock();
        self.observe(&mut table, &container);
        let old = table.members.remove(&container.id);
        let claims = claims(&container, names, old.as_ref());
        table.members.insert(container.id.clone(), Member { container: container.clone(), claims });
        let replaced = old.map(|old| old.container);
        let vanished = replaced.as_ref().filter(|old| !old.is_same_as(&container));
        if let Some(old) = vanished {
            old.mark_gone();
        }
        // Whoever is told may look, and must see it then.
        self.snapshot.store(Arc::new(Snapshot::of(&table)));
        if let Some(old) = vanished {
            self.tell_removed(old);
        }
        if let Some(old) = &replaced {
            self.unobserve(&mut table, old);
        }
        if let Some(old) = vanished {
            table.let_go(old);
        }
        self.events.emit(StateEvent::ContainerAdded { id: container.id.clone() });
    }

    /// Takes `container` out, and marks it gone for everyone who holds it.
    pub(super) fn remove(&self, container: &Container) {
        container.mark_gone();
        let mut table = self.table.lock();
        // Another one may have come in its place meanwhile.
        if table.members.get(&container.id).is_none_or(|member| !member.container.is_same_as(container)) {
            return;
        }
        if let Some(old) = table.members.remove(&container.id) {
            self.snapshot.store(Arc::new(Snapshot::of(&table)));
            self.unobserve(&mut table, &old.container);
            table.let_go(&old.container);
            self.tell_removed(&old.container);
        }
    }

    fn tell_removed(&self, container: &Container) {
        self.events.emit(StateEvent::ContainerRemoved { id: container.id.clone(), name: container.name.clone() });
    }

    fn warn_of_doubles(&self, container: &Container, names: &[String]) {
        let snapshot = self.snapshot.load();
        for name in names {
            let mut others = snapshot.by_name.get(name.as_str()).into_iter().flatten();
            if let Some((_, other)) = others.find(|(_, other)| other.id != container.id && !other.is_gone()) {
                tracing::warn!(
                    name, one = %other.id, another = %container.id,
                    "two running containers claim the same name; requests go to the first one only"
                );
            }
        }
    }

    fn observe(&self, table: &mut Table, container: &Container) {
        if container.policy.deny.is_some() {
            return;
        }
        let (members, netns) =
            table.namespaces.entry(container.netns.id()).or_insert_with(|| (0, container.netns.clone()));
        *members += 1;
        if *members == 1 {
            self.observer.added(netns);
        }
    }

    fn unobserve(&self, table: &mut Table, container: &Container) {
        if container.policy.deny.is_some() {
            return;
        }
        if let Some((members, netns)) = table.namespaces.get_mut(&container.netns.id()) {
            *members -= 1;
            if *members == 0 {
                self.observer.removed(netns);
                netns.let_go();
                table.namespaces.remove(&container.netns.id());
            }
        }
    }
}

impl Table {
    /// Does not keep the namespace of `gone` in being, whoever still holds that container. What all of a namespace's
    /// containers share goes with the last of them.
    fn let_go(&self, gone: &Container) {
        let shared = self.namespaces.get(&gone.netns.id());
        if shared.is_none_or(|(_, netns)| !Arc::ptr_eq(netns, &gone.netns)) {
            gone.netns.let_go();
        }
    }
}

/// What `container` claims. A name that it has had before, in the same run, it has had since then.
fn claims(container: &Container, names: Vec<String>, before: Option<&Member>) -> Vec<Claim> {
    let before = before.filter(|before| before.container.is_same_as(container));
    let since = |name: &String| match before {
        None => container.since,
        Some(before) => before.claims.iter().find(|claim| claim.name == *name).map_or_else(uptime, |claim| claim.since),
    };
    names.into_iter().map(|name| Claim { since: since(&name), name }).collect()
}

impl Snapshot {
    fn of(table: &Table) -> Self {
        let mut by_name: HashMap<Box<str>, Vec<(Duration, Arc<Container>)>> =
            HashMap::with_capacity(table.members.len() * 2);
        for member in table.members.values() {
            for Claim { name, since } in &member.claims {
                by_name.entry(name.as_str().into()).or_default().push((*since, member.container.clone()));
            }
        }
        // Stable: of two that came in the same moment the one with the lower id is the first.
        by_name.values_mut().for_each(|claimants| claimants.sort_by_key(|(since, _)| *since));
        Self { by_name, by_id: table.members.values().map(|member| member.container.clone()).collect() }
    }

    /// The containers whose id begins with `prefix`; none when it is too short or no id at all.
    fn with_id(&self, prefix: &str) -> &[Arc<Container>] {
        let hex = prefix.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        if prefix.len() < ID_PREFIX || !hex {
            return &[];
        }
        let from = self.by_id.partition_point(|c| c.id.as_str() < prefix);
        let length = self.by_id[from..].partition_point(|c| c.id.starts_with(prefix));
        &self.by_id[from..from + length]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container::policy::Policy;
    use portsplice_model::Denied;

    #[derive(Default)]
    struct Recorder(Mutex<Vec<&'static str>>);

    impl Observer for Recorder {
        fn added(&self, _: &Arc<Netns>) {
            self.0.lock().push("added");
        }
        fn removed(&self, _: &Netns) {
            self.0.lock().push("removed");
        }
    }

    fn cache() -> (Cache, Arc<Recorder>) {
        let recorder = Arc::<Recorder>::default();
        (Cache::new(Events::default(), recorder.clone()), recorder)
    }

    fn container(id: &str) -> Arc<Container> {
        let netns = Arc::new(Netns::current().unwrap());
        Arc::new(Container::new(id.into(), id.into(), netns, Policy::default()))
    }

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|&n| n.to_owned()).collect()
    }

    fn found(cache: &Cache, name: &str) -> Option<Arc<Container>> {
        match cache.lookup(name) {
            Lookup::Found(container) => Some(container),
            Lookup::Ambiguous | Lookup::Missing => None,
        }
    }

    const A: &str = "aaaaaaaaaaaa1111";
    const B: &str = "aaaaaaaaaaaa2222";

    #[test]
    fn by_name_and_by_the_beginning_of_the_id() {
        let (cache, _) = cache();
        let (a, b) = (container(A), container(B));
        cache.insert(a.clone(), names(&["web", "uuid-a"]));
        cache.insert(b.clone(), names(&["db"]));
        for (name, expected) in [("web", &a), ("uuid-a", &a), ("db", &b), (A, &a), ("aaaaaaaaaaaa2", &b)] {
            assert!(Arc::ptr_eq(&found(&cache, name).unwrap(), expected), "{name}");
        }
        assert!(matches!(cache.lookup("aaaaaaaaaaaa"), Lookup::Ambiguous));
        for missing in ["", "we", "webs", "aaaaaaaaaaa", "aaaaaaaaaaaa3", "AAAAAAAAAAAA1", "aaaaaaaaaaaa11111"] {
            assert!(matches!(cache.lookup(missing), Lookup::Missing), "{missing}");
        }
        assert_eq!(cache.list().len(), 2);
    }

    #[test]
    fn the_first_who_claims_a_name_has_it_until_it_goes() {
        let (cache, _) = cache();
        let (a, b) = (container(A), container(B));
        // In whatever order they are found, after a restart of the daemon say.
        cache.insert(b.clone(), names(&["same", A]));
        cache.insert(a.clone(), names(&["web", "same"]));
        for name in ["same", "web", A] {
            assert!(Arc::ptr_eq(&found(&cache, name).unwrap(), &a), "{name}");
        }
        // A container that takes another name claims that from now on, however long it has run.
        let renamed = Arc::new(a.renamed("db".into()));
        cache.insert(renamed.clone(), names(&["db", "same"]));
        let c = container("c");
        cache.insert(c.clone(), names(&["new"]));
        cache.insert(Arc::new(renamed.renamed("new".into())), names(&["new", "same"]));
        assert!(Arc::ptr_eq(&found(&cache, "new").unwrap(), &c));
        assert!(found(&cache, "same").unwrap().is_same_as(&a));
        cache.remove(&a);
        assert!(Arc::ptr_eq(&found(&cache, "same").unwrap(), &b));
        assert!(a.is_gone() && !b.is_gone());
    }

    #[test]
    fn a_name_may_repeat_within_one_container() {
        let (cache, _) = cache();
        cache.insert(container(A), names(&["web", "web", A]));
        assert!(found(&cache, "web").is_some() && found(&cache, A).is_some());
    }

    #[test]
    fn a_container_that_is_gone_is_not_found_even_before_it_is_removed() {
        let (cache, _) = cache();
        let a = container(A);
        cache.insert(a.clone(), names(&["web"]));
        a.mark_gone();
        assert!(matches!(cache.lookup("web"), Lookup::Missing));
        assert!(cache.list().is_empty());
    }

    #[test]
    fn a_replacement_ends_the_old_one_and_late_news_of_it_change_nothing() {
        let (cache, recorder) = cache();
        let (old, new) = (container(A), container(A));
        cache.insert(old.clone(), names(&["web"]));
        cache.insert(new.clone(), names(&["web"]));
        assert!(old.is_gone());
        cache.remove(&old);
        assert!(Arc::ptr_eq(&found(&cache, "web").unwrap(), &new));
        cache.remove(&new);
        cache.remove(&new);
        assert_eq!(*recorder.0.lock(), ["added", "removed"]);
    }

    #[test]
    fn events_are_told_once_the_table_says_the_same() {
        let events = Events::default();
        let (cache, mut told) = (Cache::new(events.clone(), Arc::new(())), events.state());
        let a = container(A);
        cache.insert(a.clone(), names(&["web"]));
        assert!(matches!(told.try_recv(), Ok(StateEvent::ContainerAdded { id }) if cache.get(&id).is_some()));
        cache.insert(Arc::new(a.renamed("www".into())), names(&["www"]));
        assert!(
            matches!(told.try_recv(), Ok(StateEvent::ContainerAdded { id }) if cache.get(&id).unwrap().name == "www")
        );
        cache.insert(container(A), names(&["web"]));
        let removed =
            |event| matches!(event, Ok(StateEvent::ContainerRemoved { id, name }) if id == A && name == "www");
        assert!(removed(told.try_recv()), "another run of the same container");
        assert!(matches!(told.try_recv(), Ok(StateEvent::ContainerAdded { id }) if id == A));
        assert!(cache.get(&A[..13]).is_none() && told.try_recv().is_err());
    }

    #[test]
    fn events_that_nobody_reads_keep_no_container() {
        let events = Events::default();
        let (cache, mut unread) = (Cache::new(events.clone(), Arc::new(())), events.state());
        let container = container(A);
        let netns = Arc::downgrade(&container.netns);
        cache.insert(container.clone(), names(&["web"]));
        cache.remove(&container);
        drop(container);
        assert!(netns.upgrade().is_none(), "its namespace is let go");
        assert!(matches!(unread.try_recv(), Ok(StateEvent::ContainerAdded { id }) if cache.get(&id).is_none()));
        assert!(matches!(unread.try_recv(), Ok(StateEvent::ContainerRemoved { name, .. }) if name == A));
    }

    #[test]
    fn a_renamed_container_goes_on() {
        let (cache, recorder) = cache();
        let old = container(A);
        let slot = old.try_acquire(80, None).unwrap();
        cache.insert(old.clone(), names(&["web"]));
        let renamed = Arc::new(old.renamed("www".into()));
        cache.insert(renamed.clone(), names(&["www"]));
        assert!(!old.is_gone() && matches!(cache.lookup("web"), Lookup::Missing));
        let now = found(&cache, "www").unwrap();
        assert_eq!((now.active(), now.name.as_str()), (1, "www"));
        drop(slot);
        assert_eq!(now.active(), 0);
        cache.remove(&old);
        assert!(now.is_gone() && matches!(cache.lookup("www"), Lookup::Missing));
        assert_eq!(*recorder.0.lock(), ["added", "removed"]);
    }

    #[test]
    fn a_shared_namespace_is_observed_once_and_a_closed_container_never() {
        let (cache, recorder) = cache();
        let (a, b) = (container(A), container(B));
        let netns = a.netns.clone();
        let closed = Arc::new(Container::new("c".into(), "c".into(), netns, Policy::closed(Denied::HostNetwork)));
        cache.insert(closed.clone(), names(&["c"]));
        assert!(recorder.0.lock().is_empty());
        cache.insert(a.clone(), names(&["a"]));
        cache.insert(b.clone(), names(&["b"]));
        cache.remove(&a);
        cache.remove(&closed);
        assert_eq!(*recorder.0.lock(), ["added"]);
        cache.remove(&b);
        assert_eq!(*recorder.0.lock(), ["added", "removed"]);
    }
}
