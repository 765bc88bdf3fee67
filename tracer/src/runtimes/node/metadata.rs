//! What V8 says of itself in its executable: constants for debuggers, its version, and where its
//! built-in functions are.

use std::{collections::HashMap, ops::Range};

use super::{
    layout::{Layout, NoLayout, Version, constants},
    promises,
};
use crate::elf::Image;

/// What there is in an executable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Metadata {
    /// Where things are.
    pub layout: Layout,
    /// The built-in functions, addresses as linked.
    pub builtins: Range<u64>,
    /// The event loop of the main thread, address as linked.
    pub event_loop: Option<u64>,
    /// Where functions that wait are found, where that is known.
    pub awaits: Option<promises::Sources>,
}

/// Every executable with V8 in it exports this.
const MARK: &str = "v8dbg_off_fp_function";
const VERSION: [&str; 3] = [
    "_ZN2v88internal7Version6major_E",
    "_ZN2v88internal7Version6minor_E",
    "_ZN2v88internal7Version6build_E",
];
const BYTECODE_SIZES: &str = "_ZN2v88internal11interpreter9Bytecodes14kBytecodeSizesE";
/// Begin and length of the built-in functions. Up to V8 10 the second of these names is a
/// pointer's, and the first the code's; later there is only the second.
const BUILTINS: [&str; 3] = [
    "v8_Default_embedded_blob_code_data_",
    "v8_Default_embedded_blob_code_",
    "v8_Default_embedded_blob_code_size_",
];
/// libuv's loop that is there without being made.
const EVENT_LOOP: &str = "default_loop_struct";
/// Longest table of bytecode sizes: three times as many as a byte can number.
const SIZES_MAX: u64 = 768;

/// Why an executable with V8 in it is not understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoMetadata {
    /// It does not say which V8 it has.
    #[error("the version of V8 is unknown")]
    NoVersion,
    /// Its layout is not known.
    #[error(transparent)]
    Layout(#[from] NoLayout),
    /// The place of built-in functions is missing.
    #[error("its symbols were stripped ({0} is missing)")]
    Stripped(&'static str),
}

/// Reads an executable; `None` when there is no V8 in it.
#[must_use]
pub fn read(image: &Image) -> Option<Result<Metadata, NoMetadata>> {
    let names: Vec<String> = constants().map(|name| format!("v8dbg_{name}")).collect();
    let mut wanted: Vec<&str> = names.iter().map(String::as_str).collect();
    let others = wanted.len();
    wanted.extend(VERSION);
    wanted.push(BYTECODE_SIZES);
    wanted.extend(BUILTINS);
    wanted.push(EVENT_LOOP);
    wanted.extend([promises::CURRENT, promises::KEY]);
    wanted.extend(promises::RUNNERS);
    let symbols = image.symbols(&wanted);
    let at = |name: &str| {
        let index = wanted.iter().position(|wanted| *wanted == name)?;
        symbols.get(index).copied().flatten()
    };
    at(MARK)?;
    let known: HashMap<&str, i32> = wanted
        .iter()
        .take(others)
        .filter_map(|name| Some((name.strip_prefix("v8dbg_")?, number(image, at(name)?.0)?)))
        .collect();
    Some(understand(image, &known, &at))
}

fn understand(
    image: &Image,
    known: &HashMap<&str, i32>,
    at: &dyn Fn(&str) -> Option<(u64, u64)>,
) -> Result<Metadata, NoMetadata> {
    let part = |name| {
        let value = number(image, at(name)?.0)?;
        u32::try_from(value).ok()
    };
    let version: Option<Version> =
        (|| Some((part(VERSION[0])?, part(VERSION[1])?, part(VERSION[2])?)))();
    let version = version.ok_or(NoMetadata::NoVersion)?;
    let sizes = at(BYTECODE_SIZES)
        .filter(|(_, size)| size % 3 == 0 && (3..=SIZES_MAX).contains(size))
        .and_then(|(address, size)| bytes(image, address, size))
        // without it the lines of baseline code are unknown
        .unwrap_or_default();
    let layout = Layout::new(version, known, sizes)?;
    let builtins = (|| {
        let (start, _) = at(BUILTINS[0]).or_else(|| at(BUILTINS[1]))?;
        let size = u64::try_from(number(image, at(BUILTINS[2])?.0)?).ok()?;
        Some(start..start.checked_add(size)?)
    })();
    Ok(Metadata {
        layout,
        builtins: builtins.ok_or(NoMetadata::Stripped("embedded_blob_code"))?,
        event_loop: at(EVENT_LOOP).map(|(address, _)| address),
        awaits: promises::Sources::read(image, at),
    })
}

fn bytes(image: &Image, address: u64, size: u64) -> Option<Vec<u8>> {
    let bytes = image.slice(address, usize::try_from(size).ok()?)?;
    Some(bytes.to_vec())
}

/// A constant. What is zero may be in no part of the file.
fn number(image: &Image, address: u64) -> Option<i32> {
    let Some(bytes) = bytes(image, address, 4) else {
        return Some(0);
    };
    Some(i32::from_le_bytes(bytes.try_into().ok()?))
}
