//! The stacks known, in a form that outlives their table.
//!
//! Addresses are kept, and names of interpreted frames, which can't be read again. Modules are
//! found again in the process's mappings; a process that is gone leaves addresses without names.

use std::{collections::HashMap, sync::Arc};

use serde::{Deserialize, Serialize};
use tracer_ebpf::{TRIE_END, TrieKey, TrieValue};

use super::{Record, StackId, Stacks};
use crate::{
    symbols::naming::{Interpreted, Kept},
    unwind::{
        space::Space as _,
        walk::{RawFrame, Stop},
    },
};

/// One stack.
#[derive(Debug, Serialize, Deserialize)]
pub struct SavedStack {
    id: StackId,
    tgid: u32,
    stop: Stop,
    executable: Option<String>,
    frames: Vec<SavedFrame>,
}

#[derive(Debug, Serialize, Deserialize)]
enum SavedFrame {
    /// Its address: of the next instruction or, of a caller, where it goes on.
    Native(u64),
    Interpreted(Interpreted),
}

impl Stacks {
    /// Everything known, by number.
    #[must_use]
    pub fn save(&self) -> Vec<SavedStack> {
        let saved = self.records.iter().map(|(&id, record)| SavedStack {
            id,
            tgid: record.tgid,
            stop: record.stop,
            executable: record.executable.as_deref().map(str::to_owned),
            frames: record
                .frames
                .iter()
                .map(|frame| match frame {
                    Kept::Native(raw) => SavedFrame::Native(raw.address),
                    Kept::Interpreted(named) => SavedFrame::Interpreted(named.as_ref().clone()),
                })
                .collect(),
        });
        let mut saved: Vec<SavedStack> = saved.collect();
        saved.sort_unstable_by_key(|stack| stack.id);
        saved
    }

    /// Takes over stacks and what the kernel knows of their call paths; returns the entries that
    /// the kernel must forget because nobody knows what they stand for.
    pub fn restore(
        &mut self,
        saved: Vec<SavedStack>,
        trie: impl Iterator<Item = (TrieKey, TrieValue)>,
    ) -> Vec<TrieKey> {
        for stack in saved {
            if !self.quota.take(stack.tgid, self.limits.stacks) {
                continue;
            }
            let process = self.modules.refresh(stack.tgid);
            let mut frames = Vec::with_capacity(stack.frames.len());
            let mut calling = false;
            for frame in stack.frames {
                frames.push(match frame {
                    SavedFrame::Interpreted(named) => Kept::Interpreted(Arc::new(named)),
                    SavedFrame::Native(address) => {
                        let lookup = address.wrapping_sub(u64::from(calling));
                        calling = true;
                        let found = process.as_deref().and_then(|p| p.find(lookup));
                        Kept::Native(RawFrame {
                            address,
                            module: found.and_then(|found| found.module),
                            lookup: found.map_or(lookup, |found| found.linked),
                        })
                    }
                });
            }
            let frames: Arc<[Kept]> = frames.into();
            self.last = self.last.max(stack.id);
            self.ids.insert((stack.tgid, frames.clone()), stack.id);
            let record = Record {
                tgid: stack.tgid,
                frames,
                stop: stack.stop,
                executable: stack.executable.map(Into::into),
                site: None,
                unnamed: false,
                doubted: 0,
            };
            self.records.insert(stack.id, record);
        }
        let records = &self.records;
        let (known, unknown): (HashMap<_, _>, Vec<_>) = trie.fold(
            (HashMap::new(), Vec::new()),
            |(mut known, mut unknown), (key, value)| {
                if value.delta == TRIE_END && !records.contains_key(&value.node) {
                    // Its number was given after this was saved: it must not be given again.
                    self.last = self.last.max(value.node);
                    unknown.push(key);
                } else {
                    known.insert(key, value);
                }
                (known, unknown)
            },
        );
        self.trie.restore(known);
        unknown
    }
}
