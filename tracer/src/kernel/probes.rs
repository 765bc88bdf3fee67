//! Loads the programs, attaches what the plan chooses, and owns the maps.

mod health;
mod measuring;
mod observe;
mod readable;
mod scan;
mod tables;
mod takeover;

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use aya::{Btf as AyaBtf, Ebpf, EbpfLoader, Endianness, VerifierLogLevel, programs::links::FdLink};
use thiserror::Error;
use tracer_ebpf::{
    AggKey, AggValue, Config, CopySizeKey, Counter, ErrorKey, Head, HeadKey, ListenKey,
    ListenValue, Offsets, PathValue, RuntimePlan, Shape, Sock, TrieKey, TrieValue,
};

use self::{readable::Readable, tables::Tables, takeover::has_perf_links};
use super::{
    attach::{HandOut, chain, reason},
    btf::Btf,
    maps::{Counters, Table},
    observed::Observed,
    offsets, overhead,
    overhead::SyscallOverhead,
    pins,
    pins::{PinError, Pins},
    plan::{EVENTS, SYSCALLS},
};

/// The compiled programs.
pub(super) static OBJECT: &[u8] =
    aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/tracer-probes"));

/// Hash of everything that the layout of the maps is made from, by the build script.
const LAYOUT: &str = env!("TRACER_LAYOUT");

const KERNEL_BTF: &str = "/sys/kernel/btf/vmlinux";

/// Why the kernel side could not be set up.
#[derive(Debug, Error)]
pub enum ProbeError {
    /// No type information.
    #[error(
        "this kernel's type information (BTF) can't be read from {path}: {error}; \
         use a kernel built with CONFIG_DEBUG_INFO_BTF=y, or give a BTF file with --btf"
    )]
    NoBtf {
        /// File.
        path: String,
        /// Cause.
        error: String,
    },
    /// Type information lacks something.
    #[error(transparent)]
    Offsets(#[from] offsets::MissingMember),
    /// Maps could not be created or programs not be parsed.
    #[error("the BPF maps and programs could not be set up: {0}")]
    Load(String),
    /// Nothing can be kept beyond the end of this process.
    #[error(transparent)]
    Pin(#[from] PinError),
    /// An event without which nothing can be traced.
    #[error("nothing can observe the event {event} on this kernel: {refused}")]
    Refused {
        /// Event.
        event: &'static str,
        /// The kernel's answers.
        refused: String,
    },
}

/// The attached kernel side. Everything is detached when it is dropped, or when the process
/// ends in whatever way.
pub struct Probes {
    ebpf: Ebpf,
    /// Live sockets.
    pub socks: Arc<Table<u64, Sock>>,
    /// Connections that ended.
    pub aggregates: Table<AggKey, AggValue>,
    /// Request heads.
    pub heads: Table<HeadKey, Head>,
    /// Listening ports.
    pub listeners: Table<ListenKey, ListenValue>,
    /// UNIX paths.
    pub paths: Table<u64, PathValue>,
    /// Failed connects.
    pub errors: Table<ErrorKey, u64>,
    /// Target processes.
    pub targets: Table<u32, u32>,
    /// Known call paths.
    pub trie: Table<TrieKey, TrieValue>,
    /// Known call paths as a whole, by a hash of where they begin.
    pub shapes: Table<u32, Shape>,
    /// Call sites that need larger copies.
    pub copy_sizes: Table<CopySizeKey, u32>,
    /// How to find the interpreted frames of processes.
    pub plans: Table<u32, RuntimePlan>,
    /// Counters by cause.
    pub counters: Counters,
    scan: Table<u32, u32>,
    events: Vec<Observed>,
    attached: Vec<String>,
    degraded: Vec<String>,
    capacities: BTreeMap<&'static str, u64>,
    syscall_overhead: Option<SyscallOverhead>,
    offsets: Offsets,
    hand_out: HandOut,
    /// Links that are to be pinned: program, name, link.
    links: Vec<(&'static str, String, FdLink)>,
    /// The hook that is taken off where it is not worth it.
    readable: Option<Readable>,
    pins: Option<Pins>,
    #[cfg(feature = "ebpf-log")]
    _notes: Option<super::notes::Notes>,
}

impl std::fmt::Debug for Probes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Probes")
            .field("attached", &self.attached)
            .finish_non_exhaustive()
    }
}

/// What to load.
#[derive(Debug, Clone, Copy, Default)]
pub struct Setup<'a> {
    /// Settings handed to the programs; what depends on the kernel is filled in here.
    pub config: Config,
    /// Capacity of the socket map.
    pub max_sockets: u32,
    /// Type information to use in place of the kernel's own.
    pub btf: Option<&'a Path>,
    /// Use only this backend where an event has several.
    pub backend: Option<&'a str>,
    /// Events not to observe.
    pub without: &'a [String],
    /// Sit on every system call of the host where nothing else observes an event.
    pub trace_syscalls: bool,
    /// Where to keep maps and links beyond the end of this process: a directory, and a key for
    /// everything about the target that its next user must agree with.
    pub pin: Option<(&'a Path, &'a str)>,
}

impl Probes {
    /// Creates the maps, loads the programs and attaches them.
    ///
    /// # Errors
    /// [`ProbeError`]; nothing stays attached.
    pub fn load(setup: Setup<'_>) -> Result<Probes, ProbeError> {
        let path = setup.btf.unwrap_or(Path::new(KERNEL_BTF));
        let no_btf = |error: String| ProbeError::NoBtf {
            path: path.display().to_string(),
            error,
        };
        let blob = std::fs::read(path).map_err(|e| no_btf(e.to_string()))?;
        let aya_btf =
            AyaBtf::parse(&blob, Endianness::default()).map_err(|e| no_btf(e.to_string()))?;
        let btf = Btf::parse(blob).ok_or_else(|| no_btf("not a BTF file".to_owned()))?;
        let offsets = offsets::resolve(&btf)?;
        let mut config = setup.config;
        config.have_task_regs = u32::from(
            btf.enumerator("bpf_func_id", "BPF_FUNC_task_pt_regs")
                .is_some(),
        );
        raise_memory_limit();
        let pins = match setup.pin {
            Some((directory, target)) => Some(Pins::open(
                directory,
                &pins::key(&[LAYOUT, &setup.max_sockets.to_string(), target]),
            )?),
            None => None,
        };
        config.generation = pins.as_ref().map_or(0, |pins| pins.generation() + 1);
        let mut loader = EbpfLoader::new();
        for name in pins.iter().flat_map(|_| pins::MAPS) {
            loader.map_pin_path(
                name,
                pins.as_ref()
                    .map_or_else(PathBuf::new, |pins| pins.map(name)),
            );
        }
        #[cfg_attr(
            not(feature = "ebpf-log"),
            expect(unused_mut, reason = "as little code as can be")
        )]
        let mut ebpf = loader
            .btf(Some(&aya_btf))
            // reasons, not the listing of every path: that overflows what old kernels accept, and
            // their answer to that hides the reason
            .verifier_log_level(VerifierLogLevel::STATS)
            .override_global("OFFSETS", bytemuck::bytes_of(&offsets), true)
            .override_global("CONFIG", bytemuck::bytes_of(&config), true)
            .map_max_entries("SOCKS", setup.max_sockets)
            .load(OBJECT)
            .map_err(|e| ProbeError::Load(chain(&e)))?;
        #[cfg(feature = "ebpf-log")]
        let notes = super::notes::Notes::follow(&mut ebpf);
        let mut capacities = BTreeMap::new();
        let mut tables = Tables {
            ebpf: &ebpf,
            capacities: &mut capacities,
        };
        let (socks, aggregates) = (Arc::new(tables.table("SOCKS")?), tables.table("AGG")?);
        let (heads, listeners) = (tables.table("HEADS")?, tables.table("LISTENERS")?);
        let (paths, errors) = (tables.table("PATHS")?, tables.table("ERRORS")?);
        let (targets, trie) = (tables.table("TARGETS")?, tables.table("TRIE")?);
        let shapes = tables.table("SHAPES")?;
        let (copy_sizes, scan) = (tables.table("COPY_SIZES")?, tables.table("SCAN")?);
        let plans = tables.table("PLANS")?;
        let counters = Counters::new(tables.data("COUNTERS")?.fd())
            .map_err(|e| ProbeError::Load(e.to_string()))?;
        let mut probes = Probes {
            ebpf,
            socks,
            aggregates,
            heads,
            listeners,
            paths,
            errors,
            targets,
            trie,
            shapes,
            copy_sizes,
            plans,
            counters,
            scan,
            capacities,
            events: Vec::new(),
            attached: Vec::new(),
            degraded: Vec::new(),
            syscall_overhead: None,
            offsets,
            hand_out: match &pins {
                None => HandOut::Nothing,
                Some(_) if has_perf_links(&btf) => HandOut::All,
                Some(_) => HandOut::Tracing,
            },
            links: Vec::new(),
            readable: None,
            pins,
            #[cfg(feature = "ebpf-log")]
            _notes: notes,
        };
        probes.load_scan(&aya_btf)?;
        let without_ns = setup.trace_syscalls.then(overhead::unrelated_call_ns);
        for event in EVENTS {
            let status = probes.observe(event, &btf, &aya_btf, &setup)?;
            probes.events.push(status);
        }
        let mut links = probes.links.iter();
        let at = links.position(|(_, name, _)| probes.is_taken_off(hook_of(name)));
        let kept = at.map(|at| probes.links.remove(at));
        probes.keep_readable(kept)?;
        probes.take_over(config.generation)?;
        probes.weigh_syscalls(without_ns);
        Ok(probes)
    }

    /// Measures what sitting on every system call costs, where an event is observed there.
    fn weigh_syscalls(&mut self, without_ns: Option<f64>) {
        if !self.events.iter().any(|event| event.backend == SYSCALLS) {
            return;
        }
        self.syscall_overhead = without_ns.map(|without_ns| SyscallOverhead {
            without_ns,
            with_ns: overhead::unrelated_call_ns(),
        });
        let told = self.syscall_overhead.map(|overhead| overhead.to_string());
        self.degraded.extend(told);
    }

    /// Where members of kernel structures are.
    pub(crate) fn offsets(&self) -> &Offsets {
        &self.offsets
    }

    /// What every system call of the host pays, where an event is observed there.
    #[must_use]
    pub fn syscall_overhead(&self) -> Option<SyscallOverhead> {
        self.syscall_overhead
    }

    /// The loaded object, for probes that are attached to programs as these come into view.
    pub(crate) fn ebpf_mut(&mut self) -> &mut Ebpf {
        &mut self.ebpf
    }

    /// Another map of the object.
    ///
    /// # Errors
    /// When there is none of this name and layout.
    pub(crate) fn table<K, V>(&mut self, name: &'static str) -> Result<Table<K, V>, ProbeError>
    where
        K: bytemuck::NoUninit + bytemuck::AnyBitPattern,
        V: bytemuck::NoUninit + bytemuck::AnyBitPattern,
    {
        let mut tables = Tables {
            ebpf: &self.ebpf,
            capacities: &mut self.capacities,
        };
        tables.table(name)
    }

    /// The value of a counter.
    #[must_use]
    pub fn counter(&self, counter: Counter) -> u64 {
        self.counters.sum(counter as u32).unwrap_or(0)
    }

    /// Counts a socket whose end was missed and that a scan found gone.
    ///
    /// # Errors
    /// The kernel's.
    pub fn count_healed(&self) -> io::Result<()> {
        self.counters.add_one(Counter::Healed as u32)
    }

    /// How each event is observed.
    #[must_use]
    pub fn events(&self) -> &[Observed] {
        &self.events
    }

    /// Attached programs, as `program@hook`.
    #[must_use]
    pub fn attached(&self) -> &[String] {
        &self.attached
    }

    /// What is not seen, as sentences.
    #[must_use]
    pub fn degraded(&self) -> &[String] {
        &self.degraded
    }

    /// Capacities of the maps by name.
    #[must_use]
    pub fn capacities(&self) -> &BTreeMap<&'static str, u64> {
        &self.capacities
    }
}

/// The hook in a name of `Probes::attached`.
fn hook_of(name: &str) -> &str {
    name.split_once('@').map_or(name, |(_, hook)| hook)
}

/// Before 5.11 BPF memory counts against RLIMIT_MEMLOCK; failing to raise it shows up as a
/// failure to create maps.
fn raise_memory_limit() {
    let unlimited = libc::rlimit {
        rlim_cur: libc::RLIM_INFINITY,
        rlim_max: libc::RLIM_INFINITY,
    };
    // SAFETY: a valid rlimit.
    unsafe { libc::setrlimit(libc::RLIMIT_MEMLOCK, &raw const unlimited) };
}
