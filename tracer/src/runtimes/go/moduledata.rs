//! The runtime's description of the program (`runtime.firstmoduledata`): where the text begins
//! and what inline trees are relative to.
//!
//! The structure is found by its pointers into the function table, which have had the same
//! offsets since Go 1.16. `gofunc` has moved; which offset holds it is decided by looking at the
//! inline trees it would give.

use super::{
    GoError,
    pclntab::{FunctionTable, Layout},
};
use crate::elf::Loaded;

/// Offsets within `runtime.moduledata`, the same in Go 1.16 to 1.27.
const NAMES: u64 = 8;
const FUNCTIONS: u64 = 104;
const TEXT: u64 = 176;
const END_OF_TEXT: u64 = 184;
/// Where `gofunc` has been: Go 1.20 to 1.26, since 1.27, 1.18 and 1.19.
const GOFUNC: [u64; 3] = [320, 344, 304];
/// Size that covers every version.
const SIZE: u64 = 1024;
/// Bytes of one segment in which it is looked for.
const SEARCHED_MAX: u64 = 256 << 20;
/// Places tried in that search.
const CANDIDATES_MAX: usize = 4_096;
/// Functions with inlined calls that are looked at to tell a right `gofunc`.
const SAMPLES: u32 = 64;

/// Finds the module data and completes the function table with it. Relocations that are not
/// needed any more are dropped.
///
/// # Errors
/// [`GoError::NoModuleData`].
pub fn complete(image: &mut Loaded, table: &mut FunctionTable) -> Result<u64, GoError> {
    let address = find(image, table).ok_or(GoError::NoModuleData)?;
    table.text = image.word(address + TEXT).ok_or(GoError::NoModuleData)?;
    if table.layout != Layout::Go116 {
        table.inline_base = inline_base(image, table, address).unwrap_or(0);
        image.retain_relocations(|at| at >= address && at - address < SIZE);
    }
    Ok(address)
}

fn find(image: &Loaded, table: &FunctionTable) -> Option<u64> {
    let fits = |at: u64| {
        let word = |offset: u64| image.word(at.checked_add(offset)?);
        word(0) == Some(table.address)
            && word(NAMES) == Some(table.names)
            && word(FUNCTIONS) == Some(table.functions)
            && matches!((word(TEXT), word(END_OF_TEXT)),
                        (Some(text), Some(end)) if text != 0 && text < end)
    };
    if let Some(address) = image.section(".go.module").filter(|&a| fits(a)) {
        return Some(address);
    }
    let by_relocation = image
        .relocations()
        .iter()
        .find(|r| r.1 == table.address && fits(r.0));
    if let Some(&(address, _)) = by_relocation {
        return Some(address);
    }
    let wanted = table.address.to_le_bytes();
    let segments = image.segments().iter().filter(|s| s.writable);
    let blocks = segments.flat_map(|segment| image.blocks(segment, SEARCHED_MAX));
    blocks
        .flat_map(|(address, block)| {
            let words = block.chunks_exact(8).zip(0u64..);
            let same = words.filter(|(word, _)| *word == wanted);
            same.map(|(_, i)| address + i * 8).collect::<Vec<u64>>()
        })
        .take(CANDIDATES_MAX)
        .find(|&at| fits(at))
}

/// The first candidate whose inline trees have names where names begin and call positions inside
/// their function, for every sample.
fn inline_base(image: &Loaded, table: &FunctionTable, module_data: u64) -> Option<u64> {
    let candidates: Vec<u64> = GOFUNC
        .iter()
        .filter_map(|offset| image.word(module_data.checked_add(*offset)?))
        .filter(|&base| image.slice(base, 1).is_some())
        .collect();
    let mut samples = Vec::new();
    // Spread over the program: the runtime's functions come first.
    let step = (table.len() / 1024).max(1);
    for index in (0..table.len()).step_by(usize::try_from(step).ok()?) {
        let Some(function) = table.function(image, index) else {
            break;
        };
        if let Some(place) = table.inline_tree_place(image, function) {
            samples.push((function, place));
            if samples.len() >= SAMPLES as usize {
                break;
            }
        }
    }
    if samples.is_empty() {
        return None;
    }
    candidates.into_iter().find(|base| {
        samples.iter().all(|(function, place)| {
            base.checked_add(*place)
                .and_then(|tree| table.inlined_call(image, tree, 0))
                .is_some_and(|(_, parent, _)| u64::from(parent) < function.end - function.entry)
        })
    })
}
