use std::path::Path;

use super::*;

const RESCAN: Duration = Duration::from_secs(60);

/// Identities of as many files, which are as good as namespaces' here.
fn ids(n: usize) -> Vec<NetnsId> {
    let mut ids: Vec<_> = std::fs::read_dir("/proc/self/fdinfo/..")
        .unwrap()
        .flatten()
        .filter_map(|entry| NetnsId::at(&entry.path()).ok())
        .collect();
    ids.push(NetnsId::at(Path::new("/")).unwrap());
    ids.sort_unstable();
    ids.dedup();
    assert!(ids.len() >= n, "{}", ids.len());
    ids.truncate(n);
    ids
}

const MS: Duration = Duration::from_millis(1);

/// Looks at all that is due by `until`, each look taking `cost`, and says when which was looked at.
fn run(
    schedule: &mut Schedule,
    from: Instant,
    until: Instant,
    cost: Duration,
    often: impl Fn(NetnsId) -> bool,
) -> Vec<(Instant, NetnsId)> {
    let (mut now, mut looks) = (from, Vec::new());
    while let Some(due) = schedule.next().filter(|&due| due <= until) {
        now = now.max(due);
        let id = schedule.take(now).unwrap();
        looks.push((now, id));
        let began = now;
        now += cost;
        schedule.scanned(id, began, now, cost, often(id));
    }
    looks
}

#[test]
fn all_are_looked_at_when_they_come_and_then_once_an_interval_spread_over_it() {
    let start = Instant::now();
    let mut schedule = Schedule::new(RESCAN, start);
    let ids = ids(10);
    for (n, &id) in ids.iter().enumerate() {
        schedule.add(id, start, n as f64 / 10.0);
    }
    let first = run(&mut schedule, start, start + MS * 500, MS, |_| false);
    assert_eq!(first.len(), 10);
    let later = run(&mut schedule, start + MS * 500, start + RESCAN * 3 - MS, MS, |_| false);
    assert_eq!(later.len(), 30);
    for pair in later.windows(2) {
        assert!(pair[1].0 - pair[0].0 > RESCAN / 20, "they do not come together");
    }
    // Those of one second do: it is cheaper.
    let mut schedule = Schedule::new(RESCAN, start);
    ids.iter().zip([0.501, 0.505, 0.51]).for_each(|(&id, spread)| schedule.add(id, start, spread));
    let looks = run(&mut schedule, start, start + RESCAN, MS, |_| false);
    assert_eq!(looks[5].0 - looks[3].0, MS * 2);
}

#[test]
fn doubt_brings_a_look_at_once_but_not_again_and_again() {
    let start = Instant::now();
    let mut schedule = Schedule::new(RESCAN, start);
    let id = ids(1)[0];
    assert!(!schedule.mark_stale(id, start), "nobody knows it");
    schedule.add(id, start, 0.5);
    let _ = run(&mut schedule, start, start, MS, |_| false);
    let later = start + Duration::from_secs(5);
    assert!(schedule.mark_stale(id, later));
    assert!(!schedule.mark_stale(id, later), "it is due already");
    assert_eq!(run(&mut schedule, later, later, MS, |_| false).len(), 1);
    for _ in 0..100 {
        schedule.mark_stale(id, later + MS * 2);
    }
    assert_eq!(schedule.next(), Some(later + SHORTEST));
}

#[test]
fn doubt_during_a_look_is_not_forgotten() {
    let start = Instant::now();
    let mut schedule = Schedule::new(RESCAN, start);
    let id = ids(1)[0];
    schedule.add(id, start, 0.5);
    assert_eq!(schedule.take(start), Some(id));
    assert_eq!(schedule.take(start), None);
    schedule.mark_stale(id, start + MS);
    schedule.scanned(id, start, start + MS * 2, MS * 2, false);
    assert_eq!(schedule.next(), Some(start + SHORTEST));
}

#[test]
fn where_ends_may_go_untold_it_is_looked_often_but_for_a_share_of_a_processor() {
    let start = Instant::now();
    for (n, cost) in [(1, MS), (10, MS), (10, MS * 20)] {
        let mut schedule = Schedule::new(RESCAN * 60, start);
        let ids = ids(n);
        for &id in &ids {
            schedule.add(id, start, 1.0);
        }
        let length = Duration::from_secs(1000);
        let looks = run(&mut schedule, start, start + length, cost, |_| true).len() as u32;
        let spent = cost * looks;
        assert!(spent <= length / SHARE + cost * n as u32 * 3, "{spent:?} with {n} at {cost:?}");
        assert!(looks >= n as u32 * 3, "{looks} with {n} at {cost:?}");
        let most = (length.as_secs() as u32 + 2) * n as u32;
        assert!(looks <= most, "{looks} with {n} at {cost:?}");
    }
}

#[test]
fn the_interval_is_kept_whatever_else_is_due() {
    let start = Instant::now();
    let mut schedule = Schedule::new(RESCAN, start);
    let ids = ids(2);
    ids.iter().for_each(|&id| schedule.add(id, start, 1.0));
    // A look that takes seconds leaves no room for looks before the interval is over.
    let looks = run(&mut schedule, start, start + RESCAN * 10, Duration::from_secs(2), |_| true);
    for id in ids {
        assert!(looks.iter().filter(|(_, of)| *of == id).count() >= 10);
    }
}

#[test]
fn what_is_removed_is_not_due() {
    let start = Instant::now();
    let mut schedule = Schedule::new(RESCAN, start);
    let ids = ids(2);
    ids.iter().for_each(|&id| schedule.add(id, start, 0.5));
    schedule.remove(ids[0]);
    assert_eq!(schedule.take(start), Some(ids[1]));
    schedule.remove(ids[1]);
    schedule.scanned(ids[1], start, start + MS, MS, true);
    assert_eq!((schedule.next(), schedule.often), (None, 0));
}
