//! The function table of an executable as names of frames.

use std::sync::Arc;

use super::{GoBinary, GoError, callsite};
use crate::{
    elf::Image,
    model::Named,
    refused::Refusal,
    symbols::{blame::Origin, naming::Table, symbolize::FunctionTable},
};

/// Go's function table with the names of its main module.
#[derive(Debug)]
struct GoTable(GoBinary);

impl FunctionTable for GoTable {
    fn frames(&self, address: u64) -> Vec<Named> {
        let positions = self.0.positions(address).into_iter();
        positions
            .map(|p| Named {
                function: p.function,
                file: p.file,
                line: p.line,
                inlined: p.inlined,
                function_line: p.start_line,
            })
            .collect()
    }

    fn origin(&self, named: &Named) -> Option<Origin> {
        // Names from elsewhere (C code linked in) are for the rules.
        let of_go = named.file.is_some() && named.function.contains('.');
        of_go.then(|| callsite::origin(&self.0.info, &named.function))
    }
}

/// The table of a Go executable; `None` for other files.
pub fn find(image: &Arc<Image>) -> Table {
    let binary = GoBinary::read(image.clone());
    if matches!(
        binary,
        Err(GoError::NoFunctionTable | GoError::NoModuleData)
    ) {
        Refusal::GoTables.count();
    }
    let binary = binary.ok()?;
    Some(Arc::new(GoTable(binary)))
}
