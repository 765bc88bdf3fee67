//! Unwinding with executables of any bytes, for the fuzzer and property tests.

use tracer_ebpf::{FRAMES_MAX, StackCopy};

use super::{
    cfi::{Rules, cold_part, function_start},
    managed::Walkers,
    space::{Address, Space},
    walk::unwind,
};
use crate::elf::{Image, ImageKey};

/// A process in which every address is in one file.
struct OneFile(Image);

impl Space for OneFile {
    fn find(&self, address: u64) -> Option<Address<'_>> {
        Some(Address {
            module: None,
            image: Some(&self.0),
            linked: address,
        })
    }
}

/// Takes an executable apart and unwinds stacks, made of its own bytes, in its code.
pub fn unwind_hostile(data: &[u8]) {
    let key = ImageKey::for_memory(7, data.len() as u64);
    let Ok(image) = Image::from_memory(key, data.to_vec()) else {
        return;
    };
    let _ = image.symbols(&["main", "_PyRuntime"]);
    let _ = (
        image.build_id().map(<[u8]>::len),
        image.bias(0x1000, 0x1000),
    );
    let text = image.section(".text").map_or(0, |part| part.address);
    let words: Vec<u64> = data
        .chunks_exact(8)
        .filter_map(|w| w.try_into().ok().map(u64::from_le_bytes))
        .collect();
    // The entry point is at offset 24 of the header.
    let mut addresses = vec![text, words.get(3).copied().unwrap_or_default()];
    addresses.extend((1..24).map(|step| text.wrapping_add(step * 37)));
    addresses.extend(words.iter().rev().take(8));
    let _ = cold_part(&image, text);
    let space = OneFile(image);
    let mut rules = Rules::new();
    let stack = data
        .get(data.len().saturating_sub(4096)..)
        .unwrap_or_default();
    for ip in addresses {
        let copy = StackCopy {
            ip,
            sp: 0x7f00_0000,
            bp: 0x7f00_0040,
            saved: [ip, 0x7f00_0080, 0, u64::MAX, text],
            ..StackCopy::default()
        };
        let unwound = unwind(&space, &mut rules, &mut Walkers::none(), &copy, stack);
        assert!(unwound.frames.len() <= FRAMES_MAX);
        assert_eq!(unwound.slots.len() + 1, unwound.frames.len());
        let _ = function_start(&space.0, ip);
        let _ = space.0.code_before(ip, 7);
        let _ = space.0.part_at(ip);
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed expectation is a failed test")]
mod tests {
    use super::super::cfi::function_start;
    use crate::elf::{Image, ImageKey};

    /// The fuzzer found that gimli subtracts without looking.
    #[test]
    fn a_search_table_that_points_before_its_section_is_survived() {
        let mut bytes = std::fs::read("/bin/true").unwrap_or_default();
        let open =
            |bytes: &[u8]| Image::from_memory(ImageKey::for_memory(1, 0), bytes.to_vec()).ok();
        let image = open(&bytes).unwrap();
        let text = image.section(".text").unwrap().address;
        assert!(function_start(&image, text).is_some());
        // Rows of two numbers of 32 bits each, relative to the table, after twelve bytes of header.
        let table = image.eh_frame_hdr().unwrap().bytes.clone();
        let first = table.start as usize + 12;
        for row in (first..table.end as usize - 7).step_by(8) {
            bytes[row + 4..row + 8].copy_from_slice(&i32::MIN.to_le_bytes());
        }
        assert_eq!(function_start(&open(&bytes).unwrap(), text), None);
    }
}
