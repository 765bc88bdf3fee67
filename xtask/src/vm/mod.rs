//! `cargo xtask vm`: stock kernels, booted in QEMU without hardware help, with our programs inside.

mod cpio;
mod guest;
mod image;
mod kernel;

use std::{process::ExitCode, time::Duration};

use anyhow::Result;

pub use self::{image::Image, kernel::Kernel};
use crate::{
    args::{Args, UsageError},
    build::{self, Executable, Profile},
    setup, sh,
};

/// Emulation is about this much slower than the machine it runs on; tests multiply their limits.
const SLOWER: u32 = 10;

/// `cargo xtask vm`.
pub fn main(mut args: Args) -> Result<ExitCode> {
    let options = setup::Options::take(&mut args)?;
    let Some(script) = args.value("--run")? else {
        return Err(UsageError("`vm` needs `--run 'COMMAND'` for now".to_owned()).into());
    };
    let seconds = match args.value("--limit")? {
        Some(text) => text
            .parse()
            .map_err(|_| UsageError(format!("`--limit {text}` is not a number of seconds")))?,
        None => 600,
    };
    let names = args.positional();
    args.finish()?;
    let kernels = kernel::wanted(&names)?;

    let ready = setup::to_build(options)?;
    setup::to_boot_guests(options)?;
    let image = image_of(&build::programs(&ready, Profile::default())?)?;

    let mut failed = false;
    for kernel in kernels {
        let kernel = kernel.fetch()?;
        eprintln!("xtask: Linux {}", kernel.version);
        let ended = guest::run(
            &kernel,
            &image,
            &script,
            Duration::from_secs(seconds),
            &mut |line| println!("{line}"),
        )?;
        if ended.status != 0 {
            eprintln!("xtask: exit status {}", ended.status);
            failed = true;
        }
    }
    Ok(if failed {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

/// A guest with `tracer` and the fixture programs.
fn image_of(programs: &[Executable]) -> Result<Image> {
    let mut image = Image::new()?;
    image.add_stripped(&build::find(programs, "tracer")?, "/usr/bin/tracer")?;
    for program in programs {
        if program.package == "tests" && program.kind == "bin" && !program.is_test {
            image.add_program(&program.path, &format!("/fixtures/{}", program.target))?;
        }
    }
    Ok(image)
}

fn work_dir() -> std::path::PathBuf {
    sh::cache_dir().join("vm")
}
