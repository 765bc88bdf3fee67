//! Node.js.

pub mod libuv;
