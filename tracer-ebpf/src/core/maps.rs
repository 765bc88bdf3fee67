//! The maps, shared by all programs. Capacities are defaults that user space may override.

use core::intrinsics::{AtomicOrdering, atomic_xadd};

use super::{composed::Composed, notes::counted, responses::Reading};
use aya_ebpf::{
    macros::map,
    maps::{Array, HashMap, LruHashMap, PerCpuArray, RingBuf},
};
use tracer_ebpf::{
    AggKey, AggValue, Budget, CopySizeKey, Counter, ErrorKey, Head, HeadKey, ListenKey,
    ListenValue, PathValue, RUNTIME_FRAMES_MAX, RuntimeFrame, RuntimePlan, SHAPE_WORDS, SHAPES_MAX,
    Shape, Sock, TrieKey, TrieValue,
};

use super::{plaintext::Plaintext, user_buffer::Pieces};

/// Live sockets by `struct sock *`.
#[map]
pub static SOCKS: HashMap<u64, Sock> = HashMap::with_max_entries(131_072, 0);
/// Connections that ended, by what they had in common.
#[map]
pub static AGG: HashMap<AggKey, AggValue> = HashMap::with_max_entries(8_192, 0);
/// First and latest request heads of live sockets.
#[map]
pub static HEADS: HashMap<HeadKey, Head> = HashMap::with_max_entries(8_192, 0);
/// Listening ports of target processes.
#[map]
pub static LISTENERS: HashMap<ListenKey, ListenValue> = HashMap::with_max_entries(4_096, 0);
/// Listening sockets of target processes, by `struct sock *`: where they listen.
#[map]
pub static LISTENING: HashMap<u64, ListenKey> = HashMap::with_max_entries(8_192, 0);
/// Paths of UNIX sockets, by hash.
#[map]
pub static PATHS: HashMap<u64, PathValue> = HashMap::with_max_entries(4_096, 0);
/// Failed connects by process and errno.
#[map]
pub static ERRORS: HashMap<ErrorKey, u64> = HashMap::with_max_entries(2_048, 0);
/// Processes to watch (`FILTER_PROCESS`; for the descriptor scan also `FILTER_CGROUP`).
#[map]
pub static TARGETS: HashMap<u32, u32> = HashMap::with_max_entries(16_384, 0);
/// Known call paths.
#[map]
pub static TRIE: HashMap<TrieKey, TrieValue> = HashMap::with_max_entries(49_152, 0);
/// Known call paths as a whole.
#[map]
pub static SHAPES: Array<Shape> = Array::with_max_entries(SHAPES_MAX, 0);
/// The path last taken from some place, as [`Shape::node`]; by a hash of process, instruction and
/// stack pointer.
#[map]
pub static HINTS: Array<u32> = Array::with_max_entries(SHAPES_MAX, 0);
/// Stack copies on their way to user space.
#[map]
pub static STACKS: RingBuf = RingBuf::with_byte_size(2 << 20, 0);
/// Call sites that need larger copies.
#[map]
pub static COPY_SIZES: LruHashMap<CopySizeKey, u32> = LruHashMap::with_max_entries(4_096, 0);
/// How to find the interpreted frames of processes.
#[map]
pub static PLANS: HashMap<u32, RuntimePlan> = HashMap::with_max_entries(2_048, 0);
/// Stack copies each process may still cost.
#[map]
pub static BUDGETS: LruHashMap<u32, Budget> = LruHashMap::with_max_entries(4_096, 0);
/// Events by `Counter`.
#[map]
pub static COUNTERS: PerCpuArray<u64> = PerCpuArray::with_max_entries(Counter::ALL.len() as u32, 0);
/// The running descriptor scan: [`tracer_ebpf::SCAN_NUMBER`], [`tracer_ebpf::SCAN_UNSTORED`].
#[map]
pub static SCAN: Array<u32> = Array::with_max_entries(2, 0);

/// Which set of programs collects ([`tracer_ebpf::Config::generation`]): where the maps are pinned,
/// those of the next daemon are attached beside those of the last before they take over.
#[map]
pub static ACTIVE: Array<u32> = Array::with_max_entries(1, 0);

/// The time, per CPU.
#[map]
pub static CLOCK: PerCpuArray<Clock> = PerCpuArray::with_max_entries(1, 0);
/// How often a socket became readable, per CPU.
#[map]
pub static READABLE: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);
/// Ticket numbers, per CPU.
#[map]
pub static TICKETS: PerCpuArray<u32> = PerCpuArray::with_max_entries(1, 0);
/// Room for values too large for the BPF stack, by lane.
#[map]
pub static SCRATCH: PerCpuArray<Scratch> = PerCpuArray::with_max_entries(LANES, 0);
/// Lanes: one program can interrupt another on the same CPU (or come between where the kernel
/// preempts programs), but not itself, so each kind of program has room of its own. This one is for
/// connects.
pub const LANE_OPEN: u32 = 0;
/// For sends; receives, and the same of UNIX sockets come behind it.
pub const LANE_SENT: u32 = 1;
/// For probes on a runtime's functions.
pub const LANE_RUNTIME: u32 = 5;
/// For accepts.
pub const LANE_ACCEPT: u32 = 6;
/// For connects of UNIX sockets; their accepts come behind it.
pub const LANE_UNIX: u32 = 7;
/// For handshakes that end, in softirq context.
pub const LANE_SOFTIRQ: u32 = 9;
/// For what TLS libraries hand out: even, as those of receives are.
pub const LANE_TLS_RECEIVED: u32 = 10;
const LANES: u32 = 11;
/// An empty aggregate, to insert.
#[map]
pub static EMPTY_AGG: PerCpuArray<AggValue> = PerCpuArray::with_max_entries(1, 0);

/// When this CPU last asked for the time.
#[repr(C)]
pub struct Clock {
    /// Then, in the kernel's ticks.
    pub jiffies: u64,
    /// Then, monotonic nanoseconds.
    pub now_ns: u64,
}

/// Values under construction.
#[repr(C)]
pub struct Scratch {
    /// A socket that opens.
    pub sock: Sock,
    /// A request head.
    pub head: Head,
    /// The request from which it was composed.
    pub composed: Composed,
    /// What is handed to a TLS library.
    pub plaintext: Plaintext,
    /// A UNIX path, padded for hashing by words.
    pub path: PathValue,
    /// Bytes read from the user: the beginning of a stack, or of what was sent or received.
    pub window: [u64; SHAPE_WORDS],
    /// A response head that is being read.
    pub reading: Reading,
    /// What a call sends or has received, as far as it was not looked at yet.
    pub pieces: Pieces,
    /// Interpreted frames.
    pub frames: [RuntimeFrame; RUNTIME_FRAMES_MAX],
    /// Room for what [`bounded`] lets a length exceed its buffer by.
    slack: [u8; 32],
}

/// A length that is small enough already, masked where the compiler can't see that the mask is
/// idle: old verifiers lose the bounds of a comparison, and need the mask.
#[inline(always)]
pub fn bounded<const MASK: u32>(len: u32) -> u32 {
    core::hint::black_box(len) & MASK
}

/// Adds one to a counter.
#[inline(always)]
pub fn count(counter: Counter) {
    counted(counter);
    if let Some(slot) = COUNTERS.get_ptr_mut(counter as u32) {
        // An interrupt on the same CPU may count, too; what is lost by it would never be noticed.
        // SAFETY: a live map value.
        unsafe { atomic_add(slot, 1) };
    }
}

/// Adds to a counter that other CPUs write too. The result is not asked for: fetching adds exist
/// only since 5.12.
///
/// # Safety
/// `counter` points to a live, aligned integer.
#[inline(always)]
pub unsafe fn atomic_add<T: Copy>(counter: *mut T, value: T) {
    // SAFETY: the caller's promise.
    unsafe { atomic_xadd::<T, T, { AtomicOrdering::Relaxed }>(counter, value) };
}
