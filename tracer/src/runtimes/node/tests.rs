//! A real Node.js that waits, its stack as it is, and what it says of that stack itself.
#![expect(clippy::unwrap_used, reason = "a test that can't go on fails")]

use std::{
    fs::File,
    io::{BufRead, BufReader},
    process::{Child, ChildStdout, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use super::{clients, heap::Heap, metadata, places::Places, walker::V8};
use crate::{
    elf::Image,
    memory::{Memory, ProcessMemory},
    model::PoolState,
    procs::maps,
    unwind::managed::{Place, Walker},
};

/// Bytes of stack that are looked at.
const STACK: usize = 64 << 10;

struct Node {
    child: Child,
    lines: BufReader<ChildStdout>,
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Node {
    fn start(node: &str, script: &str, arguments: &[&str]) -> Node {
        let mut child = Command::new(node)
            .arg(script)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        Node { child, lines }
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.lines.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    /// Where the main thread waits in a read: its stack pointer.
    fn waiting(&self) -> u64 {
        let path = format!("/proc/{}/syscall", self.child.id());
        let deadline = Instant::now() + Duration::from_secs(10);
        while Instant::now() < deadline {
            let text = std::fs::read_to_string(&path).unwrap();
            let words: Vec<&str> = text.split_ascii_whitespace().collect();
            if words.len() == 9 && words[0] == "0" {
                let hex = |w: &str| u64::from_str_radix(w.trim_start_matches("0x"), 16).unwrap();
                return hex(words[7]);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        panic!("it does not wait");
    }

    /// What the walker makes of the stack: `function file:line`, and each doubt.
    fn walked(&self) -> Vec<String> {
        let pid = self.child.id();
        let sp = self.waiting();
        let memory = ProcessMemory::open(pid).unwrap();
        let stack = memory.bytes(sp, STACK);
        let word = |address: u64| -> Option<u64> {
            let at = usize::try_from(address.checked_sub(sp)?).ok()?;
            let bytes = stack.get(at..at.checked_add(8)?)?;
            Some(u64::from_le_bytes(bytes.try_into().ok()?))
        };
        let exe = format!("/proc/{pid}/exe");
        let path = std::fs::read_link(&exe).unwrap();
        let image = Image::open(File::open(&exe).unwrap()).unwrap();
        let found = metadata::read(&image).unwrap().unwrap();
        let text = std::fs::read(format!("/proc/{pid}/maps")).unwrap();
        let own = |name: &str| Some(name) == path.to_str();
        let places = Places::find(&maps::parse(&text), own, &image, &found.builtins);
        let mut walker = V8::new(Arc::new(found.layout), places);

        // A frame of V8's own has a small number where it has its kind. What looks like one may
        // be left over from earlier calls, so the one that leads through most frames counts.
        let starts = (sp..).step_by(8).take(STACK / 8).filter(|fp| {
            let kind = word(fp - 8).is_some_and(|kind| kind < 128 && kind % 2 == 0);
            kind && word(*fp).is_some_and(|outer| outer > *fp)
        });
        let mut most = Vec::new();
        for start in starts.collect::<Vec<u64>>() {
            let said = walk(&mut walker, start, &word, &memory);
            if said.len() > most.len() {
                most = said;
            }
        }
        most
    }
}

/// What the walker says of the callers of a frame.
fn walk(
    walker: &mut V8,
    start: u64,
    word: &dyn Fn(u64) -> Option<u64>,
    memory: &dyn Memory,
) -> Vec<String> {
    let mut said = Vec::new();
    let (mut pc, mut sp, mut fp) = (word(start + 8), start + 16, word(start));
    while let Some(address) = pc.filter(|pc| walker.claims(pc.wrapping_sub(1))) {
        let at = Place {
            pc: address,
            returning: true,
            sp,
            fp,
        };
        let Some(explained) = walker.explain(at, word, memory) else {
            break;
        };
        for named in explained.functions {
            let file = named.file.unwrap_or_default();
            let line = named.line.unwrap_or_default();
            said.push(format!("{} {file}:{line}", named.function));
        }
        said.extend(explained.doubt.map(|why| format!("doubt: {why}")));
        let Some(caller) = explained.caller else {
            break;
        };
        (pc, sp, fp) = (Some(caller.pc), caller.sp, caller.fp);
    }
    said
}

/// The versions to try: what is installed, or what a list of paths says.
fn versions() -> Vec<String> {
    let list = std::env::var("TRACER_NODES").unwrap_or_else(|_| "node".to_owned());
    let works = |node: &&str| {
        let run = Command::new(node).arg("--version").output();
        run.is_ok_and(|out| out.status.success())
    };
    list.split(':').filter(works).map(str::to_owned).collect()
}

/// The script says its own stack as V8 has it, one frame a line, and then waits in the same call.
const SCRIPT: &str = r#"'use strict';
const fs = require('fs');
const buffer = Buffer.alloc(4);
const zero = fs.openSync('/dev/zero');
let from = zero;

const wait = (tell) => {
  if (tell) { Error.stackTraceLimit = 100;
    const frames = new Error().stack.split('\n').slice(1);
    fs.writeSync(1, frames.map((f) => f.trim()).join('\n') + '\nEND\n'); }
  return fs.readSync(from, buffer, 0, 1);
};

class Shop {
  #last = 0;
  static open() { return new Shop(); }

  order(tell) {
    const each = (name) =>
      this.#send(name, tell);
    return [1].map(each);
  }

  #send(name, tell) {
    this.#last = name;

    return this.deliver(tell) + name;
  }

  get route() { return this.tell ? wait(true) : wait(false); }

  deliver(tell) {
    this.tell = tell; // é ü
    return this.route;
  }
}

function Old() { this.shop = Shop.open(); }
Old.prototype.go = function (tell) {
  return this.shop.order(tell);
};
const old = new Old();
function rounds(count) {
  for (let i = 0; i < count; i++) old.go(false);
}

let left = Number(process.argv[2]);
function next() {
  if (left-- > 0) { rounds(200); return setImmediate(next); }
  from = 0;
  old.go(true);
}
setImmediate(next);
"#;

fn compare(rounds: &str) {
    let script =
        std::env::temp_dir().join(format!("tracer-frames-{}-{rounds}.js", std::process::id()));
    std::fs::write(&script, SCRIPT).unwrap();
    let path = script.to_str().unwrap();
    for node in versions() {
        let mut node = Node::start(&node, path, &[rounds]);
        let mut told = Vec::new();
        loop {
            let line = node.line();
            if line == "END" || line.is_empty() {
                break;
            }
            told.push(line);
        }
        let walked = node.walked();
        println!(
            "--- {}\n{}\n---\n{}",
            rounds,
            told.join("\n"),
            walked.join("\n")
        );
        // `at Class.function [as name] (file:line:column)`
        let mut own: Vec<(String, String)> = Vec::new();
        for line in told.iter().filter(|line| line.contains(path)) {
            let place = line
                .rsplit(['(', ' '])
                .next()
                .unwrap()
                .trim_end_matches(')');
            let place = place.rsplit_once(':').unwrap().0.to_owned();
            let name = line.trim_start_matches("at ").split(" (").next().unwrap();
            let name = name.split(" [as ").next().unwrap().to_owned();
            own.push((name, place));
        }
        let own_walked: Vec<&String> = walked.iter().filter(|f| f.contains(path)).collect();
        assert_eq!(own_walked.len(), own.len(), "frames of the script");
        for (i, (said, (name, place))) in own_walked.iter().zip(&own).enumerate() {
            let (function, at) = said.rsplit_once(' ').unwrap();
            assert!(name.ends_with(function), "{function} is {name}");
            // the innermost one waits on another line than it tells
            assert!(i == 0 || at == place, "{said} is at {place}");
        }
        assert!(!walked.iter().any(|line| line.starts_with("doubt")));
    }
    let _ = std::fs::remove_file(script);
}

#[test]
fn interpreted_frames_are_those_that_node_tells() {
    compare("0");
}

#[test]
fn compiled_frames_are_those_that_node_tells() {
    compare("1");
    compare("10");
    compare("200");
}

/// A server and clients in every state; then it says which descriptors they have and waits.
const CLIENTS: &str = r#"'use strict';
const http = require('http');
const fs = require('fs');
const told = {};
const tell = (state, response) => { told[state] = (response.socket || response)._handle.fd; };
const server = http.createServer((request, response) => {
  if (request.url === '/never') return;
  response.write('x');
  if (request.url !== '/part') response.end('y');
});
server.on('upgrade', (request, socket) => {
  socket.write('HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n');
});
server.listen(0, '127.0.0.1', () => {
  const get = (path, then, headers = {}) => {
    const agent = new http.Agent({ keepAlive: true });
    return http.get({ host: '127.0.0.1', port: server.address().port, path, agent, headers }, then);
  };
  get('/all', (response) => tell('Response', response));
  get('/all', (response) => {
    const { socket } = response;
    response.resume().on('end', () => setTimeout(() => tell('Idle', socket), 50));
  });
  get('/part', (response) => { response.on('data', () => {}); tell('Reading', response); });
  get('/part', (response) => { response.resume(); tell('None', response); });
  get('/never').on('socket', (socket) => socket.on('connect', () => tell('InFlight', socket)));
  get('/up', null, { Connection: 'Upgrade', Upgrade: 'x' })
    .on('upgrade', (response, socket) => tell('Upgraded', socket));
  const wait = () => {
    if (Object.keys(told).length < 6) return setTimeout(wait, 20);
    fs.writeSync(1, JSON.stringify(told) + '\n');
    fs.readSync(0, Buffer.alloc(1), 0, 1);
  };
  setTimeout(wait, 300);
});
"#;

#[test]
fn clients_are_in_the_state_that_they_are_in() {
    let script = std::env::temp_dir().join(format!("tracer-clients-{}.js", std::process::id()));
    std::fs::write(&script, CLIENTS).unwrap();
    for node in versions() {
        let mut node = Node::start(&node, script.to_str().unwrap(), &[]);
        let told = node.line();
        node.waiting();
        let pid = node.child.id();
        let memory = ProcessMemory::open(pid).unwrap();
        let image = File::open(format!("/proc/{pid}/exe")).unwrap();
        let found = metadata::read(&Image::open(image).unwrap())
            .unwrap()
            .unwrap();
        let heap = Heap {
            layout: &found.layout,
            memory: &memory,
        };
        // these executables are linked to where they run
        let states = clients::states(heap, found.event_loop.unwrap());
        println!("{told}\n{states:?}");
        let state = |name: &str| {
            let (_, rest) = told.split_once(&format!("\"{name}\":")).unwrap();
            let fd = rest.split([',', '}']).next().unwrap();
            states.get(&fd.parse().unwrap()).copied()
        };
        assert_eq!(state("Response"), Some(PoolState::Response));
        assert_eq!(state("Idle"), Some(PoolState::Idle));
        assert_eq!(state("Reading"), Some(PoolState::Reading));
        assert_eq!(state("InFlight"), Some(PoolState::InFlight));
        assert_eq!(state("None"), None);
        assert_eq!(state("Upgraded"), None);
    }
    let _ = std::fs::remove_file(script);
}
