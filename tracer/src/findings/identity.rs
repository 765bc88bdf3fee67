//! What a population is, from the session's grouping to the finding's id.

use serde::{Deserialize, Serialize};

use crate::{
    engine::Level,
    model::{Process, Role, Site},
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

/// The call site as far as it tells populations apart.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Place {
    /// Function.
    pub function: String,
    /// Source file.
    pub file: Option<String>,
    /// Line.
    pub line: Option<u32>,
    /// Line inside the function, which survives changes above it.
    pub line_in_function: Option<u32>,
}

impl Place {
    /// The place of a site's call site, where it has one.
    #[must_use]
    pub fn of(site: &Site) -> Option<Place> {
        site.blamed().map(|frame| Place {
            function: frame.function.clone(),
            file: frame.file.clone(),
            line: frame.line,
            line_in_function: site.line_in_function,
        })
    }
}

/// Whom the connections of a population go to, or where they are accepted.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Authority {
    /// A host by its name, whatever its addresses; with its port unless that is the default.
    Host(String),
    /// An address and port, or a UNIX path.
    Address(String),
    /// A server's listening address.
    Listening(String),
    /// One end of a socket pair: nobody.
    Pair,
    /// Many.
    Any,
}

impl Authority {
    /// Without what differs between nodes, pods and restarts.
    fn key(&self) -> String {
        match self {
            Authority::Host(host) => host.clone(),
            Authority::Address(address) if address.starts_with(['/', '@', '(']) => {
                protocols::template(address)
            }
            Authority::Address(address) => format!(":{}", port(address)),
            Authority::Listening(address) if address.starts_with(['/', '@', '(']) => {
                format!("listen {}", protocols::template(address))
            }
            // The address a server was reached at differs from pod to pod, its port does not.
            Authority::Listening(address) => format!("listen :{}", port(address)),
            Authority::Pair => "pair".to_owned(),
            Authority::Any => String::new(),
        }
    }
}

fn port(address: &str) -> &str {
    address.rsplit_once(':').map_or("", |(_, port)| port)
}

/// What a population is within its process; with the program's name, what a finding is.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Identity {
    /// What its members have in common.
    pub level: Level,
    /// Client or server.
    pub role: Role,
    /// Call site; `None` where it has none, or has many.
    pub place: Option<Place>,
    /// The other end.
    pub authority: Authority,
}

impl Identity {
    /// The leaf of a call site and an authority.
    #[must_use]
    pub fn leaf(site: Option<&Site>, role: Role, authority: Authority) -> Identity {
        Identity {
            level: Level::Leaf,
            role,
            place: site.and_then(Place::of),
            authority,
        }
    }

    /// The larger population at `level`.
    #[must_use]
    pub fn above(&self, level: Level) -> Identity {
        let place = match level {
            Level::Leaf | Level::Site => self.place.clone(),
            Level::Authority | Level::Process => None,
        };
        let authority = match level {
            Level::Leaf | Level::Authority => self.authority.clone(),
            Level::Site | Level::Process => Authority::Any,
        };
        Identity {
            level,
            role: self.role,
            place,
            authority,
        }
    }

    /// Identity of a finding: twelve hexadecimal digits that stay the same across restarts, nodes
    /// and replicas for the same program, call site, role and authority. The kind is not part of it,
    /// because it may ripen, nor is the route, which is learned; neither are pid, node, build and
    /// absolute line.
    #[must_use]
    pub fn id(&self, program: &str) -> String {
        let mut hash = Fnv::new();
        hash.field(program);
        match &self.place {
            Some(place) => {
                hash.field(&place.function);
                let line = place.line_in_function.map(|line| line.to_string());
                hash.field(&line.unwrap_or_default());
            }
            None => {
                hash.field("");
                hash.field("");
            }
        }
        hash.field(match self.role {
            Role::Client => "client",
            Role::Server => "server",
        });
        hash.field(&self.authority.key());
        format!("{:012x}", hash.finish())
    }
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

    fn process(exe: &str) -> Process {
        Process {
            pid: 1,
            ns_pid: None,
            start_ticks: 1,
            comm: "app".to_owned(),
            exe: Some(exe.to_owned()),
            runtime: None,
            container_id: None,
            pod_uid: None,
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
            runs_loop: None,
            line_in_function: Some(offset),
            again: None,
        }
    }

    fn address(address: &str) -> Authority {
        Authority::Address(address.to_owned())
    }

    fn id(exe: &str, site: Option<&Site>, role: Role, authority: Authority) -> String {
        Identity::leaf(site, role, authority).id(program(&process(exe)))
    }

    #[test]
    fn same_across_restarts_nodes_and_moved_code() {
        let host = || Authority::Host("api".to_owned());
        let a = id(
            "/app",
            Some(&site("main.fetch", 24, 3)),
            Role::Client,
            host(),
        );
        let moved = site("main.fetch", 124, 3);
        let b = id("/usr/bin/app (deleted)", Some(&moved), Role::Client, host());
        assert_eq!(a, b);
        assert_eq!(a.len(), 12);
        let pods = ["10.0.0.7:80", "10.9.0.1:80"].map(|a| id("/a", None, Role::Client, address(a)));
        assert_eq!(pods[0], pods[1]);
    }

    #[test]
    fn changes_with_everything_it_names() {
        let s = site("main.fetch", 24, 3);
        let other = site("main.push", 24, 3);
        let later = site("main.fetch", 24, 4);
        let r = || address("10.0.0.7:80");
        let ids = [
            id("/app", Some(&s), Role::Client, r()),
            id("/other", Some(&s), Role::Client, r()),
            id("/app", Some(&other), Role::Client, r()),
            id("/app", Some(&later), Role::Client, r()),
            id("/app", None, Role::Client, r()),
            id("/app", Some(&s), Role::Server, r()),
            id("/app", Some(&s), Role::Client, address("10.0.0.7:81")),
            id(
                "/app",
                Some(&s),
                Role::Client,
                Authority::Host("h".to_owned()),
            ),
            id("/app", Some(&s), Role::Client, Authority::Any),
        ];
        for (i, a) in ids.iter().enumerate() {
            for b in &ids[i + 1..] {
                assert_ne!(a, b);
            }
        }
    }

    #[test]
    fn larger_populations_leave_out_what_their_members_do_not_share() {
        let leaf = Identity::leaf(Some(&site("f", 1, 0)), Role::Client, address("a:1"));
        let site = leaf.above(Level::Site);
        assert!(site.place.is_some() && site.authority == Authority::Any);
        let authority = leaf.above(Level::Authority);
        assert!(authority.place.is_none() && authority.authority == leaf.authority);
        let process = leaf.above(Level::Process);
        assert!(process.place.is_none() && process.authority == Authority::Any);
    }

    /// Ids are kept in ignore lists and baselines: this one, computed apart from this code, must
    /// never change.
    #[test]
    fn algorithm_is_frozen() {
        let site = site("main.fetch", 24, 3);
        let id = id("/app", Some(&site), Role::Client, address("127.0.0.1:8080"));
        assert_eq!(id, "24975ed1dafd");
    }
}
