//! What makes two findings the same one.

use crate::{
    model::{Family, Process, Remote, Role, Site},
    protocols,
};

/// Name of the program: the executable's base name, else the process name.
#[must_use]
pub fn program(process: &Process) -> &str {
    let exe = process.exe.as_deref().unwrap_or_default();
    // The kernel marks a replaced binary in /proc/PID/exe.
    let exe = exe.strip_suffix(" (deleted)").unwrap_or(exe);
    match exe.rsplit('/').next() {
        Some(base) if !base.is_empty() => base,
        _ => &process.comm,
    }
}

/// Identity of a finding: twelve hexadecimal digits that stay the same across restarts, nodes and
/// replicas for the same program, call site, role and remote. The kind is not part of it, because
/// it may ripen; neither are pid, node, build and absolute line.
///
/// Collectors group connections into cohorts by process and this id, so that evidence about one
/// leak is never split below the engine's thresholds.
#[must_use]
pub fn id(process: &Process, site: Option<&Site>, role: Role, remote: &Remote) -> String {
    let mut hash = Fnv::new();
    hash.field(program(process));
    match site.and_then(|s| s.blamed().map(|f| (s, f))) {
        Some((site, frame)) => {
            hash.field(&frame.function);
            match site.line_in_function {
                Some(line) => hash.field(&line.to_string()),
                None => hash.field(""),
            }
        }
        None => {
            hash.field("");
            hash.field("");
        }
    }
    hash.field(match role {
        Role::Client => "client",
        Role::Server => "server",
    });
    hash.field(&remote_key(role, remote));
    format!("{:012x}", hash.finish())
}

/// The remote without what differs between nodes: host name, else the port; then the template.
fn remote_key(role: Role, remote: &Remote) -> String {
    if remote.family == Family::Unix {
        let path = protocols::template(&remote.address);
        return match &remote.url {
            Some(url) => format!("{path} {}", path_of(url)),
            None => path,
        };
    }
    let port = remote.address.rsplit_once(':').map_or("", |(_, port)| port);
    // The address a server was reached at differs from pod to pod, its port does not.
    if role == Role::Server {
        return format!("listen :{port}");
    }
    let authority = match &remote.host {
        Some(host) if !protocols::is_ip_literal(host) => {
            host.split(':').next().unwrap_or(host).to_ascii_lowercase()
        }
        _ => format!(":{port}"),
    };
    match &remote.url {
        Some(url) => format!("{authority} {}", path_of(url)),
        None => authority,
    }
}

/// Path and query of a URL template.
fn path_of(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    rest.find('/').map_or("", |slash| &rest[slash..])
}

/// FNV-1a, 64 bits (<http://www.isthe.com/chongo/tech/comp/fnv/>), folded to 48: it will not change
/// with a library's version.
struct Fnv(u64);

impl Fnv {
    fn new() -> Fnv {
        Fnv(0xcbf2_9ce4_8422_2325)
    }

    /// Adds a field; the separator keeps `ab`+`c` apart from `a`+`bc`.
    fn field(&mut self, text: &str) {
        for &b in text.as_bytes().iter().chain(&[0xff]) {
            self.0 = (self.0 ^ u64::from(b)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }

    fn finish(self) -> u64 {
        (self.0 >> 48 ^ self.0) & 0xffff_ffff_ffff
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Frame, StackQuality};

    fn process(pid: u32, exe: &str) -> Process {
        Process {
            pid,
            ns_pid: None,
            start_ticks: u64::from(pid),
            comm: "app".to_owned(),
            exe: Some(exe.to_owned()),
            runtime: None,
            container_id: None,
        }
    }

    fn site(function: &str, line: u32, offset: u32) -> Site {
        Site {
            frames: vec![Frame {
                function: function.to_owned(),
                file: Some("/src/main.go".to_owned()),
                line: Some(line),
                module: None,
                inlined: false,
                address: None,
            }],
            owners: Vec::new(),
            call_site: Some(0),
            own: true,
            quality: StackQuality::Complete,
            library: false,
            own_frames: Vec::new(),
            line_in_function: Some(offset),
        }
    }

    fn remote(address: &str, host: Option<&str>, url: Option<&str>) -> Remote {
        Remote {
            family: Family::Tcp4,
            address: address.to_owned(),
            host: host.map(str::to_owned),
            url: url.map(str::to_owned),
        }
    }

    #[test]
    fn same_across_restarts_nodes_and_moved_code() {
        let url = Some("http://api/v2/{}");
        let a = id(
            &process(1, "/app"),
            Some(&site("main.fetch", 24, 3)),
            Role::Client,
            &remote("10.0.0.7:80", Some("api"), url),
        );
        let b = id(
            &process(999, "/usr/bin/app (deleted)"),
            Some(&site("main.fetch", 124, 3)),
            Role::Client,
            &remote("10.0.0.8:80", Some("API"), url),
        );
        assert_eq!(a, b);
        assert_eq!(a.len(), 12);
    }

    #[test]
    fn changes_with_everything_it_names() {
        let p = process(1, "/app");
        let s = site("main.fetch", 24, 3);
        let r = remote("10.0.0.7:80", None, Some("http://10.0.0.7/a"));
        let ids = [
            id(&p, Some(&s), Role::Client, &r),
            id(&process(1, "/other"), Some(&s), Role::Client, &r),
            id(&p, Some(&site("main.push", 24, 3)), Role::Client, &r),
            id(&p, Some(&site("main.fetch", 24, 4)), Role::Client, &r),
            id(&p, None, Role::Client, &r),
            id(&p, Some(&s), Role::Server, &r),
            id(
                &p,
                Some(&s),
                Role::Client,
                &remote("10.0.0.7:81", None, Some("http://10.0.0.7/a")),
            ),
            id(
                &p,
                Some(&s),
                Role::Client,
                &remote("10.0.0.7:80", None, Some("http://10.0.0.7/b")),
            ),
            id(
                &p,
                Some(&s),
                Role::Client,
                &remote("10.0.0.7:80", Some("h"), Some("http://h/a")),
            ),
        ];
        for (i, a) in ids.iter().enumerate() {
            for b in &ids[i + 1..] {
                assert_ne!(a, b);
            }
        }
    }

    /// Ids are kept in ignore lists and baselines: this one, computed apart from this code, must
    /// never change.
    #[test]
    fn algorithm_is_frozen() {
        let id = id(
            &process(1, "/app"),
            Some(&site("main.fetch", 24, 3)),
            Role::Client,
            &remote(
                "127.0.0.1:8080",
                Some("127.0.0.1:8080"),
                Some("http://127.0.0.1:8080/v2/app/tags/list"),
            ),
        );
        assert_eq!(id, "1f58cfafbe9f");
    }
}
