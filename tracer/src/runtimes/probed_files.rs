//! Probes on functions of executable files: each file once, whichever processes run it.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    thread,
};

use aya::programs::uprobe::UProbeLink;
use thiserror::Error;

use super::view::{InView, MappedFile};
use crate::{
    elf::{FUNCTION_BYTES_MAX, Image, ImageKey, cheapest},
    kernel::{
        probes::Probes,
        uprobes::{self, Place, UprobeError},
    },
    refused::Refusal,
};

/// Files that are remembered. One that no process in view runs is forgotten when there are more,
/// not before: programs that come and go are not worth a probe each time.
const FILES_MAX: usize = 64;
/// Files of one process among them, which brings at most a few: each library may have its own.
const OF_PROCESS_MAX: usize = 16;

/// A file: probed, or the reason why not.
type Probed = Result<Vec<UProbeLink>, Unprobed>;

/// A file that is not probed.
#[derive(Debug, Error)]
#[error("{path}: {lost}, because {reason}")]
struct Unprobed {
    path: Arc<str>,
    /// What is lost, as a clause.
    lost: &'static str,
    reason: Reason,
}

/// Why a file is not probed.
#[derive(Debug, Error)]
enum Reason {
    /// It has some of the functions, and lacks this one.
    #[error("it has no {0}")]
    Lacks(&'static str),
    #[error(transparent)]
    Refused(#[from] UprobeError),
}

/// A program and the function that it sits on.
pub type Probe = (&'static str, &'static str);

/// Which functions of a set a file must have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Needed {
    /// All of them; without, the file is not probed, and that is said.
    All,
    /// All of them; without, the set is left out.
    AllOrNone,
    /// Those it has are probed.
    Any,
}

/// Probes that belong together.
pub type ProbeSet = (&'static [Probe], Needed);

/// The probed files of one kind.
#[derive(Debug)]
pub struct ProbedFiles {
    sets: &'static [ProbeSet],
    /// What is lost where a file can't be probed, as a clause.
    lost: &'static str,
    /// Whether the probes read arguments and preserved registers alone, and may sit a little further on.
    cheapest: bool,
    /// Processes looked at, with their files.
    known: HashMap<u32, Vec<ImageKey>>,
    files: HashMap<ImageKey, Probed>,
    /// Processes with a file for which there was no room.
    refused: HashSet<u32>,
}

impl ProbedFiles {
    /// None yet. `lost` says what is lost where a file can't be probed.
    #[must_use]
    pub fn new(sets: &'static [ProbeSet], lost: &'static str) -> ProbedFiles {
        ProbedFiles {
            sets,
            lost,
            cheapest: false,
            known: HashMap::new(),
            files: HashMap::new(),
            refused: HashSet::new(),
        }
    }

    /// The same where probes cost least: see [`cheapest`].
    #[must_use]
    pub fn where_cheapest(mut self) -> ProbedFiles {
        self.cheapest = true;
        self
    }

    /// Probes the files of a process that `wanted` chooses.
    pub fn attach(
        &mut self,
        process: &mut InView<'_>,
        probes: &mut Probes,
        wanted: impl Fn(&MappedFile) -> bool,
    ) {
        let pid = process.pid();
        let mut of_process = Vec::new();
        for file in process.files() {
            if !wanted(&file) {
                continue;
            }
            if of_process.len() >= OF_PROCESS_MAX {
                self.refuse(pid);
                break;
            }
            let key = file.image.key();
            if !self.files.contains_key(&key) {
                if self.files.len() >= FILES_MAX {
                    self.make_room(&of_process);
                }
                if self.files.len() >= FILES_MAX {
                    self.refuse(pid);
                    continue;
                }
                let probed = self.probe(probes, &file.image).map_err(|reason| {
                    Refusal::Library.count();
                    Unprobed {
                        path: Arc::clone(&file.path),
                        lost: self.lost,
                        reason,
                    }
                });
                self.files.insert(key, probed);
            }
            of_process.push(key);
        }
        self.known.insert(pid, of_process);
    }

    /// There is no room for a file of this process.
    fn refuse(&mut self, pid: u32) {
        if self.refused.insert(pid) {
            Refusal::LibraryRoom.count();
        }
    }

    /// The process has ended, or runs another program now.
    pub fn forget(&mut self, pid: u32) {
        self.known.remove(&pid);
        self.refused.remove(&pid);
    }

    /// What can't be seen, and why.
    pub fn degraded(&self) -> impl Iterator<Item = String> {
        let full = (!self.refused.is_empty()).then(|| {
            format!(
                "more than {FILES_MAX} such files, or than {OF_PROCESS_MAX} of one process: of the others, \
                 {}",
                self.lost
            )
        });
        let unprobed = self.files.values().filter_map(|file| file.as_ref().err());
        unprobed.map(Unprobed::to_string).chain(full)
    }

    /// Attaches to the functions of a file; none to one that has none of them.
    fn probe(&self, probes: &mut Probes, image: &Image) -> Result<Vec<UProbeLink>, Reason> {
        let Some(file) = image.fd() else {
            return Ok(Vec::new());
        };
        let mut places: Vec<Place> = Vec::new();
        let mut lacking = None;
        for &(set, needed) in self.sets {
            let names: Vec<&str> = set.iter().map(|(_, function)| *function).collect();
            let offsets = image.symbols(&names).into_iter().map(|symbol| {
                let (address, size) = symbol?;
                let further = if self.cheapest {
                    beginning(image, address, size)
                } else {
                    0
                };
                Some(image.file_offset(address)? + further)
            });
            let mut of_set: Vec<Place> = Vec::new();
            let mut missing = None;
            for (&(program, function), offset) in set.iter().zip(offsets) {
                match offset {
                    Some(offset) => of_set.push((program, offset)),
                    None => missing = missing.or(Some(function)),
                }
            }
            match (missing, needed) {
                (None, _) | (_, Needed::Any) => places.extend(of_set),
                (Some(function), Needed::All) if !of_set.is_empty() => lacking = Some(function),
                _ => {}
            }
        }
        if let Some(function) = lacking {
            return Err(Reason::Lacks(function));
        }
        if places.is_empty() {
            return Ok(Vec::new());
        }
        places.sort_unstable();
        places.dedup();
        Ok(uprobes::attach(probes.ebpf_mut(), file, &places)?)
    }

    /// Forgets the files that no process in view runs, except those that are `needed`. The kernel
    /// waits for each probe that goes, so they go on a thread of their own.
    fn make_room(&mut self, needed: &[ImageKey]) {
        let used = self.known.values().flatten().chain(needed);
        let used: HashSet<ImageKey> = used.copied().collect();
        let unused = self.files.extract_if(|key, _| !used.contains(key));
        let gone: Vec<Probed> = unused.map(|(_, file)| file).collect();
        thread::spawn(move || drop(gone));
    }
}

/// How far into a function of an image a probe costs least, bytes.
pub fn beginning(image: &Image, address: u64, size: u64) -> u64 {
    let code = (1..=FUNCTION_BYTES_MAX)
        .contains(&size)
        .then(|| image.slice(address, size as usize));
    code.flatten().map_or(0, |code| cheapest(&code))
}

#[cfg(test)]
mod tests {
    use super::{FILES_MAX, ImageKey, ProbedFiles};

    #[test]
    fn there_is_room_where_a_file_is_not_used_any_more() {
        let key = |number| ImageKey::for_memory(number, 1);
        let mut all = ProbedFiles::new(&[], "nothing is lost");
        for number in 0..FILES_MAX as u64 {
            all.files.insert(key(number), Ok(Vec::new()));
        }
        all.known.insert(1, vec![key(1)]);
        all.make_room(&[key(2)]);
        let mut left: Vec<ImageKey> = all.files.keys().copied().collect();
        left.sort();
        assert_eq!(left, [key(1), key(2)]);
    }
}
