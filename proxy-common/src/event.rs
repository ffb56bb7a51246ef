//! Which of the kernel's sock_ops callbacks mean something to Portsplice.

/// Callbacks of sock_ops programs (`BPF_SOCK_OPS_*` in the kernel's `include/uapi/linux/bpf.h`).
pub mod op {
    /// A connection to elsewhere is established. Always delivered.
    pub const ACTIVE_ESTABLISHED: u32 = 4;
    /// A connection from elsewhere is established. Always delivered.
    pub const PASSIVE_ESTABLISHED: u32 = 5;
    /// A socket changes its state; args\[0\] is the old, args\[1\] the new one. Delivered to sockets with [`STATE_FLAG`].
    pub const STATE: u32 = 10;
    /// `listen(2)` has just turned a socket into a listener. Always delivered.
    pub const LISTEN: u32 = 11;

    /// The callback flag that asks for [`STATE`] (`BPF_SOCK_OPS_STATE_CB_FLAG`).
    pub const STATE_FLAG: u32 = 1 << 2;
}

/// Socket states as a sock_ops program sees them (`BPF_TCP_*` in the kernel's `include/uapi/linux/bpf.h`).
pub mod state {
    /// A handshake that we began.
    pub const SYN_SENT: u32 = 2;
    /// A handshake that the peer began.
    pub const SYN_RECV: u32 = 3;
    /// Not connected, not listening: where each socket begins and ends.
    pub const CLOSE: u32 = 7;
    /// A listener.
    pub const LISTEN: u32 = 10;
    /// A handshake that has no full socket yet.
    pub const NEW_SYN_RECV: u32 = 12;
    /// Bound to a port, and nothing else yet.
    pub const BOUND_INACTIVE: u32 = 13;
}

/// What happened to a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SocketEvent {
    /// It listens now.
    ListenOpened,
    /// It listened, and does so no more.
    ListenClosed,
    /// A connection that it began is established.
    EstablishedActive,
    /// A connection that its peer began is established.
    EstablishedPassive,
    /// Its established connection is over.
    Closed,
}

impl SocketEvent {
    /// The event that a callback means, if it means one.
    ///
    /// `old_state` and `new_state` are the arguments of [`op::STATE`] and are not looked at with other callbacks.
    /// A change to `TCP_CLOSE` is the end of a connection only from a state that follows the handshake: a listener's
    /// children inherit its callback flags, so those that die in the handshake come by here too, and the kernel also
    /// "changes" from `TCP_CLOSE` to itself. A connection that leaves through `TIME_WAIT` passes through `TCP_CLOSE`
    /// when the small time-wait socket takes its place (`tcp_time_wait`). With TCP Fast Open a connection counts as
    /// established while it is in `SYN_RECV`; the end of one that never leaves this state is not seen.
    #[inline(always)]
    pub const fn of(callback: u32, old_state: u32, new_state: u32) -> Option<Self> {
        match callback {
            op::LISTEN => Some(Self::ListenOpened),
            op::ACTIVE_ESTABLISHED => Some(Self::EstablishedActive),
            op::PASSIVE_ESTABLISHED => Some(Self::EstablishedPassive),
            op::STATE if new_state == state::CLOSE => match old_state {
                state::LISTEN => Some(Self::ListenClosed),
                state::SYN_SENT | state::SYN_RECV | state::NEW_SYN_RECV | state::BOUND_INACTIVE | state::CLOSE => None,
                _ => Some(Self::Closed),
            },
            _ => None,
        }
    }

    /// Whether the socket has a later event that is delivered only with [`op::STATE_FLAG`].
    #[inline(always)]
    pub const fn opens(self) -> bool {
        matches!(self, Self::ListenOpened | Self::EstablishedActive | Self::EstablishedPassive)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beginnings_are_known_by_the_callback_alone() {
        for garbage in [0, state::CLOSE, u32::MAX] {
            assert_eq!(SocketEvent::of(op::LISTEN, garbage, garbage), Some(SocketEvent::ListenOpened));
            let active = SocketEvent::of(op::ACTIVE_ESTABLISHED, garbage, garbage);
            assert_eq!(active, Some(SocketEvent::EstablishedActive));
            let passive = SocketEvent::of(op::PASSIVE_ESTABLISHED, garbage, garbage);
            assert_eq!(passive, Some(SocketEvent::EstablishedPassive));
        }
    }

    #[test]
    fn only_established_connections_close() {
        // ESTABLISHED, FIN_WAIT1, FIN_WAIT2, TIME_WAIT, CLOSE_WAIT, LAST_ACK, CLOSING.
        for old in [1, 4, 5, 6, 8, 9, 11] {
            assert_eq!(SocketEvent::of(op::STATE, old, state::CLOSE), Some(SocketEvent::Closed), "{old}");
        }
        for old in [state::SYN_SENT, state::SYN_RECV, state::CLOSE, state::NEW_SYN_RECV, state::BOUND_INACTIVE] {
            assert_eq!(SocketEvent::of(op::STATE, old, state::CLOSE), None, "{old}");
        }
        assert_eq!(SocketEvent::of(op::STATE, state::LISTEN, state::CLOSE), Some(SocketEvent::ListenClosed));
    }

    #[test]
    fn other_changes_and_callbacks_mean_nothing() {
        for new in (0..=14).filter(|&new| new != state::CLOSE) {
            for old in 0..=14 {
                assert_eq!(SocketEvent::of(op::STATE, old, new), None, "{old} -> {new}");
            }
        }
        for callback in [0, 1, 2, 3, 6, 7, 8, 9, 12, 13, 14, 15, 16, u32::MAX] {
            assert_eq!(SocketEvent::of(callback, 1, state::CLOSE), None, "{callback}");
        }
    }

    #[test]
    fn what_opens_asks_for_its_end() {
        assert!(SocketEvent::ListenOpened.opens());
        assert!(SocketEvent::EstablishedActive.opens() && SocketEvent::EstablishedPassive.opens());
        assert!(!SocketEvent::ListenClosed.opens() && !SocketEvent::Closed.opens());
    }
}
