//! The trie by which the kernel recognizes call paths, as user space knows it.
//!
//! See `tracer_ebpf`'s module `stack` for how the kernel walks it. Here paths are turned into
//! entries, and what was given to the kernel is remembered per process so that it can be taken
//! back.

use std::collections::HashMap;

use tracer_ebpf::{
    FRAMES_MAX, RUNTIME_FRAMES_MAX, RuntimeFrame, SHAPE_FRAMES, SHAPE_WORDS, SHAPES_MAX, Shape,
    TRIE_END, TRIE_FRAME, TRIE_FRAME_BIAS, TRIE_ROOT, TRIE_RUNTIME, TrieKey, TrieValue,
};

use super::walk::Unwound;

/// What the kernel compares of the stack on the way of a path, innermost first: a word, and where
/// it lies. The first is the instruction pointer, at the stack pointer as far as distances go.
struct Mark {
    word: u64,
    slot: u64,
    /// The frame pointer by which the next mark is found, in frames whose size is not the same at
    /// each call. It is the word below this mark's.
    base: Option<u64>,
}

/// The return addresses of a path and what its managed frames are told apart by; `None` where
/// they don't ascend.
fn marks(unwound: &Unwound, sp: u64) -> Option<Vec<Mark>> {
    if unwound.ambiguous || unwound.slots.len() + 1 != unwound.frames.len() {
        return None;
    }
    let mut marks = Vec::with_capacity(unwound.frames.len());
    let slots = std::iter::once(sp).chain(unwound.slots.iter().copied());
    for (index, (frame, slot)) in unwound.frames.iter().zip(slots).enumerate() {
        let managed = unwound.managed_at(index);
        marks.push(Mark {
            word: frame.address,
            slot,
            base: managed.and_then(|managed| managed.base),
        });
        let tells = managed.map_or(&[][..], |managed| &managed.tells);
        marks.extend(tells.iter().map(|&(slot, word)| Mark {
            word,
            slot,
            base: None,
        }));
    }
    let ascending = marks.windows(2).all(|pair| match pair {
        [below, above] => below.slot <= above.slot,
        _ => true,
    });
    (ascending && marks.len() <= FRAMES_MAX).then_some(marks)
}

/// [`TrieValue::delta`] of the way from one mark to the next.
fn delta(from: &Mark, to: &Mark) -> Option<u32> {
    let Some(base) = from.base else {
        let bytes = u32::try_from(to.slot.checked_sub(from.slot)?).ok()?;
        return (bytes < TRIE_FRAME).then_some(bytes);
    };
    let above = to.slot.wrapping_sub(base).wrapping_add(TRIE_FRAME_BIAS);
    u16::try_from(above)
        .ok()
        .map(|above| TRIE_FRAME | u32::from(above))
}

/// The entries that make the kernel recognize `unwound`, on which the interpreted frames `found` run,
/// as stack `id` (new ones only), and the value of the last native frame. `None` when the path
/// can't be learned: a frame of varying size lies in it, so that the same return address is
/// followed at different distances, or it leaves the stack.
#[must_use]
fn entries(
    marks: &[Mark],
    found: &[RuntimeFrame],
    tgid: u32,
    id: u32,
    mut alloc_node: impl FnMut() -> u32,
    existing: impl Fn(&TrieKey) -> Option<TrieValue>,
) -> Option<(Vec<(TrieKey, TrieValue)>, TrieValue)> {
    if found.len() > RUNTIME_FRAMES_MAX {
        return None;
    }
    // Each step: what is looked up, and how the kernel gets to the next one.
    let mut steps = Vec::with_capacity(marks.len() + found.len());
    for pair in marks.windows(2) {
        if let [from, to] = pair {
            steps.push((from.word, delta(from, to)?));
        }
    }
    steps.push((marks.last()?.word, TRIE_RUNTIME));
    steps.extend(found.iter().map(|f| (f.key(), 0)));
    if let Some(end) = steps.last_mut() {
        end.1 = TRIE_END;
    }

    let mut new = Vec::new();
    let mut node = TRIE_ROOT;
    let mut native_end = TrieValue::default();
    for (index, (address, delta)) in steps.into_iter().enumerate() {
        let key = TrieKey {
            address,
            tgid,
            node,
        };
        node = match existing(&key) {
            Some(known) if known.delta == delta && (delta != TRIE_END || known.node == id) => {
                known.node
            }
            Some(_) => return None,
            None => {
                let node = if delta == TRIE_END { id } else { alloc_node() };
                new.push((key, TrieValue { node, delta }));
                node
            }
        };
        if index + 1 == marks.len() {
            native_end = TrieValue { node, delta };
        }
    }
    Some((new, native_end))
}

/// The native frames of a path as a whole; `None` of one that is too long for it, or has no
/// caller.
fn shape(marks: &[Mark], tgid: u32, end: TrieValue) -> Option<Shape> {
    let (first, callers) = marks.split_first()?;
    let mut shape = Shape {
        ip: first.word,
        tgid,
        node: end.node,
        end: end.delta,
        frames: u32::try_from(callers.len()).ok()?,
        ..Shape::default()
    };
    if callers.is_empty() || callers.len() > SHAPE_FRAMES {
        return None;
    }
    let places = shape.words.iter_mut().zip(&mut shape.addresses);
    for ((word, address), mark) in places.zip(callers) {
        let bytes = mark.slot.checked_sub(first.slot)?;
        if bytes % 8 != 0 || bytes / 8 >= SHAPE_WORDS as u64 || mark.word == 0 {
            return None;
        }
        *word = u16::try_from(bytes / 8).ok()?;
        *address = mark.word;
    }
    Some(shape)
}

/// The native frames of the path whose last one is `key`, from the entries alone; `None` for the
/// interpreted part of a path, or one without a shape: too long, or with a frame of varying size, of
/// which the entries don't say how large it was.
fn shape_from(
    known: &HashMap<u32, (TrieKey, u32)>,
    key: &TrieKey,
    end: TrieValue,
) -> Option<Shape> {
    let mut frames = vec![(key.address, 0)];
    let mut node = key.node;
    while node != TRIE_ROOT && frames.len() <= SHAPE_FRAMES {
        let (above, delta) = known.get(&node)?;
        frames.push((above.address, *delta));
        node = above.node;
    }
    frames.reverse();
    let mut shape = Shape {
        ip: frames.first()?.0,
        tgid: key.tgid,
        node: end.node,
        end: end.delta,
        frames: u32::try_from(frames.len() - 1).ok()?,
        ..Shape::default()
    };
    if node != TRIE_ROOT || frames.len() < 2 || frames.len() > SHAPE_FRAMES + 1 {
        return None;
    }
    let places = shape.words.iter_mut().zip(&mut shape.addresses);
    let mut bytes = 0;
    for ((word, address), pair) in places.zip(frames.windows(2)) {
        let [(_, delta), (found, _)] = pair else {
            return None;
        };
        if *delta >= TRIE_FRAME {
            return None;
        }
        bytes += delta;
        if bytes % 8 != 0 || bytes / 8 >= SHAPE_WORDS as u32 || *found == 0 {
            return None;
        }
        *word = u16::try_from(bytes / 8).ok()?;
        *address = *found;
    }
    Some(shape)
}

/// What the kernel is to be told of a path.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Learned {
    /// Entries of `TRIE`, in this order.
    pub entries: Vec<(TrieKey, TrieValue)>,
    /// An entry of `SHAPES`, where there is none yet.
    pub shape: Option<Shape>,
}

/// What the kernel is to forget of a process.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Forgotten {
    /// Keys of `TRIE`.
    pub keys: Vec<TrieKey>,
    /// Indices of `SHAPES`.
    pub shapes: Vec<u32>,
}

/// Where a shape is in `SHAPES`.
#[must_use]
pub const fn shape_index(shape: &Shape) -> u32 {
    shape.node % SHAPES_MAX
}

/// What the kernel was given.
#[derive(Debug, Default)]
pub struct Trie {
    nodes: u32,
    known: HashMap<u32, HashMap<TrieKey, TrieValue>>,
    /// Process of each entry of `SHAPES` that is in use.
    shapes: HashMap<u32, u32>,
}

impl Trie {
    /// Learns a path; empty when it is known already or can't be learned.
    pub fn learn(
        &mut self,
        unwound: &Unwound,
        found: &[RuntimeFrame],
        sp: u64,
        tgid: u32,
        id: u32,
    ) -> Learned {
        let known = self.known.entry(tgid).or_default();
        let nodes = &mut self.nodes;
        let alloc = || {
            // 2^32 nodes are never handed out in practice; the root's number must not be reused.
            *nodes = nodes.wrapping_add(1).max(TRIE_ROOT + 1);
            *nodes
        };
        let existing = |key: &TrieKey| known.get(key).copied();
        let new = marks(unwound, sp).and_then(|marks| {
            let (entries, end) = entries(&marks, found, tgid, id, alloc, existing)?;
            Some((marks, entries, end))
        });
        let Some((marks, entries, end)) = new else {
            return Learned::default();
        };
        known.extend(entries.iter().copied());
        // two paths of one index: the later one is walked
        let shape =
            shape(&marks, tgid, end).filter(|shape| !self.shapes.contains_key(&shape_index(shape)));
        if let Some(shape) = &shape {
            self.shapes.insert(shape_index(shape), tgid);
        }
        Learned { entries, shape }
    }

    /// Takes over what the kernel was given by an earlier one.
    pub fn restore(&mut self, entries: HashMap<TrieKey, TrieValue>) {
        for (key, value) in entries {
            let node = if value.delta == TRIE_END {
                key.node
            } else {
                key.node.max(value.node)
            };
            self.nodes = self.nodes.max(node);
            self.known.entry(key.tgid).or_default().insert(key, value);
        }
    }

    /// The shapes of all paths known, for a kernel that has their entries and no shapes yet.
    pub fn shapes(&mut self) -> Vec<Shape> {
        let mut shapes = Vec::new();
        for known in self.known.values() {
            let native: HashMap<u32, (TrieKey, u32)> = known
                .iter()
                .filter(|(_, value)| value.delta < TRIE_RUNTIME)
                .map(|(key, value)| (value.node, (*key, value.delta)))
                .collect();
            let ends = known
                .iter()
                .filter(|(_, value)| value.delta >= TRIE_RUNTIME);
            shapes.extend(ends.filter_map(|(key, end)| shape_from(&native, key, *end)));
        }
        shapes.retain(|shape| {
            let index = shape_index(shape);
            let free = !self.shapes.contains_key(&index);
            if free {
                self.shapes.insert(index, shape.tgid);
            }
            free
        });
        shapes
    }

    /// Forgets a process and returns what the kernel knows of it.
    pub fn forget(&mut self, tgid: u32) -> Forgotten {
        let known = self.known.remove(&tgid).unwrap_or_default();
        let shapes = self.shapes.extract_if(|_, owner| *owner == tgid);
        Forgotten {
            keys: known.into_keys().collect(),
            shapes: shapes.map(|(index, _)| index).collect(),
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed expectation is a failed test")]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::{any, proptest};
    use tracer_ebpf::{
        SHAPES_MAX, TRIE_END, TRIE_FRAME, TRIE_FRAME_BIAS, TRIE_ROOT, TrieKey, TrieValue,
    };

    use super::super::walk::{Managed, RawFrame, Stop, Unwound};
    use super::Trie;

    const SP: u64 = 0x7ffd_0000_1000;

    fn path(frames: &[(u64, u64)]) -> Unwound {
        Unwound {
            frames: frames
                .iter()
                .map(|(address, _)| RawFrame {
                    address: *address,
                    module: None,
                    lookup: *address,
                })
                .collect(),
            slots: frames.iter().skip(1).map(|(_, at)| SP + at).collect(),
            managed: Vec::new(),
            ambiguous: false,
            stop: Stop::Complete,
        }
    }

    /// What the kernel does: follows the trie over the stack's words.
    fn walk(
        trie: &HashMap<TrieKey, TrieValue>,
        tgid: u32,
        ip: u64,
        words: &HashMap<u64, u64>,
    ) -> Option<u32> {
        let (mut node, mut address, mut slot) = (TRIE_ROOT, ip, SP);
        loop {
            let value = trie.get(&TrieKey {
                address,
                tgid,
                node,
            })?;
            if value.delta == TRIE_END {
                return Some(value.node);
            }
            slot = if value.delta & TRIE_FRAME == 0 {
                slot + u64::from(value.delta)
            } else {
                words.get(&(slot - 8))? + u64::from(value.delta & 0xffff) - TRIE_FRAME_BIAS
            };
            (address, node) = (*words.get(&slot)?, value.node);
        }
    }

    fn words(frames: &[(u64, u64)]) -> HashMap<u64, u64> {
        frames
            .iter()
            .skip(1)
            .map(|(address, at)| (SP + at, *address))
            .collect()
    }

    #[test]
    fn learned_paths_are_walked_to_their_ids() {
        let a = [(10, 0), (20, 8), (30, 64), (40, 72)];
        let b = [(10, 0), (20, 8), (31, 64), (40, 96)];
        let mut trie = Trie::default();
        let mut kernel: HashMap<_, _> = trie
            .learn(&path(&a), &[], SP, 7, 1)
            .entries
            .into_iter()
            .collect();
        let second = trie.learn(&path(&b), &[], SP, 7, 2).entries;
        assert_eq!(second.len(), 2, "the common part is shared");
        kernel.extend(second);
        assert_eq!(walk(&kernel, 7, 10, &words(&a)), Some(1));
        assert_eq!(walk(&kernel, 7, 10, &words(&b)), Some(2));
        assert_eq!(walk(&kernel, 8, 10, &words(&a)), None, "another process");
        let forgotten = trie.forget(7);
        assert_eq!(forgotten.shapes.len(), 2);
        let mut keys = forgotten.keys;
        keys.sort_by_key(|k| (k.node, k.address));
        let mut given: Vec<_> = kernel.into_keys().collect();
        given.sort_by_key(|k| (k.node, k.address));
        assert_eq!(keys, given);
    }

    #[test]
    fn a_frame_of_varying_size_is_not_learned_twice() {
        let mut trie = Trie::default();
        assert_eq!(
            trie.learn(&path(&[(10, 0), (20, 8), (30, 64)]), &[], SP, 7, 1)
                .entries
                .len(),
            3
        );
        assert!(
            trie.learn(&path(&[(10, 0), (20, 8), (30, 80)]), &[], SP, 7, 2)
                .entries
                .is_empty()
        );
        assert!(
            trie.learn(&path(&[(10, 0), (20, 8)]), &[], SP, 7, 3)
                .entries
                .is_empty(),
            "a path's beginning"
        );
    }

    #[test]
    fn a_shape_is_the_whole_path_and_never_replaces_another() {
        let mut trie = Trie::default();
        let shape = trie.learn(&path(&[(10, 0), (20, 8), (30, 64)]), &[], SP, 7, 1);
        let shape = shape.shape.unwrap();
        assert_eq!(
            (shape.ip, shape.tgid, shape.node, shape.end),
            (10, 7, 1, TRIE_END)
        );
        assert_eq!((shape.frames, &shape.words[..3]), (2, &[1, 8, 0][..]));
        assert_eq!(shape.addresses[..3], [20, 30, 0]);
        let mut learn = |frames: &[(u64, u64)], tgid, id| {
            let learned = trie.learn(&path(frames), &[], SP, tgid, id);
            assert!(!learned.entries.is_empty());
            learned.shape
        };
        assert_eq!(
            learn(&[(11, 0), (20, 8)], 8, 1 + SHAPES_MAX),
            None,
            "occupied"
        );
        assert_eq!(learn(&[(12, 0)], 7, 3), None, "no caller");
        assert_eq!(learn(&[(13, 0), (20, 12)], 7, 4), None, "not a word");
        let deep: Vec<(u64, u64)> = (0..40).map(|i| (100 + i, 8 * i)).collect();
        assert_eq!(learn(&deep, 7, 5), None, "too long");
        assert_eq!(trie.forget(7).shapes, [1]);
        assert!(
            trie.learn(&path(&[(14, 0), (20, 8)]), &[], SP, 8, 1)
                .shape
                .is_some()
        );
    }

    /// Two interpreted functions below one return address, in frames of unequal size: 10 called
    /// from 20 (interpreted, with its frame pointer below the return address), called from 30.
    fn interpreted(size: u64, function: u64) -> (Unwound, HashMap<u64, u64>) {
        let mut unwound = path(&[(10, 0), (20, 16), (30, 16 + size)]);
        let base = SP + 8 + size;
        unwound.managed = vec![Managed {
            frame: 1,
            functions: Vec::new(),
            tells: vec![(base - 16, function)],
            base: Some(base),
            doubt: None,
        }];
        let mut words = words(&[(10, 0), (20, 16), (30, 16 + size)]);
        words.extend([(SP + 8, base), (base - 16, function)]);
        (unwound, words)
    }

    #[test]
    fn interpreted_frames_are_told_apart_by_their_functions_in_frames_of_any_size() {
        let mut trie = Trie::default();
        let mut kernel = HashMap::new();
        for (id, size, function) in [(1, 64, 100), (2, 96, 101), (3, 64, 102)] {
            let (unwound, _) = interpreted(size, function);
            let learned = trie.learn(&unwound, &[], SP, 7, id);
            assert!(!learned.entries.is_empty(), "{id}");
            assert_eq!(learned.shape.map(|shape| shape.frames), Some(3));
            kernel.extend(learned.entries);
        }
        for (id, size, function) in [(1, 64, 100), (2, 96, 101), (3, 64, 102)] {
            let (_, words) = interpreted(size, function);
            assert_eq!(walk(&kernel, 7, 10, &words), Some(id));
        }
        // a larger frame of a function that is known
        assert_eq!(walk(&kernel, 7, 10, &interpreted(128, 100).1), Some(1));
        assert_eq!(walk(&kernel, 7, 10, &interpreted(64, 103).1), None);
        let (mut unwound, _) = interpreted(64, 104);
        unwound.ambiguous = true;
        assert!(trie.learn(&unwound, &[], SP, 7, 4).entries.is_empty());
    }

    #[test]
    fn shapes_are_made_anew_from_the_entries() {
        let mut trie = Trie::default();
        let paths = [
            vec![(10, 0), (20, 8), (30, 64)],
            vec![(10, 0), (20, 8), (31, 64), (40, 96)],
            vec![(11, 0)],
        ];
        let learned = (1..)
            .zip(&paths)
            .map(|(id, frames)| trie.learn(&path(frames), &[], SP, 7, id));
        let learned: Vec<_> = learned.collect();
        let mut later = Trie::default();
        let entries = learned
            .iter()
            .flat_map(|learned| learned.entries.iter().copied());
        later.restore(entries.collect());
        let mut shapes = later.shapes();
        shapes.sort_by_key(|shape| shape.node);
        let first: Vec<_> = learned.iter().filter_map(|learned| learned.shape).collect();
        assert_eq!(shapes, first);
        assert!(later.shapes().is_empty(), "all are told");
    }

    #[test]
    fn one_frame_is_a_path() {
        let entries = Trie::default().learn(&path(&[(10, 0)]), &[], SP, 7, 5);
        assert_eq!(
            entries.entries.first().unwrap().1,
            TrieValue {
                node: 5,
                delta: TRIE_END
            }
        );
    }

    proptest! {
        #[test]
        fn whatever_was_learned_walks_to_its_id(paths in proptest::collection::vec(proptest::collection::vec((0u64..4, 1u64..4), 1..6), 1..12), tgid in any::<u32>()) {
            let mut trie = Trie::default();
            let mut kernel = HashMap::new();
            let mut learned = Vec::new();
            for (i, steps) in paths.iter().enumerate() {
                let mut at = 0;
                let frames: Vec<_> = steps.iter().map(|(a, up)| { at += up * 8; (*a, at) }).collect();
                let id = i as u32 + 1;
                let new = trie.learn(&path(&frames), &[], SP, tgid, id).entries;
                if new.iter().any(|(_, v)| v.delta == TRIE_END) {
                    learned.push((frames, id));
                } else {
                    assert!(new.is_empty(), "half a path is of no use");
                }
                kernel.extend(new);
            }
            for (frames, id) in learned {
                assert_eq!(walk(&kernel, tgid, frames[0].0, &words(&frames)), Some(id));
            }
        }
    }
}
