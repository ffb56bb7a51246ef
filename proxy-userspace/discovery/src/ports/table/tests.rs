use std::collections::BTreeSet;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, SystemTime};

use proptest::prelude::*;

use super::*;

fn now(monotonic: u64) -> Now {
    Now { monotonic, wall: SystemTime::UNIX_EPOCH + Duration::from_secs(1000) + Duration::from_nanos(monotonic) }
}

fn event(kind: u16, socket: u64, port: u16, time: u64) -> ListenEvent {
    let mut event = ListenEvent { time, socket, kind, port, family: ListenEvent::IPV4, ..ListenEvent::default() };
    event.address[..4].copy_from_slice(&[127, 0, 0, 1]);
    event.process[..5].copy_from_slice(b"nginx");
    event
}

fn begins(socket: u64, port: u16, time: u64) -> ListenEvent {
    event(ListenEvent::BEGINS, socket, port, time)
}

fn ends(socket: u64, port: u16, time: u64) -> ListenEvent {
    event(ListenEvent::ENDS, socket, port, time)
}

fn dump(sockets: &[(u64, u16)]) -> Listening {
    let listener = |&(cookie, port): &(u64, u16)| Listener {
        address: SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
        dual_stack: Some(false),
        cookie: Some(cookie),
        inode: cookie as u32 + 100,
    };
    Listening { sockets: sockets.iter().map(listener).collect(), one_piece: true, complete: true }
}

fn ports(table: &Table) -> Vec<u16> {
    table.ports().iter().map(|port| port.port).collect()
}

#[test]
fn events_alone_suffice() {
    let mut table = Table::default();
    assert!(!table.on_event(&begins(1, 80, 5), &now(9)));
    let [port] = &table.ports()[..] else { panic!("one port") };
    assert_eq!((port.port, port.process.as_deref(), port.dual_stack), (80, Some("nginx"), false));
    assert_eq!(port.since, now(5).wall.into());
    assert!(!table.has_unreported());
    assert!(!table.on_event(&ends(1, 80, 7), &now(9)));
    assert_eq!(ports(&table), [0_u16; 0]);
}

#[test]
fn an_event_without_a_name_or_with_an_unknown_family_wants_a_dump() {
    let mut table = Table::default();
    let nameless = ListenEvent { process: [0; 16], ..begins(1, 80, 5) };
    assert!(table.on_event(&nameless, &now(9)));
    let address = [0; 16];
    let unsure = ListenEvent { family: ListenEvent::IPV6, v6only: ListenEvent::UNKNOWN, address, ..begins(2, 81, 5) };
    assert!(table.on_event(&unsure, &now(9)));
    let sure = ListenEvent { v6only: 1, ..unsure };
    assert!(!table.on_event(&ListenEvent { socket: 3, port: 82, ..sure }, &now(9)));
    let mut found = dump(&[(1, 80), (2, 81), (3, 82)]);
    for (listener, dual_stack) in found.sockets.iter_mut().skip(1).zip([true, false]) {
        listener.address = (Ipv6Addr::UNSPECIFIED, listener.address.port()).into();
        listener.dual_stack = Some(dual_stack);
    }
    table.dumped(&found, 10, &now(11));
    assert_eq!(table.ports().iter().map(|p| p.dual_stack).collect::<Vec<_>>(), [false, true, false]);
    assert_eq!(table.nameless(), [101]);
    assert_eq!(table.nameless(), [0_u32; 0], "nobody is looked for twice");
    table.named(&HashMap::from([(101, "late".into())]));
    assert_eq!(table.ports()[0].process.as_deref(), Some("late"));
}

#[test]
fn a_dump_that_began_before_an_event_proves_nothing() {
    let mut table = Table::default();
    table.on_event(&begins(1, 80, 50), &now(50));
    table.dumped(&dump(&[]), 40, &now(60));
    assert_eq!(ports(&table), [80]);
    table.dumped(&dump(&[]), 70, &now(80));
    assert_eq!(ports(&table), [0_u16; 0], "its end was lost");
}

#[test]
fn a_socket_that_was_told_to_end_is_not_brought_back() {
    let mut table = Table::default();
    table.on_event(&begins(1, 80, 50), &now(50));
    table.on_event(&ends(1, 80, 60), &now(60));
    for began in [40, 55, 61] {
        table.dumped(&dump(&[(1, 80)]), began, &now(70));
        assert_eq!(ports(&table), [0_u16; 0], "{began}");
    }
    table.on_event(&begins(1, 80, 90), &now(90));
    assert_eq!(ports(&table), [80], "the same socket may begin anew");
    table.on_event(&ends(2, 81, 95), &now(95));
    table.dumped(&dump(&[(1, 80), (2, 81)]), 94, &now(96));
    assert_eq!(ports(&table), [80], "also if its begin was never heard of");
}

#[test]
fn news_that_a_dump_has_overtaken_bring_nothing_back() {
    let mut table = Table::default();
    table.on_event(&begins(1, 80, 10), &now(10));
    // Of 2, which began at 20 and ended at 30, the end is lost. That is known, and looked into, before the beginning is read.
    table.lost(35);
    assert!(table.dumped(&dump(&[(1, 80)]), 40, &now(41)), "what is shown may be about to end");
    assert!(!table.on_event(&begins(2, 81, 20), &now(42)));
    assert_eq!(ports(&table), [80]);
    // A dump that may not have told all is no proof, and another one is wanted.
    table.dumped(&Listening { one_piece: false, ..dump(&[(1, 80)]) }, 50, &now(51));
    assert!(table.on_event(&begins(3, 82, 45), &now(52)));
    assert_eq!(ports(&table), [80, 82]);
    assert!(!table.dumped(&dump(&[(1, 80)]), 36 + ENDED, &now(37 + ENDED)));
    assert_eq!(ports(&table), [80]);
}

#[test]
fn an_end_that_a_dump_has_overtaken_may_be_followed_by_a_beginning() {
    let mut table = Table::default();
    table.on_event(&begins(1, 80, 10), &now(10));
    // It ended at 20 and began anew at 30.
    table.dumped(&dump(&[(1, 80)]), 40, &now(41));
    assert!(table.on_event(&ends(1, 80, 20), &now(42)), "it is looked again");
    assert_eq!(ports(&table), [0_u16; 0]);
    assert!(table.dumped(&dump(&[(1, 80)]), 50, &now(51)), "the end may be under way");
    assert_eq!(ports(&table), [0_u16; 0]);
    let mut lost = table;
    assert!(!lost.dumped(&dump(&[(1, 80)]), 21 + ENDED, &now(22 + ENDED)), "the beginning was lost");
    assert_eq!(ports(&lost), [80]);
    let mut table = Table::default();
    table.on_event(&begins(1, 80, 10), &now(10));
    table.dumped(&dump(&[(1, 80)]), 40, &now(41));
    table.on_event(&ends(1, 80, 20), &now(42));
    table.on_event(&begins(1, 80, 30), &now(43));
    assert_eq!(ports(&table), [80], "the beginning was late, too");
}

/// What /proc shows: the dump without cookies.
fn shown(sockets: &[(u64, u16)]) -> Listening {
    let mut dump = dump(sockets);
    dump.sockets.iter_mut().for_each(|socket| (socket.cookie, socket.dual_stack) = (None, None));
    dump
}

#[test]
fn without_cookies_sockets_are_known_by_address_and_inode() {
    let mut table = Table::default();
    table.on_event(&begins(1, 80, 5), &now(5));
    table.on_event(&begins(2, 80, 5), &now(5));
    // The kernel told of two; a third listened before.
    for began in [10, 20] {
        assert!(!table.dumped(&shown(&[(3, 81), (2, 80), (1, 80)]), began, &now(began + 1)));
        assert_eq!((ports(&table), table.sockets.len()), (vec![80, 81], 3));
        assert_eq!(table.ports()[0].process.as_deref(), Some("nginx"));
        assert!(!table.misses_events() && table.has_unreported());
    }
    // One of the two ends. A dump that began before says nothing new, one that began later keeps the other.
    table.on_event(&ends(1, 80, 30), &now(30));
    assert_eq!(table.sockets.len(), 2);
    assert!(table.dumped(&shown(&[(1, 80), (2, 80), (3, 81), (4, 82)]), 25, &now(31)), "it is looked again");
    assert_eq!((ports(&table), table.sockets.len()), (vec![80, 81], 2));
    assert!(!table.dumped(&shown(&[(2, 80), (4, 82)]), 40, &now(41)));
    assert_eq!((ports(&table), table.sockets.len()), (vec![80, 82], 2));
    // What a dump found first is known by its event later.
    table.on_event(&begins(4, 82, 39), &now(42));
    table.dumped(&shown(&[(2, 80), (4, 82)]), 50, &now(51));
    assert_eq!((ports(&table), table.sockets.len(), table.has_unreported()), (vec![80, 82], 2, false));
    table.on_event(&ends(2, 80, 60), &now(60));
    table.on_event(&ends(4, 82, 60), &now(60));
    assert_eq!(ports(&table), [0_u16; 0]);
}

#[test]
fn what_a_dump_found_first_is_known_by_its_event_later() {
    let mut table = Table::default();
    table.dumped(&dump(&[(1, 80)]), 10, &now(20));
    assert!(table.has_unreported());
    let since = table.ports()[0].since;
    table.on_event(&begins(1, 80, 5), &now(30));
    assert!(!table.has_unreported());
    let port = &table.ports()[0];
    assert_eq!((port.since, port.process.as_deref()), (since, Some("nginx")), "the beginning stays as it was told");
}

#[test]
fn a_kernel_that_keeps_silent_is_seen_through() {
    let mut table = Table::default();
    table.dumped(&dump(&[(1, 80)]), 10, &now(11));
    table.dumped(&dump(&[(1, 80)]), 20, &now(21));
    assert!(!table.misses_events(), "it may have listened before");
    table.dumped(&dump(&[(1, 80), (2, 81)]), 30, &now(31));
    assert!(!table.misses_events(), "its event may be on its way");
    table.dumped(&dump(&[(1, 80), (2, 81)]), 35, &now(36));
    assert!(!table.misses_events(), "so may be the news of its loss");
    table.dumped(&dump(&[(1, 80), (2, 81)]), 40, &now(41));
    assert!(table.misses_events());
    table.on_event(&begins(2, 81, 29), &now(50));
    assert!(!table.misses_events());
    table.lost(55);
    for began in [60, 70, 80] {
        table.dumped(&dump(&[(1, 80), (2, 81), (3, 82)]), began, &now(began));
    }
    assert!(!table.misses_events(), "its event was lost");
}

#[test]
fn a_dump_in_pieces_may_pass_a_socket_over_once() {
    let mut table = Table::default();
    table.on_event(&begins(1, 80, 5), &now(5));
    let pieces = Listening { one_piece: false, ..dump(&[]) };
    assert!(table.dumped(&pieces, 10, &now(11)), "another one is wanted");
    assert_eq!(ports(&table), [80]);
    assert!(!table.dumped(&dump(&[(1, 80)]), 20, &now(21)));
    assert!(table.dumped(&pieces, 30, &now(31)));
    assert!(!table.dumped(&pieces, 40, &now(41)));
    assert_eq!(ports(&table), [0_u16; 0]);
    let mut table = Table::default();
    table.on_event(&begins(1, 80, 5), &now(5));
    let part = Listening { complete: false, ..dump(&[(2, 81)]) };
    assert!(!table.dumped(&part, 10, &now(11)));
    assert_eq!(ports(&table), [80, 81], "what was not read may be there");
}

#[test]
fn one_port_of_many_sockets_keeps_its_beginning() {
    let mut table = Table::default();
    table.on_event(&begins(1, 80, 5), &now(5));
    table.on_event(&begins(2, 80, 6), &now(6));
    let since = table.ports()[0].since;
    table.on_event(&ends(1, 80, 7), &now(7));
    assert_eq!(table.ports()[0].since, since);
    table.on_event(&ends(2, 80, 8), &now(8));
    table.on_event(&begins(3, 80, 9_000_000), &now(9_000_000));
    assert_ne!(table.ports()[0].since, since);
}

#[test]
fn a_namespace_has_only_so_many() {
    let mut table = Table::default();
    for n in 0..2 * SOCKETS as u64 {
        table.on_event(&begins(n, n as u16, n), &now(n));
        table.on_event(&ends(1_000_000 + n, 1, n), &now(n));
    }
    assert_eq!((table.sockets.len(), table.ports().len(), table.ended.len()), (SOCKETS, PORTS, ENDS));
    for n in 0..2 * SOCKETS as u64 {
        table.on_event(&ends(n, n as u16, n), &now(n));
    }
    assert_eq!((table.sockets.len(), table.ports.len()), (0, 0));
}

/// What may happen: a socket starts or stops listening, the daemon reads some of the events, a dump begins or ends. An
/// end may be told some time before it comes. A socket that has ceased to listen may do so again. An event may be lost,
/// and the daemon hear of that before it has read those that came earlier.
#[derive(Clone, Debug)]
enum Step {
    Listen(u64),
    Stop(u64),
    Close(u64),
    Gone,
    Hear,
    DumpBegins,
    DumpEnds,
    LoseNext,
    HearOfLoss,
    Wait,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        5 => (0u64..6).prop_map(Step::Listen),
        2 => (0u64..6).prop_map(Step::Stop),
        3 => (0u64..6).prop_map(Step::Close),
        2 => Just(Step::Gone),
        4 => Just(Step::Hear),
        3 => Just(Step::DumpBegins),
        3 => Just(Step::DumpEnds),
        1 => Just(Step::LoseNext),
        1 => Just(Step::HearOfLoss),
        1 => Just(Step::Wait),
    ];
    proptest::collection::vec(step, 0..120)
}

/// The kernel, and what it has told.
#[derive(Default)]
struct World {
    /// Listening sockets; port is cookie % 3, so that some share one.
    listening: BTreeSet<u64>,
    /// Told to end, and still to be seen.
    ending: BTreeSet<u64>,
    events: VecDeque<ListenEvent>,
    next_cookie: u64,
    /// By the number in a step.
    sockets: HashMap<u64, u64>,
    dump: Option<(u64, Listening)>,
    time: u64,
    /// So many of the next events are lost.
    losing: u32,
    /// Some were, and the daemon has not heard of it.
    lost: bool,
    /// A dump is wanted.
    doubt: bool,
}

impl World {
    fn port(cookie: u64) -> u16 {
        (cookie % 3) as u16 + 1
    }

    fn step(&mut self, step: &Step, table: &mut Table) {
        self.time += 1;
        match step {
            Step::Listen(n) => self.listen(*n),
            Step::Stop(n) => drop(self.sockets.get(n).copied().map(|cookie| self.end(cookie))),
            Step::Close(n) => drop(self.sockets.remove(n).map(|cookie| self.end(cookie))),
            Step::Gone => self.ending.clear(),
            Step::Hear => {
                if let Some(event) = self.events.pop_front() {
                    self.doubt |= table.on_event(&event, &now(self.time));
                }
            }
            Step::DumpBegins => self.dump_begins(),
            Step::DumpEnds => self.dump_ends(table),
            Step::LoseNext => self.losing += 1,
            Step::HearOfLoss => {
                if std::mem::take(&mut self.lost) {
                    table.lost(self.time);
                    self.doubt = true;
                }
            }
            Step::Wait => {
                // No dump takes so long.
                self.dump_ends(table);
                self.ending.clear();
                self.time += 2 * ENDED;
            }
        }
    }

    fn listen(&mut self, n: u64) {
        let next = self.next_cookie + 1;
        let cookie = *self.sockets.entry(n).or_insert(next);
        self.next_cookie = self.next_cookie.max(cookie);
        if self.listening.insert(cookie) {
            // It could not before it had ended.
            self.ending.remove(&cookie);
            self.tell(begins(cookie, Self::port(cookie), self.time));
        }
    }

    fn end(&mut self, cookie: u64) {
        if self.listening.remove(&cookie) {
            self.ending.insert(cookie);
            self.tell(ends(cookie, Self::port(cookie), self.time));
        }
    }

    fn tell(&mut self, event: ListenEvent) {
        if self.losing == 0 {
            self.events.push_back(event);
        } else {
            self.losing -= 1;
            self.lost = true;
        }
    }

    fn dump_begins(&mut self) {
        if self.dump.is_none() {
            self.time += 1;
            let all = self.listening.union(&self.ending);
            let shown: Vec<_> = all.map(|&cookie| (cookie, Self::port(cookie))).collect();
            self.dump = Some((self.time, dump(&shown)));
            self.doubt = false;
        }
    }

    fn dump_ends(&mut self, table: &mut Table) {
        if let Some((began, dump)) = self.dump.take() {
            self.doubt |= table.dumped(&dump, began, &now(self.time));
        }
    }

    /// All that comes when nothing happens any more. Losses are heard of, and looked into, before what came earlier is read.
    fn drain(&mut self, table: &mut Table) {
        self.dump_ends(table);
        self.step(&Step::HearOfLoss, table);
        if self.doubt {
            self.dump_begins();
            self.dump_ends(table);
        }
        while !self.events.is_empty() {
            self.step(&Step::Hear, table);
        }
        let mut dumps = 0;
        while self.doubt || (dumps == 0 && table.has_unreported()) {
            assert!(dumps < 3, "looks without end");
            dumps += 1;
            self.step(&Step::Wait, table);
            self.dump_begins();
            self.dump_ends(table);
        }
    }
}

proptest! {
    /// In whatever order events, losses and dumps come: when those are in that are wanted, what is known is what is there.
    #[test]
    fn it_comes_to_the_truth(steps in steps()) {
        let (mut world, mut table) = (World::default(), Table::default());
        for step in &steps {
            world.step(step, &mut table);
        }
        world.drain(&mut table);
        let truth: BTreeSet<u16> = world.listening.iter().map(|&cookie| World::port(cookie)).collect();
        prop_assert_eq!(ports(&table), truth.into_iter().collect::<Vec<_>>());
        prop_assert_eq!(table.sockets.keys().copied().collect::<BTreeSet<_>>(), world.listening);
    }

    /// As long as no event is lost, dumps change nothing: once all events are heard, what is known is what is there.
    #[test]
    fn dumps_bring_nothing_back_and_lose_nothing(steps in steps()) {
        let (mut world, mut table) = (World::default(), Table::default());
        for step in steps.iter().filter(|step| !matches!(step, Step::LoseNext)) {
            world.step(step, &mut table);
        }
        while !world.events.is_empty() {
            world.step(&Step::Hear, &mut table);
        }
        world.dump_ends(&mut table);
        prop_assert_eq!(table.sockets.keys().copied().collect::<BTreeSet<_>>(), world.listening);
    }
}

#[test]
fn what_found_no_room_is_no_proof_of_silence() {
    let mut table = Table::default();
    let all: Vec<(u64, u16)> = (1..=4200_u64).map(|n| (n, 10_000 + n as u16)).collect();
    for (time, &(cookie, port)) in (1..).zip(&all) {
        table.on_event(&begins(cookie, port, time), &now(time));
    }
    let pieces = |sockets: &[(u64, u16)]| Listening { one_piece: false, ..dump(sockets) };
    table.dumped(&pieces(&all), 5000, &now(5001));
    assert!(table.has_unreported(), "there is more than is known here");
    for (time, &(cookie, port)) in (6000..).zip(&all[..200]) {
        table.on_event(&ends(cookie, port, time), &now(time));
    }
    for (number, began) in [7000, 8000, 9000, 10_000, 11_000, 12_000].into_iter().enumerate() {
        // Even if it came in one piece.
        let left = &all[200..];
        table.dumped(&if number < 3 { pieces(left) } else { dump(left) }, began, &now(began + 1));
        assert!(!table.misses_events(), "look {number}");
    }
}

#[test]
fn what_a_dump_in_pieces_passed_over_is_no_proof_of_silence() {
    let mut table = Table::default();
    let pieces = |sockets: &[(u64, u16)]| Listening { one_piece: false, ..dump(sockets) };
    table.dumped(&pieces(&[(1, 80)]), 10, &now(11));
    for began in [20, 30, 40, 50, 60] {
        table.dumped(&pieces(&[(1, 80), (2, 81)]), began, &now(began + 1));
        assert!(!table.misses_events(), "{began}");
    }
}
