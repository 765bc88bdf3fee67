//! Counters of what happened and, above all, of what was not recorded, by cause.

macro_rules! counters {
    ($($(#[doc = $doc:literal])* $name:ident = $index:literal, $text:literal;)*) => {
        /// Index into the per-CPU array `COUNTERS`; each slot counts events since loading.
        #[repr(u32)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Counter { $($(#[doc = $doc])* $name = $index,)* }

        impl Counter {
            /// Every counter, in index order.
            pub const ALL: &'static [Counter] = &[$(Counter::$name),*];

            /// The cause's name as users read it in `doctor`, `coverage` and `/metrics`.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Counter::$name => $text,)* }
            }
        }
    };
}

impl Counter {
    /// Whether it counts what was not recorded, rather than what was.
    #[must_use]
    pub const fn is_loss(self) -> bool {
        !matches!(
            self,
            Counter::Seen
                | Counter::Folded
                | Counter::Replaced
                | Counter::StackCopied
                | Counter::FoundByScan
                | Counter::Healed
        )
    }
}

counters! {
    /// Sockets that came into view: opened, accepted, first used, or found by reconciling.
    Seen = 0, "seen";
    /// Sockets that ended and were folded into `AGG` or deliberately forgotten.
    Folded = 1, "folded";
    /// A socket found no room when it was opened: `SOCKS` is full.
    SocketMapFull = 2, "socket_map_full";
    /// A folded socket lost its cohort: `AGG` is full; it is counted under the empty key.
    AggregateMapFull = 3, "aggregate_map_full";
    /// A request head could not be stored: `HEADS` is full.
    HeadMapFull = 4, "head_map_full";
    /// A stack copy found no room in the ring buffer.
    RingFull = 5, "ring_full";
    /// A stack was not copied because the process had used up its budget.
    StackOverBudget = 6, "stack_over_budget";
    /// A stack could not be read: no user registers, or the stack pages are absent.
    StackUnreadable = 7, "stack_unreadable";
    /// A process could not be added to the target: `TARGETS` is full.
    TargetMapFull = 8, "target_map_full";
    /// A listening socket could not be stored: `LISTENERS` is full.
    ListenerMapFull = 9, "listener_map_full";
    /// A UNIX path could not be stored: `PATHS` is full.
    PathMapFull = 10, "path_map_full";
    /// A connect error could not be counted by process: `ERRORS` is full.
    ErrorMapFull = 11, "error_map_full";
    /// An entry was replaced because the kernel reused its socket for another connection before
    /// its end was seen.
    Replaced = 12, "replaced";
    /// Stack copies handed to user space.
    StackCopied = 13, "stack_copied";
    /// Of the sockets seen, those that a descriptor scan found: older than the tracer, or missed.
    FoundByScan = 14, "found_by_scan";
    /// A connection of a Go program got no state: `GO_CONNS` is full.
    GoConnMapFull = 15, "go_connection_map_full";
    /// A Go requester's stack could not be stored: `GO_STACKS` is full.
    GoStackMapFull = 16, "go_stack_map_full";
    /// A socket could not be stored: `SOCKS` was being changed at the same time.
    SocketMapBusy = 17, "socket_map_busy";
    /// A transfer on a UNIX socket that is not stored, because `SOCKS` is full; the next scan
    /// counts such sockets.
    TransferUntracked = 18, "transfer_untracked";
    /// The return of a call was not seen, with kprobes only: more calls of the function were waiting
    /// than the kernel remembers returns for (ten, or twice the CPUs; kernel/kprobes.c), or than
    /// there is room for in `CALLS`. Calls of the whole host count.
    ReturnMissed = 19, "return_missed";
    /// A stream of HTTP/2, or its connection, could not be followed: `STREAMS` or `HTTP2` is full.
    StreamMapFull = 20, "stream_map_full";
    /// A header block of HTTP/2 found no room in its ring: requests that refer to it have no URL.
    BlockRingFull = 21, "block_ring_full";
    /// A connection's first message found no room in its ring: its protocol may have no name.
    GreetingRingFull = 22, "greeting_ring_full";
    /// An answer to a DNS query found no room in its ring: its addresses may have no name.
    AnswerRingFull = 23, "answer_ring_full";
    /// Of the sockets folded, those that a descriptor scan no longer found, whose end was missed:
    /// counted by user space, here because a successor takes over the counters with the sockets.
    Healed = 24, "healed";
}

const _: () = {
    let mut i = 0;
    while i < Counter::ALL.len() {
        assert!(Counter::ALL[i] as usize == i);
        i += 1;
    }
};
