//! Arguments, as each way to attach has them.

use aya_ebpf::{
    EbpfContext,
    programs::{BtfTracePointContext, RawTracePointContext},
};

use crate::core::kernel::{Address, Typed, read};
use crate::offset;

/// The `struct sock *` that is a typed tracepoint's first argument.
#[inline(always)]
pub fn typed_socket(ctx: &BtfTracePointContext) -> Typed {
    Typed::new(ctx.arg(0))
}

/// An argument of a raw tracepoint as a plain number.
#[inline(always)]
pub fn raw(ctx: &RawTracePointContext, index: usize) -> u64 {
    read(ctx.as_ptr() as u64, index * size_of::<u64>())
}

/// An argument of a trampoline's program as a plain number; the return value follows the last.
#[inline(always)]
pub fn argument(ctx: &impl EbpfContext, index: usize) -> u64 {
    read(ctx.as_ptr() as u64, index * size_of::<u64>())
}

/// The `struct sock *` of a `struct socket *`.
#[inline(always)]
pub fn sk_of(socket: Address) -> Address {
    if socket == 0 {
        0
    } else {
        read(socket, offset!(socket_sk))
    }
}
