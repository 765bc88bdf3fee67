//! Programs on kernel functions, for what has no tracepoint: fexit and fentry, and the same cores
//! behind kprobes. A kretprobe does not see the arguments, so its kprobe leaves them in `CALLS`.

use aya_ebpf::{
    EbpfContext as _,
    helpers::bpf_get_current_pid_tgid,
    macros::{fentry, fexit, kprobe, kretprobe, map},
    maps::LruHashMap,
    programs::{FEntryContext, FExitContext, ProbeContext, RetProbeContext},
};
use tracer_ebpf::{CallKey, CallValue, Counter};

use crate::{
    accepts,
    kernel::{Address, read},
    maps::count,
    offset,
    sockets::entry,
    transfers::{MSG_PEEK, transferred},
    unix,
};

/// Calls that are under way, by thread and function.
#[map]
static CALLS: LruHashMap<CallKey, CallValue> = LruHashMap::with_max_entries(4_096, 0);

const SEND: u32 = 1;
const RECEIVE_UNIX: u32 = 2;
const CONNECT: u32 = 3;
const ACCEPT: u32 = 4;
const RECEIVE_TCP: u32 = 5;

/// The `struct sock *` of a `struct socket *`.
#[inline(always)]
fn sk_of(socket: Address) -> Address {
    if socket == 0 {
        0
    } else {
        read(socket, offset!(socket_sk))
    }
}

/// Argument of a trampoline program as a plain number; the return value follows the last.
#[inline(always)]
fn argument(ctx: *mut core::ffi::c_void, index: usize) -> u64 {
    read(ctx as u64, index * size_of::<u64>())
}

/// The current thread in a function.
#[inline(always)]
fn in_function(function: u32) -> CallKey {
    CallKey {
        thread: bpf_get_current_pid_tgid(),
        function: u64::from(function),
    }
}

#[inline(always)]
fn enter(function: u32, sk: Address, flags: u64) -> u32 {
    let key = in_function(function);
    // SAFETY: a map lookup; the value is not kept.
    if unsafe { CALLS.get(&key) }.is_some() {
        count(Counter::ReturnMissed);
    }
    let _ = CALLS.insert(&key, &CallValue { sk, flags }, 0);
    0
}

#[inline(always)]
fn leave(function: u32) -> Option<CallValue> {
    let key = in_function(function);
    // SAFETY: a map lookup; the value is copied at once.
    let call = unsafe { CALLS.get(&key) }.copied();
    let _ = CALLS.remove(&key);
    call
}

#[inline(always)]
fn receive(sk: Address, flags: u64, result: i32) -> u32 {
    if flags as i32 & MSG_PEEK == 0 {
        transferred(sk, result, false);
    }
    0
}

// ---- sends and receives where sock_send_length is missing (before 6.3); the caller's context

/// `int tcp_sendmsg(struct sock *sk, struct msghdr *msg, size_t size)`, net/ipv4/tcp.c.
#[fexit(function = "tcp_sendmsg")]
pub fn tcp_sent(ctx: FExitContext) -> u32 {
    transferred(
        argument(ctx.as_ptr(), 0),
        argument(ctx.as_ptr(), 3) as i32,
        true,
    );
    0
}

/// `int unix_stream_sendmsg(struct socket *sock, struct msghdr *msg, size_t len)`,
/// net/unix/af_unix.c.
#[fexit(function = "unix_stream_sendmsg")]
pub fn unix_sent(ctx: FExitContext) -> u32 {
    transferred(
        sk_of(argument(ctx.as_ptr(), 0)),
        argument(ctx.as_ptr(), 3) as i32,
        true,
    );
    0
}

/// `int tcp_recvmsg(struct sock *sk, struct msghdr *msg, size_t len, int flags)`, from 7.1.
#[fexit(function = "tcp_recvmsg")]
pub fn tcp_received4(ctx: FExitContext) -> u32 {
    let ctx = ctx.as_ptr();
    receive(argument(ctx, 0), argument(ctx, 3), argument(ctx, 4) as i32)
}

/// The same with `int *addr_len` at the end, 5.19 to 7.0.
#[fexit(function = "tcp_recvmsg")]
pub fn tcp_received5(ctx: FExitContext) -> u32 {
    let ctx = ctx.as_ptr();
    receive(argument(ctx, 0), argument(ctx, 3), argument(ctx, 5) as i32)
}

/// The same with `int nonblock` before the flags, until 5.18.
#[fexit(function = "tcp_recvmsg")]
pub fn tcp_received6(ctx: FExitContext) -> u32 {
    let ctx = ctx.as_ptr();
    receive(argument(ctx, 0), argument(ctx, 4), argument(ctx, 6) as i32)
}

/// `int unix_stream_recvmsg(struct socket *sock, struct msghdr *msg, size_t size, int flags)`.
#[fexit(function = "unix_stream_recvmsg")]
pub fn unix_received(ctx: FExitContext) -> u32 {
    let ctx = ctx.as_ptr();
    receive(
        sk_of(argument(ctx, 0)),
        argument(ctx, 3),
        argument(ctx, 4) as i32,
    )
}

/// As `tcp_sent`: its entry.
#[kprobe]
pub fn k_tcp_send(ctx: ProbeContext) -> u32 {
    enter(SEND, ctx.arg(0).unwrap_or(0), 0)
}

/// As `unix_sent`: its entry.
#[kprobe]
pub fn k_unix_send(ctx: ProbeContext) -> u32 {
    enter(SEND, sk_of(ctx.arg(0).unwrap_or(0)), 0)
}

/// The return of either.
#[kretprobe]
pub fn k_sent(ctx: RetProbeContext) -> u32 {
    if let Some(call) = leave(SEND) {
        transferred(call.sk, ctx.ret::<i32>(), true);
    }
    0
}

/// As `tcp_received4` and `tcp_received5`: their entry.
#[kprobe]
pub fn k_tcp_receive(ctx: ProbeContext) -> u32 {
    enter_receive(
        RECEIVE_TCP,
        ctx.arg(0).unwrap_or(0),
        ctx.arg(3).unwrap_or(0),
    )
}

/// As `tcp_received6`: its entry.
#[kprobe]
pub fn k_tcp_receive6(ctx: ProbeContext) -> u32 {
    enter_receive(
        RECEIVE_TCP,
        ctx.arg(0).unwrap_or(0),
        ctx.arg(4).unwrap_or(0),
    )
}

#[inline(always)]
fn enter_receive(function: u32, sk: Address, flags: u64) -> u32 {
    let _ = CALLS.insert(&in_function(function), &CallValue { sk, flags }, 0);
    0
}

/// A call whose entry was not seen or is forgotten: `CALLS` keeps the latest of all threads.
#[inline(always)]
fn missed() -> u32 {
    count(Counter::ReturnMissed);
    0
}

/// The call that the current thread entered last.
#[inline(always)]
fn entered(function: u32) -> Option<CallValue> {
    // SAFETY: a map lookup; the value is copied at once.
    unsafe { CALLS.get(in_function(function)) }.copied()
}

/// What `tcp_recvmsg` calls when it has copied something, so that no return need be waited for: as
/// many threads may wait in it as there are, and the kernel remembers returns for ten.
/// `void tcp_cleanup_rbuf(struct sock *sk, int copied)`, net/ipv4/tcp.c.
#[kprobe]
pub fn k_tcp_received(ctx: ProbeContext) -> u32 {
    let sk: Address = ctx.arg(0).unwrap_or(0);
    let copied: i32 = ctx.arg(1).unwrap_or(0);
    match entered(RECEIVE_TCP) {
        Some(call) if call.sk == sk => receive(sk, call.flags, copied),
        None if copied > 0 && entry(sk).is_some() => missed(),
        _ => 0,
    }
}

/// As `unix_received`: its entry.
#[kprobe]
pub fn k_unix_receive(ctx: ProbeContext) -> u32 {
    let sk = sk_of(ctx.arg(0).unwrap_or(0));
    enter_receive(RECEIVE_UNIX, sk, ctx.arg(3).unwrap_or(0))
}

/// What it calls to copy each piece, for the same reason: `int unix_stream_read_actor(struct
/// sk_buff *skb, int skip, int chunk, struct unix_stream_read_state *state)`, net/unix/af_unix.c.
#[kprobe]
pub fn k_unix_received(ctx: ProbeContext) -> u32 {
    match entered(RECEIVE_UNIX) {
        Some(call) => receive(call.sk, call.flags, ctx.arg(2).unwrap_or(0)),
        None => missed(),
    }
}

// ---- accept: the owner and its stack at once; the caller's context

/// `int inet_accept(struct socket *sock, struct socket *newsock, struct proto_accept_arg *arg)`,
/// from 6.10.
#[fexit(function = "inet_accept")]
pub fn tcp_accepted3(ctx: FExitContext) -> u32 {
    let ctx = ctx.as_ptr();
    accepts::accepted(sk_of(argument(ctx, 1)), argument(ctx, 3) as i32)
}

/// The same with `int flags, bool kern` in place of `arg`, until 6.9.
#[fexit(function = "inet_accept")]
pub fn tcp_accepted4(ctx: FExitContext) -> u32 {
    let ctx = ctx.as_ptr();
    accepts::accepted(sk_of(argument(ctx, 1)), argument(ctx, 4) as i32)
}

/// `struct sock *inet_csk_accept(struct sock *sk, …)`: the return value is the new socket.
#[kretprobe]
pub fn k_tcp_accepted(ctx: RetProbeContext) -> u32 {
    let sk: u64 = ctx.ret();
    accepts::accepted(sk, if sk == 0 { -1 } else { 0 })
}

/// `int unix_accept(struct socket *sock, struct socket *newsock, struct proto_accept_arg *arg)`,
/// from 6.10.
#[fexit(function = "unix_accept")]
pub fn unix_accepted3(ctx: FExitContext) -> u32 {
    let ctx = ctx.as_ptr();
    accepts::unix_opened(sk_of(argument(ctx, 1)), argument(ctx, 3) as i32)
}

/// The same until 6.9.
#[fexit(function = "unix_accept")]
pub fn unix_accepted4(ctx: FExitContext) -> u32 {
    let ctx = ctx.as_ptr();
    accepts::unix_opened(sk_of(argument(ctx, 1)), argument(ctx, 4) as i32)
}

/// As `unix_accepted3`: its entry. The new socket has no `struct sock` yet.
#[kprobe]
pub fn k_unix_accept(ctx: ProbeContext) -> u32 {
    enter(ACCEPT, ctx.arg(1).unwrap_or(0), 0)
}

/// Its return.
#[kretprobe]
pub fn k_unix_accepted(ctx: RetProbeContext) -> u32 {
    match leave(ACCEPT) {
        Some(call) => accepts::unix_opened(sk_of(call.sk), ctx.ret::<i32>()),
        None => 0,
    }
}

// ---- UNIX stream sockets: their opening and their end; the caller's context

/// `int unix_stream_connect(struct socket *sock, struct sockaddr *uaddr, int addr_len, int flags)`.
#[fexit(function = "unix_stream_connect")]
pub fn unix_connected(ctx: FExitContext) -> u32 {
    let ctx = ctx.as_ptr();
    accepts::unix_opened(sk_of(argument(ctx, 0)), argument(ctx, 4) as i32)
}

/// Its entry.
#[kprobe]
pub fn k_unix_connect(ctx: ProbeContext) -> u32 {
    enter(CONNECT, sk_of(ctx.arg(0).unwrap_or(0)), 0)
}

/// Its return.
#[kretprobe]
pub fn k_unix_connected(ctx: RetProbeContext) -> u32 {
    match leave(CONNECT) {
        Some(call) => accepts::unix_opened(call.sk, ctx.ret::<i32>()),
        None => 0,
    }
}

/// `int unix_release(struct socket *sock)`: the last descriptor was closed.
#[fentry(function = "unix_release")]
pub fn unix_closed(ctx: FEntryContext) -> u32 {
    unix::closed(sk_of(argument(ctx.as_ptr(), 0)))
}

/// The same.
#[kprobe]
pub fn k_unix_closed(ctx: ProbeContext) -> u32 {
    unix::closed(sk_of(ctx.arg(0).unwrap_or(0)))
}
