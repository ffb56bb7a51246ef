//! What listens in one namespace, put together from events and dumps. It does no I/O and has no clock.
//!
//! A socket is known by its cookie, which events and dumps share and which is never given to another one. Events of one
//! socket come in order; a dump and the events around it come in any, and two rules make that harmless:
//!
//! - A socket listens before the kernel reports it, so a dump that began after the event and does not show the socket
//!   proves that it listens no more. One that began before proves nothing.
//!   So it is also if the dump was faster than the event: events wait in a queue, and what came after them may have been lost,
//!   and looked into, before they are read.
//! - Its end is reported before it ends, so a dump may still show it. What was reported is believed, for as long as the
//!   end may take.
//!   What a dump shows after that listens: the socket has started over, and that was lost.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::net::IpAddr;

use proxy_common::ListenEvent;

use super::clock::Now;
use portsplice_model::{ListeningPort, Timestamp};
use portsplice_net::netns::Listening;
use portsplice_net::sock_diag;
use portsplice_net::sock_diag::Listener;

/// Sockets that one namespace may have here; further ones are not told of.
const SOCKETS: usize = 4096;
/// Ports that one namespace may have here, for the same reason: each change is told to everybody who listens.
const PORTS: usize = 1024;
/// How long an end is remembered, in nanoseconds: much longer than a dump takes.
const REMEMBERED: u64 = 10_000_000_000;
/// How long after it was told a socket has ended, in nanoseconds: some instructions, and what the machine does between them.
const ENDED: u64 = 1_000_000_000;
/// Dumps in a row that have to show a socket before the kernel counts as not reporting it: its event, or the report
/// that it was lost, may be on its way.
const PROOF: u32 = 3;
/// Marks what stands for the cookie of a socket whose cookie was not told. The kernel counts cookies upwards from 1.
const MADE: u64 = 1 << 63;
/// Ends that are remembered.
const ENDS: usize = 1024;

/// What listens in one namespace.
#[derive(Debug, Default)]
pub(super) struct Table {
    sockets: HashMap<u64, Socket>,
    /// The cookies of each port's sockets, the oldest first, and since when there is one.
    ports: BTreeMap<(u16, IpAddr), Port>,
    /// Sockets that ended, and when.
    ended: VecDeque<(u64, u64)>,
    last: LastDump,
    /// When it was heard last that events were lost.
    lost: Option<u64>,
    /// The last dump told all that listened, and all of it is here: what the next one adds has begun since.
    whole: bool,
    /// There are sockets that found no room here, so that they are found by a dump once there is some.
    overflowed: bool,
}

/// What the last dump says of events that are older than it, and come later.
#[derive(Debug, Default)]
struct LastDump {
    /// In nanoseconds of the kernel's events.
    began: u64,
    /// It told all that listened, by cookie, and all of it is here but what it says itself.
    proves: bool,
    /// Sockets that it showed, and that are not here all the same, since their end was told.
    left_out: HashSet<u64>,
}

#[derive(Debug)]
struct Port {
    since: Timestamp,
    cookies: Vec<u64>,
}

#[derive(Debug)]
struct Socket {
    address: IpAddr,
    port: u16,
    dual_stack: Option<bool>,
    process: Option<String>,
    /// 0: not known.
    inode: u32,
    /// Whether its process's name was looked for.
    searched: bool,
    /// When the kernel reported that it listens; `None` if a dump found it, so that its end may go unreported.
    reported_at: Option<u64>,
    /// A dump found it although the one before was whole; else it may have listened all the time.
    fresh: bool,
    /// How many dumps in a row have shown it since without an event of it.
    shown: u32,
    /// A dump that may have passed it over did not show it.
    missed: bool,
}

impl Table {
    /// Takes an event. Whether a dump is needed to know it all.
    pub(super) fn on_event(&mut self, event: &ListenEvent, now: &Now) -> bool {
        // The last dump may know what has become of the socket since.
        let late = event.time < self.last.began;
        match event.kind {
            ListenEvent::BEGINS => {
                self.ended.retain(|&(_, cookie)| cookie != event.socket);
                let unknown = !self.sockets.contains_key(&event.socket);
                if late && unknown && self.last.proves && !self.last.left_out.contains(&event.socket) {
                    return false;
                }
                self.begins(event, now) || late && unknown
            }
            ListenEvent::ENDS => {
                let shown = self.remove(event.socket) && late;
                if shown {
                    self.last.left_out.insert(event.socket);
                }
                self.ended.push_back((event.time, event.socket));
                let old = event.time.saturating_sub(REMEMBERED);
                while self.ended.len() > ENDS || self.ended.front().is_some_and(|&(time, _)| time < old) {
                    self.ended.pop_front();
                }
                // It may have started over.
                shown
            }
            _ => true,
        }
    }

    fn begins(&mut self, event: &ListenEvent, now: &Now) -> bool {
        let (address, dual_stack) = address_of(event);
        let process = Some(event.process_name()).filter(|name| !name.is_empty());
        let process = process.map(|name| String::from_utf8_lossy(name).into_owned());
        match self.sockets.get_mut(&event.socket) {
            // A dump was faster.
            Some(known) if (known.address, known.port) == (address, event.port) => {
                known.reported_at = Some(event.time);
                known.process = process.or(known.process.take());
                known.dual_stack = dual_stack.or(known.dual_stack);
            }
            // It listened on another port once, and its end was lost.
            Some(_) => {
                self.remove(event.socket);
                return self.begins(event, now);
            }
            None => {
                let socket = Socket {
                    address,
                    port: event.port,
                    dual_stack,
                    process,
                    inode: 0,
                    searched: false,
                    reported_at: Some(event.time),
                    fresh: false,
                    shown: 0,
                    missed: false,
                };
                self.insert(event.socket, socket, now.at(event.time));
            }
        }
        dual_stack.is_none() || event.process_name().is_empty()
    }

    /// Takes a dump that began at `began` (nanoseconds of the kernel's events). Whether another one is needed.
    pub(super) fn dumped(&mut self, dump: &Listening, began: u64, now: &Now) -> bool {
        let was_whole = std::mem::replace(&mut self.whole, false);
        self.overflowed = false;
        let (shown, mut unsure) = self.identify(dump, began);
        let (ending, left_out) = self.ending(&shown, began);
        // What was lost may have been the end of a socket that is still shown.
        unsure |= ending || self.lost.is_some_and(|at| began <= at.saturating_add(ENDED));
        for &(cookie, found) in shown.iter().filter(|(cookie, _)| !left_out.contains(cookie)) {
            let (address, port) = (found.address.ip(), found.address.port());
            if let Some(known) = self.sockets.get_mut(&cookie) {
                if (known.address, known.port) == (address, port) {
                    known.dual_stack = found.dual_stack.or(known.dual_stack);
                    known.inode = found.inode;
                    known.missed = false;
                    known.shown = known.shown.saturating_add(1);
                    continue;
                }
                if known.reported_at.is_some_and(|time| time >= began) {
                    continue;
                }
                self.remove(cookie);
            }
            let socket = Socket {
                address,
                port,
                dual_stack: found.dual_stack,
                process: None,
                inode: found.inode,
                searched: false,
                reported_at: None,
                fresh: was_whole,
                shown: 1,
                missed: false,
            };
            self.insert(cookie, socket, now.wall.into());
        }
        self.overflowed |= !dump.complete;
        // One in pieces may have passed a socket over.
        self.whole = dump.one_piece && !self.overflowed;
        let proves = self.whole && dump.sockets.iter().all(|found| found.cookie.is_some());
        self.last = LastDump { began, proves, left_out };
        if !dump.complete {
            return unsure; // what it does not show may be in the rest
        }
        let shown: HashSet<u64> = shown.iter().map(|&(cookie, _)| cookie).collect();
        let mut again = unsure;
        let mut gone = Vec::new();
        for (&cookie, socket) in &mut self.sockets {
            if shown.contains(&cookie) || socket.reported_at.is_some_and(|time| time >= began) {
                continue;
            }
            if dump.one_piece || socket.missed {
                gone.push(cookie);
            } else {
                socket.missed = true;
                again = true;
            }
        }
        for cookie in gone {
            self.remove(cookie);
        }
        again
    }

    /// Those of the sockets that a dump shows whose end was told and may still be under way, or came since the dump began; and
    /// whether some were told to end before it began, so that they may as well have started over.
    fn ending(&self, shown: &[(u64, &Listener)], began: u64) -> (bool, HashSet<u64>) {
        // The last end of a socket counts.
        let ended: HashMap<u64, u64> = self.ended.iter().map(|&(time, cookie)| (cookie, time)).collect();
        let ended = |&(cookie, _): &(u64, &Listener)| Some((cookie, *ended.get(&cookie)?));
        let ending = shown.iter().filter_map(ended).filter(|&(_, time)| began <= time.saturating_add(ENDED));
        let mut before = false;
        let ending = ending.map(|(cookie, time)| {
            before |= time < began;
            cookie
        });
        let ending = ending.collect();
        (before, ending)
    }

    /// The sockets of a dump by their cookies, and whether some were left out. Where the kernel has told none
    /// ([`portsplice_net::proc_net`]), it is that of a known socket with the same address and inode, or else of any with that address: which
    /// of them is which does not matter. What is left has a number that is made of the inode, and is no cookie. What may have been
    /// told to end since the dump began is not made known that way.
    fn identify<'a>(&self, dump: &'a Listening, began: u64) -> (Vec<(u64, &'a Listener)>, bool) {
        let known = |found: &Listener| {
            let same = self.ports.get(&(found.address.port(), found.address.ip()));
            same.into_iter().flat_map(|port| &port.cookies).copied()
        };
        let has = |cookie: u64, inode: u32| self.sockets.get(&cookie).is_some_and(|known| known.inode == inode);
        let by_inode = |found: &Listener| known(found).find(|&cookie| cookie & MADE == 0 && has(cookie, found.inode));
        let cookie_of = |found: &Listener| found.cookie.or_else(|| by_inode(found));
        let shown: Vec<_> = dump.sockets.iter().map(|found| (cookie_of(found), found)).collect();
        let mut taken: HashSet<u64> = shown.iter().filter_map(|&(cookie, _)| cookie).collect();
        let something_ended = self.ended.back().is_some_and(|&(time, _)| time >= began);
        let mut unsure = false;
        let identified = shown.into_iter().filter_map(|(cookie, found)| {
            let made = MADE | u64::from(found.inode);
            let free = || known(found).find(|cookie| cookie & MADE == 0 && !taken.contains(cookie));
            let cookie = match cookie.or_else(free) {
                Some(cookie) => cookie,
                None if something_ended && !self.sockets.contains_key(&made) => {
                    unsure = true;
                    return None;
                }
                None => made,
            };
            taken.insert(cookie);
            Some((cookie, found))
        });
        (identified.collect(), unsure)
    }

    /// It was heard `at` a time (nanoseconds of the kernel's events) that events were lost, and a dump will be taken: what it shows
    /// first is no change.
    pub(super) fn lost(&mut self, at: u64) {
        self.lost = Some(at);
        self.whole = false;
        self.sockets.values_mut().for_each(|socket| socket.fresh = false);
    }

    /// Whether something listens whose end the kernel may not tell, or that is not known here for want of room.
    pub(super) fn has_unreported(&self) -> bool {
        self.overflowed || self.sockets.values().any(|socket| socket.reported_at.is_none())
    }

    /// Whether the kernel has kept silent of something: it was not in a dump that told all, was in each of the next ones, and no
    /// event has come. So it is for sockets outside of the cgroup that the program is attached to. What a dump could have passed
    /// over, or what found no room here before, proves nothing.
    pub(super) fn misses_events(&self) -> bool {
        self.sockets.values().any(|socket| socket.reported_at.is_none() && socket.fresh && socket.shown >= PROOF)
    }

    /// The inodes of sockets whose process's name is not known and was not looked for yet. They count as looked for now.
    pub(super) fn nameless(&mut self) -> Vec<u32> {
        let wanted = |socket: &&mut Socket| socket.process.is_none() && socket.inode != 0 && !socket.searched;
        let nameless = self.sockets.values_mut().filter(wanted);
        nameless
            .map(|socket| {
                socket.searched = true;
                socket.inode
            })
            .collect()
    }

    /// Takes what was found out of names, by inode.
    pub(super) fn named(&mut self, names: &HashMap<u32, String>) {
        for socket in self.sockets.values_mut().filter(|socket| socket.process.is_none()) {
            socket.process = names.get(&socket.inode).cloned();
        }
    }

    /// The ports, one for all sockets on the same port and address, in the order of ports and addresses.
    pub(super) fn ports(&self) -> Vec<ListeningPort> {
        let port = |(&(port, address), of): (&(u16, IpAddr), &Port)| {
            let sockets = || of.cookies.iter().filter_map(|cookie| self.sockets.get(cookie));
            ListeningPort {
                port,
                address,
                dual_stack: sockets().any(|socket| socket.dual_stack == Some(true)),
                since: of.since,
                process: sockets().find_map(|socket| socket.process.clone()),
            }
        };
        self.ports.iter().take(PORTS).map(port).collect()
    }

    fn insert(&mut self, cookie: u64, socket: Socket, since: Timestamp) {
        if self.sockets.len() >= SOCKETS {
            (self.overflowed, self.whole) = (true, false);
            return;
        }
        let port = self.ports.entry((socket.port, socket.address)).or_insert(Port { since, cookies: Vec::new() });
        port.cookies.push(cookie);
        self.sockets.insert(cookie, socket);
    }

    /// Forgets a socket, if it is known.
    fn remove(&mut self, cookie: u64) -> bool {
        let Some(socket) = self.sockets.remove(&cookie) else { return false };
        let key = (socket.port, socket.address);
        if let Some(port) = self.ports.get_mut(&key) {
            port.cookies.retain(|&other| other != cookie);
            if port.cookies.is_empty() {
                self.ports.remove(&key);
            }
        }
        true
    }
}

/// The address of an event's socket, and whether it takes both families, if that is known.
fn address_of(event: &ListenEvent) -> (IpAddr, Option<bool>) {
    let [a, b, c, d, ..] = event.address;
    if event.family != ListenEvent::IPV6 {
        return (IpAddr::from([a, b, c, d]), Some(false));
    }
    let address = sock_diag::canonical(IpAddr::from(event.address));
    let dual_stack = match event.v6only {
        _ if !sock_diag::is_wildcard(address) => Some(false),
        0 => Some(true),
        1 => Some(false),
        _ => None,
    };
    (address, dual_stack)
}

#[cfg(test)]
mod tests;
