//! Go programs: build information, pclntab, net/http connection states.
