//! Programs that leak connections, one for each name; the line at fault carries a comment with the name.
//!
//! usage: leaks NAME HTTP LINES
use std::{
    env,
    io::{BufRead, BufReader, Read, Write},
    mem,
    net::{TcpListener, TcpStream},
    thread,
    time::Duration,
};

fn pace(mut step: impl FnMut(u32)) {
    println!("ready");
    for n in 0.. {
        step(n);
        thread::sleep(Duration::from_millis(700));
    }
}

#[inline(never)]
fn measure(port: u16, n: u32) -> String {
    let mut wire = TcpStream::connect(("127.0.0.1", port)).unwrap(); // LEAK raw
    writeln!(wire, "measure {n}").unwrap();
    let mut line = String::new();
    BufReader::new(&wire).read_line(&mut line).unwrap();
    mem::forget(wire); // END raw
    line
}

struct Archive {
    port: u16,
    open: Vec<TcpStream>,
}

impl Archive {
    #[inline(never)]
    fn request(&mut self, page: u32) -> usize {
        let mut wire = TcpStream::connect(("127.0.0.1", self.port)).unwrap(); // LEAK unread
        write!(wire, "GET /big/pages/{page} HTTP/1.1\r\nHost: archive.test\r\n\r\n").unwrap();
        let mut head = [0; 256];
        let n = wire.read(&mut head).unwrap();
        self.open.push(wire); // END unread
        n
    }
}

#[inline(never)]
fn serve() {
    let shop = TcpListener::bind("127.0.0.1:0").unwrap();
    println!("ready {}", shop.local_addr().unwrap().port());
    loop {
        let (mut wire, _) = shop.accept().unwrap(); // LEAK server
        let _ = wire.read(&mut [0; 1024]);
        let _ = wire.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        mem::forget(wire); // END server
    }
}

fn main() {
    let arguments: Vec<String> = env::args().collect();
    let [http, lines] = [2, 3].map(|at| arguments[at].parse().unwrap());
    match arguments[1].as_str() {
        "raw" => pace(|n| drop(measure(lines, n))),
        "unread" => {
            let mut archive = Archive { port: http, open: Vec::new() };
            pace(|n| drop(archive.request(n)));
        }
        "server" => serve(),
        other => panic!("no program {other}"),
    }
}
