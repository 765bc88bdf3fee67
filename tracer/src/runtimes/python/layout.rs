//! Where CPython keeps its frames, by version. Pure.
//!
//! From 3.13 on it publishes its offsets at the beginning of `_PyRuntime` (`_Py_DebugOffsets` in
//! `Include/internal/pycore_debug_offsets.h`; where its own members are was taken from 3.13.0 and
//! 3.14.10); for 3.8 to 3.12 they were taken from the headers of
//! 3.8.18, 3.9.18, 3.10.13, 3.11.7 and 3.12.1 (x86-64, release builds) and do not change within a
//! minor version.

use tracer_ebpf::{INSTANCES_BEFORE, INSTANCES_INLINE, INSTANCES_TAGGED};

/// How a frame says which instruction it is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Instruction {
    /// An `int`: bytes from the first instruction (3.8, 3.9).
    Bytes,
    /// An `int`: two-byte units from the first instruction (3.10).
    Units,
    /// A pointer into the code object, whose instructions begin at this offset (3.11 on).
    Pointer(u64),
}

/// How a thread leads to its innermost frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Current {
    /// The thread state has the frame at this offset.
    Frame(u64),
    /// The thread state has a `_PyCFrame`, which lives on the native stack, at the first offset;
    /// that has the frame at the second (3.11, 3.12).
    OnStack(u64, u64),
}

/// What tells the outermost frame that one call of the native interpreter function runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entry {
    /// Each frame has a native call of its own (before 3.11).
    Every,
    /// The byte at this offset is nonzero (3.11).
    Flag(u64),
    /// The byte at this offset is 3 (`FRAME_OWNED_BY_CSTACK`; `FRAME_OWNED_BY_INTERPRETER` since
    /// 3.14, which numbers the former 4): not a frame itself, but the end of those of one native
    /// call (3.12 on).
    Shim(u64),
}

/// How tasks of asyncio's and what they run are read (3.11 to 3.13): offsets in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TaskLayout {
    /// `PyGenObject`.`gi_iframe`
    pub frame: u32,
    /// `TaskObj`.`task_coro`
    pub coroutine: u32,
    /// `TaskObj`.`task_fut_waiter`
    pub waits_for: u32,
    /// Where the attributes of an instance are: [`tracer_ebpf::Tasks::instances`].
    pub instances: u32,
    /// `_PyInterpreterFrame`.`f_globals`
    pub globals: u64,
}

/// How a code object maps instructions to lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lines {
    /// `co_lnotab` (`Objects/lnotab_notes.txt`, 3.8 and 3.9).
    Lnotab,
    /// `co_linetable` of PEP 626 (3.10).
    Pep626,
    /// `co_linetable` of PEP 657 (`Objects/locations.md`, 3.11 on).
    Pep657,
}

/// Byte offsets of one minor version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    /// Minor version of Python 3.
    pub minor: u32,
    /// `_PyRuntimeState`.`interpreters.head`
    pub interpreters_head: u64,
    /// `PyInterpreterState`.`next`
    pub interpreter_next: u64,
    /// `PyInterpreterState`.`threads.head` (`tstate_head` before 3.11)
    pub threads_head: u64,
    /// `_PyRuntimeState`.`gilstate.autoTSSkey._key` (`autoTSSkey._key` from 3.12 on): the key of
    /// thread-local storage under which each thread has its state
    pub storage_key: u64,
    /// `PyThreadState`.`next`
    pub thread_next: u64,
    /// `PyThreadState`.`thread_id`: `pthread_self()`
    pub thread_id: u64,
    /// `PyThreadState`.`native_thread_id`: `gettid()` (3.11 on)
    pub native_thread_id: Option<u64>,
    /// The innermost frame.
    pub current: Current,
    /// Frame: the code object.
    pub frame_code: u64,
    /// Frame: the caller's frame.
    pub frame_previous: u64,
    /// Frame: the instruction.
    pub frame_instruction: u64,
    /// How to read `frame_instruction`.
    pub instruction: Instruction,
    /// Where one native call's frames end.
    pub entry: Entry,
    /// `PyCodeObject`.`co_filename`
    pub code_filename: u64,
    /// `PyCodeObject`.`co_qualname` (`co_name` before 3.11)
    pub code_name: u64,
    /// `PyCodeObject`.`co_firstlineno`
    pub code_first_line: u64,
    /// `PyCodeObject`.`co_linetable` (`co_lnotab` before 3.10)
    pub code_lines: u64,
    /// How to read `code_lines`.
    pub lines: Lines,
    /// Size of `PyASCIIObject`: where the characters of an ASCII string begin.
    pub ascii_size: u64,
    /// Size of `PyCompactUnicodeObject`: where those of other strings begin.
    pub compact_size: u64,
}

/// Bytes of `_Py_DebugOffsets` that are read.
pub const DEBUG_OFFSETS_BYTES: usize = 584;

impl Layout {
    /// How tasks are read (taken from the headers of 3.11.7, 3.12.1 and 3.13.0); `None` for versions
    /// of which it is not known.
    #[must_use]
    pub fn tasks(&self) -> Option<TaskLayout> {
        let (frame, coroutine, waits_for, instances, globals) = match self.minor {
            11 => (80, 136, 128, INSTANCES_BEFORE, 8),
            12 => (72, 136, 128, INSTANCES_TAGGED, 24),
            13 => (72, 120, 112, INSTANCES_INLINE, 24),
            _ => return None,
        };
        Some(TaskLayout {
            frame,
            coroutine,
            waits_for,
            instances,
            globals,
        })
    }

    /// The layout of Python 3.`minor`; from 3.13 on, `debug_offsets` (the first
    /// [`DEBUG_OFFSETS_BYTES`] of `_PyRuntime`) are needed. `None` for versions that were not
    /// verified.
    #[must_use]
    pub fn of(minor: u32, debug_offsets: &[u8]) -> Option<Layout> {
        match minor {
            8..=10 => Some(Layout {
                minor,
                interpreters_head: 32,
                interpreter_next: 0,
                threads_head: 8,
                storage_key: if minor == 8 { 1396 } else { 588 },
                thread_next: 8,
                thread_id: 176,
                native_thread_id: None,
                current: Current::Frame(24),
                frame_code: 32,
                frame_previous: 24,
                frame_instruction: if minor == 10 { 96 } else { 104 },
                instruction: if minor == 10 {
                    Instruction::Units
                } else {
                    Instruction::Bytes
                },
                entry: Entry::Every,
                code_filename: 104,
                code_name: 112,
                code_first_line: 40,
                code_lines: 120,
                lines: if minor == 10 {
                    Lines::Pep626
                } else {
                    Lines::Lnotab
                },
                ascii_size: 48,
                compact_size: 72,
            }),
            11 => Some(Layout {
                minor,
                interpreters_head: 40,
                interpreter_next: 0,
                threads_head: 16,
                storage_key: 596,
                thread_next: 8,
                thread_id: 152,
                native_thread_id: Some(160),
                current: Current::OnStack(56, 8),
                frame_code: 32,
                frame_previous: 48,
                frame_instruction: 56,
                instruction: Instruction::Pointer(184),
                entry: Entry::Flag(68),
                code_filename: 112,
                code_name: 128,
                code_first_line: 72,
                code_lines: 136,
                lines: Lines::Pep657,
                ascii_size: 48,
                compact_size: 72,
            }),
            12 => Some(Layout {
                minor,
                interpreters_head: 40,
                interpreter_next: 0,
                threads_head: 72,
                storage_key: 1548,
                thread_next: 8,
                thread_id: 136,
                native_thread_id: Some(144),
                current: Current::OnStack(56, 0),
                frame_code: 0,
                frame_previous: 8,
                frame_instruction: 56,
                instruction: Instruction::Pointer(192),
                entry: Entry::Shim(70),
                code_filename: 112,
                code_name: 128,
                code_first_line: 68,
                code_lines: 136,
                lines: Lines::Pep657,
                ascii_size: 40,
                compact_size: 56,
            }),
            13 | 14 => Layout::published(minor, debug_offsets),
            _ => None,
        }
    }

    /// Reads `_Py_DebugOffsets` of 3.13 or 3.14, which differ in some members more.
    fn published(minor: u32, bytes: &[u8]) -> Option<Layout> {
        if bytes.get(..8)? != b"xdebugpy" {
            return None;
        }
        // Free-threaded builds lay out objects in another way.
        if word(bytes, 1)? >> 16 != 0x0300 + u64::from(minor) || word(bytes, 2)? != 0 {
            return None;
        }
        // Before the members of the thread state, of frames, and of code objects.
        let (threads, frames, codes, storage_key) = match minor {
            13 => (0, 0, 0, 2164),
            _ => (3, 3, 5, 2340),
        };
        // The structure is an array of 64-bit words; numbers count them from its beginning.
        let at = |index: usize| word(bytes, index).filter(|offset| *offset < 1 << 20);
        Some(Layout {
            minor,
            interpreters_head: at(5)?,
            interpreter_next: at(8)?,
            threads_head: at(9)?,
            // Not published; `Python::plan` tries it out.
            storage_key,
            thread_next: at(threads + 21)?,
            current: Current::Frame(at(threads + 23)?),
            thread_id: at(threads + 24)?,
            native_thread_id: Some(at(threads + 25)?),
            frame_previous: at(frames + 29)?,
            frame_code: at(frames + 30)?,
            frame_instruction: at(frames + 31)?,
            entry: Entry::Shim(at(frames + 33)?),
            code_filename: at(codes + 35)?,
            code_name: at(codes + 37)?,
            code_lines: at(codes + 38)?,
            code_first_line: at(codes + 39)?,
            instruction: Instruction::Pointer(at(codes + 43)?),
            lines: Lines::Pep657,
            ascii_size: 40,
            compact_size: 56,
        })
    }
}

fn word(bytes: &[u8], index: usize) -> Option<u64> {
    let at = index.checked_mul(8)?;
    Some(u64::from_le_bytes(
        bytes.get(at..at.checked_add(8)?)?.try_into().ok()?,
    ))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, proptest};

    use super::Layout;

    #[test]
    fn versions_that_were_not_verified_are_refused() {
        assert_eq!(Layout::of(7, &[]), None);
        assert_eq!(Layout::of(13, &[]), None);
        assert_eq!(Layout::of(14, &[0; 600]), None);
        assert_eq!(Layout::of(15, &[0; 600]), None);
        assert_eq!(Layout::of(11, &[]).map(|l| l.minor), Some(11));
    }

    proptest! {
        #[test]
        fn any_published_bytes_are_survived(mut bytes in proptest::collection::vec(any::<u8>(), 0..700), minor in 13u32..15, cookie in any::<bool>()) {
            if cookie && bytes.len() > 24 {
                bytes[..8].copy_from_slice(b"xdebugpy");
                bytes[8..24].fill(0);
                bytes[10..12].copy_from_slice(&[minor as u8, 3]);
            }
            let _ = Layout::of(minor, &bytes);
        }
    }
}
