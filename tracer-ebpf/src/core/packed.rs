//! Two numbers in one register: functions of programs take five, and answer in one.

/// Two numbers as one.
#[inline(always)]
pub fn pack(high: u32, low: u32) -> u64 {
    u64::from(high) << 32 | u64::from(low)
}

/// The two numbers again.
#[inline(always)]
pub fn unpack(packed: u64) -> (u32, u32) {
    ((packed >> 32) as u32, packed as u32)
}
