//! Clients of a daemon that mean it no good.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    os::unix::net::UnixStream,
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};

use super::{Entry, Made, Shows};

/// Where a daemon listens.
#[derive(Debug, Clone)]
pub struct Door {
    /// Its local socket.
    pub socket: String,
    /// Its address and port.
    pub address: String,
    /// What opens the API there.
    pub token: String,
}

const fn client(
    name: &'static str,
    items: &'static [u8],
    reason: &'static str,
    made: fn(&Door) -> Result<()>,
) -> Entry {
    let shows = match reason.is_empty() {
        true => Shows::Nothing,
        false => Shows::Refused("client", reason),
    };
    Entry {
        name,
        items,
        made: Made::Client(made),
        shows,
    }
}

/// All of this file.
pub const ALL: &[Entry] = &[
    client(
        "a head that comes letter by letter",
        &[6],
        "too_slow",
        |door| {
            let mut stream = door.tcp()?;
            for _ in 0..14 {
                // it is hung up on before it has ended
                let _ = stream.write_all(b"G");
                thread::sleep(Duration::from_secs(1));
            }
            Ok(())
        },
    ),
    client("a head that never comes", &[6], "too_slow", |door| {
        let mut stream = door.tcp()?;
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: ")?;
        rest(&mut stream).map(drop)
    }),
    client("a body that never comes", &[6], "", |door| {
        door.says(
            "POST /v1/report HTTP/1.1",
            "Content-Length: 1000000000\r\n",
            &[405, 401],
        )
    }),
    client("a body in chunks without end", &[6], "", |door| {
        let mut stream = door.tcp()?;
        stream.write_all(
            door.head("GET /metrics HTTP/1.1", "Transfer-Encoding: chunked\r\n")
                .as_bytes(),
        )?;
        for _ in 0..64 {
            let _ = stream.write_all(b"ffffffffffffffff\r\nabc");
        }
        rest(&mut stream).map(drop)
    }),
    client("an answer that is never read", &[6], "", |door| {
        let mut streams = Vec::new();
        for _ in 0..4 {
            let mut stream = door.tcp()?;
            for _ in 0..200 {
                let _ = stream.write_all(door.head("GET /metrics HTTP/1.1", "").as_bytes());
            }
            streams.push(stream);
        }
        thread::sleep(Duration::from_secs(3));
        Ok(())
    }),
    client(
        "more connections than an address may have",
        &[6],
        "too_many_of_address",
        |door| {
            let streams: Vec<_> = (0..300).map(|_| door.tcp()).collect();
            thread::sleep(Duration::from_secs(2));
            streams.into_iter().try_for_each(|stream| stream.map(drop))
        },
    ),
    client(
        "more connections than there are places",
        &[6],
        "no_place",
        |door| {
            let streams: Vec<_> = (0..300)
                .map(|_| UnixStream::connect(&door.socket))
                .collect();
            thread::sleep(Duration::from_secs(2));
            drop(streams);
            Ok(())
        },
    ),
    client("half of a connection", &[6], "", |door| {
        let mut stream = door.tcp()?;
        stream.write_all(b"GET /metrics")?;
        stream.shutdown(std::net::Shutdown::Write)?;
        rest(&mut stream).map(drop)
    }),
    client("a header of a megabyte", &[6], "nonsense", |door| {
        let more = format!("X: {}\r\n", "x".repeat(1 << 20));
        door.hung_up(door.head("GET /metrics HTTP/1.1", &more).as_bytes())
    }),
    client("a thousand headers", &[6], "nonsense", |door| {
        door.hung_up(
            door.head("GET /metrics HTTP/1.1", &"X: x\r\n".repeat(1_000))
                .as_bytes(),
        )
    }),
    client("garbage", &[6], "nonsense", |door| {
        door.hung_up(b"\x16\x03\x01\xff\xff\0\0\0GET \0\0\r\r\r\r\r\n\r\n")
    }),
    client("HTTP/2", &[6], "nonsense", |door| {
        door.hung_up(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0")
    }),
    client("garbage behind a request", &[6], "nonsense", |door| {
        let mut text = door.head("GET /healthz HTTP/1.1", "").into_bytes();
        text.extend([0xff; 200]);
        text.extend(b"\r\n\r\n");
        door.hung_up(&text)
    }),
    client("a list without end", &[6], "limit_lowered", |door| {
        for limit in [u64::MAX, 1 << 40, 10_001] {
            let line = format!("GET /v1/connections?limit={limit} HTTP/1.1");
            door.says(&line, &door.authorization(), &[200, 503])?;
        }
        Ok(())
    }),
    client("lists of no number", &[6], "", |door| {
        for limit in ["-1", "18446744073709551616", "1e9", "%ff%00", "0x10", ""] {
            let line = format!("GET /v1/connections?limit={limit} HTTP/1.1");
            door.says(&line, &door.authorization(), &[400])?;
        }
        Ok(())
    }),
    client("another host", &[6], "unknown_host", |door| {
        let text = "GET /metrics HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n";
        let said = door.ask(text.as_bytes())?;
        ensure!(said.starts_with("HTTP/1.1 421"), "{said}");
        Ok(())
    }),
    client("no host", &[6], "unknown_host", |door| {
        let said = door.ask(b"GET /metrics HTTP/1.0\r\n\r\n")?;
        ensure!(said.contains(" 421") || said.contains(" 400"), "{said}");
        Ok(())
    }),
    client("a token that is wrong", &[6], "no_token", |door| {
        let long = "x".repeat(8_000);
        for token in ["wrong", &door.token[1..], "", "\u{e4}", &long] {
            let more = format!("Authorization: Bearer {token}\r\nX-Tracer-Token: {token}\r\n");
            door.says("GET /v1/report HTTP/1.1", &more, &[401])?;
        }
        Ok(())
    }),
    client("methods that there are not", &[6], "", |door| {
        for method in ["DELETE", "PUT", "TRACE", "CONNECT", "=CMD"] {
            let line = format!("{method} /metrics HTTP/1.1");
            let said = door.ask(door.head(&line, "").as_bytes())?;
            ensure!(!said.contains(" 200 "), "{method}: {said}");
        }
        Ok(())
    }),
    client("paths that lead elsewhere", &[6, 13], "", |door| {
        for path in [
            "/page/../../etc/passwd",
            "/page/%2e%2e/%2e%2e/etc/passwd",
            "/page/..%2f..%2fetc/passwd",
            "//etc/passwd",
            "/page/\\..\\..",
            "/v1/findings/%ff%00%0d%0aX-Evil:%20x",
            "/v1/findings/..%2f..%2fdoctor",
            "/%",
        ] {
            let line = format!("GET {path} HTTP/1.1");
            let said = door.ask(door.head(&line, &door.authorization()).as_bytes())?;
            ensure!(
                !said.contains(" 200 ") && !said.contains("root:"),
                "{path}: {said}"
            );
            ensure!(!said.contains("\r\nX-Evil"), "{path}: {said}");
        }
        Ok(())
    }),
    client("a request that is another's", &[6, 13], "", |door| {
        let more = "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n";
        let text =
            door.head("GET /metrics HTTP/1.1", more) + "0\r\n\r\nGET /v1/report HTTP/1.1\r\n\r\n";
        let said = door.ask(text.as_bytes())?;
        ensure!(!said.contains("\"findings\""), "{said}");
        Ok(())
    }),
    client("many who ask for all at one time", &[6], "", |door| {
        let asking: Vec<_> = (0..12)
            .map(|_| {
                let door = door.clone();
                thread::spawn(move || {
                    for _ in 0..20 {
                        let head = door.head("GET /v1/report HTTP/1.1", &door.authorization());
                        let _ = door.ask(head.as_bytes());
                    }
                })
            })
            .collect();
        asking.into_iter().for_each(|thread| drop(thread.join()));
        Ok(())
    }),
];

impl Door {
    fn tcp(&self) -> Result<TcpStream> {
        let stream = TcpStream::connect(&self.address)?;
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        stream.set_write_timeout(Some(Duration::from_secs(10)))?;
        Ok(stream)
    }

    fn head(&self, line: &str, more: &str) -> String {
        format!(
            "{line}\r\nHost: {}\r\nConnection: close\r\n{more}\r\n",
            self.address
        )
    }

    fn authorization(&self) -> String {
        format!("Authorization: Bearer {}\r\n", self.token)
    }

    /// What is answered to these bytes, all of it; nothing where it is hung up.
    fn ask(&self, bytes: &[u8]) -> Result<String> {
        // others may have taken all the places that this address may have
        for _ in 0..60 {
            let mut stream = self.tcp()?;
            let _ = stream.write_all(bytes);
            let said = rest(&mut stream)?;
            if !said.is_empty() {
                return Ok(said);
            }
            thread::sleep(Duration::from_millis(500));
        }
        Ok(String::new())
    }

    fn says(&self, line: &str, more: &str, statuses: &[u16]) -> Result<()> {
        let said = self.ask(self.head(line, more).as_bytes())?;
        let status = said.split(' ').nth(1).context("no status")?;
        ensure!(statuses.contains(&status.parse()?), "{line}: {said}");
        Ok(())
    }

    /// Sends these bytes; whatever is answered, the connection ends.
    fn hung_up(&self, bytes: &[u8]) -> Result<()> {
        self.ask(bytes).map(drop)
    }
}

/// All that is still said; a connection that is broken off has said enough.
fn rest(stream: &mut TcpStream) -> Result<String> {
    let mut said = Vec::new();
    let mut buffer = [0; 4_096];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => said.extend(&buffer[..count]),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                anyhow::bail!("it neither answers nor hangs up");
            }
            Err(_) => break,
        }
    }
    Ok(String::from_utf8_lossy(&said).into_owned())
}
