//! The programs: wrappers that name the hook they sit on and hand over. One file for each event, with
//! every way to attach to it, best first (`tracer/src/kernel/plan.rs` lists them): tracepoints, typed
//! and raw; the entry and return of functions, by trampolines (fentry, fexit) and by kprobes; at
//! last the return of all system calls.
//!
//! Each names the tracepoint or function, its prototype, since which kernel it exists, in whose
//! context it runs, and what is lost without it.

mod accept;
mod arguments;
mod go;
mod measure;
mod node;
mod process;
mod receive;
mod scan;
mod send;
mod syscalls;
mod tcp_state;
mod tls;
mod unix;
