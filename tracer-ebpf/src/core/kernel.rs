//! Reads of memory, the kernel's at offsets that user space resolved from BTF; and what sockets say
//! of themselves.

use core::{ffi::c_void, mem::MaybeUninit};

use aya_ebpf::helpers::generated::{bpf_probe_read_kernel, bpf_probe_read_user};
use tracer_ebpf::{Config, Offsets};

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
        unsafe {
            core::ptr::read_volatile(&raw const $crate::core::kernel::OFFSETS.$field) as usize
        }
    };
}

/// A setting, see `offset!`.
#[macro_export]
macro_rules! config {
    ($field:ident) => {
        // SAFETY: a read of an initialized static.
        unsafe { core::ptr::read_volatile(&raw const $crate::core::kernel::CONFIG.$field) }
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
/// `IPPROTO_MPTCP` (5.6)
pub const IPPROTO_MPTCP: u16 = 262;

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
