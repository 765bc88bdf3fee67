//! An API server of Kubernetes, as far as who watches pods, services and slices of endpoints is concerned:
//! lists, by pages where they are asked for, and watches with chunks, bookmarks, 410 and tokens (Kubernetes' documentation, "Kubernetes API Concepts"). It can be killed,
//! started again at its address, and be made to forget its history or to want another token.

mod account;
mod answer;
mod daemons;

use std::{
    fs,
    io::Read as _,
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use tempfile::TempDir;

pub use self::{account::Account, daemons::Cluster};
use crate::wait;

/// The node whose pods there are.
pub const NODE: &str = "node-a";

/// A change of an object.
#[derive(Debug, Clone)]
struct Change {
    version: u64,
    /// `ADDED`, `MODIFIED` or `DELETED`.
    sort: &'static str,
    object: Value,
}

/// All objects, of whatever kind.
#[derive(Debug, Default)]
struct Objects {
    version: u64,
    now: Vec<Value>,
    changes: Vec<Change>,
    token: String,
    asked: Vec<Asked>,
    /// Open connections.
    streams: Vec<TcpStream>,
}

impl Objects {
    fn note(&mut self, sort: &'static str, mut object: Value) -> Value {
        self.version += 1;
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        self.changes.push(Change {
            version: self.version,
            sort,
            object: object.clone(),
        });
        object
    }
}

/// What was asked for, and how it was answered.
#[derive(Debug, Clone)]
pub struct Asked {
    /// Path with its query.
    pub path: String,
    /// Which form of the answer was wanted.
    pub accept: String,
    /// Status.
    pub status: u16,
}

#[derive(Debug, Default)]
struct Shared {
    objects: Mutex<Objects>,
    changed: Condvar,
    stopped: AtomicBool,
}

impl Shared {
    fn objects(&self) -> MutexGuard<'_, Objects> {
        self.objects.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a change, for a while.
    fn wait<'a>(&self, objects: MutexGuard<'a, Objects>) -> MutexGuard<'a, Objects> {
        let waited = self
            .changed
            .wait_timeout(objects, Duration::from_millis(200));
        waited.unwrap_or_else(PoisonError::into_inner).0
    }
}

/// The API server.
#[derive(Debug)]
pub struct ApiServer {
    address: SocketAddr,
    shared: Arc<Shared>,
    directory: TempDir,
}

impl ApiServer {
    /// Starts one that has nothing, on a port of its own.
    ///
    /// # Errors
    /// When there is none.
    pub fn start() -> Result<ApiServer> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let server = ApiServer {
            address: listener.local_addr()?,
            shared: Arc::default(),
            directory: tempfile::tempdir()?,
        };
        server.want_token("first")?;
        server.serve(listener);
        let user = json!({ "tokenFile": server.token_file() });
        let kubeconfig = kubeconfig(&server.address.to_string(), &user, "default");
        // JSON is YAML
        fs::write(server.kubeconfig(), kubeconfig.to_string())?;
        Ok(server)
    }

    /// A kubeconfig for it, with the token in a file.
    #[must_use]
    pub fn kubeconfig(&self) -> PathBuf {
        self.directory.path().join("kubeconfig")
    }

    fn token_file(&self) -> PathBuf {
        self.directory.path().join("token")
    }

    /// Wants this token from now on, which the file has, as a kubelet sees to.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn want_token(&self, token: &str) -> Result<()> {
        fs::write(self.token_file(), token).context("the token's file")?;
        token.clone_into(&mut self.shared.objects().token);
        Ok(())
    }

    /// A pod is there, or has changed: its metadata, with name, namespace and uid.
    pub fn put(&self, metadata: &Value) {
        self.put_whole(json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": metadata,
            // what nobody is to ask for
            "spec": { "nodeName": NODE, "containers": [{ "env": [{ "name": "P", "value": "secret" }] }] },
        }));
    }

    /// A pod, service or slice of endpoints is there, or has changed: with its kind, and in its metadata
    /// name, namespace and uid.
    pub fn put_whole(&self, object: Value) {
        let mut objects = self.shared.objects();
        let before = objects.now.iter().position(|known| is(known, &object));
        let sort = if before.is_some() {
            "MODIFIED"
        } else {
            "ADDED"
        };
        let object = objects.note(sort, object);
        match before {
            Some(place) => objects.now[place] = object,
            None => objects.now.push(object),
        }
        self.shared.changed.notify_all();
    }

    /// An object is gone.
    pub fn remove(&self, uid: &str) {
        let mut objects = self.shared.objects();
        let place = objects
            .now
            .iter()
            .position(|object| object["metadata"]["uid"] == uid);
        if let Some(place) = place {
            let object = objects.now.remove(place);
            objects.note("DELETED", object);
        }
        self.shared.changed.notify_all();
    }

    /// Forgets what has changed: who asks for changes since gets 410.
    pub fn forget(&self) {
        let mut objects = self.shared.objects();
        objects.version += 1_000;
        objects.changes.clear();
        end(&mut objects);
    }

    /// Is killed: all connections break, and nobody listens.
    ///
    /// # Errors
    /// When it goes on.
    pub fn kill(&self) -> Result<()> {
        self.shared.stopped.store(true, Ordering::SeqCst);
        end(&mut self.shared.objects());
        self.shared.changed.notify_all();
        wait::until("an end of the API server", Duration::from_secs(20), || {
            Ok(TcpStream::connect(self.address).is_err())
        })
    }

    /// Is started again.
    ///
    /// # Errors
    /// When its address is taken.
    pub fn start_again(&mut self) -> Result<()> {
        let listener = TcpListener::bind(self.address).context("its port again")?;
        let before = std::mem::take(&mut *self.shared.objects());
        // threads of before keep what they have
        self.shared = Arc::new(Shared {
            objects: Mutex::new(before),
            ..Shared::default()
        });
        self.serve(listener);
        Ok(())
    }

    /// What was asked so far.
    #[must_use]
    pub fn asked(&self) -> Vec<Asked> {
        self.shared.objects().asked.clone()
    }

    fn serve(&self, listener: TcpListener) {
        let shared = Arc::clone(&self.shared);
        thread::spawn(move || {
            // it has to end though nobody comes
            let _ = listener.set_nonblocking(true);
            while !shared.stopped.load(Ordering::SeqCst) {
                let Ok((stream, _)) = listener.accept() else {
                    thread::sleep(Duration::from_millis(10));
                    continue;
                };
                let _ = stream.set_nonblocking(false);
                shared.objects().streams.extend(stream.try_clone());
                let shared = Arc::clone(&shared);
                // whoever asked may be gone
                thread::spawn(move || answer::connection(&shared, &stream));
            }
        });
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::SeqCst);
        end(&mut self.shared.objects());
        self.shared.changed.notify_all();
    }
}

/// Breaks all connections.
fn end(objects: &mut Objects) {
    for stream in objects.streams.drain(..) {
        let _ = stream.shutdown(Shutdown::Both);
    }
}

fn is(one: &Value, other: &Value) -> bool {
    one["metadata"]["uid"] == other["metadata"]["uid"]
}

/// The head of a request, or nothing where the other end is gone.
fn head(mut stream: &TcpStream) -> Option<String> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() > 16_384 || stream.read(&mut byte).ok()? == 0 {
            return None;
        }
        head.push(byte[0]);
    }
    String::from_utf8(head).ok()
}

/// The value of a field of such a head.
fn field(head: &str, name: &str) -> Option<String> {
    let lines = head.lines().filter_map(|line| line.split_once(": "));
    let mut named = lines.filter(|(key, _)| key.eq_ignore_ascii_case(name));
    named.next().map(|(_, value)| value.to_owned())
}

/// What the API server says where it does not answer.
fn refused(code: u16, message: &str) -> Value {
    json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": message, "reason": "Refused", "code": code,
    })
}

/// A kubeconfig for an API server at this address, of which this user's context has this namespace.
fn kubeconfig(address: &str, user: &Value, namespace: &str) -> Value {
    let context = json!({ "cluster": "c", "user": "u", "namespace": namespace });
    json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{ "name": "c", "cluster": { "server": format!("http://{address}") } }],
        "users": [{ "name": "u", "user": user }],
        "contexts": [{ "name": "x", "context": context }],
        "current-context": "x",
    })
}

/// A configuration of the daemon that asks this server, and names containers below `host_root`.
///
/// # Errors
/// When it can't be written.
pub fn configuration(server: &ApiServer, host_root: &Path) -> Result<PathBuf> {
    let file = host_root.join("tracer.toml");
    let kubeconfig = server.kubeconfig();
    let text = format!(
        "host_root = {host_root:?}\n[kubernetes]\npods = true\nkubeconfig = {kubeconfig:?}\n"
    );
    fs::write(&file, text)?;
    Ok(file)
}

/// The same where nothing but how to ask is said.
///
/// # Errors
/// When it can't be written.
pub fn how_to_ask(server: &ApiServer, host_root: &Path) -> Result<PathBuf> {
    let file = host_root.join("how.toml");
    let kubeconfig = server.kubeconfig();
    fs::write(
        &file,
        format!("[kubernetes]\nkubeconfig = {kubeconfig:?}\n"),
    )?;
    Ok(file)
}
