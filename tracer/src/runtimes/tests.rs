//! Whose frames of real stacks are, by the tables of all runtimes.

use std::{fs, process::Command};

use super::{
    Runtimes, TABLES, blame, fixture,
    managed::{Caller, Place},
};
use crate::{
    model::{CohortId, Frame, Kind},
    symbols::blame::{Program, Rule},
    unwind::modules::Modules,
};

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

fn call_site(frames: &[Frame], program: Program<'_>) -> Option<(usize, bool)> {
    let blamed = blame(Vec::new()).call_site(frames, &[], program);
    blamed.index.map(|index| (index, !blamed.own.is_empty()))
}

fn blamed<'a>(frames: &'a [Frame], exe: &str) -> Option<&'a str> {
    let program = Program {
        executable: Some(exe),
    };
    let (index, _) = call_site(frames, program)?;
    frames.get(index).map(|frame| frame.function.as_str())
}

const LIBC: Option<&str> = Some("/usr/lib/x86_64-linux-gnu/libc.so.6");

#[test]
fn the_built_in_tables_are_understood() {
    for table in TABLES {
        assert!(Rule::parse(table).is_ok_and(|rules| !rules.is_empty()));
    }
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
    assert_eq!(blamed(&frames, "/app/app"), Some("fetch"));
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
        Some("svc::client::fetch::{{closure}}")
    );
}

#[test]
fn go_blames_who_calls_a_generated_client_within_a_handler_too() {
    let exe = Some("/app/svc");
    let transport = "google.golang.org/grpc/internal/transport.(*http2Client).NewStream";
    let frames = [
        frame(transport, Some("/m/http2_client.go"), exe),
        frame(
            "google.golang.org/grpc.newClientStream",
            Some("/m/stream.go"),
            exe,
        ),
        frame(
            "log.example/pb.(*logClient).Watch",
            Some("/l/log_grpc.pb.go"),
            exe,
        ),
        frame("app.example/front.(*front).Get", Some("/a/front.go"), exe),
        frame(
            "app.example/pb._Front_Get_Handler",
            Some("/a/front_grpc.pb.go"),
            exe,
        ),
        frame(
            "google.golang.org/grpc.(*Server).handleStream",
            Some("/m/server.go"),
            exe,
        ),
        frame("runtime.goexit", Some("/go/src/runtime/asm.s"), exe),
    ];
    assert_eq!(
        blamed(&frames, "/app/svc"),
        Some("app.example/front.(*front).Get")
    );
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
    assert_eq!(blamed(&frames, "/usr/bin/python3.11"), Some("poll_once"));
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
    assert_eq!(blamed(&frames, "/usr/bin/node"), Some("poll"));
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
    assert_eq!(
        blamed(&frames, "/usr/bin/java"),
        Some("com.example.Poller::poll")
    );
}

#[test]
fn without_own_frames_the_least_remote_is_blamed() {
    let frames = [
        frame("__connect", None, LIBC),
        frame("curl_easy_perform", None, Some("/usr/lib/libcurl.so.4")),
        frame("helper", Some("/x/site-packages/helper/a.py"), None),
    ];
    assert_eq!(blamed(&frames, "/usr/bin/python3.11"), Some("helper"));
    assert_eq!(
        blamed(&frames[..2], "/usr/bin/python3.11"),
        Some("curl_easy_perform")
    );
    let python = Program {
        executable: Some("/usr/bin/python3.11"),
    };
    let (_, own) = call_site(&frames, python).unwrap_or_default();
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
    assert_eq!(call_site(&frames, python), None);
    assert_eq!(call_site(&[], Program::default()), None);
}

#[test]
fn a_folder_of_the_users_with_a_librarys_name_is_not_the_library() {
    for (function, file) in [
        ("app::fetch", "/home/u/ureq-bug/src/main.rs"),
        ("futures_leak::main", "src/main.rs"),
        ("sqlx_demo::main", "/src/sqlx-demo/src/main.rs"),
        ("fetch", "/home/u/lib/python-tools/fetch.py"),
        ("fetch", "/srv/my-packages/requests/job.py"),
    ] {
        let frames = [frame(function, Some(file), None)];
        assert_eq!(
            call_site(&frames, Program::default()),
            Some((0, true)),
            "{file}"
        );
    }
    for (function, file) in [
        (
            "ureq::run",
            "/home/me/.cargo/registry/src/index.crates.io-6f17d22bba15001f/ureq-2.9.1/src/a.rs",
        ),
        ("x::y", "/usr/share/cargo/registry/ureq-2.9.1/src/a.rs"),
        ("get", "/opt/v/lib/python3.11/site-packages/requests/api.py"),
    ] {
        let frames = [frame(function, Some(file), None)];
        assert_eq!(
            call_site(&frames, Program::default()),
            Some((0, false)),
            "{file}"
        );
    }
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
    assert_eq!(blamed(&frames, "/usr/bin/ruby3.1"), Some("block in check"));
    assert_eq!(blamed(&frames[..4], "/usr/bin/ruby3.1"), Some("call"));
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
    assert_eq!(blamed(&frames, "/usr/sbin/php-fpm8.2"), Some("Shop::price"));
}

/// `runtimes/fixture` is one that only tests have.
#[test]
#[expect(clippy::unwrap_used, reason = "a failed assumption fails the test")]
fn a_runtime_in_the_list_finds_its_programs_and_explains_them() {
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join(fixture::PROGRAM);
    fs::copy("/bin/sleep", &program).unwrap();
    let mut child = Command::new(&program).arg("600").spawn().unwrap();
    let (pid, other) = (child.id(), std::process::id());

    let (mut runtimes, mut modules) = (Runtimes::default(), Modules::new(16));
    for pid in [pid, other] {
        let process = modules.refresh(pid).unwrap();
        runtimes.look(pid, &process, &mut modules);
    }
    let mut version = |pid| runtimes.iter_mut().find_map(|(_, r)| r.version(pid));
    assert_eq!(version(pid).as_deref(), Some("fixture1.0"));
    assert_eq!(version(other), None);

    let at = Place {
        pc: fixture::CODE.start + 8,
        returning: true,
        sp: 0x7000,
        fp: None,
    };
    let stack = |address: u64| (address == at.sp).then_some(0x40_0000);
    let explained = runtimes.with_walkers(pid, |walkers| walkers.explain(at, &stack));
    let explained = explained.unwrap();
    let caller = explained.caller.unwrap();
    assert!(matches!(
        caller,
        Caller {
            pc: 0x40_0000,
            sp: 0x7008,
            ..
        }
    ));
    let nobody = runtimes.with_walkers(other, |walkers| walkers.explain(at, &stack));
    assert_eq!(nobody, None);

    // its own rules of blame pass its library over
    let shop = &explained.functions[0];
    let frames = [
        frame(
            "Transport.ask",
            Some("/opt/fixture-library/transport"),
            None,
        ),
        frame(&shop.function, shop.file.as_deref(), None),
    ];
    assert_eq!(blamed(&frames, "/srv/shop"), Some("Shop.order"));

    let info = runtimes.info(CohortId(1), pid, Kind::NeverClosed).unwrap();
    assert_eq!(info.notes, ["the fixture says never_closed"]);
    let said = format!("process {pid}: a fixture's pools are not asked");
    assert!(runtimes.degraded().contains(&said));
    runtimes.forget(pid);
    assert!(!runtimes.degraded().contains(&said));

    child.kill().unwrap();
    child.wait().unwrap();
}
