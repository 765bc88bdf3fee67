//! The kernel side: BTF offsets, the attach plan, maps and iterators.
