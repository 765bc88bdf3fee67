//! Where V8 keeps what: frame slots, instance types and field offsets of one build.
//!
//! V8 describes itself by constants that its executable exports for debuggers (`v8dbg_*`). The
//! generator of that list loses one or another with almost every version; what is lost is filled
//! in here by version, and each such guess is checked by the types of the objects it leads to.

use std::{collections::HashMap, ops::RangeInclusive};

use super::promises;

/// V8's version: major, minor, build.
pub type Version = (u32, u32, u32);

/// Versions that are understood: Node.js 16 to 24, and what lies between.
const OLDEST: Version = (9, 0, 0);
const NEWEST: Version = (14, 0, 0);

/// Instance types, as maps hold them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Types {
    /// Functions of the language, classes included.
    pub function: RangeInclusive<u16>,
    /// What all closures of one function share.
    pub shared: u16,
    /// A pointer to that from among trusted objects (V8 13).
    pub shared_wrapper: Option<u16>,
    /// A source text with a name.
    pub script: u16,
    /// Description of a scope.
    pub scope_info: u16,
    /// Bytecode.
    pub bytecodes: u16,
    /// What describes compiled code.
    pub code: u16,
    /// Compiled code itself, where that is another object.
    pub instructions: Option<u16>,
    /// Types of arrays of bytes.
    pub byte_arrays: Vec<u16>,
    /// Types of arrays of values.
    pub arrays: Vec<u16>,
    /// Types from here on are no strings.
    pub first_nonstring: u16,
}

/// Offsets in the description of compiled code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CodeFields {
    /// Deoptimization data; the bytecode, for baseline code.
    pub deoptimization: u64,
    /// Source positions; how much code each bytecode took, for baseline code.
    pub positions: u64,
    /// Address of the first instruction, or (up to V8 11.1) the first instruction itself.
    pub start: u64,
    /// How many bytes of instructions.
    pub size: u64,
    /// Flags, the kind of code among them.
    pub flags: u64,
    /// From an object with instructions to the first of them.
    pub header: u64,
    /// The instructions are in the description itself.
    pub inline: bool,
    /// Mask of the kind of code in the flags.
    pub kind_mask: u32,
    /// The kind that is baseline code.
    pub baseline: u32,
}

/// Indices into deoptimization data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeoptFields {
    /// How many functions were inlined.
    pub inlined: u64,
    /// The functions inlined come first in here.
    pub literals: u64,
    /// The function itself.
    pub shared: u64,
    /// Where each was inlined.
    pub positions: u64,
}

/// Offsets in a function's shared part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SharedFields {
    /// Bytecode, baseline code or what stands for neither.
    pub data: u64,
    /// Name, or description of the scope, which has it.
    pub name_or_scope: u64,
    /// The script.
    pub script: u64,
}

/// The order of a scope's description.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScopeFields {
    /// Positions come before the variables (V8 12.8) instead of after the names.
    pub positions_first: bool,
    /// The kind of modules' scopes, where these say before their variables how many they have (V8 12).
    pub module_counts: Option<u32>,
    /// The flags are an integer of their own instead of a tagged one.
    pub plain_flags: bool,
    /// Names of more variables than this are in a table (V8 9.9).
    pub inlined_names: Option<u64>,
    /// A slot for the receiver where it is kept (up to V8 9.4).
    pub receiver: bool,
}

/// Where objects have their properties.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PropertyFields {
    /// Bit of a map's third flags: properties are in a table.
    pub dictionary_shift: u32,
    /// Bits of them: how many of the properties described are the object's.
    pub own_shift: u32,
    /// From a map to the descriptions of properties.
    pub descriptors: u64,
    /// From there to the first.
    pub descriptors_header: u64,
    /// Bit of a property's flags: the value is with the description.
    pub location_shift: u32,
    /// Words before the first entry of a table of properties.
    pub table_header: u64,
    /// Type of symbols.
    pub symbol: u16,
    /// From a symbol to its description.
    pub symbol_name: u64,
    /// Type of null, undefined, true and false.
    pub oddball: u16,
    /// Which of them is null.
    pub null: i32,
    /// Which is undefined.
    pub undefined: i32,
}

/// Everything about one build.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// V8's version.
    pub version: Version,
    /// From the frame pointer to the function.
    pub fp_function: i64,
    /// From the frame pointer to the context, or the kind of frame.
    pub fp_context: i64,
    /// From the frame pointer to the bytecode.
    pub fp_bytecodes: i64,
    /// From the frame pointer to the place in it.
    pub fp_offset: i64,
    /// Instance types.
    pub types: Types,
    /// Compiled code.
    pub code: CodeFields,
    /// Deoptimization data.
    pub deopt: DeoptFields,
    /// Shared parts of functions.
    pub shared: SharedFields,
    /// Scopes.
    pub scope: ScopeFields,
    /// Properties.
    pub properties: PropertyFields,
    /// From a map to its instance type.
    pub map_type: u64,
    /// From a function to its shared part.
    pub function_shared: u64,
    /// From bytecode to its source positions.
    pub bytecode_positions: u64,
    /// From bytecode to the first instruction.
    pub bytecode_data: u64,
    /// Script: name.
    pub script_name: u64,
    /// Script: text.
    pub script_source: u64,
    /// Promises, where they are known.
    pub awaits: Option<promises::Fields>,
    /// Bytes of each instruction: for single, double and quadruple operands one after another.
    pub bytecode_sizes: Vec<u8>,
}

/// Constants that can't be guessed: without one of them nothing is read.
const NEEDED: [&str; 12] = [
    "off_fp_function",
    "type_JSFunction__JS_FUNCTION_TYPE",
    "type_SharedFunctionInfo__SHARED_FUNCTION_INFO_TYPE",
    "type_Script__SCRIPT_TYPE",
    "type_ScopeInfo__SCOPE_INFO_TYPE",
    "type_BytecodeArray__BYTECODE_ARRAY_TYPE",
    "type_Code__CODE_TYPE",
    "type_FixedArray__FIXED_ARRAY_TYPE",
    "type_ByteArray__BYTE_ARRAY_TYPE",
    "FirstNonstringType",
    "class_JSFunction__shared__SharedFunctionInfo",
    "class_Script__name__Object",
];

/// Constants that are used where they are there, besides [`NEEDED`].
const USED: [&str; 41] = [
    "off_fp_bytecode_array",
    "off_fp_bytecode_offset",
    "off_fp_context",
    "class_Map__instance_type__uint16_t",
    "class_Script__source__Object",
    "type_BytecodeWrapper__BYTECODE_WRAPPER_TYPE",
    "type_InstructionStream__INSTRUCTION_STREAM_TYPE",
    "type_SharedFunctionInfoWrapper__SHARED_FUNCTION_INFO_WRAPPER_TYPE",
    "type_TrustedByteArray__TRUSTED_BYTE_ARRAY_TYPE",
    "type_TrustedFixedArray__TRUSTED_FIXED_ARRAY_TYPE",
    "type_TrustedWeakFixedArray__TRUSTED_WEAK_FIXED_ARRAY_TYPE",
    "type_ProtectedFixedArray__PROTECTED_FIXED_ARRAY_TYPE",
    "type_WeakFixedArray__WEAK_FIXED_ARRAY_TYPE",
    "class_SharedFunctionInfo__function_data__Object",
    "class_SharedFunctionInfo__name_or_scope_info__Object",
    "class_SharedFunctionInfo__name_or_scope_info__Tagged_Object_",
    "class_SharedFunctionInfo__name_or_scope_info__Tagged_NameOrScopeInfoT_",
    "class_SharedFunctionInfo__script_or_debug_info__HeapObject",
    "class_SharedFunctionInfo__script__Tagged_HeapObject_",
    "class_BytecodeArray__data__uintptr_t",
    "class_Code__instruction_start__uintptr_t",
    "class_Code__instruction_start__Address",
    "class_Code__instruction_size__int",
    "class_Code__flags__uint32_t",
    "class_Code__source_position_table__ByteArray",
    "class_InstructionStream__instruction_start__uintptr_t",
    "CodeKindBaseline",
    "CodeKindFieldMask",
    "DeoptimizationDataLiteralArrayIndex",
    "DeoptimizationDataInliningPositionsIndex",
    "bit_field3_is_dictionary_map_shift",
    "bit_field3_number_of_own_descriptors_shift",
    "class_Map__instance_descriptors_offset",
    "class_DescriptorArray__header_size__uintptr_t",
    "prop_location_shift",
    "namedictionaryshape_prefix_size",
    "type_Symbol__SYMBOL_TYPE",
    "class_Symbol__name__Object",
    "type_Oddball__ODDBALL_TYPE",
    "OddballNull",
    "OddballUndefined",
];

/// The constants that a layout is made from, without their prefix.
pub fn constants() -> impl Iterator<Item = &'static str> {
    NEEDED.into_iter().chain(USED).chain(promises::CONSTANTS)
}

/// Why a build is not understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoLayout {
    /// It is too old or too new.
    #[error("V8 {}.{} is not understood", .0.0, .0.1)]
    Version(Version),
    /// It does not tell enough of itself.
    #[error("V8 {}.{} does not tell {what}", .version.0, .version.1)]
    Silent {
        /// Its version.
        version: Version,
        /// What is missing.
        what: &'static str,
    },
}

impl Layout {
    /// The layout of a build by its version, its constants and its table of bytecode sizes.
    ///
    /// # Errors
    /// [`NoLayout`] where it is not understood.
    pub fn new(
        version: Version,
        known: &HashMap<&str, i32>,
        bytecode_sizes: Vec<u8>,
    ) -> Result<Layout, NoLayout> {
        if !(OLDEST..NEWEST).contains(&version) {
            return Err(NoLayout::Version(version));
        }
        if let Some(what) = NEEDED.into_iter().find(|name| !known.contains_key(name)) {
            return Err(NoLayout::Silent { version, what });
        }
        let get = |name: &str| known.get(name).copied();
        let signed = |name: &str, other: i64| get(name).map_or(other, i64::from);
        let offset = |names: &[&str], other: u64| {
            let first = names.iter().find_map(|name| get(name));
            first.and_then(|v| u64::try_from(v).ok()).unwrap_or(other)
        };
        let fp_function = signed("off_fp_function", -16);
        let fp_bytecodes = signed("off_fp_bytecode_array", fp_function - 16);
        let types = types(version, &get);
        let code = code(version, &offset, types.shared_wrapper.is_some());
        let deopt_shared = if types.shared_wrapper.is_some() { 7 } else { 6 };
        let mut layout = Layout {
            version,
            fp_function,
            fp_context: signed("off_fp_context", -8),
            fp_bytecodes,
            fp_offset: signed("off_fp_bytecode_offset", fp_bytecodes - 8),
            code,
            deopt: DeoptFields {
                inlined: 1,
                literals: offset(&["DeoptimizationDataLiteralArrayIndex"], 2),
                shared: deopt_shared,
                positions: offset(
                    &["DeoptimizationDataInliningPositionsIndex"],
                    deopt_shared + 1,
                ),
            },
            shared: shared(&offset),
            scope: ScopeFields {
                positions_first: version >= (12, 8, 44),
                module_counts: match version {
                    (12, 8.., _) | (13.., _, _) => Some(5),
                    (12, _, _) => Some(3),
                    _ => None,
                },
                plain_flags: version >= (12, 8, 0),
                inlined_names: (version >= (9, 9, 0)).then_some(75),
                receiver: version < (9, 5, 0),
            },
            properties: properties(&get),
            map_type: offset(&["class_Map__instance_type__uint16_t"], 12),
            function_shared: offset(&["class_JSFunction__shared__SharedFunctionInfo"], 24),
            // the pointer back to a wrapper took the place of two others
            bytecode_positions: if known.contains_key("type_BytecodeWrapper__BYTECODE_WRAPPER_TYPE")
            {
                24
            } else {
                32
            },
            // three 32-bit integers and a few bytes behind the pointers
            bytecode_data: offset(&["class_BytecodeArray__data__uintptr_t"], 54),
            script_name: offset(&["class_Script__name__Object"], 16),
            script_source: offset(&["class_Script__source__Object"], 8),
            types,
            awaits: None,
            bytecode_sizes,
        };
        let around = promises::Around {
            version: layout.version,
            nothing: layout.properties.oddball,
            callable: layout.types.function.clone(),
            script: layout.types.script,
            shared: layout.function_shared,
            script_at: layout.shared.script,
        };
        layout.awaits = promises::fields(&around, &get);
        Ok(layout)
    }
}

fn types(version: Version, get: &dyn Fn(&str) -> Option<i32>) -> Types {
    let of = |name: &str| get(name).and_then(|v| u16::try_from(v).ok());
    let some = |names: &[&str]| names.iter().filter_map(|name| of(name)).collect();
    let must = |name: &str| of(name).unwrap_or(u16::MAX);
    let function = must("type_JSFunction__JS_FUNCTION_TYPE");
    // The constructors of eleven typed arrays, of arrays, promises and regular expressions have types
    // of their own, right behind; then those of arrays of half floats and of classes came.
    let kinds = match version {
        version if version >= (12, 1, 0) => 16,
        version if version >= (9, 6, 138) => 15,
        _ => 14,
    };
    Types {
        function: function..=function.saturating_add(kinds),
        shared: must("type_SharedFunctionInfo__SHARED_FUNCTION_INFO_TYPE"),
        shared_wrapper: of("type_SharedFunctionInfoWrapper__SHARED_FUNCTION_INFO_WRAPPER_TYPE"),
        script: must("type_Script__SCRIPT_TYPE"),
        scope_info: must("type_ScopeInfo__SCOPE_INFO_TYPE"),
        bytecodes: must("type_BytecodeArray__BYTECODE_ARRAY_TYPE"),
        code: must("type_Code__CODE_TYPE"),
        instructions: of("type_InstructionStream__INSTRUCTION_STREAM_TYPE"),
        byte_arrays: some(&[
            "type_ByteArray__BYTE_ARRAY_TYPE",
            "type_TrustedByteArray__TRUSTED_BYTE_ARRAY_TYPE",
        ]),
        arrays: some(&[
            "type_FixedArray__FIXED_ARRAY_TYPE",
            "type_TrustedFixedArray__TRUSTED_FIXED_ARRAY_TYPE",
            "type_ProtectedFixedArray__PROTECTED_FIXED_ARRAY_TYPE",
            "type_WeakFixedArray__WEAK_FIXED_ARRAY_TYPE",
            "type_TrustedWeakFixedArray__TRUSTED_WEAK_FIXED_ARRAY_TYPE",
        ]),
        first_nonstring: must("FirstNonstringType"),
    }
}

fn properties(get: &dyn Fn(&str) -> Option<i32>) -> PropertyFields {
    let of = |name: &str, other: u32| {
        let value = get(name).and_then(|v| u32::try_from(v).ok());
        value.filter(|v| *v < 1 << 16).unwrap_or(other)
    };
    let kind = |name: &str| u16::try_from(of(name, u16::MAX.into())).unwrap_or(u16::MAX);
    PropertyFields {
        dictionary_shift: of("bit_field3_is_dictionary_map_shift", 21) & 31,
        own_shift: of("bit_field3_number_of_own_descriptors_shift", 10) & 31,
        descriptors: of("class_Map__instance_descriptors_offset", 40).into(),
        descriptors_header: of("class_DescriptorArray__header_size__uintptr_t", 24).into(),
        location_shift: of("prop_location_shift", 5) & 31,
        // three numbers of the table's own come before what the kind of table adds
        table_header: 3 + u64::from(of("namedictionaryshape_prefix_size", 2)),
        symbol: kind("type_Symbol__SYMBOL_TYPE"),
        symbol_name: of("class_Symbol__name__Object", 16).into(),
        oddball: kind("type_Oddball__ODDBALL_TYPE"),
        null: of("OddballNull", 3).cast_signed(),
        undefined: of("OddballUndefined", 5).cast_signed(),
    }
}

fn shared(offset: &dyn Fn(&[&str], u64) -> u64) -> SharedFields {
    let name_or_scope = offset(
        &[
            "class_SharedFunctionInfo__name_or_scope_info__Object",
            "class_SharedFunctionInfo__name_or_scope_info__Tagged_Object_",
            "class_SharedFunctionInfo__name_or_scope_info__Tagged_NameOrScopeInfoT_",
        ],
        16,
    );
    SharedFields {
        data: offset(&["class_SharedFunctionInfo__function_data__Object"], 8),
        name_or_scope,
        script: offset(
            &[
                "class_SharedFunctionInfo__script_or_debug_info__HeapObject",
                "class_SharedFunctionInfo__script__Tagged_HeapObject_",
            ],
            name_or_scope.saturating_add(16),
        ),
    }
}

fn code(version: Version, offset: &dyn Fn(&[&str], u64) -> u64, wrapped: bool) -> CodeFields {
    let kind_mask = offset(&["CodeKindFieldMask"], 15) as u32;
    let baseline = offset(&["CodeKindBaseline"], 11) as u32;
    let instruction_start = ["class_Code__instruction_start__uintptr_t"];
    if version < (11, 1, 204) {
        let size = offset(&["class_Code__instruction_size__int"], 40);
        let start = offset(&instruction_start, 96);
        let positions = offset(&["class_Code__source_position_table__ByteArray"], 24);
        return CodeFields {
            deoptimization: positions.saturating_sub(8),
            positions,
            start,
            size,
            flags: offset(&["class_Code__flags__uint32_t"], size.saturating_add(8)),
            header: start,
            inline: true,
            kind_mask,
            baseline,
        };
    }
    let trusted = version >= (12, 0, 0) || wrapped;
    let start = offset(&["class_Code__instruction_start__Address"], 40);
    let positions = if trusted {
        start.saturating_sub(24)
    } else {
        start.saturating_sub(16)
    };
    let flags = offset(&["class_Code__flags__uint32_t"], start.saturating_add(8));
    // Up to V8 11.4 there are two half-words before the size.
    let between = if version < (11, 4, 59) { 8 } else { 4 };
    CodeFields {
        deoptimization: positions.saturating_sub(8),
        positions,
        start,
        size: offset(
            &["class_Code__instruction_size__int"],
            flags.saturating_add(between),
        ),
        flags,
        header: offset(
            &["class_InstructionStream__instruction_start__uintptr_t"],
            16,
        ),
        inline: false,
        kind_mask,
        baseline,
    }
}
