//! What five versions of V8 say of themselves, for tests and the fuzzer.

use std::collections::HashMap;

use super::layout::{Layout, Version};

/// Versions in the order of [`CONSTANTS`]: those of Node.js 16, 18, 20, 22 and 24.
pub const VERSIONS: [Version; 5] = [
    (9, 4, 146),
    (10, 2, 154),
    (11, 3, 244),
    (12, 4, 254),
    (13, 6, 233),
];

/// No such constant in this version.
const NO: i32 = i32::MIN;

/// The constants, by version.
const CONSTANTS: [(&str, [i32; 5]); 61] = [
    ("off_fp_function", [-16, -16, -16, -16, -16]),
    (
        "type_JSFunction__JS_FUNCTION_TYPE",
        [1059, 2065, 2066, 2066, 2065],
    ),
    (
        "type_SharedFunctionInfo__SHARED_FUNCTION_INFO_TYPE",
        [179, 257, 262, 274, 282],
    ),
    ("type_Script__SCRIPT_TYPE", [112, 170, 167, 167, 167]),
    ("type_ScopeInfo__SCOPE_INFO_TYPE", [178, 256, 261, 272, 280]),
    (
        "type_BytecodeArray__BYTECODE_ARRAY_TYPE",
        [133, 195, 191, 205, 186],
    ),
    ("type_Code__CODE_TYPE", [162, 240, 245, 206, 187]),
    (
        "type_FixedArray__FIXED_ARRAY_TYPE",
        [119, 179, 175, 174, 205],
    ),
    ("type_ByteArray__BYTE_ARRAY_TYPE", [132, 194, 190, 186, 217]),
    ("FirstNonstringType", [64, 128, 128, 128, 128]),
    (
        "class_JSFunction__shared__SharedFunctionInfo",
        [24, 24, 24, 32, 32],
    ),
    ("class_Script__name__Object", [16, 16, 16, 16, 16]),
    ("off_fp_bytecode_array", [NO, -32, -32, -32, -32]),
    ("off_fp_bytecode_offset", [NO, -40, -40, -40, -40]),
    ("off_fp_context", [-8, -8, -8, -8, -8]),
    ("class_Map__instance_type__uint16_t", [12, 12, 12, 12, 12]),
    ("class_Script__source__Object", [NO, 8, 8, 8, 8]),
    (
        "type_BytecodeWrapper__BYTECODE_WRAPPER_TYPE",
        [NO, NO, NO, 149, 149],
    ),
    (
        "type_InstructionStream__INSTRUCTION_STREAM_TYPE",
        [NO, NO, 252, 210, 192],
    ),
    (
        "type_SharedFunctionInfoWrapper__SHARED_FUNCTION_INFO_WRAPPER_TYPE",
        [NO, NO, NO, NO, 195],
    ),
    (
        "type_TrustedByteArray__TRUSTED_BYTE_ARRAY_TYPE",
        [NO, NO, NO, 212, 196],
    ),
    (
        "type_TrustedFixedArray__TRUSTED_FIXED_ARRAY_TYPE",
        [NO, NO, NO, 213, 197],
    ),
    (
        "type_TrustedWeakFixedArray__TRUSTED_WEAK_FIXED_ARRAY_TYPE",
        [NO, NO, NO, NO, 199],
    ),
    (
        "type_ProtectedFixedArray__PROTECTED_FIXED_ARRAY_TYPE",
        [NO, NO, NO, 211, 193],
    ),
    (
        "type_WeakFixedArray__WEAK_FIXED_ARRAY_TYPE",
        [159, 237, 240, 247, 256],
    ),
    (
        "class_SharedFunctionInfo__function_data__Object",
        [8, 8, 8, NO, NO],
    ),
    (
        "class_SharedFunctionInfo__name_or_scope_info__Object",
        [16, 16, 16, NO, NO],
    ),
    (
        "class_SharedFunctionInfo__name_or_scope_info__Tagged_Object_",
        [NO, NO, NO, 16, NO],
    ),
    (
        "class_SharedFunctionInfo__name_or_scope_info__Tagged_NameOrScopeInfoT_",
        [NO, NO, NO, NO, 24],
    ),
    (
        "class_SharedFunctionInfo__script_or_debug_info__HeapObject",
        [32, 32, 32, NO, NO],
    ),
    (
        "class_SharedFunctionInfo__script__Tagged_HeapObject_",
        [NO, NO, NO, 32, 40],
    ),
    ("class_BytecodeArray__data__uintptr_t", [NO, 56, 54, 64, 64]),
    (
        "class_Code__instruction_start__uintptr_t",
        [96, 128, NO, NO, NO],
    ),
    (
        "class_Code__instruction_start__Address",
        [NO, NO, NO, 40, 40],
    ),
    ("class_Code__instruction_size__int", [40, 40, NO, 52, 56]),
    ("class_Code__flags__uint32_t", [NO, 48, NO, 48, 52]),
    (
        "class_Code__source_position_table__ByteArray",
        [24, NO, 24, NO, NO],
    ),
    (
        "class_InstructionStream__instruction_start__uintptr_t",
        [NO, NO, 16, 32, 32],
    ),
    ("CodeKindBaseline", [NO, 11, 11, 10, 10]),
    ("CodeKindFieldMask", [NO, 15, 15, 15, 15]),
    ("DeoptimizationDataLiteralArrayIndex", [NO, NO, 2, 2, 3]),
    (
        "DeoptimizationDataInliningPositionsIndex",
        [NO, NO, 7, 7, 8],
    ),
    ("bit_field3_is_dictionary_map_shift", [21, 21, 21, 21, 21]),
    (
        "bit_field3_number_of_own_descriptors_shift",
        [10, 10, 10, 10, 10],
    ),
    (
        "class_Map__instance_descriptors_offset",
        [40, 40, 40, 40, 40],
    ),
    (
        "class_DescriptorArray__header_size__uintptr_t",
        [24, 24, 24, 24, 24],
    ),
    ("prop_location_shift", [1, 5, 5, 5, 5]),
    ("namedictionaryshape_prefix_size", [2, 2, 3, 3, 3]),
    ("type_Symbol__SYMBOL_TYPE", [64, 128, 128, 128, 128]),
    ("class_Symbol__name__Object", [16, 16, 16, 16, 16]),
    ("type_Oddball__ODDBALL_TYPE", [67, 131, 131, 131, 131]),
    ("OddballNull", [3, 3, 3, 3, 3]),
    ("OddballUndefined", [5, 5, 5, 4, 4]),
    (
        "type_JSPromise__JS_PROMISE_TYPE",
        [1101, 2062, 2063, 2063, 2115],
    ),
    (
        "type_PromiseReaction__PROMISE_REACTION_TYPE",
        [108, 166, 163, 163, 162],
    ),
    (
        "type_PromiseCapability__PROMISE_CAPABILITY_TYPE",
        [107, 164, 161, 161, 161],
    ),
    (
        "type_PromiseFulfillReactionJobTask__PROMISE_FULFILL_REACTION_JOB_TASK_TYPE",
        [76, 132, 132, 132, 132],
    ),
    (
        "type_PromiseRejectReactionJobTask__PROMISE_REJECT_REACTION_JOB_TASK_TYPE",
        [77, 133, 133, 133, 133],
    ),
    (
        "type_PromiseResolveThenableJobTask__PROMISE_RESOLVE_THENABLE_JOB_TASK_TYPE",
        [80, 136, 136, 136, 136],
    ),
    (
        "type_JSAsyncFunctionObject__JS_ASYNC_FUNCTION_OBJECT_TYPE",
        [1053, 2097, 2106, 2108, 2110],
    ),
    (
        "type_JSAsyncGeneratorObject__JS_ASYNC_GENERATOR_OBJECT_TYPE",
        [1054, 2098, 2107, 2109, 2111],
    ),
];

/// The layout of one of [`VERSIONS`].
#[must_use]
pub fn layout(version: usize) -> Option<Layout> {
    let known: HashMap<&str, i32> = CONSTANTS
        .iter()
        .map(|(name, values)| (*name, values[version % VERSIONS.len()]))
        .filter(|(_, value)| *value != NO)
        .collect();
    let sizes = vec![1; 3 * 200];
    Layout::new(VERSIONS[version % VERSIONS.len()], &known, sizes).ok()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test that can't go on fails")]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_out_is_filled_in() {
        let all: Vec<Layout> = (0..VERSIONS.len()).map(|v| layout(v).unwrap()).collect();
        let code = |v: usize| {
            let code = all[v].code;
            (
                code.deoptimization,
                code.positions,
                code.start,
                code.flags,
                code.size,
            )
        };
        assert_eq!(code(0), (16, 24, 96, 48, 40));
        assert_eq!(code(1), (16, 24, 128, 48, 40));
        assert_eq!(code(2), (16, 24, 40, 48, 56));
        assert_eq!(code(3), (8, 16, 40, 48, 52));
        assert_eq!(code(4), (8, 16, 40, 52, 56));
        let bytecode = |v: usize| (all[v].bytecode_positions, all[v].bytecode_data);
        assert_eq!(bytecode(0), (32, 54));
        assert_eq!(bytecode(4), (24, 64));
        assert!(all.iter().all(|layout| layout.awaits.is_some()));
        let counts = |v: usize| all[v].scope.module_counts;
        assert_eq!((counts(2), counts(3), counts(4)), (None, Some(3), Some(5)));
        assert_eq!((all[0].fp_bytecodes, all[0].fp_offset), (-32, -40));
        let deopt = |v: usize| {
            (
                all[v].deopt.literals,
                all[v].deopt.shared,
                all[v].deopt.positions,
            )
        };
        assert_eq!(deopt(0), (2, 6, 7));
        assert_eq!(deopt(4), (3, 7, 8));
    }

    #[test]
    fn other_versions_are_refused() {
        let known = HashMap::new();
        for version in [(8, 4, 371), (14, 1, 0), (11, 3, 244)] {
            assert!(Layout::new(version, &known, Vec::new()).is_err());
        }
    }
}
