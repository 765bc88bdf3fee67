//! What programs leave where their perf maps are looked for.

use std::{
    fs::{self, File},
    io::Write as _,
    os::unix::fs::{FileExt as _, symlink},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::Result;

use super::{Entry, Made, Shows, noise};

/// Something that goes on until it is dropped.
#[derive(Debug, Default)]
pub struct Kept {
    ended: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Kept {
    fn again(every: Duration, mut what: impl FnMut() + Send + 'static) -> Kept {
        let ended = Arc::new(AtomicBool::new(false));
        let over = Arc::clone(&ended);
        let thread = thread::spawn(move || {
            while !over.load(Ordering::Relaxed) {
                what();
                thread::sleep(every);
            }
        });
        Kept {
            ended,
            thread: Some(thread),
        }
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

const fn map(
    name: &'static str,
    items: &'static [u8],
    reason: &'static str,
    made: fn(&Path, &Path) -> Result<Kept>,
) -> Entry {
    Entry {
        name,
        items,
        made: Made::PerfMap(made),
        shows: Shows::Refused("perf_map", reason),
    }
}

/// All of this file; each is given the place of the map, and a folder.
pub const ALL: &[Entry] = &[
    map(
        "a perf map that is a pipe",
        &[4],
        "not_its_own",
        |place, _| {
            nix::unistd::mkfifo(place, nix::sys::stat::Mode::S_IRWXU)?;
            Ok(Kept::default())
        },
    ),
    map(
        "a perf map that is a link to another file",
        &[4],
        "not_its_own",
        |place, _| {
            symlink("/proc/self/environ", place)?;
            Ok(Kept::default())
        },
    ),
    map(
        "a perf map that is a device",
        &[4],
        "not_its_own",
        |place, _| {
            let zero = nix::sys::stat::makedev(1, 5);
            let kind = nix::sys::stat::SFlag::S_IFCHR;
            nix::sys::stat::mknod(place, kind, nix::sys::stat::Mode::S_IRWXU, zero)?;
            Ok(Kept::default())
        },
    ),
    map("a perf map of 80 MiB", &[4], "too_large", |place, _| {
        let mut file = File::create(place)?;
        let mut block = noise(23, 1 << 20);
        block.extend(b"\n400000 10 \x1b[31m\xff\xfe\n");
        (0..80).try_for_each(|_| file.write_all(&block))?;
        Ok(Kept::default())
    }),
    map(
        "a perf map that never rests",
        &[4],
        "changing",
        |place, _| {
            let lines: Vec<u8> = (0..400_000u32)
                .flat_map(|n| format!("{:x} 10 function{n}\n", u64::from(n) * 16).into_bytes())
                .collect();
            fs::write(place, &lines)?;
            // without a pause that a whole reading fits into: a file's time moves with each tick
            let file = File::options().write(true).open(place)?;
            Ok(Kept::again(Duration::from_micros(500), move || {
                let _ = file.write_at(b"0", 0);
            }))
        },
    ),
    map(
        "a perf map of ranges that overlap and end before they begin",
        &[4],
        "too_large",
        |place, _| {
            let mut file = File::create(place)?;
            let mut block = Vec::new();
            for n in 0..20_000u64 {
                block.extend(format!("{:x} {:x} f{n}\n", n, u64::MAX - n).into_bytes());
                block.extend(format!("{:x} {:x} \n", u64::MAX, u64::MAX).into_bytes());
            }
            (0..80).try_for_each(|_| file.write_all(&block))?;
            Ok(Kept::default())
        },
    ),
];
