//! Node.js: event loops on libuv.

pub mod session;
