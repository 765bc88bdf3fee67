//! Hostile memory for the readers of HotSpot's structures.

use super::{
    callers,
    code_cache::{Blob, CodeCache, Kind},
    layout::{
        BlobLayout, CallersLayout, CompiledLayout, Extent, Handler, HeapLayout, Layout, Metadata,
        MethodLayout, Parts, Resolved, Source,
    },
    method::Method,
    numbers::line_of,
    scopes,
    walker::HotSpot,
};
use crate::{
    memory::{Memory, Repeated},
    unwind::managed::{Place, Walker},
};

/// Frames walked at most.
const FRAMES: usize = 64;

/// A layout such as those of 17 (`behind`) and of 25.
fn layout(behind: bool) -> Layout {
    let parts = if behind {
        Parts::Behind {
            metadata: 260,
            scopes: 120,
            positions: 268,
            end: 272,
        }
    } else {
        Parts::Apart {
            data: 96,
            size: 160,
            positions: 196,
            scopes: 200,
            metadata: Metadata::Mutable {
                data: 16,
                size: 48,
                relocations: 28,
            },
        }
    };
    Layout {
        version: String::new(),
        major: if behind { 17 } else { 25 },
        heaps: HeapLayout {
            list: 0,
            low: 8,
            high: 16,
            len: 0,
            data: 8,
            memory: 0,
            segments: 112,
            shift: 248,
            start: 0,
            end: 8,
            header: 8,
            used: 4,
        },
        blob: BlobLayout {
            name: 8,
            code: if behind {
                Extent::Addresses(32, 40)
            } else {
                Extent::Distances(36, 40)
            },
            frame_words: 44,
            size: 24,
        },
        compiled: CompiledLayout {
            method: 80,
            original_pc: 208,
            deoptimized: vec![if behind {
                Handler::Address(128)
            } else {
                Handler::Distance(176)
            }],
            parts,
            position_bytes: 16,
            pc: 0,
            scope: 4,
            without_zeros: !behind,
        },
        method: MethodLayout {
            fixed: 8,
            fixed_bytes: 48,
            whole_words: 24,
            constants: 8,
            flags: 28,
            has_lines: 1,
            code_bytes: 32,
            name: 34,
            signature: 36,
            number: 38,
            pool_bytes: 72,
            tags: 8,
            holder: 24,
            entries: 60,
            utf8: 1,
            class_name: 24,
            methods: 40,
            loader: 152,
            loader_object: 8,
            array_data: 8,
            bytes_data: 4,
            source: if behind {
                Source::Class(298)
            } else {
                Source::Pool(54)
            },
            symbol_len: 4,
            symbol_body: 6,
        },
        callers: Some(CallersLayout {
            loaders: 0,
            next_loader: 112,
            classes: 56,
            next_class: 144,
            kind: 8,
            constants: 232,
            cache: 16,
            resolved: if behind {
                Resolved::Entries {
                    len: 0,
                    start: 40,
                    each: 32,
                    place: 0,
                }
            } else {
                Resolved::Methods {
                    list: 56,
                    data: 8,
                    each: 24,
                    place: 16,
                }
            },
        }),
    }
}

/// Everything that reads HotSpot's memory, over these bytes again and again.
pub fn read_hostile(data: &[u8]) {
    let memory = Repeated(data);
    // Its own tables are where they are said to be.
    let symbol = |name: &'static str| Some(name.len() as u64 * 8);
    let _ = HotSpot::open(&symbol, &memory);
    for behind in [true, false] {
        let layout = layout(behind);
        let _ = CodeCache::read(&layout.heaps, &memory);
        let word = |at: u64| memory.word(at).unwrap_or_default();
        let _ = Method::read(&layout.method, word(0) & !7, &memory);
        let blob = Blob {
            address: word(8),
            kind: Kind::Method,
            code: word(16)..word(24),
            frame_words: 4,
        };
        let _ = scopes::at(&layout, &blob, word(24), &memory);
        let _ = line_of(data, !behind, word(8) as u32);
        callers::search_hostile(&layout, &memory);
        walk(HotSpot::anywhere(layout), &memory);
    }
}

/// Walks a stack that is as hostile as the rest.
fn walk(mut machine: HotSpot, memory: &dyn Memory) {
    let mut at = Place {
        pc: memory.word(0).unwrap_or_default(),
        returning: true,
        sp: 64,
        fp: memory.word(8),
    };
    for _ in 0..FRAMES {
        let explained = machine.explain(at, &|address| memory.word(address), memory);
        let Some(caller) = explained.and_then(|frame| frame.caller) else {
            return;
        };
        at = Place {
            pc: caller.pc,
            returning: true,
            sp: caller.sp,
            fp: caller.fp,
        };
    }
}
