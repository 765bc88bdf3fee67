//! Copying, unwinding and naming stacks.

use anyhow::Result;

use super::{Bench, Row, Section, programs};

/// What a stack costs.
pub const SECTION: Section = Section {
    name: "stacks",
    title: "Stacks",
    about: "50 programs with 20 call sites each, without frame pointers, unwound and named by `tracer/benches/stacks.rs`. \
            The first stack's names include reading the debug information of its files, and unpacking it where it is \
            compressed (that of the C library, where it is installed). \
            A copy in the kernel is a run of the program that makes it, less a run that makes none: of many in a row, as \
            when a program starts, and of a lone one, which also wakes the daemon. Of the latter nine tenths are the \
            interrupt by which the kernel puts off that wake-up (irq_work): in a virtual machine sending it leaves the guest. \
            Where the daemon has not caught up, it is not sent.",
    run,
};

/// Bars by the name of the value.
const BARS: &[(&str, f64)] = &[
    ("copy in the kernel, 16 KiB", 1_200.0),
    ("unwind, warm", 1.0),
    ("all caches after these call sites", 64.0),
];

fn run(bench: &Bench) -> Result<Vec<Row>> {
    programs::run(bench, "stacks", 7, BARS)
}
