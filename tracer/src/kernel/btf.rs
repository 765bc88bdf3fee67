//! A reader of BTF, the kernel's own type information (Documentation/bpf/btf.rst): offsets of
//! structure members, values of enumerators, numbers of function arguments. Pure and tolerant of
//! damage: whatever is not there or does not parse is `None`.
//!
//! Not by `btf-rs`: it answers with types and their ids, so the greater part of this file (the way
//! through anonymous structures, offsets in bits, sizes of members) would be written all the same.

use std::collections::HashMap;

// kinds, include/uapi/linux/btf.h
const INT: u32 = 1;
const PTR: u32 = 2;
const ARRAY: u32 = 3;
const STRUCT: u32 = 4;
const UNION: u32 = 5;
const ENUM: u32 = 6;
const TYPEDEF: u32 = 8;
const VOLATILE: u32 = 9;
const CONST: u32 = 10;
const RESTRICT: u32 = 11;
const FUNC: u32 = 12;
const FUNC_PROTO: u32 = 13;
const FLOAT: u32 = 16;
const TYPE_TAG: u32 = 18;
const ENUM64: u32 = 19;

const MAGIC: u16 = 0xeb9f;
const TYPE_BYTES: usize = 12;
/// Depth of nested types followed before a file is taken for damaged.
const DEPTH: u32 = 32;

/// A member found by [`Btf::field`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Field {
    /// Offset from the start of the outermost structure, bytes.
    pub offset: u32,
    /// Size, bytes (0 when unknown).
    pub size: u32,
}

/// Parsed type information.
#[derive(Debug)]
pub struct Btf {
    data: Vec<u8>,
    /// Byte offset in `data` of each type's record, by type id; entry 0 (void) is unused.
    types: Vec<usize>,
    strings: usize,
    by_name: HashMap<(u32, u32), u32>,
}

/// One type's record.
#[derive(Clone, Copy)]
struct Record {
    at: usize,
    name: u32,
    kind: u32,
    members: usize,
    kind_flag: bool,
    size_or_type: u32,
}

impl Btf {
    /// Parses a whole BTF blob in the host's byte order; `None` when it is not one.
    #[must_use]
    pub fn parse(data: Vec<u8>) -> Option<Btf> {
        let u32_at = |at: usize| read_u32(&data, at);
        let magic = u16::from_ne_bytes(data.get(0..2)?.try_into().ok()?);
        if magic != MAGIC {
            return None;
        }
        let header = u32_at(4)? as usize;
        let first = header.checked_add(u32_at(8)? as usize)?;
        let end = first.checked_add(u32_at(12)? as usize)?;
        let strings = header.checked_add(u32_at(16)? as usize)?;
        if end > data.len() || strings > data.len() {
            return None;
        }
        let mut btf = Btf {
            types: vec![0],
            strings,
            by_name: HashMap::new(),
            data,
        };
        let mut at = first;
        while at < end {
            let record = btf.record_at(at)?;
            let id = u32::try_from(btf.types.len()).ok()?;
            btf.types.push(at);
            if record.name != 0 {
                btf.by_name
                    .entry((hash(btf.string(record.name)?), record.kind))
                    .or_insert(id);
            }
            at = at.checked_add(TYPE_BYTES + extra_bytes(record)?)?;
        }
        Some(btf)
    }

    /// Where a member is. `path` may go through nested structures, `a.b.c`; anonymous structures
    /// and unions are looked through.
    #[must_use]
    pub fn field(&self, structure: &str, path: &str) -> Option<Field> {
        let mut id = self.find(structure, &[STRUCT, UNION])?;
        let mut bits = 0;
        for name in path.split('.') {
            let (offset, member) = self.member(id, name, DEPTH)?;
            bits += offset;
            id = member;
        }
        Some(Field {
            offset: bits / 8,
            size: self.size(id, DEPTH),
        })
    }

    /// Size of a structure, bytes.
    #[must_use]
    pub fn struct_size(&self, structure: &str) -> Option<u32> {
        Some(self.size(self.find(structure, &[STRUCT, UNION])?, DEPTH))
    }

    /// Value of an enumerator (its low 32 bits).
    #[must_use]
    pub fn enumerator(&self, enumeration: &str, name: &str) -> Option<u32> {
        let record = self.record(self.find(enumeration, &[ENUM, ENUM64])?)?;
        let each = if record.kind == ENUM { 8 } else { 12 };
        (0..record.members).find_map(|i| {
            let at = record.at + TYPE_BYTES + each * i;
            let named = self.string(read_u32(&self.data, at)?)? == name.as_bytes();
            if named {
                read_u32(&self.data, at + 4)
            } else {
                None
            }
        })
    }

    /// Number of arguments of a kernel function; `None` when the kernel has no such function (or
    /// inlined it).
    #[must_use]
    pub fn arguments(&self, function: &str) -> Option<usize> {
        let record = self.record(self.find(function, &[FUNC])?)?;
        let proto = self.record(record.size_or_type)?;
        (proto.kind == FUNC_PROTO).then_some(proto.members)
    }

    /// Whether the kernel has a tracepoint: each leaves a typedef `btf_trace_NAME`.
    #[must_use]
    pub fn has_tracepoint(&self, name: &str) -> bool {
        self.find(&format!("btf_trace_{name}"), &[TYPEDEF])
            .is_some()
    }

    fn find(&self, name: &str, kinds: &[u32]) -> Option<u32> {
        let hash = hash(name.as_bytes());
        kinds.iter().find_map(|&kind| {
            let id = *self.by_name.get(&(hash, kind))?;
            if self.string(self.record(id)?.name)? == name.as_bytes() {
                return Some(id);
            }
            // a hash collision: search
            (1..u32::try_from(self.types.len()).ok()?).find(|&id| {
                self.record(id)
                    .is_some_and(|r| r.kind == kind && self.string(r.name) == Some(name.as_bytes()))
            })
        })
    }

    fn record(&self, id: u32) -> Option<Record> {
        if id == 0 {
            return None;
        }
        self.record_at(*self.types.get(id as usize)?)
    }

    fn record_at(&self, at: usize) -> Option<Record> {
        let info = read_u32(&self.data, at.checked_add(4)?)?;
        Some(Record {
            at,
            name: read_u32(&self.data, at)?,
            kind: info >> 24 & 31,
            members: (info & 0xffff) as usize,
            kind_flag: info >> 31 != 0,
            size_or_type: read_u32(&self.data, at.checked_add(8)?)?,
        })
    }

    fn string(&self, offset: u32) -> Option<&[u8]> {
        let bytes = self
            .data
            .get(self.strings.checked_add(offset as usize)?..)?;
        bytes.get(..bytes.iter().position(|&b| b == 0)?)
    }

    /// Through typedefs and qualifiers.
    fn resolve(&self, mut id: u32) -> u32 {
        for _ in 0..DEPTH {
            match self.record(id) {
                Some(r) if matches!(r.kind, TYPEDEF | VOLATILE | CONST | RESTRICT | TYPE_TAG) => {
                    id = r.size_or_type;
                }
                _ => break,
            }
        }
        id
    }

    fn size(&self, id: u32, depth: u32) -> u32 {
        let Some(record) = self.record(self.resolve(id)) else {
            return 0;
        };
        match record.kind {
            INT | STRUCT | UNION | ENUM | ENUM64 | FLOAT => record.size_or_type,
            PTR => 8,
            ARRAY if depth > 0 => {
                let at = record.at + TYPE_BYTES;
                let element = read_u32(&self.data, at).unwrap_or(0);
                let number = read_u32(&self.data, at + 8).unwrap_or(0);
                number.saturating_mul(self.size(element, depth - 1))
            }
            _ => 0,
        }
    }

    /// Bit offset and type of a member.
    fn member(&self, id: u32, name: &str, depth: u32) -> Option<(u32, u32)> {
        let record = self.record(self.resolve(id))?;
        if !matches!(record.kind, STRUCT | UNION) || depth == 0 {
            return None;
        }
        (0..record.members).find_map(|i| {
            let at = record.at + TYPE_BYTES + 12 * i;
            let member_name = self.string(read_u32(&self.data, at)?)?;
            let member_type = read_u32(&self.data, at + 4)?;
            let mut bits = read_u32(&self.data, at + 8)?;
            if record.kind_flag {
                bits &= 0x00ff_ffff; // the top byte is a bit field's width
            }
            if member_name == name.as_bytes() {
                Some((bits, member_type))
            } else if member_name.is_empty() {
                let (inner, found) = self.member(member_type, name, depth - 1)?;
                Some((bits.checked_add(inner)?, found))
            } else {
                None
            }
        })
    }
}

/// Bytes that follow a type's record.
fn extra_bytes(record: Record) -> Option<usize> {
    Some(match record.kind {
        INT | 14 | 17 => 4, // INT, VAR, DECL_TAG
        ARRAY => 12,
        STRUCT | UNION | 15 | ENUM64 => 12 * record.members, // 15: DATASEC
        ENUM | FUNC_PROTO => 8 * record.members,
        PTR | 7..=12 | FLOAT | TYPE_TAG => 0,
        _ => return None,
    })
}

fn read_u32(data: &[u8], at: usize) -> Option<u32> {
    let bytes = data.get(at..at.checked_add(4)?)?;
    Some(u32::from_ne_bytes(bytes.try_into().ok()?))
}

/// FNV-1a, to find names without keeping 100,000 strings.
fn hash(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |hash, &b| {
        (hash ^ u32::from(b)).wrapping_mul(0x0100_0193)
    })
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use proptest::prelude::{any, proptest};

    use super::Btf;

    fn own_kernel() -> Option<Btf> {
        Btf::parse(std::fs::read("/sys/kernel/btf/vmlinux").ok()?)
    }

    #[test]
    fn finds_members_of_the_running_kernel() {
        let Some(btf) = own_kernel() else {
            eprintln!("skipped: no /sys/kernel/btf/vmlinux here");
            return;
        };
        // stable since before BTF: include/net/sock.h begins sock_common with the addresses
        assert_eq!(btf.field("sock_common", "skc_daddr").unwrap().offset, 0);
        assert_eq!(btf.field("sock_common", "skc_dport").unwrap().offset, 12);
        assert_eq!(btf.field("sock_common", "skc_family").unwrap().size, 2);
        assert!(btf.has_tracepoint("inet_sock_set_state"));
        assert!(btf.arguments("tcp_sendmsg").is_some_and(|n| n == 3));
        assert_eq!(btf.field("sock_common", "no_such_member"), None);
        assert_eq!(btf.enumerator("no_such_enum", "X"), None);
    }

    proptest! {
        #[test]
        fn hostile_bytes_do_not_panic(tail in proptest::collection::vec(any::<u8>(), 0..400), lens in any::<[u32; 5]>()) {
            let mut data = vec![0x9f, 0xeb, 1, 0];
            for len in lens { data.extend((len & 0x1ff).to_ne_bytes()); }
            data.extend(tail);
            if let Some(btf) = Btf::parse(data) {
                let _ = btf.field("sock", "a.b");
                let _ = btf.enumerator("e", "v");
                let _ = btf.arguments("f");
            }
        }
    }
}
