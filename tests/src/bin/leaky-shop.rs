//! The demo: a shop that sells well and loses a connection with every order.
//!
//! `leaky-shop ADDRESS:PORT [ORDERS_PER_SECOND [ORDERS]]` asks the service at ADDRESS (the fixture server
//! in mode `http` will do) twice for each order. Prices come over one connection that is kept and
//! used again, as it should be. Discounts do not.

use std::{
    collections::HashMap,
    env,
    io::{self, Read, Write},
    net::TcpStream,
    process, thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use tracer_tests::pace;

/// Prices, over one connection.
struct Prices {
    connection: TcpStream,
}

impl Prices {
    /// Price of an article.
    #[inline(never)]
    fn lookup(&mut self, article: u32) -> io::Result<String> {
        let head = format!("GET /v1/prices/{article} HTTP/1.1\r\nHost: prices.shop.test\r\n\r\n");
        self.connection.write_all(head.as_bytes())?;
        answer(&mut self.connection)
    }
}

/// Discounts, over connections that are remembered by order.
struct Discounts {
    address: String,
    sessions: HashMap<u32, TcpStream>,
}

impl Discounts {
    /// Discount for an order.
    #[inline(never)]
    fn lookup(&mut self, order: u32) -> io::Result<String> {
        let head = format!(
            "GET /v1/discounts/{order}?customer=8812&token=hush HTTP/1.1\r\nHost: discounts.shop.test\r\n\r\n"
        );
        let mut session = TcpStream::connect(&self.address)?;
        session.write_all(head.as_bytes())?; // AT discounts
        let discount = answer(&mut session)?;
        // Kept for when the order is asked about again. Every order has a number of its own, though.
        self.sessions.insert(order, session);
        Ok(discount)
    }
}

/// Reads the small answer that the service sends in one piece.
fn answer(connection: &mut TcpStream) -> io::Result<String> {
    let mut bytes = [0; 4096];
    match connection.read(&mut bytes)? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        n => Ok(String::from_utf8_lossy(&bytes[..n]).into_owned()),
    }
}

fn main() -> Result<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let (address, rate, orders) = match arguments.as_slice() {
        [address] => (address, 8, u32::MAX),
        [address, rate] => (
            address,
            rate.parse().context("ORDERS_PER_SECOND")?,
            u32::MAX,
        ),
        [address, rate, orders] => {
            let orders = orders.parse().context("ORDERS")?;
            (address, rate.parse().context("ORDERS_PER_SECOND")?, orders)
        }
        _ => bail!("usage: leaky-shop ADDRESS:PORT [ORDERS_PER_SECOND [ORDERS]]"),
    };
    pace::end_with_parent();
    let mut prices = Prices {
        connection: TcpStream::connect(address).context(address.clone())?,
    };
    let mut discounts = Discounts {
        address: address.clone(),
        sessions: HashMap::new(),
    };
    println!("READY");
    let opened = Instant::now();
    let mut sold = 0;
    // A leak ends by itself when no more descriptors are to be had; a demo should end before.
    for order in 0..orders.min(900) {
        let due = opened + Duration::from_secs(1) * order / rate;
        thread::sleep(due.saturating_duration_since(Instant::now()));
        prices
            .lookup(100 + order % 7)
            .context("asking for a price")?;
        discounts
            .lookup(52_000 + order)
            .context("asking for a discount")?;
        sold += 1;
    }
    println!("SOLD {sold}");
    // like a service that is ended: what it holds is left to the kernel
    process::exit(0)
}
