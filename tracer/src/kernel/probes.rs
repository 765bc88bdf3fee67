//! Loads the programs, attaches what the plan chooses, and owns the maps.

mod health;
mod tables;
mod takeover;

use std::{
    collections::BTreeMap,
    io::{self, Read as _},
    os::fd::AsFd,
    path::{Path, PathBuf},
    sync::Arc,
};

use aya::{
    Btf as AyaBtf, Ebpf, EbpfLoader, Endianness, VerifierLogLevel,
    programs::{Iter, Program, ProgramError, links::FdLink},
};
use thiserror::Error;
use tracer_ebpf::{
    AggKey, AggValue, Config, CopySizeKey, Counter, ErrorKey, Head, HeadKey, ListenKey,
    ListenValue, Offsets, PathValue, RuntimePlan, SCAN_NUMBER, SCAN_UNSTORED, Shape, Sock, TrieKey,
    TrieValue,
};

use self::{tables::Tables, takeover::has_perf_links};
use super::{
    attach::{HandOut, attach, chain, reason},
    btf::Btf,
    maps,
    maps::{Counters, Table},
    offsets, overhead,
    overhead::SyscallTax,
    pins,
    pins::{PinError, Pins},
    plan::{Attach, Choice, EVENTS, Event, KPROBE, Probe, SYSCALLS, unseen},
};
use crate::report::{EventStatus, Refusal};

/// The compiled programs.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/tracer-probes"));

/// Hash of everything that the layout of the maps is made from, by the build script.
const LAYOUT: &str = env!("TRACER_LAYOUT");

const KERNEL_BTF: &str = "/sys/kernel/btf/vmlinux";

const KPROBES: &str = "/sys/bus/event_source/devices/kprobe/type";

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
    /// Known call paths as a whole, by [`crate::stack::trie::shape_index`].
    pub shapes: Table<u32, Shape>,
    /// Call sites that need larger copies.
    pub copy_sizes: Table<CopySizeKey, u32>,
    /// How to find the interpreted frames of processes.
    pub plans: Table<u32, RuntimePlan>,
    /// Counters by cause.
    pub counters: Counters,
    scan: Table<u32, u32>,
    events: Vec<EventStatus>,
    attached: Vec<String>,
    degraded: Vec<String>,
    capacities: BTreeMap<&'static str, u64>,
    syscall_tax: Option<SyscallTax>,
    offsets: Offsets,
    hand_out: HandOut,
    /// Links that are to be pinned: program, name, link.
    links: Vec<(&'static str, String, FdLink)>,
    pins: Option<Pins>,
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
        let btf = Btf::parse(blob).ok_or_else(|| no_btf("not a BTF file".to_owned()))?;
        let aya_btf =
            AyaBtf::parse_file(path, Endianness::default()).map_err(|e| no_btf(e.to_string()))?;
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
        let ebpf = loader
            .btf(Some(&aya_btf))
            // reasons, not the listing of every path: that overflows what old kernels accept, and
            // their answer to that hides the reason
            .verifier_log_level(VerifierLogLevel::STATS)
            .override_global("OFFSETS", bytemuck::bytes_of(&offsets), true)
            .override_global("CONFIG", bytemuck::bytes_of(&config), true)
            .map_max_entries("SOCKS", setup.max_sockets)
            .load(OBJECT)
            .map_err(|e| ProbeError::Load(chain(&e)))?;
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
            syscall_tax: None,
            offsets,
            hand_out: match &pins {
                None => HandOut::Nothing,
                Some(_) if has_perf_links(&btf) => HandOut::All,
                Some(_) => HandOut::Tracing,
            },
            links: Vec::new(),
            pins,
        };
        probes.load_scan(&aya_btf)?;
        let without_ns = setup.trace_syscalls.then(overhead::unrelated_call_ns);
        for event in EVENTS {
            let status = probes.observe(event, &btf, &aya_btf, &setup)?;
            probes.events.push(status);
        }
        probes.take_over(config.generation)?;
        probes.weigh_syscalls(without_ns);
        Ok(probes)
    }

    /// Measures what sitting on every system call costs, where an event is observed there.
    fn weigh_syscalls(&mut self, without_ns: Option<f64>) {
        if !self.events.iter().any(|event| event.backend == SYSCALLS) {
            return;
        }
        self.syscall_tax = without_ns.map(|without_ns| SyscallTax {
            without_ns,
            with_ns: overhead::unrelated_call_ns(),
        });
        let told = self.syscall_tax.map(|tax| tax.to_string());
        self.degraded.extend(told);
    }

    /// Loads the programs that wait for an executable to be attached to; to see that they load.
    ///
    /// # Errors
    /// The kernel's answer to the first that does not.
    pub fn load_waiting(&mut self) -> Result<(), ProbeError> {
        for (_, program) in self.ebpf.programs_mut() {
            if let Program::UProbe(p) = program
                && p.fd().is_err()
            {
                p.load().map_err(|e| ProbeError::Load(reason(&e)))?;
            }
        }
        Ok(())
    }

    /// Where members of kernel structures are.
    pub(crate) fn offsets(&self) -> &Offsets {
        &self.offsets
    }

    /// What every system call of the host pays, where an event is observed there.
    #[must_use]
    pub fn syscall_tax(&self) -> Option<SyscallTax> {
        self.syscall_tax
    }

    /// Attaches the first choice for an event that this kernel takes.
    fn observe(
        &mut self,
        event: &Event,
        btf: &Btf,
        aya_btf: &AyaBtf,
        setup: &Setup<'_>,
    ) -> Result<EventStatus, ProbeError> {
        let mut status = EventStatus {
            event: event.name.to_owned(),
            backend: "none".to_owned(),
            hooks: Vec::new(),
            lost: None,
            refused: Vec::new(),
        };
        let mut better: Vec<&str> = Vec::new();
        let left_out = setup.without.iter().any(|without| without == event.name);
        for choice in event.ways(setup.backend).filter(|_| !left_out) {
            let backend = choice.backend();
            let Some(first) = choice.probes.first() else {
                continue;
            };
            if backend == SYSCALLS && !setup.trace_syscalls {
                status.refused.push(Refusal {
                    backend: backend.to_owned(),
                    hook: first.hook.to_owned(),
                    error: "it slows every system call of the host down, so it is used only \
                            with --trace-syscalls"
                        .to_owned(),
                    would_add: choice.would_add(),
                });
                continue;
            }
            if !fits(choice, btf) {
                continue;
            }
            match self.attach_all(choice, btf, aya_btf) {
                Ok(()) => {
                    status.backend = backend.to_owned();
                    status.hooks = choice.probes.iter().map(|p| p.hook.to_owned()).collect();
                    break;
                }
                Err((probe, error)) => {
                    if !choice.adds.is_empty() {
                        better.push(choice.adds);
                    }
                    status.refused.push(Refusal {
                        backend: backend.to_owned(),
                        hook: probe.hook.to_owned(),
                        error,
                        would_add: choice.would_add(),
                    });
                }
            }
        }
        if status.backend == "none" {
            let Some(without) = event.without else {
                let refused: Vec<String> = status
                    .refused
                    .iter()
                    .map(|r| format!("{}: {}", r.hook, r.error))
                    .collect();
                return Err(ProbeError::Refused {
                    event: event.name,
                    refused: refused.join("; "),
                });
            };
            status.lost = Some(without.to_owned());
        } else if !better.is_empty() {
            better.dedup();
            status.lost = Some(better.join("; "));
        }
        if let Some(lost) = &status.lost {
            self.degraded.push(format!("{}: {lost}", event.name));
        } else {
            status.lost = unseen(event.name).map(str::to_owned);
        }
        Ok(status)
    }

    fn attach_all(
        &mut self,
        choice: &Choice,
        btf: &Btf,
        aya_btf: &AyaBtf,
    ) -> Result<(), (Probe, String)> {
        let mut done: Vec<(&str, String)> = Vec::new();
        for probe in choice.probes {
            let name = probe_name(probe);
            if self.attached.contains(&name) {
                continue;
            }
            if let Err(error) = self.attach(probe, btf, aya_btf) {
                // all of a choice or nothing of it, else events would be counted twice
                for (program, name) in done {
                    self.unload(program);
                    self.attached.retain(|attached| *attached != name);
                }
                self.unload(probe.program);
                return Err((*probe, error));
            }
            done.push((probe.program, name.clone()));
            self.attached.push(name);
        }
        Ok(())
    }

    fn attach(&mut self, probe: &Probe, btf: &Btf, aya_btf: &AyaBtf) -> Result<(), String> {
        let exists = match probe.attach {
            // found out before loading: verifying takes long on old kernels
            Attach::Tracepoint | Attach::RawTracepoint | Attach::Syscalls => {
                btf.has_tracepoint(probe.hook)
            }
            _ => btf.arguments(probe.hook).is_some(),
        };
        if !exists {
            return Err("not in this kernel".to_owned());
        }
        if probe.attach.backend() == KPROBE && !Path::new(KPROBES).exists() {
            return Err("this kernel has no kprobes (CONFIG_KPROBE_EVENTS)".to_owned());
        }
        let program = self
            .ebpf
            .program_mut(probe.program)
            .ok_or_else(|| format!("the object has no program {}", probe.program))?;
        let link = attach(program, probe.hook, aya_btf, self.hand_out)?;
        let name = probe_name(probe);
        self.links
            .extend(link.map(|link| (probe.program, name, link)));
        Ok(())
    }

    /// Takes a program out of the kernel, with every link it has.
    fn unload(&mut self, program: &str) {
        self.links.retain(|(of, ..)| *of != program);
        let unloaded = match self.ebpf.program_mut(program) {
            Some(Program::BtfTracePoint(p)) => p.unload(),
            Some(Program::RawTracePoint(p)) => p.unload(),
            Some(Program::FEntry(p)) => p.unload(),
            Some(Program::FExit(p)) => p.unload(),
            Some(Program::KProbe(p)) => p.unload(),
            _ => Ok(()),
        };
        if let Err(error) = unloaded {
            tracing::debug!(program, %error, "was not loaded");
        }
    }

    fn load_scan(&mut self, aya_btf: &AyaBtf) -> Result<(), ProbeError> {
        let program: &mut Iter = self
            .ebpf
            .program_mut("scan_descriptors")
            .ok_or_else(|| ProbeError::Load("the object has no scan_descriptors".to_owned()))?
            .try_into()
            .map_err(|e: ProgramError| ProbeError::Load(chain(&e)))?;
        program
            .load("task_file", aya_btf)
            .map_err(|e| ProbeError::Refused {
                event: "scan",
                refused: reason(&e),
            })
    }

    /// Runs a descriptor scan with this number to its end; 0 looks for listening sockets only.
    /// Returns how many descriptors refer to sockets of the target that found no room.
    ///
    /// # Errors
    /// The kernel's.
    pub fn run_scan(&mut self, number: u32) -> io::Result<u32> {
        self.scan.set(&SCAN_UNSTORED, &0)?;
        self.scan.set(&SCAN_NUMBER, &number)?;
        let program: &mut Iter = self
            .ebpf
            .program_mut("scan_descriptors")
            .ok_or_else(|| io::Error::other("the object has no scan_descriptors"))?
            .try_into()
            .map_err(io::Error::other)?;
        let link = program.attach().map_err(io::Error::other)?;
        let link = program.take_link(link).map_err(io::Error::other)?;
        let mut file = link.into_file().map_err(io::Error::other)?;
        let mut nothing = [0u8; 64];
        loop {
            match file.read(&mut nothing) {
                Ok(0) => return Ok(self.scan.get(&SCAN_UNSTORED)?.unwrap_or(0)),
                Ok(_) => {}
                // a million files were visited without output: go on (kernel/bpf/bpf_iter.c)
                Err(e) if e.raw_os_error() == Some(libc::EAGAIN) => {}
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
    }

    /// Number of the latest descriptor scan, an earlier daemon's too.
    #[must_use]
    pub fn last_scan(&self) -> u32 {
        self.scan.get(&SCAN_NUMBER).ok().flatten().unwrap_or(0)
    }

    /// The loaded object, for probes that are attached to programs as these come into view.
    pub(crate) fn ebpf_mut(&mut self) -> &mut Ebpf {
        &mut self.ebpf
    }

    /// Lets the kernel copy this thread's stack, `times` times, `bytes` each; the copies are in
    /// [`Probes::stack_copies`] then. For measurements; gives the number of those that found room.
    ///
    /// # Errors
    /// When the program can't be loaded or run (before 5.10).
    pub fn copy_stack(&mut self, bytes: u64, times: u32) -> io::Result<u64> {
        let before = self.counter(Counter::StackCopied);
        let program: &mut aya::programs::RawTracePoint = self
            .ebpf
            .program_mut("measure_copy")
            .ok_or_else(|| io::Error::other("the object has no program measure_copy"))?
            .try_into()
            .map_err(io::Error::other)?;
        if program.fd().is_err() {
            program.load().map_err(io::Error::other)?;
        }
        let fd = program.fd().map_err(io::Error::other)?.as_fd();
        for _ in 0..times {
            maps::run_program(fd, bytes)?;
        }
        Ok(self.counter(Counter::StackCopied) - before)
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

    /// How each event is observed.
    #[must_use]
    pub fn events(&self) -> &[EventStatus] {
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

/// Whether the functions have the numbers of arguments that the programs were written for; one
/// that is missing is for attaching to complain about.
fn fits(choice: &Choice, btf: &Btf) -> bool {
    choice.probes.iter().all(|probe| match probe.attach {
        Attach::Fexit { arguments } | Attach::KprobeOf { arguments } => {
            btf.arguments(probe.hook).is_none_or(|n| n == arguments)
        }
        _ => true,
    })
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

fn probe_name(probe: &Probe) -> String {
    format!("{}@{}", probe.program, probe.hook)
}
