//! Programs that only look as if they leaked, one for each name.
//!
//! usage: healthy NAME HTTP LINES
use std::{
    collections::VecDeque,
    env,
    io::{BufRead, BufReader, Write},
    net::TcpStream,
    thread,
    time::Duration,
};

fn ask(wire: &mut TcpStream, n: u32) {
    writeln!(wire, "question {n}").unwrap();
    BufReader::new(wire).read_line(&mut String::new()).unwrap();
}

fn main() {
    let arguments: Vec<String> = env::args().collect();
    let lines: u16 = arguments[3].parse().unwrap();
    let dial = || TcpStream::connect(("127.0.0.1", lines)).unwrap();
    println!("ready");
    let mut kept: VecDeque<TcpStream> = VecDeque::new();
    for n in 0.. {
        match arguments[1].as_str() {
            "pool" => {
                if kept.len() < 10 {
                    kept.push_back(dial());
                }
                let mut wire = kept.pop_front().unwrap();
                ask(&mut wire, n);
                kept.push_back(wire);
                thread::sleep(Duration::from_millis(300));
            }
            "replaced" => {
                let mut wire = dial();
                ask(&mut wire, n);
                kept.push_back(wire);
                if kept.len() > 9 {
                    kept.pop_front();
                }
                thread::sleep(Duration::from_millis(2500));
            }
            other => panic!("no program {other}"),
        }
    }
}
