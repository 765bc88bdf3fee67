//! Uprobes on the functions by which programs hand plaintext to a TLS library, and on those by which
//! they get it where frames of HTTP/2 are followed.
//!
//! Runs in the context of the thread that writes; it fires for every process that runs the
//! library's code, and those that are not of the target leave at once. Nothing is seen of what is
//! written by other functions (`SSL_sendfile`, kernel TLS), nor in libraries without these symbols:
//! the server name of the handshake remains.

use aya_ebpf::{EbpfContext as _, macros::uprobe, programs::ProbeContext};

use crate::core::{
    kernel::read_user,
    plaintext::{Written, keep_plaintext},
    task::{SavedRegs, UserRegs, active, current_is_target},
    tls_http2::{read_begins, read_ends},
};

/// `int SSL_write(SSL *, const void *buf, int num)`, `int SSL_write_ex(SSL *, const void *buf,
/// size_t num, size_t *written)` (OpenSSL 1.1, 3.x and BoringSSL, ssl/ssl_lib.c), and
/// `ssize_t gnutls_record_send(gnutls_session_t, const void *data, size_t size)` (lib/record.c).
#[uprobe]
pub fn tls_write(ctx: ProbeContext) -> u32 {
    let (object, buffer, bytes) = arguments(&ctx);
    keep_plaintext(object, Written::one(buffer, bytes), &saved(&ctx));
    0
}

/// `<rustls::conn::connection::Writer as std::io::Write>::write(&mut self, &[u8])` (rustls,
/// src/conn.rs). The writer's first member is the connection.
#[uprobe]
pub fn tls_write_rust(ctx: ProbeContext) -> u32 {
    let (writer, buffer, bytes) = arguments(&ctx);
    keep_plaintext(read_user(writer), Written::one(buffer, bytes), &saved(&ctx));
    0
}

/// The same with `&[IoSlice]`, each of which is a `struct iovec`: `write_vectored`.
#[uprobe]
pub fn tls_writev_rust(ctx: ProbeContext) -> u32 {
    let (writer, pieces, count) = arguments(&ctx);
    let written = Written::pieces(pieces, count);
    keep_plaintext(read_user(writer), written, &saved(&ctx));
    0
}

/// The first three arguments, the third as a number of bytes or pieces.
#[inline(always)]
fn arguments(ctx: &ProbeContext) -> (u64, u64, u32) {
    let regs = ctx.as_ptr().cast::<UserRegs>();
    // SAFETY: the context of a uprobe is `struct pt_regs`; volatile, so that each register is loaded
    // by itself, as the verifier wants it.
    unsafe {
        (
            core::ptr::read_volatile(&raw const (*regs).di),
            core::ptr::read_volatile(&raw const (*regs).si),
            core::ptr::read_volatile(&raw const (*regs).dx) as u32,
        )
    }
}

/// The registers that callers find as they left them.
#[inline(always)]
fn saved(ctx: &ProbeContext) -> SavedRegs {
    let regs = ctx.as_ptr().cast::<UserRegs>();
    // SAFETY: as in `arguments`.
    unsafe {
        SavedRegs {
            r15: core::ptr::read_volatile(&raw const (*regs).r15),
            r14: core::ptr::read_volatile(&raw const (*regs).r14),
            r13: core::ptr::read_volatile(&raw const (*regs).r13),
            r12: core::ptr::read_volatile(&raw const (*regs).r12),
            bp: 0,
            bx: core::ptr::read_volatile(&raw const (*regs).bx),
        }
    }
}

/// A register of the probed function, by its name.
macro_rules! register {
    ($ctx:expr, $name:ident) => {
        // SAFETY: as in `arguments`.
        unsafe { core::ptr::read_volatile(&raw const (*($ctx.as_ptr() as *const UserRegs)).$name) }
    };
}

/// `int SSL_read(SSL *, void *buf, int num)` (OpenSSL, BoringSSL, ssl/ssl_lib.c).
#[uprobe]
pub fn tls_read(ctx: ProbeContext) -> u32 {
    if active() && current_is_target() {
        read_begins(register!(ctx, di), register!(ctx, si), 0);
    }
    0
}

/// `int SSL_read_ex(SSL *, void *buf, size_t num, size_t *readbytes)` (OpenSSL 1.1.1).
#[uprobe]
pub fn tls_read_ex(ctx: ProbeContext) -> u32 {
    if active() && current_is_target() {
        read_begins(register!(ctx, di), register!(ctx, si), register!(ctx, cx));
    }
    0
}

/// The instructions by which these two return. An ordinary uprobe: nothing of the stack is changed,
/// as a probe on the return itself would.
#[uprobe]
pub fn tls_read_done(ctx: ProbeContext) -> u32 {
    if active() && current_is_target() {
        read_ends(register!(ctx, ax) as u32);
    }
    0
}
