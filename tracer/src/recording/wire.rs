//! Numbers as bytes: LEB128, and what may be absent or negative on top of it.

use super::Fault;

/// Appends an unsigned number, seven bits a byte, the lowest first.
pub fn put(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Appends a signed number: zigzag, so that small ones stay short.
pub fn put_signed(out: &mut Vec<u8>, value: i64) {
    put(out, ((value << 1) ^ (value >> 63)) as u64);
}

/// Appends a time by its distance from another; `None` is one byte.
pub fn put_time(out: &mut Vec<u8>, base_ns: u64, time_ns: Option<u64>) {
    match time_ns {
        None => put(out, 0),
        Some(time_ns) => {
            put(out, 1);
            put_signed(out, base_ns.wrapping_sub(time_ns) as i64);
        }
    }
}

/// Takes bytes from wherever they come.
pub trait Take {
    /// The next byte.
    ///
    /// # Errors
    /// [`Fault`] where there is none.
    fn byte(&mut self) -> Result<u8, Fault>;

    /// An unsigned number.
    ///
    /// # Errors
    /// [`Fault`] where it does not end in time.
    fn number(&mut self) -> Result<u64, Fault> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(Fault::Malformed("a number that does not end"))
    }

    /// An unsigned number of at most `max`.
    ///
    /// # Errors
    /// [`Fault`] for a larger one, by the name of what it counts.
    fn at_most(&mut self, max: u64, what: &'static str) -> Result<u64, Fault> {
        let value = self.number()?;
        match value <= max {
            true => Ok(value),
            false => Err(Fault::Malformed(what)),
        }
    }

    /// A number of 32 bits.
    ///
    /// # Errors
    /// [`Fault`] for a larger one.
    fn word(&mut self, what: &'static str) -> Result<u32, Fault> {
        let value = self.at_most(u64::from(u32::MAX), what)?;
        u32::try_from(value).map_err(|_| Fault::Malformed(what))
    }

    /// A signed number.
    ///
    /// # Errors
    /// [`Fault`] where it does not end in time.
    fn signed(&mut self) -> Result<i64, Fault> {
        let value = self.number()?;
        Ok((value >> 1) as i64 ^ -((value & 1) as i64))
    }

    /// A time, by its distance from `base_ns`.
    ///
    /// # Errors
    /// [`Fault`] for one that no clock has.
    fn time(&mut self, base_ns: u64) -> Result<Option<u64>, Fault> {
        if self.number()? == 0 {
            return Ok(None);
        }
        let time_ns = base_ns.wrapping_sub(self.signed()? as u64);
        sane(time_ns).map(Some)
    }
}

/// No machine has been up for longer: 73 years, in nanoseconds.
const TIME_MAX_NS: u64 = 1 << 61;

/// The time, if a clock can have it.
///
/// # Errors
/// [`Fault`] else.
pub fn sane(time_ns: u64) -> Result<u64, Fault> {
    match time_ns <= TIME_MAX_NS {
        true => Ok(time_ns),
        false => Err(Fault::Malformed("a time that no clock has")),
    }
}

impl Take for &[u8] {
    fn byte(&mut self) -> Result<u8, Fault> {
        let (&first, rest) = self.split_first().ok_or(Fault::CutOff)?;
        *self = rest;
        Ok(first)
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed assumption fails the test")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn numbers_come_back(value: u64, signed: i64, base in 0..1u64 << 60, time in 0..1u64 << 60) {
            let mut bytes = Vec::new();
            put(&mut bytes, value);
            put_signed(&mut bytes, signed);
            put_time(&mut bytes, base, Some(time));
            put_time(&mut bytes, base, None);
            let mut rest = bytes.as_slice();
            prop_assert_eq!(rest.number().unwrap(), value);
            prop_assert_eq!(rest.signed().unwrap(), signed);
            prop_assert_eq!(rest.time(base).unwrap(), Some(time));
            prop_assert_eq!(rest.time(base).unwrap(), None);
            prop_assert!(rest.is_empty());
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes: Vec<u8>) {
            let mut rest = bytes.as_slice();
            while rest.number().is_ok() {}
            let mut rest = bytes.as_slice();
            while rest.time(0).is_ok() {}
        }
    }

    #[test]
    fn what_is_too_large_is_named() {
        let mut bytes = Vec::new();
        put(&mut bytes, 1000);
        assert!(matches!(
            bytes.as_slice().at_most(999, "x"),
            Err(Fault::Malformed("x"))
        ));
        assert!(matches!(
            [0xff; 20].as_slice().number(),
            Err(Fault::Malformed(_))
        ));
        assert!(matches!([0x80].as_slice().number(), Err(Fault::CutOff)));
    }
}
