//! Somebody who is told of events by HTTP.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};

/// A POST.
#[derive(Debug, Clone)]
pub struct Post {
    /// Whither.
    pub path: String,
    /// Head, in lower case.
    pub head: String,
    /// Body.
    pub body: String,
}

/// Answers the first POST with 503 and all others with 200.
#[derive(Debug)]
pub struct Receiver {
    /// `HOST:PORT`.
    pub address: String,
    posts: Arc<Mutex<Vec<Post>>>,
}

impl Receiver {
    /// Listens on a port of its own, as long as the test runs.
    ///
    /// # Errors
    /// When there is none.
    pub fn start() -> Result<Receiver> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?.to_string();
        let posts = Arc::<Mutex<Vec<Post>>>::default();
        let received = Arc::clone(&posts);
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let Ok(post) = read(&stream) else { continue };
                let mut all = received.lock().unwrap_or_else(PoisonError::into_inner);
                all.push(post);
                let status = if all.len() == 1 { 503 } else { 200 };
                drop(all);
                let answer = format!("HTTP/1.1 {status} X\r\nContent-Length: 0\r\n\r\n");
                // whoever asked may be gone
                let _ = (&stream).write_all(answer.as_bytes());
            }
        });
        Ok(Receiver { address, posts })
    }

    /// All that came, the refused one too.
    #[must_use]
    pub fn posts(&self) -> Vec<Post> {
        let posts = self.posts.lock().unwrap_or_else(PoisonError::into_inner);
        posts.clone()
    }
}

fn read(stream: &TcpStream) -> Result<Post> {
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    let mut reader = BufReader::new(stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        ensure!(reader.read_line(&mut head)? > 0, "it ended amid the head");
    }
    let path = head.split(' ').nth(1).context("no path")?.to_owned();
    ensure!(head.starts_with("POST "), "{head}");
    let head = head.to_ascii_lowercase();
    let mut lines = head.lines();
    let length = lines
        .find_map(|line| line.strip_prefix("content-length: "))
        .context("no length")?;
    let mut body = vec![0; length.parse()?];
    reader.read_exact(&mut body)?;
    Ok(Post {
        path,
        head,
        body: String::from_utf8(body)?,
    })
}
