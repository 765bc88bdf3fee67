//! Why a finding has a stack and yet no call site, and how to get one.

use crate::model::Site;

/// A sentence on a stack in which no frame is the application's own; `program` is the name of the
/// executable.
pub fn explain(site: &Site, program: &str) -> Option<String> {
    if site.own || site.frames.is_empty() {
        return None;
    }
    let runtime = runtime(program);
    let how = match runtime {
        Some(runtime) => runtime.how,
        // A program that has no code of its own in the stack: what is shown is the best there is.
        None if site.blamed().is_some() => return None,
        None => "If it is an interpreter, its script's frames can't be read.",
    };
    let what = runtime.map_or("application", |r| r.what);
    Some(format!(
        "No frame of the stack is known to be the {what}'s own. {how}"
    ))
}

struct Runtime {
    programs: &'static [&'static str],
    what: &'static str,
    how: &'static str,
}

const RUNTIMES: &[Runtime] = &[
    Runtime {
        programs: &["node", "nodejs"],
        what: "script",
        how: "What a library opens in a timer, an event or a queue of its own has no frame of who \
              asked it. Where coverage says that this V8 can't be understood, --perf-basic-prof \
              --interpreted-frames-native-stack has its functions named.",
    },
    Runtime {
        programs: &["java"],
        what: "Java program",
        how: "A connection that a client opens on a thread of its own, and not on the one that \
              asked, has no such frame. Where coverage says that the virtual machine can't be \
              understood, `jcmd PID Compiler.perfmap` (JDK 17 or later), or --ask-jvms, names its \
              compiled methods; -XX:+PreserveFramePointer then leads through their frames.",
    },
    Runtime {
        programs: &["python"],
        what: "script",
        how: "Python's own frames could not be read: CPython 3.8 to 3.14 is understood, as \
              distributions build it; the first stack of a process that was just started may lack \
              them.",
    },
    Runtime {
        programs: &["ruby", "perl", "php", "dotnet", "beam.smp"],
        what: "script",
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
    use crate::model::{Frame, Site, StackQuality};

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
}
