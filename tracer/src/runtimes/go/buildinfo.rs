//! What the Go linker wrote about a program: version, modules, build settings.
//!
//! Layout: `debug/buildinfo` of the Go standard library.

use bytes::Bytes;

use crate::elf::{Image, Loaded, Segment};

const MAGIC: &[u8; 14] = b"\xff Go buildinf:";
/// The block begins at a multiple of this.
const ALIGN: usize = 16;
/// Longest string that is believed; the module list of large programs has some 100 KiB.
const STRING_MAX: usize = 1 << 20;
/// Bytes of one segment in which a block without a section is looked for; it is near the start.
const SEARCHED_MAX: u64 = 4 << 20;
/// Bytes read at a time in that search.
const STEP: u64 = 64 << 10;
/// Blocks tried in that search.
const BLOCKS_MAX: usize = 64;

/// A module and its version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Module {
    /// Module path.
    pub path: String,
    /// Version, such as `v1.2.3` or `(devel)`.
    pub version: String,
}

/// The build information of one executable.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct BuildInfo {
    /// Such as `go1.27.3`; may carry a suffix (`go1.27.3 X:boringcrypto`, `devel …`).
    pub version: String,
    /// Import path of the main package.
    pub main_package: String,
    /// Path of the main module; empty when it was built outside of a module.
    pub main_module: String,
    /// The modules it depends on.
    pub dependencies: Vec<Module>,
    /// Build settings (`-race`, `CGO_ENABLED`, …), as `go version -m` prints them.
    pub settings: Vec<(String, String)>,
}

impl BuildInfo {
    /// Finds and reads the block in an executable.
    #[must_use]
    pub fn find(image: &Loaded) -> Option<BuildInfo> {
        if let Some(address) = image.section(".go.buildinfo")
            && let Some(info) = read(image, address)
        {
            return Some(info);
        }
        blocks(image.image())
            .take(BLOCKS_MAX)
            .find_map(|address| read(image, address))
    }

    /// Minor version: 27 for `go1.27.3`; `None` for development builds and forks.
    #[must_use]
    pub fn minor(&self) -> Option<u32> {
        let rest = self.version.strip_prefix("go1.")?;
        let digits = rest.split(|c: char| !c.is_ascii_digit()).next()?;
        digits.parse().ok()
    }

    /// Value of a build setting.
    #[must_use]
    pub fn setting(&self, key: &str) -> Option<&str> {
        self.settings
            .iter()
            .find(|(k, _)| k == key)
            .map(|(_, v)| v.as_str())
    }
}

/// `true` when a block begins somewhere in the writable data.
pub(crate) fn is_in(image: &Image) -> bool {
    blocks(image).next().is_some()
}

/// Addresses where blocks begin in the writable data.
fn blocks(image: &Image) -> impl Iterator<Item = u64> {
    let segments = image.segments().iter().filter(|s| s.writable);
    segments.flat_map(|segment| {
        let steps = (0..segment.file_size.min(SEARCHED_MAX)).step_by(STEP as usize);
        steps.flat_map(|at| block_starts(image, segment, at))
    })
}

fn block_starts(image: &Image, segment: &Segment, at: u64) -> Vec<u64> {
    let address = segment.address.saturating_add(at);
    let data = image.up_to(address, STEP as usize).unwrap_or_default();
    let starts = (0..data.len()).step_by(ALIGN);
    starts
        .filter(|at| data.get(*at..).is_some_and(|rest| rest.starts_with(MAGIC)))
        .map(|at| address.saturating_add(at as u64))
        .collect()
}

fn read(image: &Loaded, address: u64) -> Option<BuildInfo> {
    let block = image.up_to(address, 2 * STRING_MAX)?;
    let flags = *block.strip_prefix(MAGIC)?.get(1)?;
    let (version, modules) = if flags & 2 != 0 {
        // Since Go 1.18: two strings, each after its length.
        let mut rest = block.get(32..)?;
        let (version, modules) = (string(&mut rest)?, string(&mut rest)?);
        (block.slice_ref(version), block.slice_ref(modules))
    } else {
        // Before: pointers to string headers.
        if flags & 1 != 0 || *block.get(14)? != 8 {
            return None;
        }
        let header = |at: usize| -> Option<Bytes> {
            let pointer = u64::from_le_bytes(block.get(at..at + 8)?.try_into().ok()?);
            let len = usize::try_from(image.word(pointer.checked_add(8)?)?).ok()?;
            if len == 0 {
                return Some(Bytes::new());
            }
            image.slice(image.word(pointer)?, len.min(STRING_MAX))
        };
        (header(16)?, header(24)?)
    };
    let version = text(&version);
    if version.is_empty() {
        return None;
    }
    let mut info = BuildInfo {
        version,
        ..BuildInfo::default()
    };
    // Sixteen sentinel bytes frame the list on each side.
    if let Some(list) = modules.get(16..modules.len().saturating_sub(16)) {
        info.take_modules(&text(list));
    }
    Some(info)
}

impl BuildInfo {
    fn take_modules(&mut self, list: &str) {
        for line in list.lines() {
            let mut fields = line.split('\t');
            let (key, value) = (fields.next().unwrap_or(""), fields.next().unwrap_or(""));
            match key {
                "path" => value.clone_into(&mut self.main_package),
                "mod" => value.clone_into(&mut self.main_module),
                "dep" => self.dependencies.push(Module {
                    path: value.to_owned(),
                    version: fields.next().unwrap_or("").to_owned(),
                }),
                "build" => {
                    if let Some((k, v)) = value.split_once('=') {
                        self.settings.push((k.to_owned(), v.to_owned()));
                    }
                }
                // "=>" replaces the code of the module before it; its import path stays.
                _ => {}
            }
        }
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A byte string after its length as a base-128 number.
fn string<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let mut len = 0usize;
    for shift in (0..28).step_by(7) {
        let (&byte, tail) = rest.split_first()?;
        *rest = tail;
        len |= usize::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            let (string, tail) = rest.split_at_checked(len.min(STRING_MAX))?;
            *rest = tail;
            return Some(string);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::BuildInfo;

    fn version(text: &str) -> Option<u32> {
        BuildInfo {
            version: text.to_owned(),
            ..BuildInfo::default()
        }
        .minor()
    }

    #[test]
    fn minor_version_is_read_from_releases_only() {
        assert_eq!(version("go1.27.3"), Some(27));
        assert_eq!(version("go1.21"), Some(21));
        assert_eq!(version("go1.28rc1 X:nodwarf5"), Some(28));
        assert_eq!(version("devel go1.28-abcdef"), None);
        assert_eq!(version(""), None);
    }

    #[test]
    fn module_list_is_split_by_kind() {
        let mut info = BuildInfo::default();
        info.take_modules(
            "path\tshop/cmd/web\nmod\tshop\t(devel)\t\ndep\texample.org/a\tv1.2.3\th1:x\n\
             =>\t../a\nbuild\t-race=true\nbuild\tCGO_ENABLED=1\n",
        );
        assert_eq!(info.main_package, "shop/cmd/web");
        assert_eq!(info.main_module, "shop");
        assert_eq!(info.dependencies.len(), 1);
        assert_eq!(info.dependencies[0].path, "example.org/a");
        assert_eq!(info.setting("-race"), Some("true"));
        assert_eq!(info.setting("-pie"), None);
    }
}
