//! Detaching probes on a thread of its own, because the kernel waits for each, 30 to 150 ms, until
//! no CPU is in it any more.

use std::{
    collections::HashMap,
    sync::mpsc::{Receiver, Sender, channel},
    thread::{self, JoinHandle},
};

use aya::programs::uprobe::UProbeLink;

/// Identity of an executable file that is probed: device and inode, as probes know it.
pub(crate) type FileId = (u64, u64);

/// Probes of an executable that go.
struct Going {
    file: FileId,
    links: Vec<UProbeLink>,
}

/// Detaches probes, one executable after the other. What waits is bounded by the numbers of
/// layouts, each of which is in use until its probes are gone.
#[derive(Debug, Default)]
pub(crate) struct Removal {
    thread: Option<Worker>,
    /// Executables whose probes are not gone yet, with the number of their layout.
    going: HashMap<FileId, u32>,
}

#[derive(Debug)]
struct Worker {
    work: Sender<Going>,
    done: Receiver<FileId>,
    thread: JoinHandle<()>,
}

impl Removal {
    /// Begins to detach the probes of an executable.
    pub(crate) fn begin(&mut self, file: FileId, layout: u32, links: Vec<UProbeLink>) {
        self.going.insert(file, layout);
        let worker = self.thread.get_or_insert_with(Worker::start);
        // It ends with this value only; if it could not be started, this is where they go.
        if let Err(refused) = worker.work.send(Going { file, links }) {
            drop(refused);
        }
    }

    /// Whether an executable may still have probes.
    pub(crate) fn is_going(&self, file: FileId) -> bool {
        self.going.contains_key(&file)
    }

    /// Numbers of layouts whose probes have gone.
    pub(crate) fn gone(&mut self) -> Vec<u32> {
        let Some(worker) = &self.thread else {
            return Vec::new();
        };
        let gone = worker.done.try_iter();
        gone.filter_map(|file| self.going.remove(&file)).collect()
    }
}

impl Worker {
    fn start() -> Worker {
        let (work, todo) = channel::<Going>();
        let (tell, done) = channel();
        let thread = thread::spawn(move || {
            for Going { file, links } in todo {
                drop(links);
                // Nobody listens any more at the end.
                let _ = tell.send(file);
            }
        });
        Worker { work, done, thread }
    }
}

impl Drop for Removal {
    fn drop(&mut self) {
        if let Some(Worker { work, thread, .. }) = self.thread.take() {
            drop(work);
            // It has nothing that could panic.
            let _ = thread.join();
        }
    }
}
