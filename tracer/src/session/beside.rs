//! The parts of a session that say what a socket is about.

use std::sync::Arc;

use tracer_ebpf::Sock;

use super::{call_paths::CallPaths, opted_out::OptedOut, processes::Processes, requests::Requests};
use crate::{
    findings::Place, kernel::probes::Probes, model::Site, protocols::Request, runtimes::Runtimes,
};

/// The other parts of a session, as far as a socket is looked at with them.
#[derive(Debug)]
pub struct Beside<'a> {
    /// The kernel's maps.
    pub probes: &'a Probes,
    /// Who opens and holds sockets.
    pub processes: &'a mut Processes,
    /// Where in the program.
    pub paths: &'a mut CallPaths,
    /// What for.
    pub requests: &'a mut Requests,
    /// What the programs' own runtimes know.
    pub runtimes: &'a mut Runtimes,
}

impl Beside<'_> {
    /// A stack with names; `None` for no stack.
    pub fn site(&mut self, number: u32) -> Option<Arc<Site>> {
        self.paths.site(number, self.runtimes)
    }

    /// The stack of whoever asked a library for what this request asks for, where all that did so
    /// last are one place of the application's own. `address`: of the other end.
    pub fn asked_for(&mut self, pid: u32, address: &str, request: &Request) -> Option<Arc<Site>> {
        if request.method.is_empty() {
            return None;
        }
        let named = request.host.as_deref().filter(|host| *host != address);
        let stacks = named.into_iter().chain([address]).find_map(|host| {
            let hash = tracer_ebpf::url_hash(host, &request.target);
            let stacks = self.runtimes.asked_for(pid, hash);
            (!stacks.is_empty()).then_some(stacks)
        });
        let mut asked: Option<Arc<Site>> = None;
        for stack in stacks? {
            let Some(site) = self.site(stack).filter(|site| site.own) else {
                continue;
            };
            match &asked {
                Some(known) if Place::of(known) != Place::of(&site) => return None,
                Some(_) => {}
                None => asked = Some(site),
            }
        }
        asked
    }

    /// Whether nothing is said of a socket because its opener's pod opted out.
    pub fn is_left_alone(&mut self, opted_out: &OptedOut, sock: &Sock) -> bool {
        if opted_out.is_empty() {
            return false;
        }
        let process = self.processes.opener(sock.tgid, sock.opened_ns);
        opted_out.has(self.processes.pod(&process).as_ref())
    }

    /// The stack behind what the kernel noted of a socket.
    pub fn settle(&mut self, sk: u64, noted: u32) -> u32 {
        self.paths.pending.settle(sk, noted)
    }
}
