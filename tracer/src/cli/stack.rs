//! Stacks as people read them: the application's own frames stand out, those of libraries are
//! folded, and what an interpreter or a runtime does beneath is left out.

use std::fmt::Write as _;

use super::{
    output::{Paint, clean},
    words::place,
};
use crate::{
    model::Owner,
    report::{CallSite, StackFrame},
};

/// How much of a stack to show, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Frames {
    /// Every frame, whosever it is.
    pub all: bool,
    /// Paths as the build recorded them.
    pub full_paths: bool,
}

/// Innermost own frames shown of a stack that has more.
const OWN_MOST: usize = 12;

/// The lines of a stack, innermost frame first.
///
/// Frames whose owner is unknown, as of reports of older daemons, are shown. The frame that is to
/// blame is always shown, whosever it is.
#[must_use]
pub fn lines(
    frames: &[StackFrame],
    blamed: Option<&CallSite>,
    how: Frames,
    paint: Paint,
) -> Vec<String> {
    part(frames, frames.iter().any(is_own), blamed, how, paint)
}

/// Two stacks that part: what each has of its own, and what both came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parted {
    /// Lines of the first alone.
    pub first: Vec<String>,
    /// Lines of the second alone.
    pub second: Vec<String>,
    /// Lines of both.
    pub both: Vec<String>,
}

/// Two stacks from where they part; nothing where the second has no frame of its own.
#[must_use]
pub fn parted(
    first: &[StackFrame],
    second: &[StackFrame],
    blamed: Option<&CallSite>,
    how: Frames,
    paint: Paint,
) -> Option<Parted> {
    let pairs = first.iter().rev().zip(second.iter().rev());
    let shared = pairs.take_while(|(one, two)| one == two).count();
    let (first, both) = first.split_at(first.len() - shared);
    let second = &second[..second.len() - shared];
    if second.is_empty() {
        return None;
    }
    let own = |frames: &[StackFrame]| frames.iter().any(is_own);
    let has_own = own(first) || own(both);
    let blamed_apart = blamed.filter(|site| first.iter().any(|frame| is_site(frame, site)));
    let blamed_both = blamed.filter(|_| blamed_apart.is_none());
    Some(Parted {
        first: part(first, has_own, blamed_apart, how, paint),
        second: part(second, own(second) || own(both), None, how, paint),
        both: part(both, has_own, blamed_both, how, paint),
    })
}

/// The lines of a part of a stack that has own frames, or none.
fn part(
    frames: &[StackFrame],
    has_own: bool,
    blamed: Option<&CallSite>,
    how: Frames,
    paint: Paint,
) -> Vec<String> {
    let blamed = frames
        .iter()
        .position(|frame| blamed.is_some_and(|site| is_site(frame, site)));
    // Where nothing is the application's, libraries are all there is to see.
    let mut lines = Vec::new();
    let mut folded: Vec<&StackFrame> = Vec::new();
    let mut own = 0;
    for (index, frame) in frames.iter().enumerate() {
        let shown = how.all
            || blamed == Some(index)
            || is_own(frame) && own < OWN_MOST
            || !has_own && frame.owner != Some(Owner::Runtime);
        if !shown {
            folded.push(frame);
            continue;
        }
        own += usize::from(is_own(frame));
        fold(&mut lines, &mut folded, paint);
        lines.push(line(frame, how, blamed == Some(index), paint));
    }
    fold(&mut lines, &mut folded, paint);
    lines
}

/// The application's own frames that led to the one to blame, innermost first.
#[must_use]
pub fn callers(frames: &[StackFrame], blamed: &CallSite, how: Frames, paint: Paint) -> Vec<String> {
    let site = frames.iter().position(|frame| is_site(frame, blamed));
    let outer = site.map_or(&[][..], |site| &frames[site + 1..]);
    let own = outer.iter().filter(|frame| is_own(frame));
    // without a line it is where a program begins
    own.filter(|frame| frame.frame.line.is_some())
        .map(|frame| format!("by {}", line(frame, how, false, paint)))
        .collect()
}

fn is_own(frame: &StackFrame) -> bool {
    matches!(frame.owner, Some(Owner::Own) | None)
}

fn is_site(frame: &StackFrame, site: &CallSite) -> bool {
    let frame = &frame.frame;
    (&site.function, &site.file, site.line) == (&frame.function, &frame.file, frame.line)
}

/// One line for frames that were left out, unless they are only the runtime's.
fn fold(lines: &mut Vec<String>, folded: &mut Vec<&StackFrame>, paint: Paint) {
    let left_out = std::mem::take(folded);
    let libraries: Vec<&StackFrame> = left_out
        .into_iter()
        .filter(|frame| frame.owner != Some(Owner::Runtime))
        .collect();
    if libraries.is_empty() {
        return;
    }
    let mut names: Vec<String> = Vec::new();
    for name in libraries.iter().filter_map(|frame| library(frame)) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    let mut line = match libraries.len() {
        1 => "… 1 frame".to_owned(),
        many => format!("… {many} frames"),
    };
    match names.as_slice() {
        [] => {}
        [one] => {
            let _ = write!(line, " of {one}");
        }
        [first, .., last] => {
            let _ = write!(line, " of {first} to {last}");
        }
    }
    lines.push(paint.dim(&line));
}

/// What a library is called: the package whose folder its file is in, else the file of its code.
fn library(frame: &StackFrame) -> Option<String> {
    let file = frame.frame.file.as_deref().unwrap_or_default();
    let packages = [
        "/site-packages/",
        "/dist-packages/",
        "/node_modules/",
        "/gems/",
        "/registry/src/",
        "/pkg/mod/",
        "/vendor/",
    ];
    let within = packages
        .iter()
        .filter_map(|folder| Some((file.rfind(folder)? + folder.len(), *folder)))
        .max();
    let name = match within {
        // below the index of a registry, and below a host, are folders before the package's own
        Some((at, "/registry/src/")) => file[at..].split('/').nth(1)?,
        Some((at, "/pkg/mod/" | "/vendor/")) => {
            let path = file[at..].rsplit_once('/').map_or("", |(folder, _)| folder);
            path.split('@').next()?
        }
        Some((at, _)) => file[at..].split('/').next()?,
        None => {
            let module = frame.frame.module.as_deref()?;
            module.rsplit('/').next()?
        }
    };
    let name = name.strip_suffix(".py").unwrap_or(name);
    (!name.is_empty()).then(|| clean(name).into_owned())
}

fn line(frame: &StackFrame, how: Frames, blamed: bool, paint: Paint) -> String {
    let of = &frame.frame;
    let file = of.file.as_deref().map(|file| match how.full_paths {
        true => file,
        false => short_path(file),
    });
    let inlined = if of.inlined { " (inlined)" } else { "" };
    let text = format!(
        "{} {}{inlined}",
        clean(&of.function),
        place(file, of.line, of.module.as_deref())
    );
    let text = text.trim_end();
    match frame.owner {
        _ if blamed => paint.bold(text),
        Some(Owner::Own) | None => text.to_owned(),
        Some(_) => paint.dim(text),
    }
}

/// The last folders of a path, which tell files apart.
#[must_use]
pub fn short_path(path: &str) -> &str {
    /// Parts kept: the file and two folders.
    const PARTS: usize = 3;
    let mut slashes = path.rmatch_indices('/').map(|(at, _)| at);
    match slashes.nth(PARTS - 1) {
        Some(at) if at > 0 => &path[at + 1..],
        _ => path,
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed assumption fails the test")]
mod tests {
    use super::*;
    use crate::model::Frame;

    fn frame(function: &str, file: Option<&str>, owner: Owner) -> StackFrame {
        StackFrame {
            frame: Frame {
                function: function.to_owned(),
                file: file.map(str::to_owned),
                line: file.map(|_| 7),
                module: Some("/usr/bin/python3.12".to_owned()),
                inlined: false,
                address: None,
            },
            owner: Some(owner),
        }
    }

    fn stack() -> Vec<StackFrame> {
        vec![
            frame("connect", None, Owner::Runtime),
            frame("sock_connect", None, Owner::Runtime),
            frame(
                "create_connection",
                Some("/usr/lib/python3.12/socket.py"),
                Owner::Runtime,
            ),
            frame(
                "_new_conn",
                Some("/v/site-packages/urllib3/connection.py"),
                Owner::Client,
            ),
            frame(
                "urlopen",
                Some("/v/site-packages/urllib3/pool.py"),
                Owner::Client,
            ),
            frame(
                "get",
                Some("/v/site-packages/requests/api.py"),
                Owner::Client,
            ),
            frame("fetch", Some("/srv/shop/orders/client.py"), Owner::Own),
            frame("main", Some("/srv/shop/orders/main.py"), Owner::Own),
            frame("_PyEval_EvalFrameDefault", None, Owner::Runtime),
        ]
    }

    fn site(frame: &StackFrame) -> CallSite {
        CallSite {
            function: frame.frame.function.clone(),
            file: frame.frame.file.clone(),
            line: frame.frame.line,
            module: None,
        }
    }

    #[test]
    fn libraries_are_folded_and_the_interpreter_is_left_out() {
        let stack = stack();
        let shown = lines(
            &stack,
            Some(&site(&stack[6])),
            Frames::default(),
            Paint::OFF,
        );
        assert_eq!(
            shown,
            [
                "… 3 frames of urllib3 to requests",
                "fetch shop/orders/client.py:7",
                "main shop/orders/main.py:7",
            ]
        );
    }

    #[test]
    fn all_frames_and_full_paths_are_for_the_asking() {
        let how = Frames {
            all: true,
            full_paths: true,
        };
        let shown = lines(&stack(), None, how, Paint::OFF);
        assert_eq!(shown.len(), 9);
        assert_eq!(shown[6], "fetch /srv/shop/orders/client.py:7");
    }

    #[test]
    fn a_stack_without_own_frames_shows_its_libraries() {
        let stack = &stack()[..6];
        let shown = lines(stack, Some(&site(&stack[5])), Frames::default(), Paint::OFF);
        assert_eq!(shown.len(), 3, "{shown:?}");
        assert!(shown.last().unwrap().starts_with("get "));
    }

    #[test]
    fn stacks_are_shown_from_where_they_part() {
        let of = |innermost: &str| {
            let mut stack = stack();
            stack[6].frame.function = innermost.to_owned();
            stack
        };
        let (request, opener) = (of("fetch"), of("open"));
        let show = |one: &[StackFrame], other: &[StackFrame]| {
            parted(
                one,
                other,
                Some(&site(&one[6])),
                Frames::default(),
                Paint::OFF,
            )
        };
        assert_eq!(show(&request, &request), None);
        let shown = show(&request, &opener).unwrap();
        let library = "… 3 frames of urllib3 to requests";
        assert_eq!(shown.first, [library, "fetch shop/orders/client.py:7"]);
        assert_eq!(shown.second, [library, "open shop/orders/client.py:7"]);
        assert_eq!(shown.both, ["main shop/orders/main.py:7"]);
        // one that is the end of the other has nothing to say of its own
        assert_eq!(show(&request, &request[3..]), None);
    }

    #[test]
    fn libraries_are_named_by_their_package() {
        let named = |file: &str| library(&frame("f", Some(file), Owner::Dependency));
        for (file, name) in [
            (
                "/home/me/.cargo/registry/src/index-1/ureq-2.1/src/lib.rs",
                "ureq-2.1",
            ),
            (
                "/home/me/go/pkg/mod/github.com/lib/pq@v1.10/conn.go",
                "github.com/lib/pq",
            ),
            ("/app/node_modules/undici/lib/core.js", "undici"),
            ("/x/conn.c", "python3.12"),
        ] {
            assert_eq!(named(file).as_deref(), Some(name), "{file}");
        }
    }

    #[test]
    fn short_paths_keep_what_tells_files_apart() {
        assert_eq!(
            short_path("/home/me/src/shop/orders/client.py"),
            "shop/orders/client.py"
        );
        assert_eq!(short_path("/src/main.go"), "/src/main.go");
        assert_eq!(short_path("main.go"), "main.go");
    }
}
