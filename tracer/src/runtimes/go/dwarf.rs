//! Offsets of members from the DWARF of a program, for versions of Go that the table in
//! [`super::offsets`] does not have.
//!
//! The Go linker writes a `DW_TAG_structure_type` for each type in use, named by its full path, and
//! compresses the sections with zlib (`cmd/link/internal/ld/dwarf.go`).

use std::{
    collections::{BTreeMap, HashMap},
    io::Read as _,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use flate2::read::ZlibDecoder;
use gimli::{AttributeValue, EndianSlice, LittleEndian};
use object::{
    elf::{CompressionHeader64, ELFCOMPRESS_ZLIB, SHF_COMPRESSED},
    pod,
};
use tracer_ebpf::GoLayout;

use super::offsets::Members;
use crate::elf::{DebugInfo, Image};

/// Bytes of all sections that are read, unpacked; programs beyond that get the newest known
/// offsets.
const UNPACKED_MAX: u64 = 160 << 20;
/// Time for one program. What is found until then counts: the types wanted are in the first units.
const TIME_MAX: Duration = Duration::from_secs(5);

/// Members by the type's name: name and offset in bytes.
pub type Types = HashMap<String, BTreeMap<String, u64>>;

/// The types that are wanted, in the names of every version.
const WANTED: &[&str] = &[
    "net/http.persistConn",
    "net/http.conn",
    "net/http.Request",
    "net/http.Transport",
    "net/url.URL",
    "net.netFD",
    "internal/poll.FD",
    "runtime.g",
    "runtime.m",
    "runtime.p",
    "net/http.http2ClientConn",
    "net/http.http2clientStream",
    "net/http/internal/http2.ClientConn",
    "net/http/internal/http2.clientStream",
    "net/http/internal/http2.ClientRequest",
    "internal/abi.ITab",
];

/// The wanted types of an ELF file; `None` without (readable) DWARF that has `persistConn` and `g`.
#[must_use]
pub fn read(image: &Image) -> Option<Types> {
    if image.debug_info() != DebugInfo::Sound {
        return None;
    }
    let mut sections = HashMap::new();
    let mut left = UNPACKED_MAX;
    for name in [".debug_info", ".debug_abbrev", ".debug_str"] {
        let bytes = section(image, name, left).unwrap_or_default();
        left = left.saturating_sub(bytes.len() as u64);
        sections.insert(name, bytes);
    }
    let load = |id: gimli::SectionId| -> Result<_, gimli::Error> {
        let bytes = sections.get(id.name()).map_or(&[][..], |bytes| &bytes[..]);
        Ok(EndianSlice::new(bytes, LittleEndian))
    };
    let types = collect(&gimli::Dwarf::load(load).ok()?).ok()?;
    let enough = types.contains_key("net/http.persistConn") && types.contains_key("runtime.g");
    enough.then_some(types)
}

/// A section, unpacked; `None` where it is larger than `most`.
fn section(image: &Image, name: &str, most: u64) -> Option<Bytes> {
    let section = image.sections().iter().find(|s| s.name == name)?;
    if section.flags & SHF_COMPRESSED.0 == 0 {
        return (section.part.len() <= most).then(|| image.bytes(&section.part))?;
    }
    let bytes = image.bytes(&section.part)?;
    let (header, packed) = pod::from_bytes::<Chdr>(&bytes).ok()?;
    let size = header.ch_size.get(object::LittleEndian);
    if header.ch_type.get(object::LittleEndian) != ELFCOMPRESS_ZLIB || size > most {
        return None;
    }
    let mut unpacked = Vec::new();
    // What the header promises is not believed either.
    let mut stream = ZlibDecoder::new(packed).take(size);
    stream.read_to_end(&mut unpacked).ok()?;
    Some(unpacked.into())
}

type Chdr = CompressionHeader64<object::LittleEndian>;
type Slice<'a> = EndianSlice<'a, LittleEndian>;

fn collect(dwarf: &gimli::Dwarf<Slice<'_>>) -> Result<Types, gimli::Error> {
    let mut types = Types::new();
    let mut units = dwarf.units();
    let began = Instant::now();
    // The units of one program share their abbreviations.
    let mut shared = None;
    while let Some(header) = units.next()? {
        // Not the whole unit with its line table: nothing of that is asked for.
        let at = header.debug_abbrev_offset();
        let abbreviations = match shared {
            Some((of, ref known)) if of == at => Arc::clone(known),
            _ => Arc::new(header.abbreviations(&dwarf.debug_abbrev)?),
        };
        shared = Some((at, Arc::clone(&abbreviations)));
        if began.elapsed() > TIME_MAX {
            break;
        }
        let mut entries = header.entries(&abbreviations);
        // The wanted type that is being read, and the depth of its members.
        let mut current: Option<(String, isize)> = None;
        while let Some(entry) = entries.next_dfs()? {
            let depth = entry.depth();
            if current.as_ref().is_some_and(|(_, at)| depth < *at) {
                current = None;
            }
            match (entry.tag(), &current) {
                (gimli::DW_TAG_structure_type, _) => {
                    current = name(dwarf, entry)
                        .filter(|name| WANTED.contains(&name.as_str()))
                        .map(|name| (name, depth + 1));
                }
                (gimli::DW_TAG_member, Some((of, at))) if depth == *at => {
                    let offset = entry
                        .attr_value(gimli::DW_AT_data_member_location)
                        .and_then(|value| value.udata_value());
                    if let (Some(name), Some(offset)) = (name(dwarf, entry), offset) {
                        types.entry(of.clone()).or_default().insert(name, offset);
                    }
                }
                _ => {}
            }
        }
        if types.len() == WANTED.len() {
            break;
        }
    }
    Ok(types)
}

/// Go writes names into the entries, the C compiler into a table of strings.
fn name(
    dwarf: &gimli::Dwarf<Slice<'_>>,
    entry: &gimli::DebuggingInformationEntry<Slice<'_>>,
) -> Option<String> {
    let text = match entry.attr_value(gimli::DW_AT_name)? {
        AttributeValue::String(text) => text,
        AttributeValue::DebugStrRef(offset) => dwarf.debug_str.get_str(offset).ok()?,
        _ => return None,
    };
    Some(text.to_string_lossy().into_owned())
}

/// Puts what was found in the place of the table's offsets.
pub fn apply(types: &Types, members: &mut Members, layout: &mut GoLayout) {
    let find = |of: &str, member: &str| types.get(of).and_then(|m| m.get(member)).copied();
    let wide = |into: &mut u64, of: &str, member: &str| {
        if let Some(offset) = find(of, member) {
            *into = offset;
        }
    };
    let narrow = |into: &mut u32, of: &str, member: &str| {
        if let Some(offset) = find(of, member).and_then(|o| u32::try_from(o).ok()) {
            *into = offset;
        }
    };
    const CONN: &str = "net/http.persistConn";
    const G: &str = "runtime.g";
    wide(
        &mut members.transport_keep_alives,
        "net/http.Transport",
        "DisableKeepAlives",
    );
    wide(&mut members.url_query, "net/url.URL", "RawQuery");
    wide(&mut members.g_status, G, "atomicstatus");
    wide(&mut members.g_goid, G, "goid");
    wide(&mut members.g_startpc, G, "startpc");
    wide(&mut members.g_wait_reason, G, "waitreason");
    wide(&mut members.conn_read_limit, CONN, "readLimit");
    wide(&mut members.conn_expected, CONN, "numExpectedResponses");
    wide(&mut members.conn_closed, CONN, "closed");
    wide(
        &mut members.transport_header_bytes,
        "net/http.Transport",
        "MaxResponseHeaderBytes",
    );
    wide(&mut members.server_state, "net/http.conn", "curState");
    narrow(&mut layout.g_goid, G, "goid");
    narrow(&mut layout.g_startpc, G, "startpc");
    narrow(&mut layout.g_m, G, "m");
    narrow(&mut layout.g_parent, G, "parentGoid");
    narrow(&mut layout.g_gopc, G, "gopc");
    narrow(&mut layout.m_p, "runtime.m", "p");
    narrow(&mut layout.p_runnext, "runtime.p", "runnext");
    narrow(&mut layout.conn_transport, CONN, "t");
    narrow(&mut layout.conn_conn, CONN, "conn");
    narrow(&mut layout.server_conn, "net/http.conn", "rwc");
    narrow(&mut layout.server_hijacked, "net/http.conn", "hijackedv");
    narrow(&mut layout.request_method, "net/http.Request", "Method");
    narrow(&mut layout.request_url, "net/http.Request", "URL");
    // Streams get a request of their own since Go 1.27, net/http's before.
    let request = match types.contains_key("net/http/internal/http2.ClientRequest") {
        true => "net/http/internal/http2.ClientRequest",
        false => "net/http.Request",
    };
    narrow(&mut layout.stream_method, request, "Method");
    narrow(&mut layout.stream_url, request, "URL");
    for package in ["net/http.http2", "net/http/internal/http2."] {
        narrow(
            &mut layout.stream_conn,
            &format!("{package}ClientConn"),
            "tconn",
        );
        narrow(
            &mut layout.stream_pipe,
            &format!("{package}clientStream"),
            "bufPipe",
        );
    }
    narrow(&mut layout.url_host, "net/url.URL", "Host");
    narrow(&mut layout.url_path, "net/url.URL", "Path");
    narrow(&mut layout.url_query, "net/url.URL", "RawQuery");
    narrow(&mut layout.itab_fun, "internal/abi.ITab", "Fun");
    if let Some(fd) = find("net.netFD", "pfd") {
        let within = |member| Some(fd.saturating_add(find("internal/poll.FD", member)?));
        members.fd_mutex = within("fdmu").unwrap_or(members.fd_mutex);
        members.fd_sysfd = within("Sysfd").unwrap_or(members.fd_sysfd);
        layout.fd_sysfd = u32::try_from(members.fd_sysfd).unwrap_or(layout.fd_sysfd);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::offsets;
    use super::{Types, apply, read};
    use crate::elf::{Image, ImageKey};

    fn image(bytes: &[u8]) -> Option<Image> {
        Image::from_memory(ImageKey::for_memory(1, 0), bytes.to_vec()).ok()
    }

    #[test]
    fn what_is_found_replaces_the_table() {
        let mut types = Types::new();
        for (of, member, offset) in [
            ("runtime.g", "goid", 400),
            ("net.netFD", "pfd", 8),
            ("internal/poll.FD", "Sysfd", 16),
            ("net/http.http2clientStream", "bufPipe", 56),
        ] {
            types
                .entry(of.to_owned())
                .or_default()
                .insert(member.to_owned(), offset);
        }
        let (mut members, mut layout) = (offsets::members(None), offsets::layout(None));
        apply(&types, &mut members, &mut layout);
        assert_eq!((members.g_goid, layout.g_goid), (400, 400));
        assert_eq!((layout.fd_sysfd, layout.stream_pipe), (24, 56));
        assert_eq!(layout.url_host, offsets::URL_HOST);
        // Without the newer type of request, streams have the older one, of which nothing is known
        // here.
        assert_eq!(layout.stream_url, offsets::layout(None).stream_url);
    }

    /// A C program whose structures have names of Go's (a seed of the fuzzer).
    const PROGRAM: &[u8] = include_bytes!("../../../../fuzz/seeds/go_dwarf/program");

    #[test]
    fn members_are_read_from_real_dwarf() {
        let types = image(PROGRAM).and_then(|i| read(&i)).unwrap_or_default();
        assert_eq!(types["net/http.persistConn"]["conn"], 16);
        assert_eq!(types["runtime.g"]["goid"], 8);
        assert_eq!(types["net/url.URL"]["Path"], 16);
    }

    proptest! {
        #[test]
        fn no_input_makes_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
            if let Some(image) = image(&bytes) {
                let _ = read(&image);
            }
        }
    }
}
