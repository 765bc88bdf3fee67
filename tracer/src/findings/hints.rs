//! Why a finding has a stack and yet no call site, and how to get one.

use crate::model::{Frame, Owner, Site};

/// A sentence on a stack in which no frame is the application's own; `program` is the name of the
/// executable.
pub fn explain(site: &Site, program: &str) -> Option<String> {
    if site.own || site.frames.is_empty() {
        return None;
    }
    let runtime = runtime(program);
    let how = match runtime {
        Some(runtime) if runtime.threads && is_read(site) => handed_over(site),
        Some(runtime) => runtime.how.to_owned(),
        // A program that has no code of its own in the stack: what is shown is the best there is.
        None if site.blamed().is_some() => return None,
        None => "If it is an interpreter, its script's frames can't be read.".to_owned(),
    };
    let what = runtime.map_or("application", |r| r.what);
    Some(format!(
        "No frame of the stack is known to be the {what}'s own. {how}"
    ))
}

/// Whether the stack shows functions of the program's language.
fn is_read(site: &Site) -> bool {
    let interpreted = |frame: &Frame| frame.module.is_none() && frame.file.is_some();
    site.frames.iter().any(interpreted)
}

/// What to look for where a thread or a loop was given a function that is not the application's.
fn handed_over(site: &Site) -> String {
    let outermost = site
        .owners
        .iter()
        .rposition(|owner| *owner != Owner::Runtime);
    let given = outermost.and_then(|index| site.frames.get(index));
    let given = given.filter(|frame| frame.module.is_none() && frame.line.is_some());
    let what = given.map_or_else(
        || "a function of the standard library's".to_owned(),
        |frame| frame.function.clone(),
    );
    format!(
        "All that runs there is libraries' code: a thread, an executor or an event loop was given \
         {what} to run, and who gave it is on no stack. Look for where the application does so."
    )
}

struct Runtime {
    programs: &'static [&'static str],
    what: &'static str,
    /// Its programs have threads that are given functions to run.
    threads: bool,
    how: &'static str,
}

const RUNTIMES: &[Runtime] = &[
    Runtime {
        programs: &["node", "nodejs"],
        what: "script",
        threads: false,
        how: "What a library opens in a timer, an event or a queue of its own has no frame of who \
              asked it. Where coverage says that this V8 can't be understood, --perf-basic-prof \
              --interpreted-frames-native-stack has its functions named.",
    },
    Runtime {
        programs: &["java"],
        what: "Java program",
        threads: true,
        how: "A connection that a client opens on a thread of its own, and not on the one that \
              asked, has no such frame. Where coverage says that the virtual machine can't be \
              understood, `jcmd PID Compiler.perfmap` (JDK 17 or later), or --ask-jvms, names its \
              compiled methods; -XX:+PreserveFramePointer then leads through their frames.",
    },
    Runtime {
        programs: &["python"],
        what: "script",
        threads: true,
        how: "Python's own frames could not be read: CPython 3.8 to 3.14 is understood, as \
              distributions build it; the first stack of a process that was just started may lack \
              them.",
    },
    Runtime {
        programs: &["ruby", "php"],
        what: "script",
        threads: true,
        how: "Its functions could not be read; coverage says for which versions they are.",
    },
    Runtime {
        programs: &["perl", "dotnet", "beam.smp"],
        what: "script",
        threads: false,
        how: "Frames of this runtime's own can't be read.",
    },
];

fn runtime(program: &str) -> Option<&'static Runtime> {
    RUNTIMES.iter().find(|runtime| {
        runtime.programs.iter().any(|name| {
            program
                .strip_prefix(name)
                .is_some_and(|version| version.chars().all(|c| c.is_ascii_digit() || c == '.'))
        })
    })
}

#[cfg(test)]
mod tests {
    use super::{explain, runtime};
    use crate::model::{Frame, Owner, Site, StackQuality};

    fn site(own: bool, call_site: Option<usize>) -> Site {
        Site {
            frames: vec![Frame {
                function: "[jit]".to_owned(),
                file: None,
                line: None,
                module: None,
                inlined: false,
                address: Some(1),
            }],
            owners: Vec::new(),
            call_site,
            own,
            quality: StackQuality::Complete,
            library: false,
            own_frames: Vec::new(),
            runs_loop: None,
            line_in_function: None,
            again: None,
        }
    }

    #[test]
    fn runtimes_are_known_by_name_and_version() {
        for program in ["node", "python3.11", "python3", "php8.2", "java"] {
            assert!(runtime(program).is_some(), "{program}");
        }
        assert!(runtime("nodemon").is_none() && runtime("javac").is_none());
    }

    #[test]
    fn only_stacks_without_own_frames_are_explained() {
        assert_eq!(explain(&site(true, Some(0)), "node"), None);
        assert_eq!(explain(&site(false, Some(0)), "curl-wrapper"), None);
        let node = explain(&site(false, None), "node").unwrap_or_default();
        assert!(node.contains("--perf-basic-prof"), "{node}");
        let java = explain(&site(false, Some(0)), "java").unwrap_or_default();
        assert!(java.contains("Compiler.perfmap"), "{java}");
        assert!(explain(&site(false, None), "sh").is_some());
    }

    #[test]
    fn what_an_executor_was_given_is_named() {
        let mut given = site(false, Some(0));
        let frame = |function: &str, file: &str| Frame {
            function: function.to_owned(),
            file: Some(file.to_owned()),
            line: Some(7),
            address: None,
            ..given.frames[0].clone()
        };
        given.frames = vec![
            frame("Session.request", "/v/site-packages/requests/sessions.py"),
            frame("Session.get", "/v/site-packages/requests/sessions.py"),
            frame(
                "_WorkItem.run",
                "/usr/lib/python3.11/concurrent/futures/thread.py",
            ),
        ];
        given.owners = vec![Owner::Client, Owner::Client, Owner::Runtime];
        let said = explain(&given, "python3.11").unwrap_or_default();
        assert!(said.contains("given Session.get to run"), "{said}");
        given.owners = vec![Owner::Runtime; 3];
        let said = explain(&given, "python3").unwrap_or_default();
        assert!(said.contains("of the standard library's"), "{said}");
    }
}
