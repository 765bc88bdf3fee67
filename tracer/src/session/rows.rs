//! One connection as lists show it.

use std::sync::Arc;

use tracer_ebpf::{HEADS_HTTP, HEADS_TLS, SOCK_PREEXISTING, Sock};

use super::{beside::Beside, facts, records, requests, responses, sockets::Scan};
use crate::{
    findings::naming,
    model::{Family, Holder, Role, Site},
    procs::{Clock, clock::monotonic_ns},
    report::{CallSite, ConnectionRow, NamedBy, Peer},
    symbols::helpers,
};

/// The row of a socket. `place`: where findings pin its population to, where that is known.
pub fn row(
    beside: &mut Beside<'_>,
    scan: Scan,
    clock: &Clock,
    (sk, sock): (u64, &Sock),
    place: Option<Arc<Site>>,
) -> ConnectionRow {
    let now_ns = monotonic_ns();
    let process = beside.processes.opener(sock.tgid, sock.opened_ns);
    let pod = beside.processes.pod(&process);
    let family = records::family(sock);
    let role = records::role(sock);
    let remote = match family {
        Family::Unix => records::address(beside.probes, sock, family, role),
        _ => records::socket_address(family, sock.remote_addr, sock.remote_port),
    };
    let number = beside.requests.latest.request(sk, sock.opened_ns);
    let request = number.and_then(|number| beside.requests.value(number).cloned());
    // what a peer asks for is here, not there
    let asked_at = match role {
        Role::Server => records::address(beside.probes, sock, family, role),
        Role::Client => remote.clone(),
    };
    let transaction = responses::transaction_of(sock, request.as_ref());
    let url = request
        .as_ref()
        .map(|r| requests::shown(family, &asked_at, r));
    let [request_stack, open_stack] =
        [sock.request_stack, sock.open_stack].map(|noted| beside.settle(sk, noted));
    let [request_site, opener] = [request_stack, open_stack].map(|stack| beside.site(stack));
    let opener_first = helpers::opener_says_more(request_site.as_deref(), opener.as_deref());
    let opens = role == Role::Client && request.as_ref().is_none_or(|r| r.method.is_empty());
    let site = place.or_else(|| {
        let common = match (&opener, &request_site) {
            (Some(opener), Some(request)) if !opener_first => {
                helpers::owner(opener, request, opens, facts::asked_again(sock)).map(Arc::new)
            }
            _ => None,
        };
        let latest = request_site.filter(|_| !opener_first);
        common.or(latest).or(opener)
    });
    let is_own = site.as_ref().is_some_and(|site| site.own);
    let asks = request.filter(|_| role == Role::Client && !is_own);
    let asked = asks.and_then(|request| beside.asked_for(process.pid, &remote, &request));
    let site = asked.or(site);
    let call_site = site.and_then(|site| site.blamed().map(CallSite::from));
    let peer = (family == Family::Unix && role == Role::Client)
        .then(|| beside.processes.listener(process.pid, &remote))
        .flatten()
        .map(|(pid, comm)| Peer { pid, comm });
    let resolves = url.is_none() && family != Family::Unix && role == Role::Client;
    let requests = &beside.requests;
    let resolved = resolves
        .then(|| requests.resolved(sock.tgid, &remote, sock.opened_ns))
        .flatten();
    let in_cluster = (resolves && resolved.is_none())
        .then(|| requests.in_cluster(&remote, sock.opened_ns))
        .flatten();
    let (named_by, not_higher_because) = match (&url, family) {
        (Some(url), _) => naming::of_example(url, role),
        (None, Family::Unix) => Some(naming::of_unix(&remote, peer.is_some())),
        (None, _) => None,
    }
    .unwrap_or_else(|| {
        let because = of_address(sock, role);
        match (&resolved, &in_cluster) {
            (Some(_), _) => (NamedBy::Dns, Some(because.to_owned())),
            (None, Some(_)) => (NamedBy::Cluster, Some(naming::not_resolved(because))),
            (None, None) => (NamedBy::Address, Some(because.to_owned())),
        }
    });
    let last = sock
        .at_ns(sock.sent_ticks.max(sock.received_ticks))
        .unwrap_or(sock.opened_ns);
    ConnectionRow {
        node: None,
        pid: process.pid,
        comm: process.comm.clone(),
        container: pod.as_ref().and_then(|pod| pod.container.clone()),
        pod: pod.as_ref().map(|pod| pod.name.clone()),
        workload: pod.as_ref().and_then(|pod| pod.workload.clone()),
        namespace: pod.map(|pod| pod.namespace),
        holder_pid: match scan.holder(sock) {
            Holder::Other(pid) => Some(pid),
            _ => None,
        },
        fd: sock.fd(),
        role,
        family,
        state: records::state_name(sock, family).to_owned(),
        local_port: (family != Family::Unix).then_some(sock.local_port),
        remote,
        url,
        named_by,
        not_higher_because,
        peer,
        host: resolved.or(in_cluster),
        opened_at: clock.date(sock.opened_ns),
        preexisting: sock.flags & SOCK_PREEXISTING != 0,
        age_seconds: seconds_between(sock.opened_ns, now_ns),
        idle_seconds: seconds_between(last, now_ns),
        requests: sock.turns,
        unread: sock.unread,
        transaction,
        call_site,
        inode: sock.inode,
    }
}

/// Why a connection has no better name than its address.
fn of_address(sock: &Sock, role: Role) -> &'static str {
    if role == Role::Server && sock.heads & HEADS_TLS != 0 {
        "It was accepted, and the TLS handshake that was received names no server in the clear, or was not \
         seen."
    } else if role == Role::Server {
        "It was accepted: of its peer the address is known, and no request was seen on it."
    } else if sock.heads & HEADS_TLS != 0 {
        "Its TLS handshake names no server in the clear, or was not seen."
    } else if sock.heads & HEADS_HTTP != 0 {
        "Of its request neither target nor host is known."
    } else if sock.flags & SOCK_PREEXISTING != 0 {
        "It was opened before watching began, and nothing that it sent since names its server."
    } else if sock.sent_ticks == 0 {
        "Nothing was sent on it."
    } else {
        "What it sent first is neither a request nor a message of a known protocol."
    }
}

fn seconds_between(from_ns: u64, to_ns: u64) -> f64 {
    (to_ns.saturating_sub(from_ns) as f64 / 1e6).round() / 1e3
}
