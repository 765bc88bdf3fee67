//! Programs that do what no daemon likes (`fixtures/python/hostile.py`).

use super::{Entry, Made, Shows};

const fn program(
    name: &'static str,
    items: &'static [u8],
    shows: Shows,
    function: &'static str,
) -> Entry {
    Entry {
        name,
        items,
        made: Made::Program(function),
        shows,
    }
}

/// All of this file.
pub const ALL: &[Entry] = &[
    program(
        "no descriptors in the target",
        &[5],
        Shows::Nothing,
        "exhausted",
    ),
    program("pairs of sockets in numbers", &[7], Shows::Nothing, "pairs"),
    program(
        "sockets that carry themselves",
        &[7],
        Shows::Nothing,
        "passed",
    ),
    program("hundreds of threads", &[4, 7], Shows::Nothing, "threads"),
    program("a fork storm", &[4, 5, 7], Shows::Nothing, "forks"),
    program(
        "a process that changes its name all the time",
        &[12, 13],
        Shows::Nothing,
        "names",
    ),
    program(
        "executables that are gone or others",
        &[3, 11],
        Shows::Nothing,
        "replaced",
    ),
    program(
        "libraries that are cut short",
        &[3],
        Shows::Nothing,
        "unmapped",
    ),
    program(
        "60,000 mappings",
        &[4],
        Shows::Refused("mappings", "too_often"),
        "mappings",
    ),
    program(
        "UNIX sockets with evil names",
        &[13],
        Shows::Nothing,
        "addresses",
    ),
    program(
        "heads of which nothing is right",
        &[8, 13],
        Shows::Nothing,
        "heads",
    ),
    program(
        "another route with each request",
        &[7, 12],
        Shows::Nothing,
        "routes",
    ),
    program("HTTP/2 that lies", &[4], Shows::Nothing, "frames"),
    program("handshakes that lie", &[13], Shows::Nothing, "hellos"),
    program(
        "answers of names that lie",
        &[13],
        Shows::Nothing,
        "answers",
    ),
    program("greetings that lie", &[8, 13], Shows::Nothing, "greetings"),
    program(
        "a namespace in which all leads out",
        &[4, 13],
        Shows::Nothing,
        "elsewhere",
    ),
];
