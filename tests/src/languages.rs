//! Real programs in several languages, each of which keeps a connection per request, and what a
//! report must say of them.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail, ensure};

use crate::{fixtures, go, host, program::Program, runner::Skip};

/// The libraries that the Python programs use; exact, so that a new release breaks nothing unseen.
const PYTHON_PACKAGES: [&str; 4] = [
    "requests==2.34.2",
    "httpx==0.28.1",
    "aiohttp==3.14.5",
    "h2==4.4.1",
];
/// Connections a second, and how many at most: more than is watched and then shown to gdb.
const PACE: [&str; 2] = ["4", "1200"];

/// What the call site of a program's finding must be.
#[derive(Debug, Clone, Copy)]
pub enum Site {
    /// The line of `file` with this mark, in this function.
    Line {
        /// Source, below `tests/fixtures`.
        file: &'static str,
        /// After `AT`.
        mark: &'static str,
        /// End of the function's name.
        function: &'static str,
    },
    /// This function, whose build has no lines (a perf map has those where functions begin).
    Function(&'static str),
    /// The executable's own code, which has no names.
    Executable,
    /// None, and evidence with these words that says why.
    None(&'static str),
}

/// How the native stack compares to gdb's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gdb {
    /// Frame for frame.
    Equal,
    /// Down to the first frame of generated code or of a builtin without unwind information, and
    /// not beyond, because gdb goes on there by guessing.
    EqualTo(&'static str),
    /// Frame for frame, but gdb goes on for this many at most, and why.
    Beyond(usize, &'static str),
}

/// One program.
#[derive(Debug, Clone, Copy)]
pub struct Member {
    /// Name in the table.
    pub name: &'static str,
    /// Starts it.
    start: fn(&Server) -> Result<Program>,
    /// What must be reported.
    pub site: Site,
    /// The comparison.
    pub gdb: Gdb,
    /// Part of the short run.
    pub cheap: bool,
}

const fn member(
    name: &'static str,
    start: fn(&Server) -> Result<Program>,
    site: Site,
    gdb: Gdb,
) -> Member {
    Member {
        name,
        start,
        site,
        gdb,
        cheap: false,
    }
}

const fn cheap(member: Member) -> Member {
    Member {
        cheap: true,
        ..member
    }
}

const fn line(file: &'static str, mark: &'static str, function: &'static str) -> Site {
    Site::Line {
        file,
        mark,
        function,
    }
}

/// gdb has no rules for code that V8 or the JVM generated, nor for V8's builtins.
const GENERATED: &str = "gdb guesses in generated code, which has no unwind information; \
                         tracer follows its frame pointers";

/// All programs.
pub const MEMBERS: &[Member] = &[
    cheap(member(
        "C -O2 -fomit-frame-pointer",
        |s| {
            s.program(
                fixtures::path("client-o2")?,
                &["fetch", &s.plain, "4", "1200", "leak"],
            )
        },
        line("c/client.c", "fetch_price", "fetch_price"),
        Gdb::Equal,
    )),
    member(
        "C with libcurl, TLS",
        |s| {
            s.program(
                fixtures::path("curl")?,
                &[&s.url(true, ""), PACE[0], PACE[1]],
            )
        },
        line("c/curl.c", "load_rates", "load_rates"),
        Gdb::Equal,
    ),
    cheap(member(
        "Rust release",
        |s| s.program(rust(false)?, &[&s.plain, PACE[0], PACE[1]]),
        Site::Function("client::rates::load"),
        Gdb::Equal,
    )),
    cheap(member(
        "Rust release, debuginfo=2",
        |s| s.program(rust(true)?, &[&s.plain, PACE[0], PACE[1]]),
        line("rust/client.rs", "load", "client::rates::load"),
        Gdb::Equal,
    )),
    cheap(member(
        "Rust tokio",
        |s| {
            s.program(
                fixtures::path("fixture-tokio")?,
                &[&s.plain, PACE[0], PACE[1]],
            )
        },
        line(
            "../src/bin/fixture-tokio.rs",
            "load_rates",
            "fixture_tokio::load_rates::{{closure}}",
        ),
        Gdb::Equal,
    )),
    cheap(member(
        "Python 3.11 http.client",
        |s| s.python("http.client", false),
        line("python/clients.py", "http.client", "with_http_client"),
        Gdb::Equal,
    )),
    member(
        "Python 3.11 requests",
        |s| s.python("requests", true),
        line("python/clients.py", "requests", "with_requests"),
        Gdb::Equal,
    ),
    member(
        "Python 3.11 httpx",
        |s| s.python("httpx", true),
        line("python/clients.py", "httpx", "with_httpx"),
        Gdb::Equal,
    ),
    member(
        "Python 3.11 aiohttp",
        |s| s.python("aiohttp", true),
        line("python/clients.py", "aiohttp", "with_aiohttp"),
        Gdb::Equal,
    ),
    member(
        "Node http, perf map",
        |s| s.node("http", true),
        Site::Function("loadRates"),
        Gdb::EqualTo(GENERATED),
    ),
    member(
        "Node fetch, perf map",
        |s| s.node("fetch", true),
        Site::Function("followRates"),
        Gdb::EqualTo(GENERATED),
    ),
    cheap(member(
        "Node http",
        |s| s.node("http", false),
        line("node/clients.js", "http", "loadRates"),
        Gdb::EqualTo(GENERATED),
    )),
    member(
        "Node fetch",
        |s| s.node("fetch", false),
        line("node/clients.js", "fetch", "followRates"),
        Gdb::EqualTo(GENERATED),
    ),
    member(
        "Java HttpURLConnection, perf map",
        |s| s.java("url", true),
        line("java/Clients.java", "url", "Clients.loadRates"),
        Gdb::EqualTo(GENERATED),
    ),
    member(
        "Java java.net.http, perf map",
        |s| s.java("client", true),
        line("java/Clients.java", "client", "Clients.askNewClient"),
        Gdb::EqualTo(GENERATED),
    ),
    member(
        "Java HttpURLConnection",
        |s| s.java("url", false),
        line("java/Clients.java", "url", "Clients.loadRates"),
        Gdb::EqualTo(GENERATED),
    ),
    member(
        "Go",
        golang,
        Site::Line {
            file: "go/app/leaks.go",
            mark: "LEAK raw-dial",
            function: "",
        },
        Gdb::Beyond(
            2,
            "where runtime.main would return to there is runtime.goexit, which never called \
             anything; gdb shows it, and one frame more that is none",
        ),
    ),
    // The last to start and the first to be shown to gdb: its transfers are limited.
    member(
        "curl of the distribution",
        curl,
        Site::Executable,
        Gdb::Equal,
    ),
];

/// The other end of all of them.
#[derive(Debug)]
pub struct Server {
    _program: Program,
    directory: tempfile::TempDir,
    /// Address for HTTP.
    pub plain: String,
    /// Address for HTTPS.
    pub tls: String,
}

impl Server {
    /// Starts it, with a certificate of its own making.
    ///
    /// # Errors
    /// When it does not start; [`crate::runner::Skip`] without Python or openssl.
    pub fn start() -> Result<Server> {
        let directory = tempfile::tempdir()?;
        let (key, certificate) = (directory.path().join("key"), directory.path().join("cert"));
        run(Command::new(host::tool("openssl")?)
            .args([
                "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2",
            ])
            .args(["-subj", "/CN=rates.test", "-keyout"])
            .arg(&key)
            .arg("-out")
            .arg(&certificate))?;
        let (python, script) = fixtures::python("server.py")?;
        let (program, addresses) = Program::ready(python, &[script, certificate, key])?;
        let (plain, tls) = addresses.split_once(' ').context("two addresses")?;
        Ok(Server {
            plain: plain.to_owned(),
            tls: tls.to_owned(),
            _program: program,
            directory,
        })
    }

    fn url(&self, tls: bool, path: &str) -> String {
        let (scheme, address) = if tls {
            ("https", &self.tls)
        } else {
            ("http", &self.plain)
        };
        format!("{scheme}://{address}/{path}")
    }

    fn program(&self, program: PathBuf, arguments: &[&str]) -> Result<Program> {
        Ok(Program::ready(program, arguments)?.0)
    }

    fn python(&self, library: &str, packages: bool) -> Result<Program> {
        let interpreter = if packages {
            python_with_packages()?
        } else {
            PathBuf::from("/usr/bin/python3")
        };
        let script = source("python/clients.py");
        let arguments = [
            &*script.to_string_lossy(),
            library,
            &self.plain,
            PACE[0],
            PACE[1],
        ];
        self.program(interpreter, &arguments)
    }

    fn node(&self, mode: &str, named: bool) -> Result<Program> {
        let script = source("node/clients.js");
        // A file of its own: where another test's tracer has a probe at an instruction of the same
        // file, the kernel takes gdb's breakpoint there for that probe, and gdb never sees it.
        let node = self.directory.path().join("node");
        if !node.exists() {
            fs::copy(host::tool("node")?, &node)?;
        }
        let mut command = Command::new(node);
        if named {
            command.args(["--perf-basic-prof", "--interpreted-frames-native-stack"]);
        }
        command
            .arg(script)
            .args([mode, &self.plain, PACE[0], PACE[1]])
            .current_dir(self.directory.path());
        started(&mut command)
    }

    /// Starts the Java program; `named` so that its code is compiled and its stack can be followed.
    ///
    /// # Errors
    /// When it can't be built or started; [`crate::runner::Skip`] without a JDK.
    pub fn java(&self, mode: &str, named: bool) -> Result<Program> {
        let classes = host::build_directory()?.join("fixtures/java");
        fs::create_dir_all(&classes)?;
        run(Command::new(host::tool("javac")?)
            .arg("-d")
            .arg(&classes)
            .arg(source("java/Clients.java")))?;
        let mut command = Command::new(host::tool("java")?);
        if named {
            // A perf map names compiled methods alone, and a test can't wait until they are.
            command.args([
                "-XX:+PreserveFramePointer",
                "-Xcomp",
                "-XX:TieredStopAtLevel=1",
            ]);
        }
        command
            .arg("-cp")
            .arg(&classes)
            .args(["Clients", mode, &self.plain, PACE[0], PACE[1]]);
        started(&mut command)
    }
}

impl Member {
    /// Starts the program.
    ///
    /// # Errors
    /// When it can't be built or started.
    pub fn start(&self, server: &Server) -> Result<Program> {
        (self.start)(server).with_context(|| self.name.to_owned())
    }

    /// Has the runtime write down the names of its compiled code, where it must be asked to.
    ///
    /// # Errors
    /// When it can't be asked.
    pub fn name_compiled_code(&self, program: &Program) -> Result<()> {
        if self.name.starts_with("Java") && self.name.contains("perf map") {
            run(Command::new(host::tool("jcmd")?)
                .arg(program.pid().to_string())
                .arg("Compiler.perfmap"))?;
        }
        Ok(())
    }
}

/// A file below `tests/fixtures`.
#[must_use]
pub fn source(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fixtures")
        .join(name)
}

fn started(command: &mut Command) -> Result<Program> {
    let mut program = Program::start(command)?;
    program.line("READY", host::seconds(60))?;
    Ok(program)
}

/// The distribution's curl opens a stream each 0.4 seconds: each waits for a transfer before
/// it to end, and never ends itself.
fn curl(server: &Server) -> Result<Program> {
    /// `--parallel-max` allows 300.
    const TRANSFERS: u32 = 290;
    let mut urls = String::new();
    for number in 1..=TRANSFERS {
        urls += &format!(
            "url = {}\n",
            server.url(false, &format!("wait/{}", number * 400))
        );
        urls += "output = /dev/null\n";
    }
    for _ in 0..TRANSFERS {
        urls += &format!(
            "url = {}\noutput = /dev/null\n",
            server.url(false, "stream")
        );
    }
    let list = server.directory.path().join("curl.conf");
    fs::write(&list, urls)?;
    Program::start(
        Command::new(host::tool("curl")?)
            .args([
                "--silent",
                "--no-buffer",
                "--parallel",
                "--parallel-immediate",
            ])
            .args(["--parallel-max", &TRANSFERS.to_string(), "--config"])
            .arg(list),
    )
}

/// The Go fixture of the newest version.
fn golang(server: &Server) -> Result<Program> {
    let program = go::build("1.27.3", go::Variant::Plain)?;
    let addresses = format!("{{\"wire\": \"{}\"}}", server.plain);
    let pace = ["-n", "1200", "-every", "250ms"];
    let arguments = [&["raw-dial", "-servers", &addresses][..], &pace].concat();
    server.program(program, &arguments)
}

/// A Rust program of one file, optimized.
fn rust(debug: bool) -> Result<PathBuf> {
    let directory = host::build_directory()?.join(if debug {
        "fixtures/rust-debuginfo"
    } else {
        "fixtures/rust"
    });
    fs::create_dir_all(&directory)?;
    let compiler = match env::var_os("CARGO") {
        Some(cargo) => Path::new(&cargo).with_file_name("rustc"),
        None => host::tool("rustc")?,
    };
    let program = directory.join("client");
    // A program of another run may be in use under this name: replace it, don't write into it.
    let fresh = directory.join(format!("client.{}", std::process::id()));
    run(Command::new(compiler)
        .args([
            "--edition",
            "2024",
            "--crate-name",
            "client",
            "-Copt-level=3",
        ])
        .arg(if debug {
            "-Cdebuginfo=2"
        } else {
            "-Cdebuginfo=0"
        })
        .arg(source("rust/client.rs"))
        .arg("-o")
        .arg(&fresh))?;
    fs::rename(&fresh, &program)?;
    Ok(program)
}

/// Builds a cargo project of its own, optimized, with the versions in its lock file; the folder of its
/// programs.
///
/// # Errors
/// The compiler's; [`Skip`] where its dependencies can't be had.
pub fn cargo_project(project: &Path) -> Result<PathBuf> {
    let name = project.file_name().context("a folder")?;
    let target = host::build_directory()?.join("cargo-fixtures").join(name);
    let cargo = |word: &str| -> Result<Command> {
        let mut command = Command::new(host::tool("cargo")?);
        command.args([word, "--quiet", "--locked", "--manifest-path"]);
        command.arg(project.join("Cargo.toml"));
        Ok(command)
    };
    if let Err(error) = run(&mut cargo("fetch")?) {
        bail!(Skip(format!("its crates can't be had: {error:#}")));
    }
    run(cargo("build")?
        .args(["--release", "--target-dir"])
        .arg(&target))?;
    Ok(target.join("release"))
}

/// An environment of Debian's Python with the libraries, made at the first use.
///
/// # Errors
/// When it can't be made.
pub fn python_with_packages() -> Result<PathBuf> {
    python_with(&PYTHON_PACKAGES)
}

/// The same for gRPC's C core.
///
/// # Errors
/// As [`python_with_packages`].
pub fn python_with_grpc() -> Result<PathBuf> {
    python_with(&["grpcio==1.85.3"])
}

/// The same with these packages, each `name==version`.
///
/// # Errors
/// When it can't be made.
pub fn python_with(packages: &[&str]) -> Result<PathBuf> {
    let name: String = packages.join("-").replace("==", "-");
    let place = host::cache()?.join("python").join(name);
    let python = place.join("bin/python");
    if place.join("complete").exists() {
        return Ok(python);
    }
    fs::create_dir_all(&place)?;
    // tests that run side by side want the same one
    let lock = fs::File::create(place.with_extension("lock"))?;
    lock.lock()?;
    if place.join("complete").exists() {
        return Ok(python);
    }
    // left over from an attempt that was interrupted
    let _ = fs::remove_dir_all(&place);
    run(Command::new("/usr/bin/python3")
        .args(["-m", "venv"])
        .arg(&place))?;
    run(Command::new(place.join("bin/pip"))
        .args(["install", "--quiet", "--disable-pip-version-check"])
        .args(packages))?;
    fs::write(place.join("complete"), "")?;
    Ok(python)
}

/// Runs a command to its end.
///
/// # Errors
/// When it fails, with what it wrote.
pub fn run(command: &mut Command) -> Result<()> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("starting {command:?}"))?;
    ensure!(
        output.status.success(),
        "{command:?} failed ({}):\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}
