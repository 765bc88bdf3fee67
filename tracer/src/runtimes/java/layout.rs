//! Where a HotSpot virtual machine keeps what its frames need, as its own tables say.

use super::tables::{Field, Refused, Symbols, Tables, text};
use crate::memory::Memory;

/// Types of which the tables are read.
const TYPES: &[&str] = &[
    "Abstract_VM_Version",
    "Arguments",
    "Array<Method*>",
    "Array<u1>",
    "Array<ResolvedMethodEntry>",
    "ClassLoaderData",
    "ClassLoaderDataGraph",
    "CodeBlob",
    "CodeCache",
    "CodeHeap",
    "CompiledMethod",
    "ConstMethod",
    "ConstantPool",
    "ConstantPoolCache",
    "ConstantPoolCacheEntry",
    "GenericGrowableArray",
    "GrowableArray<int>",
    "GrowableArrayBase",
    "HeapBlock",
    "HeapBlock::Header",
    "InstanceKlass",
    "Klass",
    "Method",
    "PcDesc",
    "ResolvedMethodEntry",
    "Symbol",
    "SystemDictionary",
    "VirtualSpace",
    "nmethod",
    "vmClasses",
];
/// Constants that are needed.
const CONSTANTS: &[&str] = &[
    "ConstMethod::_has_linenumber_table",
    "ConstMethodFlags::_misc_has_linenumber_table",
    "JVM_CONSTANT_Utf8",
    "frame::interpreter_frame_sender_sp_offset",
];
/// Fields lie in objects no larger than this.
const OFFSET_MAX: u64 = 4096;

/// What is understood of a virtual machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// Version as the VM prints it.
    pub version: String,
    /// Its first number: 17.
    pub major: u32,
    /// Code cache.
    pub heaps: HeapLayout,
    /// Pieces of code.
    pub blob: BlobLayout,
    /// Compiled methods.
    pub compiled: CompiledLayout,
    /// Methods, classes and their names.
    pub method: MethodLayout,
    /// What classes call, where that is understood.
    pub callers: Option<CallersLayout>,
}

/// The code cache: its heaps, their memory and the map of their segments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeapLayout {
    /// Address of the pointer to the list of heaps.
    pub list: u64,
    /// Address of the lowest address of all heaps.
    pub low: u64,
    /// Address of the address behind all heaps.
    pub high: u64,
    /// In a list: its length (32 bits).
    pub len: u64,
    /// In a list: the pointer to its elements.
    pub data: u64,
    /// In a heap: its memory, a `VirtualSpace`.
    pub memory: u64,
    /// In a heap: the segment map, a `VirtualSpace`.
    pub segments: u64,
    /// In a heap: the logarithm of a segment's size (32 bits).
    pub shift: u64,
    /// In a `VirtualSpace`: its first address.
    pub start: u64,
    /// In a `VirtualSpace`: the address behind it.
    pub end: u64,
    /// Bytes of a block's header, which the code follows.
    pub header: u64,
    /// In a block's header: whether it is in use (a byte).
    pub used: u64,
}

/// Where code begins and ends: as addresses until 22, as distances from the blob since.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// Offsets of the two addresses in the blob.
    Addresses(u64, u64),
    /// Offsets of the two distances (32 bits) in the blob.
    Distances(u64, u64),
}

/// A `CodeBlob`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlobLayout {
    /// Its name, a C string.
    pub name: u64,
    /// Its code.
    pub code: Extent,
    /// Size of its frames in words (32 bits).
    pub frame_words: u64,
    /// Its whole size in bytes (32 bits).
    pub size: u64,
}

/// Where the tables of a compiled method are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parts {
    /// Until 22, behind its code: distances (32 bits) of metadata, positions and what follows
    /// them, and the address of the scopes.
    Behind {
        /// Distance of the metadata.
        metadata: u64,
        /// Address of the scopes.
        scopes: u64,
        /// Distance of the positions.
        positions: u64,
        /// Distance of what follows the positions.
        end: u64,
    },
    /// Since 23, in memory of their own: positions, then scopes.
    Apart {
        /// Pointer to that memory.
        data: u64,
        /// Its size (32 bits).
        size: u64,
        /// Distance of the positions (32 bits).
        positions: u64,
        /// Distance of the scopes (32 bits).
        scopes: u64,
        /// Where the metadata is.
        metadata: Metadata,
    },
}

/// The references of a compiled method to others, since 23.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Metadata {
    /// 23 and 24: behind the code, at a distance (16 bits) from its end.
    AfterCode {
        /// That distance.
        distance: u64,
    },
    /// Since 25: in memory of their own, behind the relocations.
    Mutable {
        /// Pointer to that memory.
        data: u64,
        /// Its size (32 bits).
        size: u64,
        /// Size of the relocations (32 bits).
        relocations: u64,
    },
}

/// How the addresses that a deoptimized frame returns to are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Handler {
    /// An address.
    Address(u64),
    /// A distance from the blob (32 bits).
    Distance(u64),
}

/// An `nmethod`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CompiledLayout {
    /// The method that was compiled.
    pub method: u64,
    /// Where a frame keeps its position when it is deoptimized: distance (32 bits) from its stack
    /// pointer.
    pub original_pc: u64,
    /// Where deoptimized frames return to.
    pub deoptimized: Vec<Handler>,
    /// Its tables.
    pub parts: Parts,
    /// Size of a `PcDesc`.
    pub position_bytes: u64,
    /// In it: the distance from the code's start (32 bits).
    pub pc: u64,
    /// In it: the place among the scopes (32 bits).
    pub scope: u64,
    /// Compressed numbers have no zero bytes (since 20).
    pub without_zeros: bool,
}

/// A `Method` and where it leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MethodLayout {
    /// In a `Method`: its `ConstMethod`.
    pub fixed: u64,
    /// Bytes of a `ConstMethod`, which the bytecodes follow.
    pub fixed_bytes: u64,
    /// In it: its whole size in words, with all that follows it (32 bits).
    pub whole_words: u64,
    /// In it: the constant pool.
    pub constants: u64,
    /// In it: flags, of which the lowest byte counts.
    pub flags: u64,
    /// The flag that says that line numbers follow the bytecodes.
    pub has_lines: u8,
    /// In it: bytes of bytecode (16 bits).
    pub code_bytes: u64,
    /// In it: the name's place in the constant pool (16 bits).
    pub name: u64,
    /// In it: the signature's place in the constant pool (16 bits).
    pub signature: u64,
    /// In it: the method's number in its class (16 bits).
    pub number: u64,
    /// Bytes of a `ConstantPool`, which its entries follow.
    pub pool_bytes: u64,
    /// In it: the kinds of its entries, an array of bytes.
    pub tags: u64,
    /// In it: the class.
    pub holder: u64,
    /// In it: number of its entries (32 bits).
    pub entries: u64,
    /// The kind of an entry that is a text.
    pub utf8: u8,
    /// In a class: its name, a `Symbol`.
    pub class_name: u64,
    /// In a class: its methods.
    pub methods: u64,
    /// In a class: the data of its loader.
    pub loader: u64,
    /// In the data of a loader: the reference to the loader's object, null for the boot loader.
    pub loader_object: u64,
    /// In an array of methods: its elements.
    pub array_data: u64,
    /// In an array of bytes: its elements.
    pub bytes_data: u64,
    /// Where the source file's name is said: in the class (until 14) or in the constant pool.
    pub source: Source,
    /// In a `Symbol`: its length (16 bits).
    pub symbol_len: u64,
    /// In a `Symbol`: its text.
    pub symbol_body: u64,
}

/// Where the place of the source file's name in the constant pool is (16 bits).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// In the class.
    Class(u64),
    /// In the constant pool.
    Pool(u64),
}

/// Loaded classes and what they call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallersLayout {
    /// Address of the pointer to the first loader's data.
    pub loaders: u64,
    /// In the data of a loader: the next.
    pub next_loader: u64,
    /// In the data of a loader: its first class.
    pub classes: u64,
    /// In a class: the next of its loader.
    pub next_class: u64,
    /// In a class: its instances' layout (32 bits), negative for an array.
    pub kind: u64,
    /// In a class: its constant pool.
    pub constants: u64,
    /// In a constant pool: what was resolved of it.
    pub cache: u64,
    /// In that: the methods.
    pub resolved: Resolved,
}

/// What a class has resolved: each entry has its place in the constant pool (16 bits).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resolved {
    /// Until 21: fields and methods together.
    Entries {
        /// Their number (32 bits).
        len: u64,
        /// The first.
        start: u64,
        /// Bytes of one.
        each: u64,
        /// In one: its place.
        place: u64,
    },
    /// Since 22: methods in an array.
    Methods {
        /// Pointer to the array, which begins with its length.
        list: u64,
        /// In the array: its elements.
        data: u64,
        /// Bytes of one.
        each: u64,
        /// In one: its place.
        place: u64,
    },
}

/// Looks entries up and says which was missing.
struct Finder<'a> {
    tables: &'a Tables,
    version: String,
}

impl Finder<'_> {
    fn missing(&self, name: &'static str) -> Refused {
        Refused::Missing {
            version: self.version.clone(),
            name,
        }
    }

    fn unlike(&self, what: &'static str) -> Refused {
        Refused::Unlike {
            version: self.version.clone(),
            what,
        }
    }

    /// The offset of a field in its object.
    fn at(&self, name: &'static str) -> Result<u64, Refused> {
        let Field { offset, .. } = self.tables.field(name).ok_or_else(|| self.missing(name))?;
        if offset > OFFSET_MAX {
            return Err(self.unlike(name));
        }
        Ok(offset)
    }

    fn maybe(&self, name: &'static str) -> Option<u64> {
        self.at(name).ok()
    }

    /// The address of a static field.
    fn fixed(&self, name: &'static str) -> Result<u64, Refused> {
        let Field { address, .. } = self.tables.field(name).ok_or_else(|| self.missing(name))?;
        if address == 0 {
            return Err(self.unlike(name));
        }
        Ok(address)
    }

    fn size(&self, name: &'static str) -> Result<u64, Refused> {
        let size = self.tables.size(name).ok_or_else(|| self.missing(name))?;
        if size == 0 || size > OFFSET_MAX {
            return Err(self.unlike(name));
        }
        Ok(size)
    }

    fn constant(&self, name: &'static str) -> Result<u64, Refused> {
        self.tables.constant(name).ok_or_else(|| self.missing(name))
    }
}

impl Layout {
    /// Reads the machine's tables and chooses from them.
    ///
    /// # Errors
    /// When something that is needed is not said there.
    pub fn read(symbols: Symbols<'_>, memory: &dyn Memory) -> Result<(Layout, Tables), Refused> {
        let tables = Tables::read(TYPES, CONSTANTS, symbols, memory)?;
        let (version, major) = version(&tables, memory);
        let find = Finder {
            tables: &tables,
            version: version.clone(),
        };
        if find.constant("frame::interpreter_frame_sender_sp_offset")? != u64::from(u32::MAX) {
            return Err(find.unlike("interpreter frames"));
        }
        let layout = Layout {
            heaps: heaps(&find)?,
            blob: blob(&find)?,
            compiled: compiled(&find, major)?,
            method: method(&find)?,
            callers: callers(&find).ok(),
            version,
            major,
        };
        Ok((layout, tables))
    }
}

/// The version in words, and its first number.
fn version(tables: &Tables, memory: &dyn Memory) -> (String, u32) {
    let of = |name| tables.field(name).map(|field: Field| field.address);
    let words = of("Abstract_VM_Version._s_vm_release")
        .and_then(|at| memory.word(at))
        .and_then(|at| text(memory, at, 64));
    let major = of("Abstract_VM_Version._vm_major_version").and_then(|at| memory.half(at));
    let words = words.unwrap_or_else(|| "unknown".to_owned());
    (words, major.unwrap_or(0))
}

fn heaps(find: &Finder<'_>) -> Result<HeapLayout, Refused> {
    let used = find.at("HeapBlock::Header._used")?;
    Ok(HeapLayout {
        list: find.fixed("CodeCache._heaps")?,
        low: find.fixed("CodeCache._low_bound")?,
        high: find.fixed("CodeCache._high_bound")?,
        len: match find.maybe("GrowableArrayBase._len") {
            Some(len) => len,
            None => find.at("GenericGrowableArray._len")?,
        },
        data: find.at("GrowableArray<int>._data")?,
        memory: find.at("CodeHeap._memory")?,
        segments: find.at("CodeHeap._segmap")?,
        shift: find.at("CodeHeap._log2_segment_size")?,
        start: find.at("VirtualSpace._low_boundary")?,
        end: find.at("VirtualSpace._high_boundary")?,
        header: find.size("HeapBlock")?,
        used: find.at("HeapBlock._header")?.saturating_add(used),
    })
}

fn blob(find: &Finder<'_>) -> Result<BlobLayout, Refused> {
    let code = match find.maybe("CodeBlob._code_begin") {
        Some(begin) => Extent::Addresses(begin, find.at("CodeBlob._code_end")?),
        None => Extent::Distances(
            find.at("CodeBlob._code_offset")?,
            find.at("CodeBlob._data_offset")?,
        ),
    };
    Ok(BlobLayout {
        name: find.at("CodeBlob._name")?,
        code,
        frame_words: find.at("CodeBlob._frame_size")?,
        size: find.at("CodeBlob._size")?,
    })
}

fn compiled(find: &Finder<'_>, major: u32) -> Result<CompiledLayout, Refused> {
    let either = |first, second| find.maybe(first).map_or_else(|| find.at(second), Ok);
    let handlers = [
        ("CompiledMethod._deopt_handler_begin", false),
        ("CompiledMethod._deopt_mh_handler_begin", false),
        ("nmethod._deopt_handler_offset", true),
        ("nmethod._deopt_mh_handler_offset", true),
        ("nmethod._deopt_handler_entry_offset", true),
    ];
    let deoptimized: Vec<Handler> = handlers
        .into_iter()
        .filter_map(|(name, distance)| {
            let at = find.maybe(name)?;
            Some(if distance {
                Handler::Distance(at)
            } else {
                Handler::Address(at)
            })
        })
        .collect();
    if deoptimized.is_empty() {
        return Err(find.missing("nmethod._deopt_handler_offset"));
    }
    let parts = match find.maybe("nmethod._immutable_data") {
        None => Parts::Behind {
            metadata: find.at("nmethod._metadata_offset")?,
            scopes: find.at("CompiledMethod._scopes_data_begin")?,
            positions: find.at("nmethod._scopes_pcs_offset")?,
            end: find.at("nmethod._dependencies_offset")?,
        },
        Some(data) => Parts::Apart {
            data,
            size: find.at("nmethod._immutable_data_size")?,
            positions: find.at("nmethod._scopes_pcs_offset")?,
            scopes: find.at("nmethod._scopes_data_offset")?,
            metadata: match find.maybe("CodeBlob._mutable_data") {
                Some(data) => Metadata::Mutable {
                    data,
                    size: find.at("CodeBlob._mutable_data_size")?,
                    relocations: find.at("CodeBlob._relocation_size")?,
                },
                None => Metadata::AfterCode {
                    distance: find.at("nmethod._metadata_offset")?,
                },
            },
        },
    };
    Ok(CompiledLayout {
        method: either("nmethod._method", "CompiledMethod._method")?,
        original_pc: find.at("nmethod._orig_pc_offset")?,
        deoptimized,
        parts,
        position_bytes: find.size("PcDesc")?,
        pc: find.at("PcDesc._pc_offset")?,
        scope: find.at("PcDesc._scope_decode_offset")?,
        without_zeros: major >= 20,
    })
}

fn method(find: &Finder<'_>) -> Result<MethodLayout, Refused> {
    let either = |first, second| find.maybe(first).map_or_else(|| find.at(second), Ok);
    let flag = find
        .constant("ConstMethod::_has_linenumber_table")
        .or_else(|_| find.constant("ConstMethodFlags::_misc_has_linenumber_table"))?;
    let byte = |value: u64, what| u8::try_from(value).map_err(|_| find.unlike(what));
    Ok(MethodLayout {
        fixed: find.at("Method._constMethod")?,
        fixed_bytes: find.size("ConstMethod")?,
        whole_words: find.at("ConstMethod._constMethod_size")?,
        constants: find.at("ConstMethod._constants")?,
        flags: either("ConstMethod._flags", "ConstMethod._flags._flags")?,
        has_lines: byte(flag, "methods' flags")?,
        code_bytes: find.at("ConstMethod._code_size")?,
        name: find.at("ConstMethod._name_index")?,
        signature: find.at("ConstMethod._signature_index")?,
        number: find.at("ConstMethod._method_idnum")?,
        pool_bytes: find.size("ConstantPool")?,
        tags: find.at("ConstantPool._tags")?,
        holder: find.at("ConstantPool._pool_holder")?,
        entries: find.at("ConstantPool._length")?,
        utf8: byte(find.constant("JVM_CONSTANT_Utf8")?, "constants")?,
        class_name: find.at("Klass._name")?,
        methods: find.at("InstanceKlass._methods")?,
        loader: find.at("Klass._class_loader_data")?,
        loader_object: find.at("ClassLoaderData._class_loader")?,
        array_data: find.at("Array<Method*>._data")?,
        bytes_data: find.at("Array<u1>._data")?,
        source: match find.maybe("ConstantPool._source_file_name_index") {
            Some(at) => Source::Pool(at),
            None => Source::Class(find.at("InstanceKlass._source_file_name_index")?),
        },
        // 12 to 15 keep it above the reference count.
        symbol_len: match find.maybe("Symbol._length_and_refcount") {
            Some(both) => both.saturating_add(2),
            None => find.at("Symbol._length")?,
        },
        symbol_body: find.at("Symbol._body")?,
    })
}

fn callers(find: &Finder<'_>) -> Result<CallersLayout, Refused> {
    Ok(CallersLayout {
        loaders: find.fixed("ClassLoaderDataGraph._head")?,
        next_loader: find.at("ClassLoaderData._next")?,
        classes: find.at("ClassLoaderData._klasses")?,
        next_class: find.at("Klass._next_link")?,
        kind: find.at("Klass._layout_helper")?,
        constants: find.at("InstanceKlass._constants")?,
        cache: find.at("ConstantPool._cache")?,
        resolved: match find.maybe("ConstantPoolCache._resolved_method_entries") {
            Some(list) => Resolved::Methods {
                list,
                data: find.at("Array<ResolvedMethodEntry>._data")?,
                each: find.size("ResolvedMethodEntry")?,
                place: find.at("ResolvedMethodEntry._cpool_index")?,
            },
            None => Resolved::Entries {
                len: find.at("ConstantPoolCache._length")?,
                start: find.size("ConstantPoolCache")?,
                each: find.size("ConstantPoolCacheEntry")?,
                place: find.at("ConstantPoolCacheEntry._indices")?,
            },
        },
    })
}
