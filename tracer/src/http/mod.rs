//! What request heads say: method, target, host; URLs redacted and made into templates. Pure.
