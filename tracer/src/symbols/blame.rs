//! Which frame of a stack is to blame: the innermost one that is the application's own.
//!
//! Whose a frame is, a table says (`blame.toml`, in this crate; users put rules of their own
//! before it). Pure.

use std::{fmt, sync::LazyLock};

use serde::Deserialize;
use thiserror::Error;

use crate::model::Frame;

/// Whose code a frame is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// C library, language runtime, standard library.
    System,
    /// A well-known client library.
    Client,
    /// Code of others that the application was built with.
    Dependency,
    /// The application's own.
    Own,
}

/// One rule: fits a frame when every list that is not empty has a pattern that fits.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// Whose the frames are that it fits.
    pub is: Origin,
    /// Patterns for the module's file name, without directories.
    #[serde(default)]
    pub module: Vec<String>,
    /// Patterns for the demangled function name.
    #[serde(default)]
    pub function: Vec<String>,
    /// Patterns for the source file as the build recorded it.
    #[serde(default)]
    pub file: Vec<String>,
}

/// A table of rules that can't be used.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub struct BadRules {
    /// Line, from 1.
    pub line: usize,
    /// The key, or the line's text where there is none.
    pub key: String,
    /// What is wrong with it.
    pub reason: String,
}

impl fmt::Display for BadRules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: `{}`: {}", self.line, self.key, self.reason)
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    #[serde(default)]
    rule: Vec<Rule>,
}

impl Rule {
    /// What is wrong with a rule without patterns.
    pub const EMPTY: &str =
        "has none of `module`, `function` and `file`, so it would fit every frame";

    /// Whether it has no pattern at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.module.is_empty() && self.function.is_empty() && self.file.is_empty()
    }

    /// Reads `[[rule]]` tables.
    ///
    /// # Errors
    /// [`BadRules`] names the first line and key that can't be understood; so does a rule without
    /// any pattern, which would fit everything.
    pub fn parse(text: &str) -> Result<Vec<Rule>, BadRules> {
        let table: Table = toml::from_str(text).map_err(|error| {
            let at = error.span().map_or(0, |span| span.start.min(text.len()));
            // Not every offset is a character boundary of a damaged text.
            let before = text.as_bytes().get(..at).unwrap_or_default();
            let line = before.iter().filter(|b| **b == b'\n').count();
            BadRules {
                line: line + 1,
                key: key_of(text.lines().nth(line).unwrap_or_default()),
                reason: error.message().to_owned(),
            }
        })?;
        for (number, rule) in table.rule.iter().enumerate() {
            if rule.is_empty() {
                let line = text
                    .lines()
                    .enumerate()
                    .filter(|(_, l)| l.trim_start().starts_with("[[rule]]"))
                    .nth(number)
                    .map_or(0, |(at, _)| at);
                return Err(BadRules {
                    line: line + 1,
                    key: "rule".to_owned(),
                    reason: Rule::EMPTY.to_owned(),
                });
            }
        }
        Ok(table.rule)
    }

    fn fits(&self, frame: &Frame) -> bool {
        let any = |patterns: &[String], text: Option<&str>| {
            patterns.is_empty() || text.is_some_and(|text| patterns.iter().any(|p| glob(p, text)))
        };
        let module = frame
            .module
            .as_deref()
            .map(|m| m.rsplit('/').next().unwrap_or(m));
        any(&self.module, module)
            && any(&self.function, Some(&frame.function))
            && any(&self.file, frame.file.as_deref())
    }
}

fn key_of(line: &str) -> String {
    let line = line.trim();
    line.split_once('=')
        .map_or(line, |(key, _)| key.trim_end())
        .to_owned()
}

/// The rules of `blame.toml`.
static BUILT_IN: LazyLock<Vec<Rule>> =
    LazyLock::new(|| Rule::parse(include_str!("blame.toml")).unwrap_or_default());

/// What is known of the process beside its frames.
#[derive(Debug, Clone, Copy, Default)]
pub struct Program<'a> {
    /// Path of its executable.
    pub executable: Option<&'a str>,
}

/// Whose a frame is: what the user says, else `known` (from the build), else the built-in table.
#[must_use]
pub fn origin(frame: &Frame, known: Option<Origin>, user: &[Rule]) -> Origin {
    if let Some(rule) = user.iter().find(|rule| rule.fits(frame)) {
        return rule.is;
    }
    if let Some(known) = known {
        return known;
    }
    BUILT_IN
        .iter()
        .find(|rule| rule.fits(frame))
        .map_or(Origin::Own, |rule| rule.is)
}

/// Index of the frame to blame, and whether it is the application's own; `None` for no frames at
/// all, or only such as are known to be the language's own.
///
/// The innermost own frame of the executable, or of a program it interprets, or (where nothing is
/// interpreted: else it extends the interpreter) of a library beside it; else the innermost own frame of any library; else whatever is least remote from the
/// application: a dependency, then a client library. `None` where there is nothing but runtime and
/// C library: an interpreter's own function calls nobody to account.
#[must_use]
pub fn call_site(
    frames: &[Frame],
    known: &[Option<Origin>],
    user: &[Rule],
    program: Program<'_>,
) -> Option<(usize, bool)> {
    let is_interpreted = |frame: &Frame| frame.module.is_none() && frame.file.is_some();
    let interpreted = frames.iter().any(is_interpreted);
    let mut best: Option<(u8, usize)> = None;
    for (index, frame) in frames.iter().enumerate() {
        let rank = match origin(frame, known.get(index).copied().flatten(), user) {
            Origin::Own if near(frame, program, interpreted) => 6,
            Origin::Own if named(frame) && (!interpreted || is_interpreted(frame)) => 5,
            Origin::Dependency => 4,
            Origin::Client => 3,
            Origin::Own => 2,
            Origin::System => continue,
        };
        if best.is_none_or(|(known, _)| rank > known) {
            best = Some((rank, index));
        }
    }
    best.map(|(rank, index)| (index, rank >= 5))
}

/// In the executable, in interpreted code, or, where there is none, in a library that does not come
/// with the system.
fn near(frame: &Frame, program: Program<'_>, interpreted: bool) -> bool {
    let Some(module) = frame.module.as_deref() else {
        return frame.file.is_some();
    };
    let system = [
        "/usr/lib",
        "/lib",
        "/usr/local/lib",
        "/nix/store/",
        "/snap/",
    ];
    let beside = !interpreted && !system.iter().any(|d| module.starts_with(d));
    Some(module) == program.executable || beside
}

/// Has a name, rather than a place.
fn named(frame: &Frame) -> bool {
    !frame.function.contains("+0x")
}

/// `pattern` fits the whole of `text`; `*` stands for any text.
fn glob(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = text.strip_prefix(first) else {
        return false;
    };
    let Some(last) = parts.next_back() else {
        return rest.is_empty();
    };
    for part in parts {
        let Some(at) = rest.find(part) else {
            return false;
        };
        rest = &rest[at + part.len()..];
    }
    rest.ends_with(last)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed expectation is a failed test")]
mod tests {
    use proptest::prelude::{any, proptest};

    use super::{BUILT_IN, Origin, Program, Rule, call_site, glob};
    use crate::model::Frame;

    fn frame(function: &str, file: Option<&str>, module: Option<&str>) -> Frame {
        Frame {
            function: function.to_owned(),
            file: file.map(str::to_owned),
            line: file.map(|_| 1),
            module: module.map(str::to_owned),
            inlined: false,
            address: None,
        }
    }

    fn blamed(frames: &[Frame], exe: &str) -> String {
        let program = Program {
            executable: Some(exe),
        };
        frames[call_site(frames, &[], &[], program).unwrap().0]
            .function
            .clone()
    }

    const LIBC: Option<&str> = Some("/usr/lib/x86_64-linux-gnu/libc.so.6");

    #[test]
    fn the_built_in_table_is_understood() {
        assert!(Rule::parse(include_str!("blame.toml")).is_ok());
        assert!(BUILT_IN.len() > 20);
    }

    #[test]
    fn c_blames_the_executable_past_libc_and_libcurl() {
        let curl = Some("/usr/lib/x86_64-linux-gnu/libcurl.so.4.8.0");
        let frames = [
            frame("__libc_connect", None, LIBC),
            frame("libcurl.so.4+0x2dd10", None, curl),
            frame("curl_easy_perform", None, curl),
            frame("fetch", Some("/src/app.c"), Some("/app/app")),
            frame("main", Some("/src/app.c"), Some("/app/app")),
            frame("__libc_start_call_main", None, LIBC),
        ];
        assert_eq!(blamed(&frames, "/app/app"), "fetch");
    }

    #[test]
    fn rust_blames_the_crate_past_std_tokio_and_dependencies() {
        let exe = Some("/app/svc");
        let frames = [
            frame("__connect", None, LIBC),
            frame(
                "<std::net::tcp::TcpStream>::connect::<&str>",
                Some("/rustc/abc/library/std/src/net/tcp.rs"),
                exe,
            ),
            frame("mio::net::tcp::stream::TcpStream::connect", None, exe),
            frame(
                "<tower_http::Trace<S> as tower_service::Service<R>>::call",
                None,
                exe,
            ),
            frame(
                "weird_dep::go",
                Some("/home/u/.cargo/registry/src/index.crates.io-1/weird-dep-1.0.0/src/lib.rs"),
                exe,
            ),
            frame(
                "svc::client::fetch::{{closure}}",
                Some("src/client.rs"),
                exe,
            ),
            frame(
                "<F as core::future::into_future::IntoFuture>::into_future",
                None,
                exe,
            ),
            frame("svc::main", Some("src/main.rs"), exe),
        ];
        assert_eq!(
            blamed(&frames, "/app/svc"),
            "svc::client::fetch::{{closure}}"
        );
    }

    #[test]
    fn ruby_blames_the_script_past_gems_extensions_and_stdlib() {
        let frames = [
            frame(
                "rsock_connect",
                None,
                Some("/usr/lib/x86_64-linux-gnu/ruby/3.1.0/socket.so"),
            ),
            frame(
                "pg_connect_start",
                None,
                Some("/var/lib/gems/3.1.0/extensions/wire_ext.so"),
            ),
            frame("connect", Some("/usr/lib/ruby/3.1.0/net/http.rb"), None),
            frame(
                "call",
                Some("/usr/local/bundle/gems/odd-wire-1.2.0/lib/odd.rb"),
                None,
            ),
            frame("block in check", Some("/srv/lamps/app.rb"), None),
            frame(
                "rb_vm_exec",
                None,
                Some("/usr/lib/x86_64-linux-gnu/libruby-3.1.so.3.1"),
            ),
        ];
        assert_eq!(blamed(&frames, "/usr/bin/ruby3.1"), "block in check");
        assert_eq!(blamed(&frames[..4], "/usr/bin/ruby3.1"), "call");
    }

    #[test]
    fn php_blames_the_script_past_internal_functions_and_vendor() {
        let frames = [
            frame("zif_curl_exec", None, Some("/usr/lib/php/20220829/curl.so")),
            frame("curl_exec", Some("[internal function]"), None),
            frame(
                "Wire\\Client::send",
                Some("/srv/shop/vendor/wire/client/src/Client.php"),
                None,
            ),
            frame("Shop::price", Some("/srv/shop/src/Shop.php"), None),
            frame("execute_ex", None, Some("/usr/sbin/php-fpm8.2")),
        ];
        assert_eq!(blamed(&frames, "/usr/sbin/php-fpm8.2"), "Shop::price");
    }

    #[test]
    fn python_blames_the_script_past_interpreter_stdlib_and_requests() {
        let frames = [
            frame("__connect", None, LIBC),
            frame("sock_connect", None, Some("/usr/bin/python3.11")),
            frame(
                "create_connection",
                Some("/usr/lib/python3/dist-packages/urllib3/util/connection.py"),
                None,
            ),
            frame("connect", Some("/usr/lib/python3.11/http/client.py"), None),
            frame(
                "get",
                Some("/opt/venv/lib/python3.11/site-packages/requests/api.py"),
                None,
            ),
            frame("poll_once", Some("/app/job.py"), None),
            frame("<module>", Some("/app/job.py"), None),
            frame(
                "_PyEval_EvalFrameDefault",
                None,
                Some("/usr/bin/python3.11"),
            ),
        ];
        assert_eq!(blamed(&frames, "/usr/bin/python3.11"), "poll_once");
    }

    #[test]
    fn node_and_java_blame_application_code() {
        let frames = [
            frame("uv_tcp_connect", None, Some("/usr/bin/node")),
            frame("connect", Some("node:net"), None),
            frame(
                "dispatch",
                Some("/app/node_modules/undici/lib/client.js"),
                None,
            ),
            frame("poll", Some("/app/index.js"), None),
        ];
        assert_eq!(blamed(&frames, "/usr/bin/node"), "poll");
        let frames = [
            frame(
                "NET_Connect",
                None,
                Some("/usr/lib/jvm/java-17/lib/libnet.so"),
            ),
            frame("java.net.Socket::connect", None, None),
            frame(
                "okhttp3.internal.connection.RealConnection::connect",
                None,
                None,
            ),
            frame("com.example.Poller::poll", None, None),
            frame("java.lang.Thread::run", None, None),
        ];
        assert_eq!(blamed(&frames, "/usr/bin/java"), "com.example.Poller::poll");
    }

    #[test]
    fn without_own_frames_the_least_remote_is_blamed() {
        let frames = [
            frame("__connect", None, LIBC),
            frame("curl_easy_perform", None, Some("/usr/lib/libcurl.so.4")),
            frame("helper", Some("/x/site-packages/helper/a.py"), None),
        ];
        assert_eq!(blamed(&frames, "/usr/bin/python3.11"), "helper");
        assert_eq!(
            blamed(&frames[..2], "/usr/bin/python3.11"),
            "curl_easy_perform"
        );
        let python = Program {
            executable: Some("/usr/bin/python3.11"),
        };
        let (_, own) = call_site(&frames, &[], &[], python).unwrap();
        assert!(!own);
        // Nor is the interpreter to blame for what its script does.
        let frames = [
            frame("__connect", None, LIBC),
            frame("sock_connect", None, Some("/usr/bin/python3.11")),
            frame(
                "_PyEval_EvalFrameDefault",
                None,
                Some("/usr/bin/python3.11"),
            ),
        ];
        assert_eq!(call_site(&frames, &[], &[], python), None);
        assert_eq!(call_site(&[], &[], &[], Program::default()), None);
    }

    #[test]
    fn rules_of_the_user_come_first() {
        let user = Rule::parse("[[rule]]\nis = \"dependency\"\nfunction = [\"acme_http_*\"]\n[[rule]]\nis = \"own\"\nmodule = [\"libcurl*\"]\n").unwrap();
        let frames = [
            frame("acme_http_get", Some("h.c"), Some("/app/app")),
            frame("main", Some("m.c"), Some("/app/app")),
        ];
        let program = Program {
            executable: Some("/app/app"),
        };
        assert_eq!(call_site(&frames, &[], &user, program), Some((1, true)));
        let curl = frame("x", None, Some("/usr/lib/libcurl.so.4"));
        assert_eq!(super::origin(&curl, None, &user), Origin::Own);
    }

    #[test]
    fn errors_name_line_and_key() {
        let error = Rule::parse("[[rule]]\nis = \"own\"\nmodul = [\"x\"]\n").unwrap_err();
        assert_eq!((error.line, error.key.as_str()), (3, "modul"));
        let error = Rule::parse("[[rule]]\nis = \"mine\"\nmodule = [\"x\"]\n").unwrap_err();
        assert_eq!((error.line, error.key.as_str()), (2, "is"));
        let error = Rule::parse("\n[[rule]]\nis = \"own\"\n").unwrap_err();
        assert_eq!((error.line, error.key.as_str()), (2, "rule"));
    }

    #[test]
    fn a_star_stands_for_any_text() {
        for (pattern, text, fits) in [
            ("libc.so*", "libc.so.6", true),
            ("libc.so*", "mylibc.so.6", false),
            ("*/a/*.py", "/x/a/b/c.py", true),
            ("abc", "abc", true),
            ("abc", "abcd", false),
            ("a*a", "a", false),
            ("*", "", true),
        ] {
            assert_eq!(glob(pattern, text), fits, "{pattern} {text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_survived(text in any::<String>()) {
            let _ = Rule::parse(&text);
        }

        #[test]
        fn damaged_tables_are_survived(cut in 0usize..400, insert in ".{0,4}") {
            let mut text = "[[rule]]\nis = \"own\"\nmodule = [\"a\"]\n".repeat(3);
            let at = cut.min(text.len());
            text.insert_str(at, &insert);
            if let Err(error) = Rule::parse(&text) { assert!(error.line >= 1); }
        }

        #[test]
        fn a_text_fits_itself_and_its_beginning(text in "[^*]{0,12}", more in "[^*]{0,4}") {
            let joined = format!("{text}{more}");
            let prefix = format!("{text}*");
            assert!(glob(&text, &text) && glob(&prefix, &joined));
        }
    }
}
