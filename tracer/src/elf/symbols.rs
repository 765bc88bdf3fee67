//! Symbols by name.

use object::{
    LittleEndian,
    elf::{SHT_DYNSYM, SHT_SYMTAB, Sym64},
};

use super::{Image, image::array};

/// Largest symbol table, and largest table of names, that are read.
const TABLE_MAX: u64 = super::contents::RANGE_MAX as u64;

impl Image {
    /// Address (as linked) and size of symbols by name, from the dynamic symbol table, else the
    /// full one.
    #[must_use]
    pub fn symbols(&self, names: &[&str]) -> Vec<Option<(u64, u64)>> {
        let mut found = vec![None; names.len()];
        for kind in [SHT_DYNSYM, SHT_SYMTAB] {
            let _ = self.look_in(kind.0, names, &mut found);
            if found.iter().all(Option::is_some) {
                break;
            }
        }
        found
    }

    fn look_in(&self, kind: u32, names: &[&str], found: &mut [Option<(u64, u64)>]) -> Option<()> {
        let table = self.sections().iter().find(|s| s.kind == kind)?;
        let strings = self.sections().iter().find(|s| s.number == table.link)?;
        if table.part.len() > TABLE_MAX || strings.part.len() > TABLE_MAX {
            return None;
        }
        let (entries, strings) = (self.bytes(&table.part)?, self.bytes(&strings.part)?);
        for symbol in array::<Sym64<LittleEndian>>(&entries) {
            let (address, size) = (
                symbol.st_value.get(LittleEndian),
                symbol.st_size.get(LittleEndian),
            );
            let at = symbol.st_name.get(LittleEndian) as usize;
            let Some(rest) = strings.get(at..).filter(|_| address != 0) else {
                continue;
            };
            for (name, place) in names.iter().zip(found.iter_mut()) {
                let same = place.is_none()
                    && rest.starts_with(name.as_bytes())
                    && rest.get(name.len()) == Some(&0);
                if same {
                    *place = Some((address, size));
                }
            }
        }
        Some(())
    }
}
