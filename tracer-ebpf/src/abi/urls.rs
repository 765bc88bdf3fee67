//! Who asked for a URL, where a library sends its requests from an event loop.

/// Longest URL that is told from others, bytes, and one.
pub const URL_BYTES: usize = 256;
/// Stacks kept of one URL.
pub const URL_STACKS: usize = 4;

/// Key of `URLS_ASKED`: a URL in a process.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
pub struct UrlKey {
    /// Hash of host, port and path; see [`url_hash`].
    pub hash: u64,
    /// Process.
    pub tgid: u32,
    /// Explicit padding.
    pub pad: u32,
}

/// Value of `URLS_ASKED`: the stacks that parsed the URL last, the latest first; ids, no tickets, and
/// [`crate::STACK_NONE`] where there were fewer.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
pub struct UrlAsked {
    /// Different stacks.
    pub stacks: [u32; URL_STACKS],
}

/// The hash of nothing (FNV-1a, 64 bits).
pub const URL_HASH: u64 = 0xcbf2_9ce4_8422_2325;

/// The hash of what was hashed and one more byte.
#[inline(always)]
#[must_use]
pub const fn url_hash_with(hash: u64, byte: u8) -> u64 {
    (hash ^ byte as u64).wrapping_mul(0x0000_0100_0000_01b3)
}

/// The hash of a host, with its port where it is not the scheme's, and the path of a request's
/// target, without its query.
#[cfg(feature = "user")]
#[must_use]
pub fn url_hash(host: &str, target: &str) -> u64 {
    let path = target.split(['?', '#']).next().unwrap_or(target);
    let path = if path.is_empty() { "/" } else { path };
    host.bytes()
        .chain(path.bytes())
        .fold(URL_HASH, url_hash_with)
}

const _: () = assert!(size_of::<UrlKey>() == 16);
const _: () = assert!(size_of::<UrlAsked>() == 16);
