//! Node.js programs in a session: probes on their event loop, so that a connection's stack is that
//! of the function that asked for it.

use std::{
    collections::{HashMap, HashSet},
    thread,
};

use aya::programs::uprobe::UProbeLink;

use crate::{
    elf::{Image, ImageKey},
    kernel::{probes::Probes, uprobes, uprobes::Place},
    runtimes::view::InView,
};

/// Executables that are looked into, by name.
const PROGRAMS: [&str; 2] = ["node", "nodejs"];
/// Files with libuv in them: the executable, or a library of its own.
const FILES: [&str; 3] = ["node", "libnode", "libuv"];
/// Programs, and the functions they sit on.
const PROBES: [(&str, &str); 3] = [
    ("uv_handle_made", "uv_tcp_init"),
    ("uv_handle_made", "uv_tcp_init_ex"),
    ("uv_connecting", "uv_tcp_connect"),
];

/// The same for Node.js's way of trying the addresses of a host one after another, which other
/// programs with libuv don't have.
const RETRIES: [(&str, &str); 2] = [
    (
        "uv_connected",
        "_ZN4node14ConnectionWrapINS_7TCPWrapE8uv_tcp_sE12AfterConnectEP12uv_connect_si",
    ),
    ("uv_closing", "uv_close"),
];

/// Files with an event loop that are remembered. One that no process runs is forgotten when there
/// are more, not before: programs that come and go are not worth a probe each time.
const LOOPS_MAX: usize = 64;

/// The event loops that are probed.
#[derive(Debug, Default)]
pub struct EventLoops {
    /// Processes looked at, with the files that they have their event loop from.
    known: HashMap<u32, Vec<ImageKey>>,
    loops: HashMap<ImageKey, EventLoop>,
    /// Processes with a file for which there was no room.
    refused: HashSet<u32>,
}

/// A file with libuv in it: probed, or the reason why not, which names it.
type EventLoop = Result<Vec<UProbeLink>, String>;

impl EventLoops {
    /// Looks at a process that came into view.
    pub fn attach(&mut self, process: &mut InView<'_>, probes: &mut Probes) {
        let pid = process.pid();
        if is_node(process) {
            let loops = self.consider(probes, process);
            self.known.insert(pid, loops);
        }
    }

    /// The process has ended, or runs another program now.
    pub fn forget(&mut self, pid: u32) {
        self.known.remove(&pid);
        self.refused.remove(&pid);
    }

    /// What can't be seen, and why.
    pub fn degraded(&self) -> impl Iterator<Item = String> {
        let full = (!self.refused.is_empty()).then(|| {
            format!(
                "more than {LOOPS_MAX} Node.js programs: connections of the others are charged to \
                 the event loop"
            )
        });
        let unprobed = self.loops.values().filter_map(|l| l.as_ref().err());
        unprobed.cloned().chain(full)
    }

    /// The files that a process has its event loop from, probed where that can be.
    fn consider(&mut self, probes: &mut Probes, process: &mut InView<'_>) -> Vec<ImageKey> {
        let mut of_process = Vec::new();
        let pid = process.pid();
        for file in process.files() {
            if !FILES.iter().any(|prefix| file.name().starts_with(prefix)) {
                continue;
            }
            let (path, image) = (&file.path, &file.image);
            let key = image.key();
            if !self.loops.contains_key(&key) {
                if self.loops.len() >= LOOPS_MAX {
                    self.make_room(&of_process);
                }
                if self.loops.len() >= LOOPS_MAX {
                    self.refused.insert(pid);
                    continue;
                }
                let probed = attach(probes, image).map_err(|reason| {
                    format!("{path}: connections are charged to the event loop, because {reason}")
                });
                self.loops.insert(key, probed);
            }
            of_process.push(key);
        }
        of_process
    }

    /// Forgets the files that no process in view runs, except those that are `needed`. The kernel
    /// waits for each probe that goes, so they go on a thread of their own.
    fn make_room(&mut self, needed: &[ImageKey]) {
        let used = self.known.values().flatten().chain(needed);
        let used: HashSet<ImageKey> = used.copied().collect();
        let unused = self.loops.extract_if(|key, _| !used.contains(key));
        let gone: Vec<EventLoop> = unused.map(|(_, of_file)| of_file).collect();
        thread::spawn(move || drop(gone));
    }
}

fn is_node(process: &InView<'_>) -> bool {
    process.executable().is_some_and(|exe| {
        let name = exe.rsplit('/').next().unwrap_or(&exe);
        PROGRAMS.contains(&name)
    })
}

/// Attaches all probes, or none; none to a file without libuv.
fn attach(probes: &mut Probes, image: &Image) -> EventLoop {
    let functions = image.symbols(&PROBES.map(|(_, function)| function));
    let Some(file) = image.fd() else {
        return Ok(Vec::new());
    };
    if functions.iter().all(Option::is_none) {
        return Ok(Vec::new());
    }
    let mut places = places(image, &PROBES)?;
    places.extend(self::places(image, &RETRIES).unwrap_or_default());
    uprobes::attach(probes.ebpf_mut(), file, &places)
}

/// Where the functions are in the file, if all of them are.
fn places(image: &Image, probes: &[(&'static str, &'static str)]) -> Result<Vec<Place>, String> {
    let names: Vec<&str> = probes.iter().map(|(_, function)| *function).collect();
    let found = probes.iter().zip(image.symbols(&names));
    found
        .map(|(&(program, function), symbol)| {
            let offset = symbol.and_then(|(address, _)| image.file_offset(address));
            offset
                .map(|offset| (program, offset))
                .ok_or_else(|| format!("it has no {function}"))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::{EventLoops, ImageKey, LOOPS_MAX};

    #[test]
    fn there_is_room_where_a_file_is_not_used_any_more() {
        let key = |number| ImageKey::for_memory(number, 1);
        let mut all = EventLoops::default();
        for number in 0..LOOPS_MAX as u64 {
            all.loops.insert(key(number), Ok(Vec::new()));
        }
        all.known.insert(1, vec![key(1)]);
        all.make_room(&[key(2)]);
        let mut left: Vec<ImageKey> = all.loops.keys().copied().collect();
        left.sort();
        assert_eq!(left, [key(1), key(2)]);
    }
}
