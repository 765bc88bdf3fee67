//! What the Rust fixture programs share: a pace, and an end that is sure to come.

use std::{
    io::{self, Read},
    process, thread,
    time::{Duration, Instant},
};

/// Ends this process when its parent dies or its standard input is closed.
pub fn end_with_parent() {
    // SAFETY: PR_SET_PDEATHSIG takes a signal number and touches no memory.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
    thread::spawn(|| {
        let mut byte = [0];
        while matches!(io::stdin().read(&mut byte), Ok(1..)) {}
        process::exit(0);
    });
}

/// Makes `count` calls, `rate` a second, then waits until the process is ended.
pub fn repeat(rate: u32, count: u32, mut call: impl FnMut(u32)) {
    println!("READY");
    let mut due = Instant::now();
    for number in 0..count {
        thread::sleep(due.saturating_duration_since(Instant::now()));
        call(number);
        // one that was stopped does not make up for it
        let earliest = Instant::now().checked_sub(Duration::from_secs(1));
        due += Duration::from_secs(1) / rate;
        due = earliest.map_or(due, |earliest| due.max(earliest));
    }
    println!("DONE");
    loop {
        thread::park();
    }
}
