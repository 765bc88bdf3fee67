//! CRuby: the methods and blocks of the script inside of the interpreter's functions.
//!
//! The kernel side follows the frames at the moment of the copy ([`tracer_ebpf::RUNTIME_RUBY`]);
//! their names are read right afterwards: instruction sequences stay where they are.

pub mod frame;
pub mod layout;
pub mod lines;
pub mod object;
pub mod symbols;

use std::{cell::OnceCell, sync::Arc};

use tracer_ebpf::{RUNTIME_RUBY, RuntimePlan};

use self::{
    layout::Layout,
    symbols::{Symbols, VARIABLES_MAX},
};
use super::{
    script::{self, Interpreters, NotUnderstood, Reason},
    thread_local::{self, CODE_BYTES, Library},
    view::{Copied, InView, Interleaved, MappedFile},
};
use crate::{memory::Memory, unwind::space::ModuleId};

/// Whose frames of Ruby are.
pub const RULES: &str = include_str!("blame.toml");

/// Longest version read.
const VERSION_BYTES: usize = 16;

/// The interpreter of one process.
#[derive(Debug)]
struct Interpreter {
    layout: Layout,
    /// The distances from the thread pointer to a thread's execution context.
    way: Vec<i32>,
    file: ModuleId,
    /// Names of methods written in C; looked for when the first stack is taken.
    symbols: OnceCell<Option<Symbols>>,
    /// Where the variables of the file are, and how many bytes.
    variables: Option<(u64, usize)>,
}

impl Interpreter {
    fn symbols(&self, memory: &dyn Memory) -> Option<&Symbols> {
        let find = || {
            let (start, len) = self.variables?;
            Symbols::find(&self.layout, memory, start, &memory.bytes(start, len))
        };
        self.symbols.get_or_init(find).as_ref()
    }
}

/// Reads the frames of Ruby 3.1 to 3.4.
#[derive(Debug, Default)]
pub struct Ruby {
    interpreters: Interpreters<Interpreter>,
}

impl super::Runtime for Ruby {
    fn name(&self) -> &'static str {
        "Ruby"
    }

    fn look(&mut self, process: &mut InView<'_>) {
        self.interpreters.look(process, |process, files| {
            let memory = process.memory().ok()?;
            files.iter().find_map(|file| find(file, files, &*memory))
        });
    }

    fn plan(&mut self, process: &mut InView<'_>) -> Option<RuntimePlan> {
        self.interpreters.plan(process.pid(), |interpreter| {
            let bytes = interpreter.layout.frame_bytes;
            script::plan(RUNTIME_RUBY, 0, &interpreter.way, bytes)
        })
    }

    fn interleave(&mut self, copied: &Copied<'_>) -> Option<Interleaved> {
        self.interpreters.interleave(
            copied,
            |interpreter| {
                let memory = copied.memory().ok()?;
                let symbols = interpreter.symbols(&memory);
                let described = copied
                    .found
                    .iter()
                    .map(|frame| frame::describe(&interpreter.layout, symbols, &memory, frame));
                Some(described.collect())
            },
            |interpreter, named| {
                let at = script::innermost_of(copied, interpreter.file);
                vec![(at, named.into_iter().flatten().collect())]
            },
        )
    }

    fn degraded(&self) -> Vec<String> {
        self.interpreters.refusals()
    }

    fn forget(&mut self, pid: u32) {
        self.interpreters.forget(pid);
    }
}

/// The interpreter in this file, or why it is not understood; `None` for a file without one.
fn find(
    file: &MappedFile,
    files: &[MappedFile],
    memory: &dyn Memory,
) -> Option<Result<Interpreter, NotUnderstood>> {
    if !file.name().contains("ruby") {
        return None;
    }
    let symbols = file.image.symbols(&["rb_thread_current", "ruby_version"]);
    let [Some((current, _)), Some((version, _))] = symbols[..] else {
        return None;
    };
    let refused = |reason| NotUnderstood {
        path: Arc::clone(&file.path),
        reason,
    };
    let stated = memory.bytes(file.bias.wrapping_add(version), VERSION_BYTES);
    let version = layout::version(&stated);
    let Some(layout) =
        version.and_then(|(major, minor)| (major == 3).then(|| Layout::of(minor)).flatten())
    else {
        return Some(Err(match version {
            Some(version) => refused(Reason::Version {
                language: "Ruby",
                version,
            }),
            None => refused(Reason::NoVersion("Ruby")),
        }));
    };
    let library = Library::of(files.iter().map(MappedFile::name));
    let Some(way) = context(file, library, memory, current) else {
        return Some(Err(refused(Reason::NotFound("threads' frames"))));
    };
    let variables = file.image.section(".data").and_then(|part| {
        let len = usize::try_from(part.bytes.end.checked_sub(part.bytes.start)?).ok()?;
        Some((file.bias.wrapping_add(part.address), len.min(VARIABLES_MAX)))
    });
    Some(Ok(Interpreter {
        layout,
        way,
        file: file.module,
        symbols: OnceCell::new(),
        variables,
    }))
}

/// The distances to the pointer to a thread's execution context, which is what `rb_thread_current`
/// looks at first.
fn context(
    file: &MappedFile,
    library: Library,
    memory: &dyn Memory,
    current: u64,
) -> Option<Vec<i32>> {
    let code = file.image.up_to(current, CODE_BYTES)?;
    let access = thread_local::access(&code, current)?;
    thread_local::way(access, library, file.bias, memory)
}

/// Reads any bytes as frames, versions and code, for the fuzzer.
#[cfg(any(test, fuzzing))]
pub(crate) fn read_hostile(data: &[u8]) {
    use crate::memory::Repeated;

    let _ = layout::version(data);
    let word = |at: usize| {
        let bytes = data.get(at..at + 8).and_then(|b| b.try_into().ok());
        bytes.map_or(0, u64::from_le_bytes)
    };
    let frame = tracer_ebpf::RuntimeFrame {
        code: word(0),
        instruction: word(8),
        extra: 0,
    };
    for minor in 1..=4 {
        if let Some(layout) = Layout::of(minor) {
            let symbols = Symbols::find(&layout, &Repeated(data), word(32), data);
            let _ = frame::describe(&layout, symbols.as_ref(), &Repeated(data), &frame);
            let _ = lines::line(&layout, &Repeated(data), word(16), word(24) % 4096);
        }
    }
    if let Some(access) = thread_local::access(data, word(0)) {
        let _ = thread_local::way(access, Library::Glibc, word(8), &Repeated(data));
    }
}
