//! Reads of kernel memory at offsets that user space resolved from BTF, and of the user
//! registers of the current task.

use core::{
    ffi::c_void,
    mem::{MaybeUninit, offset_of},
};

use aya_ebpf::helpers::{
    bpf_get_current_pid_tgid, bpf_get_current_task,
    generated::{
        bpf_get_current_ancestor_cgroup_id, bpf_get_current_task_btf, bpf_probe_read_kernel,
        bpf_probe_read_user, bpf_task_pt_regs,
    },
};
use tracer_ebpf::{Config, FILTER_CGROUP, FILTER_HOST, FILTER_PROCESS, Offsets, ROLE_PAIR};

use crate::maps::{ACTIVE, TARGETS};

/// Filled in by user space before loading.
#[unsafe(no_mangle)]
pub static OFFSETS: Offsets = zeroed();
/// Filled in by user space before loading.
#[unsafe(no_mangle)]
pub static CONFIG: Config = zeroed();

const fn zeroed<T: Copy>() -> T {
    // SAFETY: only used for plain integer records, for which all-zero is a value.
    unsafe { core::mem::zeroed() }
}

/// A member's offset. The load is volatile so that the compiler keeps it and the verifier, which
/// knows the frozen global's value, can fold it.
#[macro_export]
macro_rules! offset {
    ($field:ident) => {
        // SAFETY: a read of an initialized static.
        unsafe { core::ptr::read_volatile(&raw const $crate::kernel::OFFSETS.$field) as usize }
    };
}

/// A setting, see `offset!`.
#[macro_export]
macro_rules! config {
    ($field:ident) => {
        // SAFETY: a read of an initialized static.
        unsafe { core::ptr::read_volatile(&raw const $crate::kernel::CONFIG.$field) }
    };
}

/// Address of a kernel object.
pub type Address = u64;

/// A kernel object whose members can be read.
pub trait Object: Copy {
    /// Reads a member; zero when it can't be read.
    fn get<T: Copy + Default>(self, offset: usize) -> T;
    /// The object that a member points to.
    fn follow(self, offset: usize) -> Self;
    /// Its address, as a plain number.
    fn address(self) -> Address;
}

/// An object by a pointer whose type the verifier knows: its members are loaded directly, which
/// costs a fraction of a helper's call.
#[derive(Clone, Copy)]
pub struct Typed(u64);

impl Typed {
    /// From a pointer that the kernel gave to the program.
    #[inline(always)]
    pub const fn new(pointer: u64) -> Self {
        Self(pointer)
    }
}

impl Object for Typed {
    #[inline(always)]
    fn get<T: Copy + Default>(self, offset: usize) -> T {
        // SAFETY: the verifier checks the offset against the type; a bad address reads as zero.
        unsafe { core::ptr::read_volatile((self.0 + offset as u64) as *const T) }
    }

    #[inline(always)]
    fn follow(self, offset: usize) -> Self {
        Self(self.get(offset))
    }

    /// Global functions take plain numbers only. Swapping its bytes makes a pointer a number for
    /// the verifier, and swapping them back makes it the address again.
    #[inline(always)]
    fn address(self) -> Address {
        core::hint::black_box(self.0.swap_bytes()).swap_bytes()
    }
}

impl Object for Address {
    #[inline(always)]
    fn get<T: Copy + Default>(self, offset: usize) -> T {
        read(self, offset)
    }

    #[inline(always)]
    fn follow(self, offset: usize) -> Self {
        read(self, offset)
    }

    #[inline(always)]
    fn address(self) -> Address {
        self
    }
}

/// Reads `T` at `base + offset`; zero when the address can't be read.
#[inline(always)]
pub fn read<T: Copy + Default>(base: Address, offset: usize) -> T {
    filled_by(|to, bytes| {
        // SAFETY: `to` has room for that; the helper checks the source.
        unsafe { bpf_probe_read_kernel(to, bytes, (base + offset as u64) as *const c_void) };
    })
}

/// Reads `T` at a user address; zero when it can't be read.
#[inline(always)]
pub fn read_user<T: Copy + Default>(address: u64) -> T {
    filled_by(|to, bytes| {
        // SAFETY: `to` has room for that; the helper checks the source.
        unsafe { bpf_probe_read_user(to, bytes, address as *const c_void) };
    })
}

/// A value that a helper writes. Those that read memory write zeros where they fail
/// (kernel/trace/bpf_trace.c), so what they return need not be looked at: each look would double
/// the paths that the verifier follows.
#[inline(always)]
fn filled_by<T: Copy>(helper: impl FnOnce(*mut c_void, u32)) -> T {
    let mut value = MaybeUninit::<T>::uninit();
    helper(value.as_mut_ptr().cast(), size_of::<T>() as u32);
    // SAFETY: the helper has written all of it; the types read are plain numbers and arrays of them.
    unsafe { value.assume_init() }
}

/// Whether this set of programs is the one that collects.
#[inline(always)]
pub fn active() -> bool {
    let generation = config!(generation);
    generation == 0 || ACTIVE.get(0).is_some_and(|active| *active == generation)
}

/// The current process.
#[inline(always)]
pub fn current_tgid() -> u32 {
    (bpf_get_current_pid_tgid() >> 32) as u32
}

/// The current thread.
#[inline(always)]
pub fn current_tid() -> u32 {
    bpf_get_current_pid_tgid() as u32
}

/// Whether the current process is to be watched.
#[inline(always)]
pub fn current_is_target() -> bool {
    let tgid = current_tgid();
    match config!(filter) {
        // SAFETY: a map lookup; the value is not kept.
        FILTER_PROCESS => unsafe { TARGETS.get(&tgid) }.is_some(),
        FILTER_CGROUP => current_cgroup(config!(cgroup_level)) == config!(cgroup_id),
        FILTER_HOST => tgid != 0 && tgid != config!(own_tgid),
        _ => false,
    }
}

/// Id of the current task's cgroup v2, or of the ancestor of it at this level; 0 where it is not
/// that deep. 5.10 has the helper for other programs only (kernel/trace/bpf_trace.c); kernels that
/// may lack it have the ids in the cgroup itself.
#[inline(always)]
fn current_cgroup(level: u32) -> u64 {
    if offset!(cgroup_ancestor_ids) == Offsets::MISSING as usize {
        // SAFETY: the helper has no preconditions.
        return unsafe { bpf_get_current_ancestor_cgroup_id(level as i32) };
    }
    // SAFETY: the helper has no preconditions.
    let task = unsafe { bpf_get_current_task() };
    let set: Address = read(task, offset!(task_cgroups));
    let cgroup: Address = read(set, offset!(css_set_dfl_cgrp));
    if level > read::<u32>(cgroup, offset!(cgroup_level)) {
        return 0;
    }
    let of_level = level as usize * size_of::<u64>();
    read(cgroup, offset!(cgroup_ancestor_ids) + of_level)
}

/// The user registers of a task, as `struct pt_regs` has them on x86-64
/// (arch/x86/include/asm/ptrace.h).
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct UserRegs {
    pub r15: u64,
    pub r14: u64,
    pub r13: u64,
    pub r12: u64,
    pub bp: u64,
    pub bx: u64,
    pub r11: u64,
    pub r10: u64,
    pub r9: u64,
    pub r8: u64,
    pub ax: u64,
    pub cx: u64,
    pub dx: u64,
    pub si: u64,
    pub di: u64,
    pub orig_ax: u64,
    pub ip: u64,
    pub cs: u64,
    pub flags: u64,
    pub sp: u64,
}

/// The registers that a callee must preserve, as the user left them: the start of [`UserRegs`].
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct SavedRegs {
    pub r15: u64,
    pub r14: u64,
    pub r13: u64,
    pub r12: u64,
    pub bp: u64,
    pub bx: u64,
}

/// Where the user was.
#[derive(Clone, Copy, Default)]
pub struct Position {
    pub ip: u64,
    pub sp: u64,
}

/// Size of a kernel stack on x86-64 without KASAN (`THREAD_SIZE`), for kernels that lack
/// `bpf_task_pt_regs`.
const THREAD_SIZE: u64 = 16 << 10;
/// Code segment of 64-bit user code (`__USER_CS`).
const USER_CS: u16 = 0x33;

/// Address of the current task's saved user registers, where there is no helper for it.
#[inline(always)]
fn user_regs_address() -> Address {
    // SAFETY: the helper has no preconditions.
    let task = unsafe { bpf_get_current_task() };
    read::<u64>(task, offset!(task_stack)) + THREAD_SIZE - offset!(regs_size) as u64
}

/// The same as an object.
#[inline(always)]
fn user_regs() -> Typed {
    // SAFETY: both helpers are valid in every context that these programs run in.
    Typed(unsafe { bpf_task_pt_regs(bpf_get_current_task_btf()) } as u64)
}

/// A word of the current task's saved user registers.
#[inline(always)]
fn user_reg(offset: usize) -> u64 {
    if config!(have_task_regs) != 0 {
        user_regs().get(offset)
    } else {
        read(user_regs_address(), offset)
    }
}

/// Where the current task was in user code, or `None` outside 64-bit user tasks.
#[inline(always)]
pub fn position() -> Option<Position> {
    const IP: usize = offset_of!(UserRegs, ip);
    const CS: usize = offset_of!(UserRegs, cs);
    const SP: usize = offset_of!(UserRegs, sp);
    // the segment is 16 bits wide; some kernels keep other things beside it
    let (cs, position): (u16, Position) = if config!(have_task_regs) != 0 {
        let regs = user_regs();
        let (ip, sp) = (regs.get(IP), regs.get(SP));
        (regs.get(CS), Position { ip, sp })
    } else {
        let regs = user_regs_address();
        let (ip, sp) = (read(regs, IP), read(regs, SP));
        (read(regs, CS), Position { ip, sp })
    };
    if cs == USER_CS { Some(position) } else { None }
}

/// The registers that callees preserve.
#[inline(always)]
pub fn saved_regs() -> SavedRegs {
    if config!(have_task_regs) != 0 {
        let regs = user_regs();
        SavedRegs {
            r15: regs.get(offset_of!(UserRegs, r15)),
            r14: regs.get(offset_of!(UserRegs, r14)),
            r13: regs.get(offset_of!(UserRegs, r13)),
            r12: regs.get(offset_of!(UserRegs, r12)),
            bp: regs.get(offset_of!(UserRegs, bp)),
            bx: regs.get(offset_of!(UserRegs, bx)),
        }
    } else {
        read(user_regs_address(), 0)
    }
}

/// Number of the system call the current task is in.
#[inline(always)]
pub fn current_syscall() -> u64 {
    user_reg(offset_of!(UserRegs, orig_ax))
}

/// Second argument of that system call.
#[inline(always)]
pub fn second_argument() -> u64 {
    user_reg(offset_of!(UserRegs, si))
}

/// `AF_UNIX`
pub const AF_UNIX: u16 = 1;
/// `AF_INET`
pub const AF_INET: u16 = 2;
/// `AF_INET6`
pub const AF_INET6: u16 = 10;
/// `SOCK_STREAM`
pub const SOCK_STREAM: u16 = 1;
/// `IPPROTO_TCP`
pub const IPPROTO_TCP: u16 = 6;

/// Family of a socket.
#[inline(always)]
pub fn family(sk: impl Object) -> u16 {
    sk.get(offset!(skc_family))
}

/// Network namespace of a socket, by inode number.
#[inline(always)]
pub fn netns(sk: impl Object) -> u32 {
    sk.follow(offset!(skc_net)).get(offset!(net_inum))
}

/// Protocol of an inet socket.
#[inline(always)]
pub fn protocol(sk: impl Object) -> u16 {
    if offset!(sk_protocol_size) == 1 {
        u16::from(sk.get::<u8>(offset!(sk_protocol)))
    } else {
        sk.get(offset!(sk_protocol))
    }
}

/// Whether a socket that connects is a program's. The kernel's own have no file (a file system's
/// connection), or share that of another socket (a subflow of MPTCP, net/mptcp/protocol.c).
#[inline(always)]
pub fn is_of_user(sk: impl Object) -> bool {
    let socket = sk.follow(offset!(sk_socket));
    socket.follow(offset!(socket_sk)).address() == sk.address()
        && socket.follow(offset!(socket_file)).address() != 0
}

/// Inode number of the socket's file, 0 while it has none.
#[inline(always)]
pub fn inode(sk: Address) -> u32 {
    let socket: Address = read(sk, offset!(sk_socket));
    if socket == 0 {
        return 0;
    }
    read::<u64>(socket, offset!(socket_ino)) as u32
}

/// Direction in which requests travel, seen from a role: 1 sent, 2 received.
#[inline(always)]
pub fn request_direction(role: u8) -> u8 {
    if role == tracer_ebpf::ROLE_SERVER {
        2
    } else {
        1
    }
}

const _: () = assert!(ROLE_PAIR == 3);
