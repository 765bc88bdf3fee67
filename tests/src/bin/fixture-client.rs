//! A Rust client that forgets its connections, and its healthy twin.
//!
//! `fixture-client MODE ADDRESS:PORT RATE COUNT leak|close`, where MODE is `rates` (a connection per
//! request) or `feed` (streams that are opened and never cancelled).

use std::{
    env,
    io::{Read, Write},
    mem,
    net::TcpStream,
    thread,
};

use anyhow::{Context, Result, bail};
use tracer_tests::pace;

fn main() -> Result<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [mode, address, rate, count, how] = arguments.as_slice() else {
        bail!("usage: fixture-client MODE ADDRESS:PORT RATE COUNT leak|close");
    };
    let tidy = how == "close";
    let call = match mode.as_str() {
        "rates" => fetch_exchange_rate,
        "feed" => follow_feed,
        other => bail!("no such mode: {other}"),
    };
    pace::end_with_parent();
    pace::repeat(
        rate.parse().context("RATE")?,
        count.parse().context("COUNT")?,
        |number| {
            if let Err(error) = call(address, number, tidy) {
                eprintln!("fixture-client: {error:#}");
                std::process::exit(1);
            }
        },
    );
    Ok(())
}

/// One request on a connection of its own.
#[inline(never)]
fn fetch_exchange_rate(address: &str, number: u32, tidy: bool) -> Result<()> {
    let head = format!(
        "GET /v1/rates/{}?token=secret HTTP/1.1\r\nHost: rates.test\r\n\r\n",
        1000 + number
    );
    let mut stream = TcpStream::connect(address)?;
    stream.write_all(head.as_bytes())?; // AT fetch_exchange_rate
    let mut answer = [0; 4096];
    if stream.read(&mut answer)? == 0 {
        bail!("no answer");
    }
    if !tidy {
        mem::forget(stream);
    }
    Ok(())
}

/// Opens a stream of events and reads it on a thread: for ever, or (tidy) three events long.
#[inline(never)]
fn follow_feed(address: &str, _number: u32, tidy: bool) -> Result<()> {
    let head = b"GET /v1/feed?token=secret HTTP/1.1\r\nHost: feed.test\r\nAccept: text/event-stream\r\n\r\n";
    let mut stream = TcpStream::connect(address)?;
    stream.write_all(head)?; // AT follow_feed
    thread::Builder::new().stack_size(64 << 10).spawn(move || {
        let mut event = [0; 4096];
        let mut events = 0;
        while !(tidy && events == 3) && matches!(stream.read(&mut event), Ok(1..)) {
            events += 1;
        }
    })?;
    Ok(())
}
