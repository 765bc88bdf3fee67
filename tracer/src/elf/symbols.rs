//! Symbols by name.

use std::sync::PoisonError;

use object::{
    LittleEndian,
    elf::{SHT_DYNSYM, SHT_SYMTAB, Sym64},
};

use super::{
    Image,
    image::{LookedFor, array},
};
use crate::refused::Refusal;

/// Bytes of names in one table that texts are looked for in, a second or two: names may be made so
/// that it takes long. The largest table with names of common length has half as many.
const SEARCHED_MAX: usize = 1 << 30;
/// Largest symbol table, and largest table of names, that are read.
const TABLE_MAX: u64 = super::contents::RANGE_MAX as u64;

/// Sets of names of which it is remembered where they are: every process that runs the file has it
/// looked through for the same ones.
const LOOKED_FOR_MAX: usize = 16;

impl Image {
    /// Address (as linked) and size of symbols by name, from the dynamic symbol table, else the
    /// full one. In a name `*` stands for any text: compilers put numbers into names.
    #[must_use]
    pub fn symbols(&self, names: &[&str]) -> Vec<Option<(u64, u64)>> {
        let known = |(asked, found): &LookedFor| {
            let same = asked.iter().map(|name| &**name).eq(names.iter().copied());
            same.then(|| found.clone())
        };
        let mut looked_for = self
            .looked_for
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = looked_for.iter().find_map(known) {
            return found;
        }
        let mut found = vec![None; names.len()];
        for kind in [SHT_DYNSYM, SHT_SYMTAB] {
            let _ = self.look_in(kind.0, names, &mut found);
            if found.iter().all(Option::is_some) {
                break;
            }
        }
        if looked_for.len() >= LOOKED_FOR_MAX {
            looked_for.clear();
        }
        let asked = names.iter().map(|name| Box::from(*name)).collect();
        looked_for.push((asked, found.clone()));
        found
    }

    fn look_in(&self, kind: u32, names: &[&str], found: &mut [Option<(u64, u64)>]) -> Option<()> {
        let table = self.sections().iter().find(|s| s.kind == kind)?;
        let strings = self.sections().iter().find(|s| s.number == table.link)?;
        if table.part.len() > TABLE_MAX || strings.part.len() > TABLE_MAX {
            Refusal::Symbols.count();
            return None;
        }
        let (entries, strings) = (self.bytes(&table.part)?, self.bytes(&strings.part)?);
        let mut searched = 0;
        for symbol in array::<Sym64<LittleEndian>>(&entries) {
            if searched > SEARCHED_MAX {
                Refusal::SymbolsSlow.count();
                return None;
            }
            let (address, size) = (
                symbol.st_value.get(LittleEndian),
                symbol.st_size.get(LittleEndian),
            );
            let at = symbol.st_name.get(LittleEndian) as usize;
            let Some(rest) = strings.get(at..).filter(|_| address != 0) else {
                continue;
            };
            for (name, place) in names.iter().zip(found.iter_mut()) {
                if place.is_none() && begins_as(rest, name, &mut searched) {
                    *place = Some((address, size));
                }
            }
        }
        Some(())
    }
}

/// Longest name in which a text is looked for.
const NAME_BYTES_MAX: usize = 512;

/// Whether the name that a zero ends at the beginning of `bytes` is this one, in which `*` stands for
/// any text. What had to be searched for that is added to `searched`.
fn begins_as(bytes: &[u8], name: &str, searched: &mut usize) -> bool {
    let Some((first, others)) = name.split_once('*') else {
        return bytes.starts_with(name.as_bytes()) && bytes.get(name.len()) == Some(&0);
    };
    let Some(rest) = bytes.strip_prefix(first.as_bytes()) else {
        return false;
    };
    let within = &rest[..rest.len().min(NAME_BYTES_MAX)];
    let Some(end) = within.iter().position(|&byte| byte == 0) else {
        return false;
    };
    *searched += end;
    let (rest, last) = match others.rsplit_once('*') {
        Some((between, last)) => match behind_each(&rest[..end], between) {
            Some(rest) => (rest, last),
            None => return false,
        },
        None => (&rest[..end], others),
    };
    rest.ends_with(last.as_bytes())
}

/// What follows these texts, which stars part, where they are all there one after the other.
fn behind_each<'a>(mut bytes: &'a [u8], texts: &str) -> Option<&'a [u8]> {
    for text in texts.split('*').filter(|text| !text.is_empty()) {
        let text = text.as_bytes();
        let at = bytes.windows(text.len()).position(|part| part == text)?;
        bytes = &bytes[at + text.len()..];
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::begins_as;

    #[test]
    fn a_star_is_any_text() {
        let mut searched = 0;
        let name = b"_ZN67_$LT$rustls..conn..Writer$GT$5write17ha9ffE\0_next\0";
        for pattern in [
            "_ZN67_$LT$rustls..conn..Writer$GT$5write17ha9ffE",
            "_ZN*..Writer$GT$5write17h*",
            "*Writer*5write17h*E",
            "_ZN*E",
            "*",
        ] {
            assert!(begins_as(name, pattern, &mut searched), "{pattern}");
        }
        for pattern in [
            "_ZN67",
            "_ZN*Writer",
            "_ZN*Reader*E",
            "_ZN*Writer*rustls*E",
            "*_next",
            "",
        ] {
            assert!(!begins_as(name, pattern, &mut searched), "{pattern}");
        }
        assert!(
            !begins_as(b"_ZNE", "_ZN*E", &mut searched),
            "its end is not there"
        );
        assert!(searched < 10 * name.len());
    }
}
