//! Messages for developers: what the programs drop and refuse, as it happens. Without the feature `log`,
//! which no release has, they are nothing: counters tell the same in sum.

use tracer_ebpf::Counter;

/// Says something of the current process, at level debug.
#[cfg(feature = "log")]
macro_rules! note {
    ($($message:tt)*) => {
        aya_log_ebpf::debug!((), $($message)*)
    };
}

/// Says nothing.
#[cfg(not(feature = "log"))]
macro_rules! note {
    ($($message:tt)*) => {};
}

pub(crate) use note;

/// Something was counted; said where it was not recorded.
#[cfg(feature = "log")]
#[inline(always)]
pub fn counted(counter: Counter) {
    if counter.is_loss() {
        say_loss(counter as u32);
    }
}

/// Bytes of a counter's name, with room behind it.
#[cfg(feature = "log")]
const NAME_BYTES: usize = 32;
#[cfg(feature = "log")]
type Name = [u8; NAME_BYTES];

/// The counters' names, padded with spaces.
#[cfg(feature = "log")]
static NAMES: [Name; Counter::ALL.len()] = {
    let mut names = [[b' '; NAME_BYTES]; Counter::ALL.len()];
    let mut counter = 0;
    while counter < names.len() {
        let name = Counter::ALL[counter].name().as_bytes();
        let mut i = 0;
        while i < name.len() {
            names[counter][i] = name[i];
            i += 1;
        }
        counter += 1;
    }
    names
};

/// Says of which counter, and in which process. A global function: a message at each place that
/// counts would be more than the verifier takes.
#[cfg(feature = "log")]
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn say_loss(counter: u32) -> u32 {
    if let Some(name) = NAMES.get(counter as usize) {
        // SAFETY: made of text and spaces.
        let name = unsafe { core::str::from_utf8_unchecked(name) };
        let tgid = super::task::current_tgid();
        aya_log_ebpf::warn!((), "not recorded: {} process {}", name, tgid);
    }
    0
}

/// Something was counted.
#[cfg(not(feature = "log"))]
#[inline(always)]
pub fn counted(_: Counter) {}
