//! Uprobes on the functions by which programs hand plaintext to a TLS library, and on those by which
//! they get it where frames of HTTP/2 are followed.
//!
//! Runs in the context of the thread that writes; it fires for every process that runs the
//! library's code, and those that are not of the target leave at once. Nothing is seen of what is
//! written by other functions (`SSL_sendfile`, kernel TLS), nor in libraries without these symbols:
//! the server name of the handshake remains.

use aya_ebpf::{EbpfContext as _, macros::uprobe, programs::ProbeContext};

use crate::core::{
    plaintext::keep_plaintext,
    task::{SavedRegs, UserRegs, active, current_is_target},
    tls_http2::{read_begins, read_ends},
};

/// `int SSL_write(SSL *, const void *buf, int num)`, `int SSL_write_ex(SSL *, const void *buf,
/// size_t num, size_t *written)` (OpenSSL 1.1, 3.x and BoringSSL, ssl/ssl_lib.c), and
/// `ssize_t gnutls_record_send(gnutls_session_t, const void *data, size_t size)` (lib/record.c).
#[uprobe]
pub fn tls_write(ctx: ProbeContext) -> u32 {
    let regs = ctx.as_ptr().cast::<UserRegs>();
    // SAFETY: the context of a uprobe is `struct pt_regs`; volatile, so that each register is loaded
    // by itself, as the verifier wants it.
    let (object, buffer, bytes, saved) = unsafe {
        (
            core::ptr::read_volatile(&raw const (*regs).di),
            core::ptr::read_volatile(&raw const (*regs).si),
            core::ptr::read_volatile(&raw const (*regs).dx),
            SavedRegs {
                r15: core::ptr::read_volatile(&raw const (*regs).r15),
                r14: core::ptr::read_volatile(&raw const (*regs).r14),
                r13: core::ptr::read_volatile(&raw const (*regs).r13),
                r12: core::ptr::read_volatile(&raw const (*regs).r12),
                bp: 0,
                bx: core::ptr::read_volatile(&raw const (*regs).bx),
            },
        )
    };
    keep_plaintext(object, buffer, bytes as u32, &saved);
    0
}

/// A register of the probed function, by its name.
macro_rules! register {
    ($ctx:expr, $name:ident) => {
        // SAFETY: as in `tls_write`.
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
