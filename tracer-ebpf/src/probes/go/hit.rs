//! What every uprobe on a Go function needs: the process and its layout, the way from a
//! connection to its socket, and the requester.
//!
//! The probes sit on the `push %rbp` after the stack check, never on the entry (which runs twice when
//! the stack grows) and never on returns (whose trampolines Go's stack copying destroys). There
//! the arguments are still in the registers of Go's ABI (`cmd/compile/abi-internal.md`: RAX, RBX,
//! RCX, RDI, …; R14 is the goroutine), the return address is at the top of the stack, and RBP is
//! the caller's frame. They run in the context of the thread that runs the goroutine.
//!
//! A probe is attached to an executable, so it fires for every process that runs it; those that
//! are not in `GO_PROCESSES` leave after one look-up. Where uprobes can't attach, the kernel's
//! view of sockets remains.

use core::{
    ffi::c_void,
    sync::atomic::{Ordering, compiler_fence},
};

use aya_ebpf::{
    EbpfContext as _,
    helpers::generated::bpf_probe_read_user as raw_read_user,
    macros::map,
    maps::{Array, HashMap, PerCpuArray},
    programs::ProbeContext,
};
use tracer_ebpf::{
    Counter, GO_CONFIRMED, GO_FRAMES, GO_IN_FLIGHT, GO_QUERY_BYTES, GO_TLS, GO_WRAPPED, GoConn,
    GoKey, GoLayout, GoProcess, GoStack, LINE_BYTES, STACK_NONE, go_stack_hash as mix,
};

use super::{creations::creator, stacks::remember};
use crate::{
    core::{
        helpers::{current_task, now_ns},
        kernel::{Address, read, read_user},
        maps::{LANE_RUNTIME, SCRATCH, count},
        query::mask_query,
        sockets::entry,
        task::{UserRegs, active, current_tgid},
        transfers::first_seen,
    },
    offset,
};

/// Go processes to watch.
#[map]
pub static GO_PROCESSES: HashMap<u32, GoProcess> = HashMap::with_max_entries(4_096, 0);
/// One layout for each executable.
#[map]
pub static GO_LAYOUTS: Array<GoLayout> = Array::with_max_entries(256, 0);
/// Connections and streams by their object's address.
#[map]
pub static GO_CONNS: HashMap<GoKey, GoConn> = HashMap::with_max_entries(8_192, 0);
/// Values too large for the BPF stack.
#[repr(C)]
pub struct Scratch {
    conn: GoConn,
    stack: GoStack,
}

#[map]
static GO_SCRATCH: PerCpuArray<Scratch> = PerCpuArray::with_max_entries(1, 0);

const BPF_NOEXIST: u64 = 1;
/// Most layers (TLS, own types) between a connection and its socket.
const LAYERS: u32 = 4;
/// What every probe needs.
pub struct Hit {
    /// Process.
    pub tgid: u32,
    /// Added to an address of the file to get one of the process.
    pub bias: u64,
    /// Where things are in its executable.
    pub layout: &'static GoLayout,
    /// Its registers.
    pub regs: *const UserRegs,
}

/// A register of the program at the probe.
macro_rules! register {
    ($hit:expr, $name:ident) => {
        // SAFETY: the context of a uprobe is `struct pt_regs`; volatile, so that each register is
        // loaded by itself, as the verifier wants it.
        unsafe { core::ptr::read_volatile(&raw const (*$hit.regs).$name) }
    };
}
pub(crate) use register;

impl Hit {
    /// `None` for a process that is not watched.
    #[inline(always)]
    pub fn new(ctx: &ProbeContext) -> Option<Hit> {
        let tgid = current_tgid();
        // SAFETY: a map lookup; the value is copied at once.
        let process = *unsafe { GO_PROCESSES.get(&tgid) }?;
        Some(Hit {
            tgid,
            bias: process.bias,
            layout: GO_LAYOUTS.get(process.layout)?,
            regs: ctx.as_ptr() as *const UserRegs,
        })
    }

    /// The key of an object.
    #[inline(always)]
    pub fn key(&self, object: u64) -> GoKey {
        GoKey {
            object,
            tgid: self.tgid,
            pad: 0,
        }
    }

    /// The entry of an object.
    #[inline(always)]
    pub fn conn(&self, object: u64) -> Option<&'static mut GoConn> {
        // SAFETY: map values stay valid while the program runs. The runtime orders what happens to
        // one connection, but for its first request and the start of its goroutine, which set the
        // same.
        GO_CONNS
            .get_ptr_mut(&self.key(object))
            .map(|conn| unsafe { &mut *conn })
    }

    /// The entry of an object, made when there is none.
    #[inline(always)]
    pub fn conn_or_new(&self, object: u64, kind: u8) -> Option<&'static mut GoConn> {
        if let Some(conn) = self.conn(object) {
            return Some(conn);
        }
        // SAFETY: this CPU's slot; the program can't be interrupted by itself on a CPU.
        let fresh = unsafe { &mut (*GO_SCRATCH.get_ptr_mut(0)?).conn };
        fresh.version = 0;
        fresh.sk = 0;
        fresh.transport = 0;
        fresh.net_fd = 0;
        fresh.request_ns = 0;
        fresh.goid = 0;
        fresh.stack = STACK_NONE;
        fresh.inode = 0;
        fresh.fd = -1;
        fresh.requests = 0;
        fresh.kind = kind;
        fresh.state = 0;
        fresh.flags = 0;
        fresh.method_len = 0;
        fresh.scheme_len = 0;
        fresh.host_len = 0;
        fresh.path_len = 0;
        fresh.query_len = 0;
        let stored = GO_CONNS.insert(&self.key(object), fresh, BPF_NOEXIST);
        let conn = self.conn(object);
        if stored.is_err() && conn.is_none() {
            count(Counter::GoConnMapFull);
        }
        conn
    }

    /// Removes the entry of an object.
    #[inline(always)]
    pub fn forget(&self, object: u64) {
        let _ = GO_CONNS.remove(&self.key(object));
    }

    /// Follows a `net.Conn` to its socket.
    #[inline(always)]
    pub fn locate(&self, conn: &mut GoConn, table: u64, data: u64) {
        let (net_fd, flags) = self.follow(table, data);
        self.place(conn, net_fd, flags);
    }

    /// As [`Hit::locate`], with the first of the values from `first` to `last` within `object` that
    /// is a `net.Conn` of a socket.
    #[inline(always)]
    pub fn locate_within(&self, conn: &mut GoConn, object: u64, first: u64, last: u64) {
        let (mut net_fd, mut flags) = (0, 0);
        let mut at = first;
        while at <= last {
            let [table, data]: [u64; 2] = read_user(object + at);
            (net_fd, flags) = self.follow(table, data);
            if net_fd != 0 {
                break;
            }
            at += 8;
        }
        self.place(conn, net_fd, flags);
    }

    /// The `net.netFD` that a `net.Conn` leads to, or 0, and what lies between.
    #[inline(always)]
    fn follow(&self, mut table: u64, mut data: u64) -> (u64, u8) {
        let layout = self.layout;
        let mut flags = 0;
        let mut layer = 0;
        while layer < LAYERS {
            let close =
                read_user::<u64>(table + u64::from(layout.itab_fun)).wrapping_sub(self.bias);
            if close == layout.tcp_close || close == layout.unix_close {
                return (read_user(data), flags);
            }
            flags |= if close == layout.tls_close {
                GO_TLS
            } else {
                GO_WRAPPED
            };
            // The wrapped connection is the first member.
            let inner: [u64; 2] = read_user(data);
            table = inner[0];
            data = inner[1];
            layer += 1;
        }
        (0, flags)
    }

    /// Enters the socket of a `net.netFD`.
    #[inline(always)]
    fn place(&self, conn: &mut GoConn, net_fd: u64, flags: u8) {
        let fd = match net_fd {
            0 => -1,
            of => read_user::<i32>(of + u64::from(self.layout.fd_sysfd)),
        };
        let mut inode = 0;
        let sk = self.socket(fd, &mut inode);
        conn.flags |= flags;
        conn.fd = fd;
        conn.net_fd = net_fd;
        conn.inode = inode;
        conn.sk = sk;
    }

    /// The socket behind a descriptor of the current process.
    #[inline(always)]
    pub fn socket(&self, fd: i32, inode: &mut u32) -> Address {
        if fd < 0 {
            return 0;
        }
        let layout = self.layout;
        let task = current_task();
        let files: Address = read(task, layout.task_files as usize);
        let table: Address = read(files, layout.files_fdt as usize);
        let array: Address = read(table, layout.fdt_fd as usize);
        let file: Address = read(array, fd as usize * 8);
        let socket: Address = read(file, offset!(file_private_data));
        // A descriptor of something else has other private data; a socket points back.
        if file == 0 || read::<Address>(socket, offset!(socket_file)) != file {
            return 0;
        }
        *inode = read::<u64>(read(file, offset!(file_inode)), offset!(inode_ino)) as u32;
        read(socket, offset!(socket_sk))
    }

    /// A new request on a connection: who issued it, and what it asks for.
    #[inline(always)]
    pub fn request(&self, conn: &mut GoConn, request: u64, method: u32, url: u32) {
        let layout = self.layout;
        let writing = self.begin_request(conn);
        conn.method_len = text(request + u64::from(method), &mut conn.method) as u8;
        let url: u64 = read_user(request + u64::from(url));
        conn.scheme_len = text(url, &mut conn.scheme);
        conn.host_len = text(url + u64::from(layout.url_host), &mut conn.host);
        conn.path_len = text(url + u64::from(layout.url_path), &mut conn.path);
        conn.query_len = query(url + u64::from(layout.url_query), &mut conn.query);
        set_version(conn, writing.wrapping_add(1));
    }

    /// A new call of grpc: who made it, and what it asks for. `host` and `method` are where those
    /// strings are.
    #[inline(always)]
    pub fn call(&self, conn: &mut GoConn, host: u64, method: u64) {
        let writing = self.begin_request(conn);
        conn.method = *b"POST\0\0\0\0";
        conn.method_len = 4;
        conn.scheme = *b"https\0\0\0";
        conn.scheme_len = if conn.flags & GO_TLS != 0 { 5 } else { 4 };
        conn.host_len = text(host, &mut conn.host);
        conn.path_len = text(method, &mut conn.path);
        conn.query_len = 0;
        set_version(conn, writing.wrapping_add(1));
    }

    /// Enters who issues a request; the version that the entry has until all of it is written.
    #[inline(always)]
    fn begin_request(&self, conn: &mut GoConn) -> u32 {
        let goroutine = register!(self, r14);
        let goid = read_user(goroutine + u64::from(self.layout.g_goid));
        let stack = self.stack::<true>(goroutine, goid);
        let writing = conn.version | 1;
        set_version(conn, writing);
        conn.goid = goid;
        conn.stack = stack;
        conn.requests += 1;
        conn.state = GO_IN_FLIGHT;
        conn.request_ns = now_ns();
        conn.state_ns = conn.request_ns;
        writing
    }

    /// Writes the requester into the kernel's entry of the socket, so that its cohort is the
    /// requester's even after its end.
    #[inline(always)]
    pub fn charge(&self, conn: &mut GoConn) {
        let mut known = entry(conn.sk).filter(|sock| sock.inode == 0 || sock.inode == conn.inode);
        // Where nothing tells that a UNIX socket connects, it comes into view with its first use.
        if known.is_none() && conn.sk != 0 && active() && first_seen(conn.sk, false) {
            known = entry(conn.sk);
        }
        if let Some(sock) = known
            && sock.tgid == self.tgid
        {
            sock.request_stack = conn.stack;
            conn.flags |= GO_CONFIRMED;
        }
    }

    /// The id of the current stack, by frame pointers, which Go always keeps. `AT_ENTRY`: the
    /// function has no frame of its own yet.
    #[inline(always)]
    pub fn stack<const AT_ENTRY: bool>(&self, goroutine: u64, goid: u64) -> u32 {
        let Some(scratch) = GO_SCRATCH.get_ptr_mut(0) else {
            return STACK_NONE;
        };
        // SAFETY: this CPU's slot.
        let stack = unsafe { &mut (*scratch).stack };
        let mut frame = register!(self, bp);
        stack.ips[0] = register!(self, ip);
        let mut hash = mix(u64::from(self.tgid), stack.ips[0]);
        let mut used = 1;
        if AT_ENTRY {
            let caller: u64 = read_user(register!(self, sp));
            stack.ips[1] = caller;
            hash = mix(hash, caller);
            used = 2;
        }
        while used < GO_FRAMES {
            let [outer, address]: [u64; 2] = read_user(frame);
            if address == 0 {
                break;
            }
            stack.ips[used] = address;
            hash = mix(hash, address);
            used += 1;
            // Frames lie further and further up the stack; anything else is not one.
            if outer <= frame {
                break;
            }
            frame = outer;
        }
        stack.creator = creator(self.tgid, goid);
        stack.begun_at = read_user(goroutine + u64::from(self.layout.g_gopc));
        stack.hash = mix(hash, u64::from(stack.creator));
        stack.tgid = self.tgid;
        stack.frames = used as u32;
        stack.pad = 0;
        remember(stack)
    }
}

/// Reads a Go string into a buffer whose size is a power of two; returns the string's length.
#[inline(always)]
fn text<const BYTES: usize>(header: u64, into: &mut [u8; BYTES]) -> u16 {
    let [start, len]: [u64; 2] = read_user(header);
    if start == 0 || len == 0 || len > 0xffff {
        return 0;
    }
    let mut take = len as u32;
    if take > BYTES as u32 {
        take = BYTES as u32;
    }
    // Says the same again in a way that every verifier understands.
    let take = take & (2 * BYTES as u32 - 1);
    if take == 0 || take > BYTES as u32 {
        return 0;
    }
    // SAFETY: at most `BYTES` bytes are written; the helper checks the source.
    let failed = unsafe {
        raw_read_user(
            into.as_mut_ptr().cast::<c_void>(),
            take,
            start as *const c_void,
        )
    };
    if failed == 0 { len as u16 } else { 0 }
}

/// The same for a URL's query, of which only the names of parameters are kept.
#[inline(always)]
fn query(header: u64, into: &mut [u8; GO_QUERY_BYTES]) -> u16 {
    let Some(scratch) = SCRATCH.get_ptr_mut(LANE_RUNTIME) else {
        return 0;
    };
    // SAFETY: this program's room on this CPU.
    let line = unsafe { &mut (*scratch).head.line };
    *line = [0; LINE_BYTES];
    let Some((mark, rest)) = line.split_first_chunk_mut::<8>() else {
        return 0;
    };
    mark[7] = b'?';
    let Some(first) = rest.first_chunk_mut::<GO_QUERY_BYTES>() else {
        return 0;
    };
    let len = text(header, first);
    mask_query(LANE_RUNTIME);
    // SAFETY: both are arrays of that length, aligned as words.
    unsafe {
        let from = first.as_ptr().cast::<u64>();
        let to = into.as_mut_ptr().cast::<u64>();
        let mut word = 0;
        while word < GO_QUERY_BYTES / 8 {
            to.add(word).write(from.add(word).read());
            word += 1;
        }
    }
    len
}

/// Sets the version after everything written so far, and before everything written from here on
/// (x86 keeps the order of stores).
#[inline(always)]
fn set_version(conn: &mut GoConn, version: u32) {
    compiler_fence(Ordering::SeqCst);
    // SAFETY: a reference is valid and aligned.
    unsafe { core::ptr::write_volatile(&raw mut conn.version, version) };
    compiler_fence(Ordering::SeqCst);
}

/// A new state, as of now.
#[inline(always)]
pub fn set_state(conn: &mut GoConn, state: u8) {
    conn.state = state;
    conn.state_ns = now_ns();
}
