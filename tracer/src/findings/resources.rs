//! How far the watched processes are from their limits.

use std::collections::BTreeMap;

use crate::{
    model::Pod,
    report::{EphemeralPorts, Resources},
};

/// Ephemeral ports in use towards one destination.
#[derive(Debug, Clone, PartialEq)]
pub struct PortUse {
    /// Address and port.
    pub destination: String,
    /// Distinct local ports in use, TIME_WAIT included.
    pub used: u64,
    /// `ip_local_port_range` (first and last port, both usable).
    pub range: (u16, u16),
    /// Ports of the range that are reserved (`ip_local_reserved_ports`).
    pub reserved: u64,
    /// Growth per minute.
    pub growth_per_minute: f64,
}

/// What one process uses.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ProcessUse {
    /// Process.
    pub pid: u32,
    /// Its name.
    pub comm: String,
    /// Its pod.
    pub pod: Option<Pod>,
    /// Open descriptors of any sort.
    pub fds_open: u64,
    /// Soft limit (`RLIMIT_NOFILE`).
    pub fds_limit: u64,
    /// Growth of the open descriptors per minute: that of its findings, or as measured.
    pub fds_growth_per_minute: f64,
    /// Ports by destination.
    pub ports: Vec<PortUse>,
    /// Failed connects by errno.
    pub connect_errors: BTreeMap<u16, u64>,
}

/// The report's entry for one process.
#[must_use]
pub fn resources(usage: &ProcessUse) -> Resources {
    let pod = usage.pod.as_ref();
    Resources {
        node: None,
        pid: usage.pid,
        comm: usage.comm.clone(),
        pod: pod.map(|pod| pod.name.clone()),
        namespace: pod.map(|pod| pod.namespace.clone()),
        workload: pod.and_then(|pod| pod.workload.clone()),
        fds_open: usage.fds_open,
        fds_limit: usage.fds_limit,
        exhausted_in_seconds: exhausted_in(
            usage.fds_open,
            usage.fds_limit,
            usage.fds_growth_per_minute,
        ),
        ephemeral_ports: usage
            .ports
            .iter()
            .map(|p| {
                let (first, last) = p.range;
                let size = match last.checked_sub(first) {
                    Some(n) => u64::from(n) + 1,
                    None => 0,
                };
                let available = size.saturating_sub(p.reserved);
                EphemeralPorts {
                    destination: p.destination.clone(),
                    used: p.used,
                    available,
                    exhausted_in_seconds: exhausted_in(p.used, available, p.growth_per_minute),
                }
            })
            .collect(),
        connect_errors: usage
            .connect_errors
            .iter()
            .filter(|(_, n)| **n > 0)
            .map(|(&errno, &n)| (errno_name(errno), n))
            .collect(),
    }
}

/// Seconds until `used` reaches `limit`; 0 when it has, `None` when it never will.
fn exhausted_in(used: u64, limit: u64, growth_per_minute: f64) -> Option<u64> {
    if limit == 0 {
        return None;
    }
    if used >= limit {
        return Some(0);
    }
    let growing = growth_per_minute.is_finite() && growth_per_minute > 0.0;
    growing.then(|| ((limit - used) as f64 * 60.0 / growth_per_minute) as u64)
}

/// Name of an errno that `connect` can give (Linux `asm-generic/errno.h` and `errno-base.h`).
#[must_use]
pub fn errno_name(errno: u16) -> String {
    let name = match errno {
        1 => "EPERM",
        2 => "ENOENT",
        4 => "EINTR",
        11 => "EAGAIN",
        13 => "EACCES",
        22 => "EINVAL",
        24 => "EMFILE",
        32 => "EPIPE",
        91 => "EPROTOTYPE",
        97 => "EAFNOSUPPORT",
        98 => "EADDRINUSE",
        99 => "EADDRNOTAVAIL",
        100 => "ENETDOWN",
        101 => "ENETUNREACH",
        103 => "ECONNABORTED",
        104 => "ECONNRESET",
        105 => "ENOBUFS",
        106 => "EISCONN",
        107 => "ENOTCONN",
        110 => "ETIMEDOUT",
        111 => "ECONNREFUSED",
        112 => "EHOSTDOWN",
        113 => "EHOSTUNREACH",
        114 => "EALREADY",
        115 => "EINPROGRESS",
        125 => "ECANCELED",
        _ => return format!("errno {errno}"),
    };
    name.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Workload;

    #[test]
    fn time_to_exhaustion() {
        assert_eq!(exhausted_in(752, 1024, 3.2), Some(5100));
        assert_eq!(exhausted_in(1024, 1024, 0.0), Some(0));
        assert_eq!(exhausted_in(10, 1024, 0.0), None);
        assert_eq!(exhausted_in(10, 1024, -1.0), None);
        assert_eq!(exhausted_in(10, 1024, f64::NAN), None);
        assert_eq!(exhausted_in(10, 0, 1.0), None);
    }

    #[test]
    fn ports_and_errors() {
        let web = Workload {
            kind: "Deployment".to_owned(),
            name: "web".to_owned(),
        };
        let usage = ProcessUse {
            pid: 1,
            fds_open: 10,
            fds_limit: 1024,
            ports: vec![PortUse {
                destination: "10.0.0.7:443".to_owned(),
                used: 28_280,
                range: (32_768, 60_999),
                reserved: 0,
                growth_per_minute: 5.0,
            }],
            connect_errors: BTreeMap::from([(99, 16), (111, 0), (999, 1)]),
            pod: Some(Pod {
                namespace: "shop".to_owned(),
                name: "web-5d4-x2".to_owned(),
                workload: Some(web.clone()),
                ..Pod::default()
            }),
            ..ProcessUse::default()
        };
        let r = resources(&usage);
        assert_eq!(r.pod.as_deref(), Some("web-5d4-x2"));
        assert_eq!(r.workload, Some(web));
        assert_eq!(r.ephemeral_ports[0].available, 28_232);
        assert_eq!(r.ephemeral_ports[0].exhausted_in_seconds, Some(0));
        assert_eq!(
            r.connect_errors,
            BTreeMap::from([
                ("EADDRNOTAVAIL".to_owned(), 16),
                ("errno 999".to_owned(), 1)
            ])
        );
    }
}
