//! Multipath TCP (`CONFIG_MPTCP`, net/mptcp). A program's descriptor refers to the connection, whose
//! data travels over subflows: TCP sockets of the kernel's, one or more. The connection is what is
//! recorded; a subflow leads to it, and has no record of its own.
//!
//! A listener for it (Go's, since 1.24) accepts plain TCP, too: then the kernel hands out the TCP
//! socket itself, and nothing here concerns it.

use tracer_ebpf::Offsets;

use super::kernel::{Address, IPPROTO_MPTCP, IPPROTO_TCP, Object, protocol, read};
use crate::offset;

/// Whether a socket's life is followed by its protocol.
#[inline(always)]
pub fn is_followed(protocol: u16) -> bool {
    protocol == IPPROTO_TCP || protocol == IPPROTO_MPTCP
}

/// Whether this is a connection that has subflows.
#[inline(always)]
pub fn is_connection(sk: impl Object) -> bool {
    protocol(sk) == IPPROTO_MPTCP
}

/// The connection that a TCP socket is a subflow of, or itself.
#[inline(always)]
pub fn connection_of(sk: Address) -> Address {
    if offset!(tcp_is_mptcp) == Offsets::MISSING as usize
        || offset!(subflow_conn) == Offsets::MISSING as usize
        || read::<u8>(sk, offset!(tcp_is_mptcp)) == 0
    {
        return sk;
    }
    let subflow: Address = read(sk, offset!(icsk_ulp_data));
    let connection: Address = read(subflow, offset!(subflow_conn));
    if connection == 0 { sk } else { connection }
}

/// The socket that knows a connection's addresses, which the connection itself may not yet.
#[inline(always)]
pub fn addressed(sk: Address) -> Address {
    if offset!(mptcp_first) == Offsets::MISSING as usize
        || read::<u16>(sk, offset!(skc_dport)) != 0
        || !is_connection(sk)
    {
        return sk;
    }
    let first: Address = read(sk, offset!(mptcp_first));
    if first == 0 { sk } else { first }
}
