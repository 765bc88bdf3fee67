//! More programs of both sorts, one for each name; where it leaks, the line carries a comment with the name.
//!
//! usage: more NAME HTTP LINES
use std::{
    env,
    io::{BufRead, BufReader, Write},
    net::{Shutdown, TcpStream},
    thread,
    time::Duration,
};

fn pace(mut step: impl FnMut(usize)) {
    println!("ready");
    for n in 0.. {
        step(n);
        thread::sleep(Duration::from_millis(600));
    }
}

fn ask(wire: &TcpStream, text: &str) -> String {
    let mut to = wire;
    writeln!(to, "{text}").unwrap();
    let mut line = String::new();
    BufReader::new(wire).read_line(&mut line).unwrap();
    line
}

struct Broker {
    port: u16,
    wires: Vec<TcpStream>,
}

impl Broker {
    /// Uses the newest, and dials anew when it thinks that this has failed.
    #[inline(never)]
    fn publish(&mut self, n: usize) -> usize {
        if n % 2 == 0 {
            let wire = TcpStream::connect(("127.0.0.1", self.port)).unwrap(); // LEAK hoard
            self.wires.push(wire); // END hoard
        }
        ask(self.wires.last().unwrap(), &format!("publish {n}")).len() // LEAK hoard-ask
    }

    #[inline(never)]
    fn farewell(&mut self, n: usize) {
        let wire = TcpStream::connect(("127.0.0.1", self.port)).unwrap(); // LEAK half-closed
        ask(&wire, &format!("farewell {n}"));
        wire.shutdown(Shutdown::Write).unwrap();
        self.wires.push(wire); // END half-closed
    }

    /// Five, of which the oldest gives way.
    #[inline(never)]
    fn rotate(&mut self, n: usize) {
        let wire = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        ask(&wire, &format!("rotate {n}"));
        self.wires.push(wire);
        if self.wires.len() > 5 {
            self.wires.remove(0);
        }
    }
}

fn main() {
    let arguments: Vec<String> = env::args().collect();
    let mut broker = Broker { port: arguments[3].parse().unwrap(), wires: Vec::new() };
    match arguments[1].as_str() {
        "hoard" => pace(|n| drop(broker.publish(n))),
        "half-closed" => pace(|n| broker.farewell(n)),
        "rotate" => pace(|n| broker.rotate(n)),
        other => panic!("no program {other}"),
    }
}
