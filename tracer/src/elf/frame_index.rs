//! A search table over the frame descriptions of a file that has none itself.

/// First address and offset of each description, by address.
#[derive(Debug, Default)]
pub struct FrameIndex(Vec<(u64, usize)>);

impl FrameIndex {
    /// A table of (first address, offset) in any order.
    #[must_use]
    pub fn new(mut descriptions: Vec<(u64, usize)>) -> FrameIndex {
        descriptions.sort_unstable();
        FrameIndex(descriptions)
    }

    /// Offset of the last description that begins at `address` or before.
    #[must_use]
    pub fn find(&self, address: u64) -> Option<usize> {
        let after = self.0.partition_point(|(start, _)| *start <= address);
        self.0.get(after.checked_sub(1)?).map(|(_, at)| *at)
    }
}

#[cfg(test)]
mod tests {
    use super::FrameIndex;

    #[test]
    fn the_description_before_an_address_is_found() {
        let index = FrameIndex::new(vec![(30, 3), (10, 1), (20, 2)]);
        let found = [9, 10, 19, 20, 35].map(|address| index.find(address));
        assert_eq!(found, [None, Some(1), Some(1), Some(2), Some(3)]);
    }
}
