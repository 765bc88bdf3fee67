//! Every parser of bytes from outside behind one kind of function, for `cargo xtask fuzz` and for
//! property tests. Not part of the program.

use bytes::Bytes;
use tracer_ebpf::hello;

use crate::{
    config,
    elf::{Image, ImageKey},
    kernel, procs,
    procs::maps,
    protocols, recording,
    runtimes::{go, java, node, php, python, ruby},
    symbols::{blame, perf_map},
    unwind,
};

/// Bytes in, nothing out: what counts is that it returns.
pub type Target = fn(&[u8]);

/// All of them, by name; `fuzz/fuzz_targets` has a file for each.
pub const TARGETS: &[(&str, Target)] = &[
    ("elf", elf),
    ("go", golang),
    ("go_dwarf", go_dwarf),
    ("go_memory", go_memory),
    ("hotspot", hotspot),
    ("perf_map", perf_map),
    ("proc_files", proc_files),
    ("php", php_frames),
    ("python", python_code),
    ("v8", v8),
    ("ruby", ruby_frames),
    ("hello", client_hello),
    ("http", http_bytes),
    ("http2", http2_blocks),
    ("dns", dns_answers),
    ("services", first_messages),
    ("btf", btf),
    ("config", config),
    ("recording", recording),
];

/// An executable: its parts and frame rules, and a stack unwound by them.
pub fn elf(data: &[u8]) {
    unwind::unwind_hostile(data);
}

/// A Go executable: build information, function table, where probes would go.
pub fn golang(data: &[u8]) {
    let Ok(binary) = go::GoBinary::parse(Bytes::copy_from_slice(data)) else {
        return;
    };
    let names = ["main.main", "net/http.(*persistConn).readLoop"];
    for function in binary.functions_named(&names).into_iter().flatten() {
        let _ = binary.frames(function.entry);
        let _ = binary
            .code(function)
            .map(|code| go::prologue::attach_offset(&code));
    }
    for word in data.chunks_exact(8).take(64) {
        let address = word.iter().fold(0, |sum, b| sum << 8 | u64::from(*b));
        let _ = binary.frames(address);
        let _ = binary.frames(address & 0xff_ffff);
    }
}

/// The types that a Go program's debug information describes.
pub fn go_dwarf(data: &[u8]) {
    let key = ImageKey::for_memory(1, data.len() as u64);
    if let Ok(image) = Image::from_memory(key, data.to_vec()) {
        let _ = go::dwarf::read(&image);
    }
}

/// Goroutines, connections and settings in the memory of a Go program.
pub fn go_memory(data: &[u8]) {
    go::preexisting::read_hostile(data);
}

/// HotSpot's tables, code cache, compiled methods and metadata, and a stack walked by them.
pub fn hotspot(data: &[u8]) {
    java::read_hostile(data);
}

/// A perf map and its names.
pub fn perf_map(data: &[u8]) {
    let map = perf_map::PerfMap::parse(data);
    for line in data.split(|b| *b == b'\n').take(64) {
        let text = String::from_utf8_lossy(line);
        let first = text.split(' ').next().unwrap_or_default();
        let address = u64::from_str_radix(first, 16).unwrap_or_default();
        if let Some(name) = map.name(address) {
            let _ = perf_map::describe(&name);
        }
        let _ = perf_map::describe(&text);
    }
}

/// Files below `/proc`.
pub fn proc_files(data: &[u8]) {
    let _ = maps::parse(data);
    let text = String::from_utf8_lossy(data);
    let _ = procs::parse::stat(&text);
    let _ = procs::parse::ns_pids(&text);
    let _ = procs::parse::effective_capabilities(&text);
    let _ = procs::parse::catches(&text, 3);
    let _ = procs::parse::effective_ids(&text);
    let _ = procs::parse::open_files_limit(&text);
    let _ = procs::parse::socket_inode(&text);
    let _ = procs::parse::unix_listeners(&text).count();
    let _ = procs::parse::cgroup_mounts(&text);
    let memberships = procs::parse::cgroups(&text);
    let _ = procs::parse::container_id_of(&memberships);
    let _ = procs::parse::pod_uid_of(&memberships);
}

/// CPython's published offsets, line tables and objects.
pub fn python_code(data: &[u8]) {
    python::read_hostile(data);
}

/// Frames of V8's in any memory.
pub fn v8(data: &[u8]) {
    node::walk_hostile(data);
}

/// PHP's frames, functions and strings.
pub fn php_frames(data: &[u8]) {
    php::read_hostile(data);
}

/// Ruby's frames, instruction sequences, tables of lines and strings.
pub fn ruby_frames(data: &[u8]) {
    ruby::read_hostile(data);
}

/// A ClientHello, by the code that the kernel runs: the name lies within what was sent.
pub fn client_hello(data: &[u8]) {
    let _ = server_name(data);
    // its headers may lie elsewhere
    let (all, end) = (Slice(data), data.len() as u64);
    for found in [
        hello::server_name_in_message(&all, 0, end),
        hello::server_name_in_body(&all, 0, end),
    ] {
        assert!(found.is_none_or(|(at, len)| at + u64::from(len) <= end));
    }
}

/// The server name in a ClientHello.
fn server_name(data: &[u8]) -> Option<&[u8]> {
    let (at, len) = hello::server_name(&Slice(data), 0, data.len() as u64)?;
    let (at, len) = (at as usize, len as usize);
    assert!(at + len <= data.len(), "a name outside of what was sent");
    data.get(at..at + len)
}

/// What a program would read of a process that has just these bytes.
struct Slice<'a>(&'a [u8]);

impl hello::Memory for Slice<'_> {
    fn byte(&self, at: u64) -> u8 {
        let at = usize::try_from(at).unwrap_or(usize::MAX);
        self.0.get(at).copied().unwrap_or(0)
    }

    fn number(&self, at: u64) -> u16 {
        let at = usize::try_from(at).unwrap_or(usize::MAX);
        let bytes = self.0.get(at..at.saturating_add(2));
        bytes.map_or(0, |bytes| u16::from_be_bytes([bytes[0], bytes[1]]))
    }
}

/// The first bytes of a request of any protocol, and a URL.
pub fn http_bytes(data: &[u8]) {
    let _ = protocols::sniff(data);
    let redacted = protocols::redact_target(data, data.len().is_multiple_of(2));
    let _ = protocols::template(&redacted);
}

/// Header blocks of HTTP/2, one after the other: flags, length, payload.
pub fn http2_blocks(data: &[u8]) {
    let mut requests = protocols::Http2Requests::default();
    let (mut rest, mut number) = (data, 0);
    while let [flags, len, payload @ ..] = rest {
        let (payload, after) = payload.split_at(usize::from(*len).min(payload.len()));
        number += 1 + u32::from(flags & 0x40 != 0);
        let block = protocols::Http2Block {
            number,
            flags: *flags,
            cut: flags & 0x80 != 0,
            payload,
        };
        if let Some(request) = requests.read(&block, protocols::Scheme::Http) {
            let _ = protocols::template(&request.target);
        }
        rest = after;
    }
}

/// A first message of any protocol: who sent it, the port and the length, then its bytes.
pub fn first_messages(data: &[u8]) {
    let [flags, low, high, more, bytes @ ..] = data else {
        return;
    };
    let message = protocols::Message {
        bytes,
        len: bytes.len() + usize::from(*more) * usize::from(flags >> 1),
        sent: flags & 1 == 0,
        port: u16::from_le_bytes([*low, *high]),
    };
    let said = protocols::hear(&message, None);
    let _ = said.map(|said| protocols::hear(&message, Some(said.service)));
}

/// An answer of a DNS server.
pub fn dns_answers(data: &[u8]) {
    let _ = protocols::dns::read(data);
}

/// The kernel's type information.
pub fn btf(data: &[u8]) {
    let Some(btf) = kernel::btf::Btf::parse(data.to_vec()) else {
        return;
    };
    let _ = btf.field("sock", "__sk_common.skc_family");
    let _ = btf.struct_size("pt_regs");
    let _ = btf.enumerator("iter_type", "ITER_UBUF");
    let _ = btf.arguments("inet_accept");
    let _ = btf.has_tracepoint("inet_sock_set_state");
}

/// The daemon's configuration and its rules of blame.
pub fn config(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let _ = blame::Rule::parse(&text);
    let _ = config::Config::parse(&text, "fuzzed");
}

/// A recording as it is, and the records of one before they are compressed.
pub fn recording(data: &[u8]) {
    recording::read_hostile(data);
}

#[cfg(test)]
mod tests {
    use proptest::{
        collection::vec,
        prelude::{Strategy as _, any, proptest},
    };

    use tracer_ebpf::hello;

    use super::{Slice, TARGETS, server_name};

    /// A ClientHello with these extensions before the one that names the server.
    fn client_hello(before: &[Vec<u8>], session: usize, name: &[u8]) -> Vec<u8> {
        let sized = |bytes: &[u8]| {
            let mut sized = (bytes.len() as u16).to_be_bytes().to_vec();
            sized.extend_from_slice(bytes);
            sized
        };
        let mut server = vec![0];
        server.extend(sized(name));
        let mut extensions = Vec::new();
        for extension in before {
            extensions.extend([0, 43]);
            extensions.extend(sized(extension));
        }
        extensions.extend([0, 0]);
        extensions.extend(sized(&sized(&server)));
        let mut hello = vec![22, 3, 1, 0, 0, 1, 0, 0, 0, 3, 3];
        hello.extend([7; 32]);
        hello.push(session as u8);
        hello.extend(vec![9; session]);
        hello.extend(sized(&[0x13, 1, 0x13, 2]));
        hello.extend([1, 0]);
        hello.extend(sized(&extensions));
        hello
    }

    proptest! {
        #[test]
        fn the_server_name_is_found_wherever_it_stands(
            before in vec(vec(any::<u8>(), 0..2000), 0..40),
            session in 0..=32_usize,
            name in "[a-z0-9.-]{1,80}",
        ) {
            let sent = client_hello(&before, session, name.as_bytes());
            assert_eq!(server_name(&sent), Some(name.as_bytes()));
            for found in [
                hello::server_name_in_message(&Slice(&sent[5..]), 0, sent.len() as u64 - 5),
                hello::server_name_in_body(&Slice(&sent[9..]), 0, sent.len() as u64 - 9),
            ] {
                assert_eq!(found.map(|(_, len)| len as usize), Some(name.len()));
            }
            // nothing is made up where it was cut off
            assert_eq!(server_name(&sent[..sent.len() - 1]), None);
        }
    }

    #[test]
    fn each_target_has_its_file() {
        for (name, _) in TARGETS {
            let file = format!(
                "{}/../fuzz/fuzz_targets/{name}.rs",
                env!("CARGO_MANIFEST_DIR")
            );
            assert!(std::path::Path::new(&file).exists(), "{file}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in any::<Vec<u8>>()) {
            for (_, target) in TARGETS {
                target(&bytes);
            }
        }

        /// Words that lead to others: walks that get far.
        #[test]
        fn a_memory_full_of_pointers_is_survived(
            words in vec(proptest::prop_oneof![
                (512u64..1024).prop_map(|n| n * 8),
                any::<u64>(),
                0u64..32,
            ], 1..1024),
        ) {
            let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
            super::go_memory(&bytes);
            super::hotspot(&bytes);
        }

        /// Beginnings and ends of a real program, with damage.
        #[test]
        fn damaged_executables_are_survived(
            damage in vec((0usize..60_000, any::<u8>()), 0..64),
            keep in 60_000usize..70_000,
        ) {
            let mut bytes = std::fs::read("/bin/true").unwrap_or_default();
            bytes.truncate(keep);
            for (at, value) in damage {
                let at = at % bytes.len().max(1);
                if let Some(byte) = bytes.get_mut(at) { *byte = value; }
            }
            super::elf(&bytes);
            super::golang(&bytes);
        }
    }
}
