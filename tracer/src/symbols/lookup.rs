//! Names for addresses of files that have a name to open them by: from ELF symbols and DWARF.
//!
//! Runs where it can do no harm ([`crate::reader`]), and knows nothing of who asks.

use std::path::{Path, PathBuf};

use blazesym::symbolize::{CodeInfo, Input, Symbolized, Symbolizer, source};

use crate::model::Named;

/// Files whose symbols and debug information are kept parsed at one time.
const PARSED_MAX: usize = 32;

/// Files with their symbols and debug information, parsed as they are asked for.
pub(crate) struct Lookup {
    symbolizer: Symbolizer,
    files: Vec<PathBuf>,
}

impl Lookup {
    /// Nothing is parsed yet.
    pub(crate) fn new() -> Lookup {
        // Debug links lead to names in other files' directories, which are not looked at: they are
        // another mount namespace's.
        let symbolizer = Symbolizer::builder().set_debug_dirs(Some([""; 0])).build();
        Lookup {
            symbolizer,
            files: Vec::new(),
        }
    }

    /// The functions at an address as linked, innermost (inlined) first; empty when neither `split`,
    /// the file's split debug information, nor the file itself has a name for it.
    pub(crate) fn names(
        &mut self,
        file: &Path,
        split: Option<&Path>,
        address: u64,
        symbols_only: bool,
    ) -> Vec<Named> {
        if !self.files.iter().any(|known| known == file) {
            if self.files.len() >= PARSED_MAX {
                *self = Lookup::new();
            }
            self.files.push(file.to_owned());
        }
        split
            .filter(|_| !symbols_only)
            .and_then(|split| self.names_in(split, address, false))
            .or_else(|| self.names_in(file, address, symbols_only))
            .unwrap_or_default()
    }

    fn names_in(&self, path: &Path, address: u64, symbols_only: bool) -> Option<Vec<Named>> {
        let lookup = |address| {
            let mut elf = source::Elf::new(path);
            elf.debug_syms = !symbols_only;
            let found = self.symbolizer.symbolize_single(
                &source::Source::Elf(elf.clone()),
                Input::VirtOffset(address),
            );
            // Damaged debug information must not cost the symbol table.
            let found = match found {
                Ok(found) => found,
                Err(_) => {
                    elf.debug_syms = false;
                    let source = source::Source::Elf(elf);
                    self.symbolizer
                        .symbolize_single(&source, Input::VirtOffset(address))
                        .ok()?
                }
            };
            match found {
                Symbolized::Sym(sym) => Some(sym),
                Symbolized::Unknown(_) => None,
            }
        };
        let sym = lookup(address)?;
        let mut names: Vec<Named> = sym
            .inlined
            .iter()
            .rev()
            .map(|f| named(&f.name, f.code_info.as_ref(), true))
            .collect();
        let mut outer = named(&sym.name, sym.code_info.as_deref(), false);
        if let Some(full) = self.linkage_name(path, address, &sym.name) {
            outer.function = full;
        }
        if outer.line.is_some() {
            outer.function_line = lookup(sym.addr)
                .filter(|start| start.name == sym.name)
                .and_then(|start| start.code_info?.line)
                .filter(|first| outer.line.is_some_and(|line| *first <= line));
        }
        names.push(outer);
        Some(names)
    }
    /// The name by the symbol table where it is a longer form of `name`: debug information of line
    /// tables alone, rustc's default for releases that have any, knows `lookup` where the symbol
    /// table knows `shop::Discounts::lookup`.
    fn linkage_name(&self, path: &Path, address: u64, name: &str) -> Option<String> {
        let mut elf = source::Elf::new(path);
        elf.debug_syms = false;
        let found = self
            .symbolizer
            .symbolize_single(&source::Source::Elf(elf), Input::VirtOffset(address));
        let Ok(Symbolized::Sym(sym)) = found else {
            return None;
        };
        // What has no name of its own is called differently there: `shop::lookup::{{closure}}` is
        // the `{async_fn#0}` of `lookup`.
        let same = match sym.name.strip_suffix(name) {
            Some(outer) => outer.ends_with("::"),
            None => name.starts_with('{') && sym.name.contains("::{"),
        };
        same.then(|| sym.name.into_owned())
    }
}

fn named(function: &str, code: Option<&CodeInfo<'_>>, inlined: bool) -> Named {
    Named {
        function: function.to_owned(),
        file: code.map(|c| c.to_path().to_string_lossy().into_owned()),
        // DWARF 5, section 6.2.2: line 0 is code that belongs to no line.
        line: code.and_then(|c| c.line).filter(|line| *line != 0),
        inlined,
        function_line: None,
    }
}
