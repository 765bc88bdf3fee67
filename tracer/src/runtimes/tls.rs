//! TLS libraries, before they encrypt: OpenSSL and those that have its names (BoringSSL, LibreSSL),
//! GnuTLS, and rustls.
//!
//! A probe at the beginning of their write functions sees the plaintext; what begins like a request
//! of HTTP is kept for the record that carries it (`tracer-ebpf`, `probes/tls.rs`). Where a program
//! has another library, or this one without symbols, the server name of its handshake remains.
//!
//! Of HTTP/2 what is received must be seen too, or nothing could be said of its streams: as long as a
//! process speaks it, probes sit where the read functions of its library begin and where they return.

use std::{
    collections::{BTreeSet, HashMap},
    io,
    sync::Arc,
    thread::{self, JoinHandle},
};

use aya::programs::uprobe::UProbeLink;
use tracer_ebpf::{TlsHttp2, TlsKey};

use super::{
    Runtime,
    probed_files::{Needed, Probe, ProbeSet, ProbedFiles, beginning},
    view::{InView, MappedFile},
};
use crate::{
    elf::{FUNCTION_BYTES_MAX, Image, ImageKey, returns},
    kernel::{
        maps::Table,
        probes::{ProbeError, Probes},
        uprobes::{self, Place},
    },
    symbols::blame::Blame,
    unwind::modules::Modules,
};

/// Programs, and the functions they sit on: each has the connection, the buffer and its length as
/// its first arguments (OpenSSL `ssl/ssl_lib.c`, GnuTLS `lib/record.c`). Those of rustls
/// (`src/conn.rs`) are methods of its `Writer`, in both ways to write names of Rust's.
const PROBES: [Probe; 7] = [
    ("tls_write", "SSL_write"),
    ("tls_write", "SSL_write_ex"),
    ("tls_write", "gnutls_record_send"),
    (
        "tls_write_rust",
        "_ZN*_$LT$rustls..conn..*Writer$u20$as$u20$std..io..Write$GT$5write17h*",
    ),
    (
        "tls_write_rust",
        "_RNvX*6rustls4conn*6Writer*2io5Write5write",
    ),
    (
        "tls_writev_rust",
        "_ZN*_$LT$rustls..conn..*Writer$u20$as$u20$std..io..Write$GT$14write_vectored17h*",
    ),
    (
        "tls_writev_rust",
        "_RNvX*6rustls4conn*6Writer*2io5Write14write_vectored",
    ),
];
/// They are looked for one by one: no library has all.
const SETS: [ProbeSet; 1] = [(&PROBES, Needed::Any)];
/// The functions that read.
const READS: [Probe; 2] = [("tls_read", "SSL_read"), ("tls_read_ex", "SSL_read_ex")];
/// The program that sits where those return.
const READ_DONE: &str = "tls_read_done";
/// Beginnings of the names of files that are looked into besides the executable.
const FILES: [&str; 7] = [
    "libssl",
    "libgnutls",
    "libboringssl",
    "libnode",
    "libnetty_tcnative",
    "libconscrypt",
    "_ssl",
];
/// What the names of modules have in them that runtimes load (Python, Node.js, Java): some have a TLS
/// library within, as those of the wheels `cryptography` and `curl_cffi`, and of gRPC's Netty.
const MODULES: [&str; 4] = [".abi3.so", ".cpython-", ".node", "netty_tcnative"];
/// Files with a TLS library within are larger than this, bytes.
const WITHIN_MIN: u64 = 1 << 20;
/// Files whose reads are followed.
const READERS_MAX: usize = 32;

/// What sees the reads of a file's functions, probes, or the reason why nothing does; `None` where it
/// has none of the functions.
type Readers = Option<Result<Vec<UProbeLink>, String>>;

/// The TLS libraries in view.
#[derive(Debug)]
pub struct Tls {
    /// Whether libraries are probed at all.
    wanted: bool,
    probed: ProbedFiles,
    /// Connections of HTTP/2, as the kernel side has found them.
    connections: Option<Table<TlsKey, TlsHttp2>>,
    /// Processes whose reads are seen, for the kernel side.
    told: Option<Table<u32, u32>>,
    /// Files with such functions.
    readers: HashMap<ImageKey, Readers>,
    /// Processes that speak HTTP/2 inside TLS, with their files, or the reason why their reads are not
    /// seen.
    speakers: HashMap<u32, Result<Vec<ImageKey>, String>>,
}

impl Tls {
    /// None in view yet; without `wanted` none ever is.
    pub fn new(wanted: bool) -> Tls {
        let lost = "of requests over TLS only the server name is seen";
        Tls {
            wanted,
            probed: ProbedFiles::new(&SETS, lost).where_cheapest(),
            connections: None,
            told: None,
            readers: HashMap::new(),
            speakers: HashMap::new(),
        }
    }
}

impl Runtime for Tls {
    fn name(&self) -> &'static str {
        "TLS"
    }

    fn begin(&mut self, probes: &mut Probes, _: &Arc<Blame>) -> Result<(), ProbeError> {
        self.connections = Some(probes.table("TLS_HTTP2")?);
        self.told = Some(probes.table("TLS_READERS")?);
        Ok(())
    }

    fn attach(&mut self, process: &mut InView<'_>, probes: &mut Probes) -> io::Result<()> {
        self.attach_again(process, probes);
        Ok(())
    }

    fn attach_again(&mut self, process: &mut InView<'_>, probes: &mut Probes) {
        if !self.wanted {
            return;
        }
        let executable = process.executable();
        let wanted = |file: &MappedFile| is_wanted(file, executable.as_deref());
        self.probed.attach(process, probes, wanted);
    }

    fn followed(&mut self, probes: &mut Probes, modules: &mut Modules) {
        let mut speakers = BTreeSet::new();
        let Some(connections) = &self.connections else {
            return;
        };
        let read = connections.for_each(|key, _| {
            speakers.insert(key.tgid);
        });
        if let Err(error) = read {
            tracing::debug!(%error, "connections of HTTP/2 inside TLS can't be read");
            return;
        }
        for pid in speakers {
            if self.speakers.contains_key(&pid) {
                continue;
            }
            let files = self.follow_reads(&mut InView::new(pid, modules), probes);
            match (&files, &self.told) {
                (Ok(_), Some(told)) => {
                    if let Err(error) = told.set(&pid, &1) {
                        tracing::debug!(pid, %error, "the kernel side is not told of a reader");
                    }
                }
                (Err(reason), _) => tracing::debug!(pid, reason, "reads inside TLS are not seen"),
                _ => {}
            }
            self.speakers.insert(pid, files);
        }
    }

    fn degraded(&self) -> Vec<String> {
        let blind = self.speakers.iter().filter_map(|(pid, files)| {
            let reason = files.as_ref().err()?;
            Some(format!(
                "process {pid}: of its requests of HTTP/2 inside TLS it is not seen which are \
                 answered, because {reason}: streams that stay open there are not found"
            ))
        });
        self.probed.degraded().chain(blind).collect()
    }

    fn forget(&mut self, pid: u32) {
        self.probed.forget(pid);
        if self.speakers.remove(&pid).is_none() {
            return;
        }
        if let Some(told) = &self.told {
            // it may be gone already
            let _ = told.remove(&pid);
        }
        let used: BTreeSet<ImageKey> = self
            .speakers
            .values()
            .flatten()
            .flatten()
            .copied()
            .collect();
        let unused = self.readers.extract_if(|key, _| !used.contains(key));
        detach(unused.filter_map(|(_, readers)| readers?.ok()).flatten());
    }
}

impl Tls {
    /// Sees to it that the reads of a process are seen; the files whose functions read.
    fn follow_reads(
        &mut self,
        process: &mut InView<'_>,
        probes: &mut Probes,
    ) -> Result<Vec<ImageKey>, String> {
        let executable = process.executable();
        let mut of_process = Vec::new();
        for file in process.files() {
            if !is_wanted(&file, executable.as_deref()) {
                continue;
            }
            let key = file.image.key();
            if !self.readers.contains_key(&key) && self.readers.len() >= READERS_MAX {
                return Err("too many libraries are followed".to_owned());
            }
            let readers = self
                .readers
                .entry(key)
                .or_insert_with(|| attach_readers(&file, probes));
            match readers {
                Some(Ok(_)) => of_process.push(key),
                Some(Err(reason)) => return Err(reason.clone()),
                None => {}
            }
        }
        match of_process.is_empty() {
            true => Err("its TLS library has no functions that read under their names".to_owned()),
            false => Ok(of_process),
        }
    }
}

impl Drop for Tls {
    fn drop(&mut self) {
        let all = self.readers.drain();
        let threads = detach(all.filter_map(|(_, readers)| readers?.ok()).flatten());
        for thread in threads {
            let _ = thread.join();
        }
    }
}

/// Detaches probes, each on a thread of its own: the kernel waits a while for each that goes.
fn detach(links: impl Iterator<Item = UProbeLink>) -> Vec<JoinHandle<()>> {
    links
        .map(|link| thread::spawn(move || drop(link)))
        .collect()
}

/// Whether a file may be, or have in it, a TLS library.
fn is_wanted(file: &MappedFile, executable: Option<&str>) -> bool {
    let name = file.name();
    let module = || {
        file.image.contents().len() > WITHIN_MIN && MODULES.iter().any(|part| name.contains(part))
    };
    executable == Some(&*file.path)
        || FILES.iter().any(|prefix| name.starts_with(prefix))
        || module()
}

/// Attaches to the functions of a file that read.
fn attach_readers(file: &MappedFile, probes: &mut Probes) -> Readers {
    let fd = file.image.fd()?;
    let places = match places(&file.image) {
        Ok(places) if places.is_empty() => return None,
        Ok(places) => places,
        Err(reason) => return Some(Err(format!("of {} {reason}", file.path))),
    };
    let attached = uprobes::attach(probes.ebpf_mut(), fd, &places);
    Some(attached.map_err(|error| error.to_string()))
}

/// Where programs go in a file: none where it has none of the functions. Where it can't be said of one
/// where it returns, the reason is.
fn places(image: &Image) -> Result<Vec<Place>, String> {
    let names: Vec<&str> = READS.iter().map(|(_, function)| *function).collect();
    let mut places: Vec<Place> = Vec::new();
    for (&(program, function), symbol) in READS.iter().zip(image.symbols(&names)) {
        let Some((address, size)) = symbol else {
            continue;
        };
        let code = (1..=FUNCTION_BYTES_MAX)
            .contains(&size)
            .then(|| image.slice(address, size as usize));
        let ends = code.flatten().and_then(|code| returns(&code));
        let (Some(ends), Some(offset)) = (ends, image.file_offset(address)) else {
            return Err(format!("it can't be told where {function} returns"));
        };
        places.push((program, offset + beginning(image, address, size)));
        places.extend(ends.into_iter().map(|end| (READ_DONE, offset + end)));
    }
    places.sort_unstable();
    places.dedup();
    Ok(places)
}
