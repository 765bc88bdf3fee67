//! What to change, as code: a few lines for each kind in each language, the one table of them.
//!
//! They show the idiom, with names that stand for the program's own. Where the usual libraries of a
//! language leave nothing to show for a kind, there is no entry.

use std::path::Path;

use crate::model::Kind;

/// Most lines of a snippet.
#[cfg(test)]
const LINES_MAX: usize = 4;
/// Most columns of a line: what is left of the narrowest terminal beside a finding's labels.
#[cfg(test)]
const COLUMNS_MAX: usize = 68;

/// Languages that there are snippets in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Language {
    /// C and C++.
    C,
    /// Go.
    Go,
    /// Java and its kin.
    Java,
    /// JavaScript and TypeScript.
    JavaScript,
    /// PHP.
    Php,
    /// Python.
    Python,
    /// Ruby.
    Ruby,
    /// Rust.
    Rust,
}

impl Language {
    /// The language of a call site, by its source file, else by the program's runtime (`go1.27.3`).
    /// `None` where neither tells.
    #[must_use]
    pub fn of(file: Option<&str>, runtime: Option<&str>) -> Option<Language> {
        let extension = file.and_then(|file| Path::new(file).extension()?.to_str());
        match extension {
            Some("c" | "h" | "cc" | "cpp" | "cxx" | "hpp") => Some(Language::C),
            Some("go") => Some(Language::Go),
            Some("java") => Some(Language::Java),
            Some("js" | "mjs" | "cjs" | "ts" | "mts" | "cts") => Some(Language::JavaScript),
            Some("php") => Some(Language::Php),
            Some("py") => Some(Language::Python),
            Some("rb") => Some(Language::Ruby),
            Some("rs") => Some(Language::Rust),
            Some(_) => None,
            None => {
                let version = runtime?.strip_prefix("go")?;
                let is_go = version.starts_with(|c: char| c.is_ascii_digit());
                is_go.then_some(Language::Go)
            }
        }
    }
}

/// What to change in this language, where there is something to show.
#[must_use]
pub fn of(kind: Kind, language: Language) -> Option<&'static str> {
    let table = match language {
        Language::C => C,
        Language::Go => GO,
        Language::Java => JAVA,
        Language::JavaScript => JAVASCRIPT,
        Language::Php => PHP,
        Language::Python => PYTHON,
        Language::Ruby => RUBY,
        Language::Rust => RUST,
    };
    let mut entries = table.iter();
    entries.find_map(|(of, code)| (*of == kind).then_some(*code))
}

type Table = &'static [(Kind, &'static str)];

const C: Table = &[
    (
        Kind::InheritedFd,
        "int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
int in = accept4(listener, NULL, NULL, SOCK_CLOEXEC);",
    ),
    (
        Kind::ResponseBodyNotClosed,
        "while ((n = read(fd, buffer, sizeof buffer)) > 0)
    take(buffer, n);
close(fd); /* on every path; libcurl: curl_easy_cleanup(handle) */",
    ),
    (
        Kind::ClientPerRequest,
        "if (fd < 0)
    fd = connect_to(address); /* once, for all calls */
/* or, when the answer is read, and on every path: */
close(fd);",
    ),
    (
        Kind::StreamNeverCancelled,
        "/* when nobody listens any more: */
shutdown(fd, SHUT_RDWR);
close(fd);",
    ),
    (
        Kind::ResponseNotRead,
        "while ((n = read(fd, buffer, sizeof buffer)) > 0)
    take(buffer, n);
close(fd); /* on every path */",
    ),
    (
        Kind::CloseWait,
        "n = read(fd, buffer, sizeof buffer);
if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR))
    close(fd); /* the peer closed, or it failed */",
    ),
    (
        Kind::AcceptedNeverClosed,
        "int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
if (fd >= 0) {
    serve(fd);
    close(fd); } /* on every path */",
    ),
    (
        Kind::NeverClosed,
        "int fd = connect_to(address);
int failed = talk(fd);
close(fd); /* on every path */",
    ),
];

const GO: Table = &[
    (
        Kind::InheritedFd,
        "cmd.ExtraFiles = nil // or only what the child needs
fd, err := unix.Socket(unix.AF_INET,
    unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)",
    ),
    (
        Kind::ResponseBodyNotClosed,
        "resp, err := client.Do(req)
if err != nil { return err }
defer resp.Body.Close()
body, err := io.ReadAll(resp.Body)",
    ),
    (
        Kind::ClientPerRequest,
        "// once, for all calls:
var client = &http.Client{Timeout: 10 * time.Second}",
    ),
    (
        Kind::StreamNeverCancelled,
        "ctx, cancel := context.WithCancel(ctx)
defer cancel()
req, err := http.NewRequestWithContext(ctx, \"GET\", url, nil)",
    ),
    (
        Kind::ResponseNotRead,
        "resp, err := client.Do(req)
if err != nil { return err }
defer resp.Body.Close()
_, err = io.Copy(io.Discard, resp.Body)",
    ),
    (
        Kind::CloseWait,
        "defer conn.Close()
if n, err := conn.Read(buf); err != nil {
    return err // io.EOF too: the peer is gone
}",
    ),
    (
        Kind::AcceptedNeverClosed,
        "conn, err := listener.Accept()
if err != nil { return err }
go func() { defer conn.Close(); handle(conn) }()",
    ),
    (
        Kind::PoolUnbounded,
        "transport.MaxConnsPerHost = 50
transport.IdleConnTimeout = 90 * time.Second
// database/sql: db.SetMaxOpenConns(50)",
    ),
    (
        Kind::NeverClosed,
        "conn, err := net.Dial(\"tcp\", address)
if err != nil { return err }
defer conn.Close()",
    ),
];

const JAVA: Table = &[
    (
        Kind::ResponseBodyNotClosed,
        "var response = client.send(request, BodyHandlers.ofInputStream());
try (InputStream body = response.body()) {
    return body.readAllBytes();
}",
    ),
    (
        Kind::ClientPerRequest,
        "// once, for all calls:
private static final HttpClient CLIENT = HttpClient.newHttpClient();",
    ),
    (
        Kind::StreamNeverCancelled,
        "var response = client.send(request, BodyHandlers.ofLines());
try (Stream<String> lines = response.body()) {
    lines.takeWhile(this::wanted).forEach(this::take);
}",
    ),
    (
        Kind::ResponseNotRead,
        "try (InputStream in = connection.getInputStream()) {
    in.readAllBytes();
}",
    ),
    (
        Kind::CloseWait,
        "int count = in.read(buffer);
if (count < 0) {
    socket.close(); // the peer closed
}",
    ),
    (
        Kind::AcceptedNeverClosed,
        "try (Socket socket = listener.accept()) {
    handle(socket);
}",
    ),
    (
        Kind::PoolUnbounded,
        "// Apache HttpClient:
manager.setMaxTotal(50);
manager.setDefaultMaxPerRoute(20);
// HikariCP: config.setMaximumPoolSize(20)",
    ),
    (
        Kind::NeverClosed,
        "try (Socket socket = new Socket(host, port)) {
    talk(socket);
}",
    ),
];

const JAVASCRIPT: Table = &[
    (
        Kind::InheritedFd,
        "// no socket in stdio, and an end for every helper:
const child = spawn(command, args, { stdio: 'ignore' });
setTimeout(() => child.kill(), 60_000).unref();",
    ),
    (
        Kind::ResponseBodyNotClosed,
        "const response = await fetch(url);
if (!response.ok) await response.body?.cancel(); // errors, too
else return await response.json();
// http.get: response.resume() where the body is of no use",
    ),
    (
        Kind::ClientPerRequest,
        "// once, for all calls:
const agent = new http.Agent({ keepAlive: true, maxSockets: 50 });
http.get(url, { agent }, onResponse);",
    ),
    (
        Kind::StreamNeverCancelled,
        "const stop = new AbortController();
const response = await fetch(url, { signal: stop.signal });
// when nobody listens any more:
stop.abort();",
    ),
    (
        Kind::ResponseNotRead,
        "http.get(url, (response) => {
  response.resume(); // or read it, on every path
});",
    ),
    (
        Kind::CloseWait,
        "socket.on('end', () => socket.end()); // with allowHalfOpen
socket.on('error', () => socket.destroy());",
    ),
    (
        Kind::AcceptedNeverClosed,
        "socket.setTimeout(60_000, () => socket.destroy());
socket.on('end', () => socket.end());",
    ),
    (
        Kind::PoolUnbounded,
        "const agent = new http.Agent({ keepAlive: true,
  maxSockets: 50, maxFreeSockets: 10, timeout: 60_000 });",
    ),
    (
        Kind::NeverClosed,
        "const socket = net.connect(options);
socket.setTimeout(60_000, () => socket.destroy());
try { await talk(socket); } finally { socket.destroy(); }",
    ),
];

const PHP: Table = &[
    (
        Kind::ResponseBodyNotClosed,
        "$stream = fopen($url, 'r');
try { $body = stream_get_contents($stream); }
finally { fclose($stream); }",
    ),
    (
        Kind::ClientPerRequest,
        "static $handle = null; // one for all calls
$handle ??= curl_init();
curl_setopt($handle, CURLOPT_URL, $url);",
    ),
    (
        Kind::StreamNeverCancelled,
        "$stream = fopen($url, 'r');
try { follow($stream); }
finally { fclose($stream); }",
    ),
    (
        Kind::ResponseNotRead,
        "try { $body = stream_get_contents($stream); }
finally { fclose($stream); }",
    ),
    (
        Kind::CloseWait,
        "if (feof($socket)) {
    fclose($socket); // the peer closed
}",
    ),
    (
        Kind::AcceptedNeverClosed,
        "$connection = stream_socket_accept($server);
try { handle($connection); }
finally { fclose($connection); }",
    ),
    (
        Kind::NeverClosed,
        "$socket = stream_socket_client($address);
try { talk($socket); }
finally { fclose($socket); }",
    ),
];

const PYTHON: Table = &[
    (
        Kind::InheritedFd,
        "sock.set_inheritable(False)  # the default
subprocess.Popen(command, close_fds=True)  # the default, too
# in a process that forks: close the socket in the child",
    ),
    (
        Kind::ResponseBodyNotClosed,
        "with urllib.request.urlopen(url, timeout=10) as response:
    data = response.read()
# requests: with session.get(url, stream=True) as response:",
    ),
    (
        Kind::ClientPerRequest,
        "SESSION = requests.Session()  # once; httpx: one Client
# or, where a client lives for one call:
with contextlib.closing(http.client.HTTPConnection(host)) as client:
    ...",
    ),
    (
        Kind::StreamNeverCancelled,
        "with session.get(url, stream=True) as response:
    for line in response.iter_lines():
        if not wanted(line):
            break  # with closes the stream",
    ),
    (
        Kind::ResponseNotRead,
        "with urllib.request.urlopen(url, timeout=10) as response:
    data = response.read()",
    ),
    (
        Kind::CloseWait,
        "data = sock.recv(65536)
if not data:
    sock.close()  # the peer closed",
    ),
    (
        Kind::AcceptedNeverClosed,
        "connection, peer = listener.accept()
with connection:
    handle(connection)",
    ),
    (
        Kind::PoolUnbounded,
        "adapter = requests.adapters.HTTPAdapter(
    pool_maxsize=20, pool_block=True)
session.mount(\"https://\", adapter)",
    ),
    (
        Kind::NeverClosed,
        "with socket.create_connection(address, timeout=10) as sock:
    talk(sock)",
    ),
];

const RUBY: Table = &[
    (
        Kind::InheritedFd,
        "socket.close_on_exec = true # the default
spawn(*command, close_others: true)",
    ),
    (
        Kind::ResponseBodyNotClosed,
        "Net::HTTP.start(host, port) do |http|
  response = http.get(path) # read to its end
end # closed with the block",
    ),
    (
        Kind::ClientPerRequest,
        "Net::HTTP.start(host, port) do |http| # one for many calls
  paths.each { |path| http.get(path) }
end # closed with the block",
    ),
    (
        Kind::StreamNeverCancelled,
        "Net::HTTP.start(host, port) do |http|
  http.request(request) { |r| r.read_body { |part| take(part) } }
end # leaving the block ends the stream",
    ),
    (
        Kind::ResponseNotRead,
        "begin
  socket.read
ensure
  socket.close end",
    ),
    (
        Kind::CloseWait,
        "line = socket.gets
socket.close if line.nil? # the peer closed",
    ),
    (
        Kind::AcceptedNeverClosed,
        "socket = server.accept
begin handle(socket)
ensure socket.close
end",
    ),
    (
        Kind::PoolUnbounded,
        "# gem connection_pool:
POOL = ConnectionPool.new(size: 10, timeout: 5) { connect }
POOL.with { |client| client.get(path) }",
    ),
    (
        Kind::NeverClosed,
        "TCPSocket.open(host, port) do |socket|
  talk(socket)
end # closed with the block",
    ),
];

const RUST: Table = &[
    (
        Kind::InheritedFd,
        "// std does it by itself; for descriptors from elsewhere:
rustix::io::fcntl_setfd(&socket, FdFlags::CLOEXEC)?;",
    ),
    (
        Kind::ResponseBodyNotClosed,
        "let response = client.get(url).send().await?;
let body = response.bytes().await?; // or drop(response)",
    ),
    (
        Kind::ClientPerRequest,
        "// once, for all calls:
static CLIENT: LazyLock<Client> = LazyLock::new(Client::new);",
    ),
    (
        Kind::StreamNeverCancelled,
        "tokio::select! {
    () = nobody_listens() => {} // the stream is dropped, and ends
    done = follow(stream) => done?,
}",
    ),
    (
        Kind::ResponseNotRead,
        "let mut answer = Vec::new();
stream.read_to_end(&mut answer)?;
drop(stream);",
    ),
    (
        Kind::CloseWait,
        "if stream.read(&mut buffer)? == 0 {
    return Ok(()); // the peer closed: drop the stream, too
}",
    ),
    (
        Kind::AcceptedNeverClosed,
        "let (stream, _) = listener.accept()?;
stream.set_read_timeout(Some(Duration::from_secs(60)))?;
thread::spawn(move || serve(stream)); // closed at its end",
    ),
    (
        Kind::PoolUnbounded,
        "let client = Client::builder()
    .pool_max_idle_per_host(10)
    .pool_idle_timeout(Duration::from_secs(60))
    .build()?;",
    ),
    (
        Kind::NeverClosed,
        "{
    let stream = TcpStream::connect(address)?;
    talk(&stream)?;
} // dropped here, and so closed",
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Language; 8] = [
        Language::C,
        Language::Go,
        Language::Java,
        Language::JavaScript,
        Language::Php,
        Language::Python,
        Language::Ruby,
        Language::Rust,
    ];

    #[test]
    fn snippets_are_short_and_narrow() {
        for language in ALL {
            for spec in super::super::ALL {
                let Some(code) = of(spec.kind, language) else {
                    continue;
                };
                assert!(code.lines().count() <= LINES_MAX, "{code}");
                let widest = code.lines().map(|line| line.chars().count()).max();
                assert!(widest <= Some(COLUMNS_MAX), "{code}");
            }
        }
    }

    #[test]
    fn the_commonest_kinds_have_one_in_every_language() {
        for language in ALL {
            for kind in [
                Kind::ResponseBodyNotClosed,
                Kind::ClientPerRequest,
                Kind::StreamNeverCancelled,
                Kind::ResponseNotRead,
                Kind::CloseWait,
                Kind::AcceptedNeverClosed,
                Kind::NeverClosed,
            ] {
                assert!(of(kind, language).is_some(), "{kind:?} {language:?}");
            }
        }
    }

    #[test]
    fn the_language_is_that_of_the_file_and_else_unknown() {
        let of = Language::of;
        assert_eq!(
            of(Some("/srv/a.py"), Some("go1.27")),
            Some(Language::Python)
        );
        assert_eq!(of(None, Some("go1.27.3")), Some(Language::Go));
        assert_eq!(of(None, Some("gopher")), None);
        assert_eq!(of(Some("/srv/a.zig"), Some("go1.27")), None);
        assert_eq!(of(Some("Makefile"), None), None);
        assert_eq!(of(None, None), None);
    }
}
