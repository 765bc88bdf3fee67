//! Real clients of real servers: the name of each open connection is right, and where it can't be known
//! the row says why. `TRACER_NAMES` chooses rows by words in them.

use anyhow::{Result, bail};
use tracer_tests::{host, named, runner::NotApplicable, tests};

tests![each_connection_of_real_clients_is_named];

fn each_connection_of_real_clients_is_named() -> Result<()> {
    host::require_root()?;
    if std::env::var_os("TRACER_TEST_FULL").is_none() {
        bail!(NotApplicable("part of the full run".to_owned()));
    }
    named::table()
}
