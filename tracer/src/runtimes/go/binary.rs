//! One Go executable, ready to answer questions about its addresses.

use std::sync::Arc;

use bytes::Bytes;

use super::{
    GoError, buildinfo,
    buildinfo::BuildInfo,
    callsite, moduledata,
    pclntab::{Function, FunctionTable, Position},
};
use crate::{
    elf::{Image, ImageKey, Loaded},
    model::{Frame, Site, StackQuality},
    symbols::{
        blame::{Blame, Program},
        naming::site,
    },
};

/// A position of a Go program.
pub type GoFrame = Position;

/// A parsed Go executable. All addresses are those of the file (before loading): subtract the
/// load bias of a position-independent program first.
#[derive(Debug, Clone)]
pub struct GoBinary {
    /// Build information; empty where it was removed.
    pub info: BuildInfo,
    image: Loaded,
    table: FunctionTable,
    module_data: u64,
}

/// `true` when the file is an executable made by the Go linker. Reads headers only; where none of
/// Go's sections is named, the writable data too.
#[must_use]
pub fn is_go(image: &Image) -> bool {
    const NAMED: [&str; 3] = [".go.buildinfo", ".gopclntab", ".note.go.buildid"];
    image
        .sections()
        .iter()
        .any(|section| NAMED.contains(&section.name.as_str()))
        || buildinfo::is_in(image)
}

impl GoBinary {
    /// Reads the tables of an ELF file that is in memory.
    ///
    /// # Errors
    /// As [`GoBinary::read`].
    pub fn parse(elf: Bytes) -> Result<GoBinary, GoError> {
        let key = ImageKey::for_memory(1, elf.len() as u64);
        GoBinary::read(Arc::new(Image::from_memory(key, elf)?))
    }

    /// Reads the tables of an executable.
    ///
    /// # Errors
    /// [`GoError`]: which part is missing.
    pub fn read(elf: Arc<Image>) -> Result<GoBinary, GoError> {
        if !is_go(&elf) {
            return Err(GoError::NotGo);
        }
        let mut image = Loaded::new(elf);
        let info = BuildInfo::find(&image).unwrap_or_default();
        let mut table = FunctionTable::find(&image).ok_or(GoError::NoFunctionTable)?;
        let module_data = moduledata::complete(&mut image, &mut table)?;
        Ok(GoBinary {
            info,
            image,
            table,
            module_data,
        })
    }

    /// The executable's bytes by address.
    #[must_use]
    pub fn image(&self) -> &Loaded {
        &self.image
    }

    /// The function table.
    #[must_use]
    pub fn table(&self) -> &FunctionTable {
        &self.table
    }

    /// Address of `runtime.firstmoduledata`.
    #[must_use]
    pub fn module_data(&self) -> u64 {
        self.module_data
    }

    /// Finds functions by their full names, in one pass over the table.
    #[must_use]
    pub fn functions_named(&self, names: &[&str]) -> Vec<Option<Function>> {
        self.table.functions_named(&self.image, names)
    }

    /// The machine code of a function.
    #[must_use]
    pub fn code(&self, function: Function) -> Option<Bytes> {
        let len = usize::try_from(function.end - function.entry).ok()?;
        self.image.slice(function.entry, len)
    }

    /// What an address stands for, innermost inlined call first; empty for foreign code. For a
    /// return address, ask for the address before it.
    #[must_use]
    pub fn positions(&self, address: u64) -> Vec<GoFrame> {
        self.table.positions(&self.image, address)
    }

    /// [`GoBinary::positions`] as frames; `module` is left for the caller to fill.
    #[must_use]
    pub fn frames(&self, address: u64) -> Vec<Frame> {
        self.positions(address).into_iter().map(frame).collect()
    }

    /// Symbolizes a whole stack of this program's addresses, innermost first, already moved from
    /// return addresses into their calls.
    #[must_use]
    pub fn site(
        &self,
        addresses: &[u64],
        module: Option<&str>,
        quality: StackQuality,
        blame: &Blame,
    ) -> Site {
        let mut frames = Vec::new();
        let mut first_lines = Vec::new();
        let mut origins = Vec::new();
        for &address in addresses {
            for position in self.positions(address) {
                first_lines.push(position.start_line);
                origins.push(Some(callsite::origin(&self.info, &position.function)));
                frames.push(Frame {
                    module: module.map(str::to_owned),
                    address: Some(address),
                    ..frame(position)
                });
            }
        }
        let program = Program { executable: module };
        site(frames, &first_lines, &origins, blame, program, quality)
    }
}

fn frame(position: Position) -> Frame {
    Frame {
        function: position.function,
        file: position.file,
        line: position.line,
        module: None,
        inlined: position.inlined,
        address: None,
    }
}
