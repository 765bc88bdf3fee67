//! Behaviour tests: one file per promise that a user can rely on.
//!
//! `cargo test -p tracer-tests [FILTER…]`, as root. `--build-fixtures DIR [--static] [--go]` builds the
//! fixture programs into a directory instead, for a guest that has neither cargo nor a compiler.

mod backends;
mod bad_input;
mod bpffs;
mod callers;
mod capabilities;
mod chaos;
mod clients;
mod cluster;
mod command;
mod daemon;
mod dashboards;
mod doctor;
mod faults;
mod fixtures;
mod fleet;
mod frames;
mod go;
mod go_views;
mod grpc;
mod hostile;
mod http2_tls;
mod java;
mod languages;
mod live;
mod lives;
mod moved;
mod names;
mod node;
mod node_frames;
mod output;
mod outward;
mod packages;
mod page;
mod pairs;
mod prometheus;
mod readme;
mod recordings;
mod restart;
mod scenarios;
mod scenes;
mod schema;
mod secrets;
mod stacks;
mod targets;
mod tasks;
mod verdicts;

use std::{env, path::Path, process::ExitCode};

use tracer_tests::{fixtures::build_into, runner};

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    if let [flag, directory, rest @ ..] = arguments.as_slice()
        && flag == "--build-fixtures"
    {
        let directory = Path::new(directory);
        let asked = |flag: &str| rest.iter().any(|arg| arg == flag);
        let built = build_into(directory, asked("--static"));
        let built = built.and_then(|()| match asked("--go") {
            true => tracer_tests::go::build_into(directory),
            false => Ok(()),
        });
        return match built {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("fixtures: {error:#}");
                ExitCode::FAILURE
            }
        };
    }
    let by_backend = [scenarios::BY_BACKEND, verdicts::BY_BACKEND].map(runner::by_backend);
    runner::main(&[
        readme::TESTS,
        fixtures::TESTS,
        frames::TESTS,
        go::TESTS,
        go_views::TESTS,
        grpc::TESTS,
        java::TESTS,
        languages::TESTS,
        moved::TESTS,
        names::TESTS,
        clients::TESTS,
        callers::TESTS,
        node::TESTS,
        node_frames::TESTS,
        http2_tls::TESTS,
        stacks::TESTS,
        verdicts::TESTS,
        command::TESTS,
        recordings::TESTS,
        bad_input::TESTS,
        daemon::TESTS,
        dashboards::TESTS,
        hostile::TESTS,
        doctor::TESTS,
        fleet::TESTS,
        backends::TESTS,
        capabilities::TESTS,
        faults::TESTS,
        chaos::TESTS,
        restart::TESTS,
        secrets::TESTS,
        output::TESTS,
        outward::TESTS,
        cluster::TESTS,
        packages::TESTS,
        page::TESTS,
        prometheus::TESTS,
        live::TESTS,
        lives::TESTS,
        scenarios::TESTS,
        schema::TESTS,
        targets::TESTS,
        tasks::TESTS,
        // the heaviest last, when least runs beside them
        verdicts::BY_BACKEND,
        &by_backend.concat(),
    ])
}
