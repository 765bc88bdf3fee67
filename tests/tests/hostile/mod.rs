//! Nothing that a watched program puts before tracer ends it, makes it take memory without bound, or
//! spoils what it says of the program's leak. Every file and program here is made by the test.

mod corpus;

use std::{
    fs,
    fs::File,
    net::TcpListener,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;
use tracer_tests::{
    host::{self, seconds},
    program::Program,
    tests,
    tracer::{self, Report},
    wait,
};

use self::corpus::the_daemon_lives_and_is_right_about_others;

tests![
    the_daemon_lives_and_is_right_about_others,
    forged_executables,
    files_that_shrink_while_they_are_mapped,
    a_perf_map_that_never_rests,
    very_many_mappings,
    readers_that_are_killed,
    no_descriptors_left,
];

/// Memory that a check may have taken at its peak.
const PEAK_MIB: u64 = 384;

/// A program that leaks a connection four times a second, and maps the files that it is given as if
/// they were code. `extra` runs before, and `each` with every connection.
fn script(extra: &str, each: &str) -> String {
    format!(
        r#"import ctypes, mmap, os, socket, sys, threading, time
maps = []
for path in sys.argv[2:]:
    fd = os.open(path, os.O_RDONLY)
    size = max(4096, min(os.fstat(fd).st_size, 1 << 20))
    maps.append(mmap.mmap(fd, size, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_EXEC))
{extra}
kept = []
def strand(port):
    kept.append(socket.create_connection(("127.0.0.1", port)))
    kept[-1].sendall(b"GET /berths HTTP/1.1\r\nHost: quay.test\r\n\r\n")
print("READY", flush=True)
while True:
    strand(int(sys.argv[1]))
    {each}
    time.sleep(0.25)
"#
    )
}

/// A program that leaks, and its files.
pub struct Scene {
    /// The program.
    pub program: Program,
    directory: TempDir,
}

/// Starts the program; its connections are accepted, and kept, by a thread of this test.
pub fn start(
    extra: &str,
    each: &str,
    files: impl FnOnce(&Path) -> Result<Vec<PathBuf>>,
) -> Result<Scene> {
    host::require_root()?;
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("strand.py");
    fs::write(&path, script(extra, each))?;
    let files = files(directory.path())?;
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let port = listener.local_addr()?.port().to_string();
    std::thread::spawn(move || {
        let kept: Vec<_> = listener.incoming().collect();
        drop(kept);
    });
    let mut command = Command::new(host::tool("python3")?);
    let mut program = Program::start(command.arg(&path).arg(port).args(files))?;
    program.line("READY", seconds(30))?;
    Ok(Scene { program, directory })
}

/// Watches for some seconds, `meanwhile` with the tracer's process, and wants the leak as ever.
fn watch(scene: &Scene, meanwhile: impl FnOnce(&Program) -> Result<()>) -> Result<Report> {
    let pid = scene.program.pid().to_string();
    let mut check = tracer::start(&["check", "--pid", &pid, "--duration", "40s", "-o", "json"])?;
    tracer::attached(&mut check)?;
    meanwhile(&check)?;
    let mut peak = 0;
    wait::until("the check to end", seconds(120), || {
        peak = peak.max(peak_mib(check.pid()).unwrap_or(0));
        Ok(!check.runs()?)
    })?;
    let ended = check.end(seconds(10))?;
    ensure!(
        ended.code() == 0,
        "status {}: {}",
        ended.code(),
        ended.stderr
    );
    ensure!(peak <= PEAK_MIB, "{peak} MiB at its peak");
    let report = Report::parse(&ended.stdout)?;
    report.expect_verdict("leak")?;
    let found = report.findings().iter().any(|finding| {
        finding["call_site"]["function"]
            .as_str()
            .is_some_and(|function| function.ends_with("strand"))
    });
    ensure!(found, "another call site: {report}");
    Ok(report)
}

/// `VmHWM` of a process, in MiB.
fn peak_mib(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.split_ascii_whitespace().next()?.parse().ok()?;
    Some(kib / 1024)
}

fn degraded(report: &Report) -> String {
    report.0["coverage"]["degraded"].to_string()
}

/// The header of an executable: place and number of its segments and its sections.
fn header(segments: (u64, u16), sections: (u64, u16), names: u16) -> Vec<u8> {
    let mut bytes = vec![0; 64];
    let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
    put(0, b"\x7fELF\x02\x01\x01");
    put(16, &[3, 0, 62, 0, 1]);
    put(0x20, &segments.0.to_le_bytes());
    put(0x28, &sections.0.to_le_bytes());
    put(0x34, &64u16.to_le_bytes());
    put(0x36, &56u16.to_le_bytes());
    put(0x38, &segments.1.to_le_bytes());
    put(0x3a, &64u16.to_le_bytes());
    put(0x3c, &sections.1.to_le_bytes());
    put(0x3e, &names.to_le_bytes());
    bytes
}

/// A segment: type, flags, offset, size.
fn segment(kind: u32, flags: u32, offset: u64, size: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend(kind.to_le_bytes());
    bytes.extend(flags.to_le_bytes());
    for word in [offset, offset, offset, size, size, 4096] {
        bytes.extend(word.to_le_bytes());
    }
    bytes
}

/// A section: name, type, flags, offset, size.
fn section(name: u32, kind: u32, flags: u64, offset: u64, size: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend(name.to_le_bytes());
    bytes.extend(kind.to_le_bytes());
    for word in [flags, 0, offset, size, 0, 8, 0] {
        bytes.extend(word.to_le_bytes());
    }
    bytes.truncate(64);
    bytes
}

/// Writes a file that is `size` bytes long, of which only the first are on the disk.
fn sparse(path: &Path, bytes: &[u8], size: u64) -> Result<PathBuf> {
    fs::write(path, bytes)?;
    File::options().write(true).open(path)?.set_len(size)?;
    Ok(path.to_owned())
}

/// Executables whose headers promise gigabytes, in many shapes.
pub fn forged(directory: &Path) -> Result<Vec<PathBuf>> {
    let at = |name: &str| directory.join(name);
    let code = || segment(1, 5, 0, 1 << 20);
    let mut made = Vec::new();
    // Segments without number over a sparse file.
    let mut bytes = header((64, 60_000), (0, 0), 0);
    (0..60_000).for_each(|_| bytes.extend(segment(1, 6, 0, 8 << 30)));
    made.push(sparse(&at("segments.so"), &bytes, 8 << 30)?);
    // A build id as long as the file.
    let mut bytes = header((64, 2), (0, 0), 0);
    bytes.extend(code());
    bytes.extend(segment(4, 4, 176, 4 << 30));
    for word in [4u32, 0xfff0_0000, 3] {
        bytes.extend(word.to_le_bytes());
    }
    bytes.extend(b"GNU\0");
    made.push(sparse(&at("build-id.so"), &bytes, 5 << 30)?);
    // Sections without number that share one long name; relocations over and over.
    for (name, count) in [("names.so", 4_000), ("sections.so", 65_000)] {
        let mut bytes = header((64, 1), (120, count), 1);
        bytes.extend(code());
        for number in 0..count {
            bytes.extend(match number {
                1 => section(0, 3, 0, 8 << 20, 1 << 20),
                _ => section(1, 4, 2, 0, 4 << 30),
            });
        }
        bytes.resize(8 << 20, 0);
        bytes.resize(9 << 20, b'n');
        made.push(sparse(&at(name), &bytes, 6 << 30)?);
    }
    // Debug information that says it is 2^62 bytes long, frames and symbols that are the file.
    let mut bytes = header((64, 1), (120, 6), 1);
    bytes.extend(code());
    for part in [
        section(0, 0, 0, 0, 0),
        section(0, 3, 0, 600, 80),
        section(1, 1, 0x800, 700, 100),
        section(13, 1, 2, 0, 4 << 30),
        section(23, 1, 2, 0, 4 << 30),
        section(37, 2, 0, 0, 4 << 30),
    ] {
        bytes.extend(part);
    }
    bytes.resize(600, 0);
    bytes.extend(b"\0.debug_info\0.eh_frame\0.gopclntab\0\0\0\0\0.symtab\0");
    bytes.resize(700, 0);
    bytes.extend(1u64.to_le_bytes());
    bytes.extend((1u64 << 62).to_le_bytes());
    bytes.resize(4096, 0);
    made.push(sparse(&at("libpython-debug.so"), &bytes, 5 << 30)?);
    // Nothing but zeros, and nothing but noise.
    made.push(sparse(
        &at("zeros.so"),
        &header((64, 1), (0, 0), 0),
        2 << 30,
    )?);
    let noise: Vec<u8> = (0u32..1 << 20)
        .map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8)
        .collect();
    fs::write(
        at("noise.so"),
        [header((64, 400), (4096, 3_000), 7), noise].concat(),
    )?;
    made.push(at("noise.so"));
    Ok(made)
}

fn forged_executables() -> Result<()> {
    let scene = start("", "pass", forged)?;
    let report = watch(&scene, |_| Ok(()))?;
    let said = degraded(&report);
    let (file, why) = ("segments.so", "segments are 60000");
    ensure!(said.contains(file) && said.contains(why), "{file}: {said}");
    Ok(())
}

/// What is mapped is cut short, written over and made long again, all the time.
fn files_that_shrink_while_they_are_mapped() -> Result<()> {
    let library = |directory: &Path| -> Result<Vec<PathBuf>> {
        let libc = [
            "/lib/x86_64-linux-gnu/libc.so.6",
            "/lib/aarch64-linux-gnu/libc.so.6",
            "/usr/lib64/libc.so.6",
        ];
        let libc = libc
            .iter()
            .find(|path| Path::new(path).exists())
            .context("no libc")?;
        (0..4)
            .map(|number| {
                let path = directory.join(format!("libberth{number}.so"));
                fs::copy(libc, &path)?;
                Ok(path)
            })
            .collect()
    };
    let scene = start("", "pass", library)?;
    let paths: Vec<PathBuf> = (0..4)
        .map(|number| scene.directory.path().join(format!("libberth{number}.so")))
        .collect();
    let report = watch(&scene, |_| {
        for round in 0..40u64 {
            for path in &paths {
                let file = File::options().write(true).open(path)?;
                let whole = file.metadata()?.len();
                file.set_len([0, 4096, whole / 2][round as usize % 3])?;
                file.write_all_at(&[round as u8; 4096], round * 4096)?;
                file.set_len(2 << 20)?;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    });
    report.map(drop)
}

/// The names of compiled code are written anew before each connection, 32 MiB of them.
fn a_perf_map_that_never_rests() -> Result<()> {
    let extra = r#"
code = mmap.mmap(-1, 4096, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
name = f"/tmp/perf-{os.getpid()}.map"
lines = b"".join(b"%x 10 f%d\n" % (i * 16, i) for i in range(1 << 20)) * 2
def rewrite():
    with open(name, "wb") as f:
        f.write(lines)
import atexit, signal
atexit.register(lambda: os.path.exists(name) and os.unlink(name))
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
rewrite()"#;
    let scene = start(extra, "rewrite()", |_| Ok(Vec::new()))?;
    let name = format!("/tmp/perf-{}.map", scene.program.pid());
    let watched = watch(&scene, |_| Ok(()));
    let _ = fs::remove_file(name);
    watched.map(drop)
}

/// Tens of thousands of mappings, and new ones with every connection.
fn very_many_mappings() -> Result<()> {
    let extra = r#"
# neighbours of other rights are not merged
many = [mmap.mmap(-1, 4096, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, mmap.PROT_READ | (mmap.PROT_EXEC if i % 2 else 0)) for i in range(40000)]
def more():
    for i in range(20):
        many.append(mmap.mmap(-1, 4096, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, mmap.PROT_READ | (mmap.PROT_EXEC if i % 2 else 0)))"#;
    let scene = start(extra, "more()", |_| Ok(Vec::new()))?;
    watch(&scene, |_| Ok(())).map(drop)
}

/// Processes that the tracer started are killed as soon as they appear.
fn readers_that_are_killed() -> Result<()> {
    let scene = start("", "pass", |_| Ok(Vec::new()))?;
    watch(&scene, |check| {
        for _ in 0..200 {
            kill_children(check.pid())?;
            std::thread::sleep(Duration::from_millis(25));
        }
        Ok(())
    })
    .map(drop)
}

/// Kills the processes that a tracer of ours has started.
pub fn kill_children(tracer: u32) -> Result<()> {
    for child in host::children(tracer) {
        let child = libc::pid_t::try_from(child)?;
        // SAFETY: takes no pointer. The process is a child of one that this test started.
        unsafe { libc::kill(child, libc::SIGKILL) };
    }
    Ok(())
}

/// The tracer may open nothing more for some seconds: the target has not ended because of it.
fn no_descriptors_left() -> Result<()> {
    let scene = start("", "pass", |_| Ok(Vec::new()))?;
    let report = watch(&scene, |check| {
        let before = limit_descriptors(check.pid(), None)?;
        let few = libc::rlimit {
            rlim_cur: 3,
            ..before
        };
        limit_descriptors(check.pid(), Some(few))?;
        std::thread::sleep(seconds(4));
        limit_descriptors(check.pid(), Some(before))?;
        Ok(())
    })?;
    let lasted = report.0["duration_seconds"].as_f64().unwrap_or_default();
    ensure!(lasted >= 39.0, "it ended after {lasted} s: {report}");
    Ok(())
}

/// Sets the limit of descriptors of a process, and returns what it was.
pub fn limit_descriptors(pid: u32, limit: Option<libc::rlimit>) -> Result<libc::rlimit> {
    let mut before = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    let new = limit.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
    // SAFETY: both pointers are null or lead to structures that outlive the call.
    let done = unsafe {
        libc::prlimit(
            pid as libc::pid_t,
            libc::RLIMIT_NOFILE,
            new,
            &raw mut before,
        )
    };
    ensure!(done == 0, "prlimit: {}", std::io::Error::last_os_error());
    Ok(before)
}
