//! tokio: a connection for every call, each opened by a task of its own and never closed.
//!
//! usage: fixture-tokio ADDRESS:PORT RATE COUNT

use std::{
    env, future,
    io::{self, Read as _},
    process, thread,
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time,
};

async fn load_rates(address: &str) -> io::Result<TcpStream> {
    let mut stream = TcpStream::connect(address).await?;
    let request = b"GET /v1/rates HTTP/1.1\r\nHost: rates.test\r\n\r\n";
    stream.write_all(request).await?; // AT load_rates
    let mut answer = [0; 4096];
    let _ = stream.read(&mut answer).await?;
    Ok(stream)
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [address, rate, count] = &arguments[..] else {
        eprintln!("usage: fixture-tokio ADDRESS:PORT RATE COUNT");
        process::exit(2);
    };
    let number = |text: &str| text.parse::<u32>().unwrap_or(1).max(1);
    thread::spawn(|| {
        let mut byte = [0];
        while matches!(io::stdin().read(&mut byte), Ok(1..)) {}
        process::exit(0);
    });
    println!("READY");
    let mut every = time::interval(Duration::from_secs(1) / number(rate));
    for _ in 0..number(count) {
        every.tick().await;
        let address = address.clone();
        tokio::spawn(async move {
            match load_rates(&address).await {
                // The task never ends, and with it the connection.
                Ok(_kept) => future::pending::<()>().await,
                Err(error) => eprintln!("fixture-tokio: {address}: {error}"),
            }
        });
    }
    future::pending::<()>().await;
}
