//! `tracer connections`: the open sockets.

use std::{
    io::{self, IsTerminal as _},
    time::Duration,
};

use jiff::Timestamp;

use super::{
    Failure,
    args::{ConnectionSort, ConnectionsArgs, ListForm},
    columns,
    columns::{Cell, Column},
    fleet::{self, Fleet},
    merge, output, shorter, units,
};
use crate::report::{ConnectionList, ConnectionRow, SCHEMA};

/// How often `--watch` asks.
const REFRESH: Duration = Duration::from_secs(2);

/// Asked of a daemon when the answer is filtered or sorted here.
const ALL: usize = 1_000_000;

const COLUMNS: &[Column<ConnectionRow>] = &[
    Column::<ConnectionRow>::new("NODE", |c, _| Cell::text(c.node.as_deref())).if_known(),
    Column::<ConnectionRow>::new("PID", |c, _| Cell::Count(u64::from(c.pid))),
    Column::<ConnectionRow>::new("PROCESS", |c, _| Cell::Text(c.comm.clone())).elastic(8),
    Column::<ConnectionRow>::new("FD", |c, _| Cell::text(c.fd.map(|fd| fd.to_string()))).leaves(1),
    Column::<ConnectionRow>::new("STATE", |c, _| Cell::Text(c.state.clone())),
    Column::<ConnectionRow>::new("AGE", |c, _| Cell::Seconds(c.age_seconds)),
    Column::<ConnectionRow>::new("IDLE", |c, _| Cell::Seconds(c.idle_seconds)).leaves(4),
    Column::<ConnectionRow>::new("REQUESTS", |c, _| Cell::Count(u64::from(c.requests)))
        .short("REQS")
        .leaves(3),
    Column::<ConnectionRow>::new("UNREAD", |c, _| Cell::Count(u64::from(c.unread))).leaves(2),
    Column::<ConnectionRow>::new("CALL SITE", |c, _| match &c.call_site {
        None if c.preexisting => Cell::Text("(opened before tracing)".to_owned()),
        site => Cell::site(site.as_ref()),
    })
    .elastic(24),
    Column::<ConnectionRow>::new("REMOTE", |c, _| match (&c.url, &c.peer) {
        (Some(url), _) => Cell::Short {
            forms: shorter::urls(short_url(url)),
            exact: url.clone(),
        },
        (None, Some(peer)) => Cell::Text(format!(
            "unix:{} ({}, pid {})",
            c.remote, peer.comm, peer.pid
        )),
        (None, None) => Cell::Text(c.host.as_ref().unwrap_or(&c.remote).clone()),
    })
    .elastic(20),
    Column::<ConnectionRow>::new("NAMESPACE", |c, _| Cell::text(c.namespace.as_deref()))
        .where_known(),
    Column::<ConnectionRow>::new("WORKLOAD", |c, _| {
        Cell::text(c.workload.as_ref().map(|of| of.name.as_str()))
    })
    .where_known(),
    Column::<ConnectionRow>::new("POD", |c, _| Cell::text(c.pod.as_deref())).where_known(),
    Column::<ConnectionRow>::new("NAMED BY", |c, _| Cell::Text(c.named_by.name().to_owned()))
        .wide(),
    Column::<ConnectionRow>::new("ROLE", |c, _| Cell::Text(c.role.name().to_owned())).wide(),
    Column::<ConnectionRow>::new("FAMILY", |c, _| Cell::Text(c.family.name().to_owned())).wide(),
    Column::<ConnectionRow>::new("LOCAL PORT", |c, _| {
        Cell::text(c.local_port.map(|port| port.to_string()))
    })
    .wide(),
    Column::<ConnectionRow>::new("ADDRESS", |c, _| Cell::Text(c.remote.clone())).wide(),
    Column::<ConnectionRow>::new("HOLDER", |c, _| {
        Cell::text(c.holder_pid.map(|pid| pid.to_string()))
    })
    .if_known(),
    Column::<ConnectionRow>::new("OPENED AT", |c, _| Cell::Date(c.opened_at)).wide(),
    Column::<ConnectionRow>::new("INODE", |c, _| Cell::Count(u64::from(c.inode))).wide(),
];

/// A request without what most have: `jobs.test/v1/next` of `GET http://jobs.test/v1/next`.
fn short_url(url: &str) -> &str {
    let url = url.split_once(' ').map_or(url, |(_, target)| target);
    url.strip_prefix("http://").unwrap_or(url)
}

/// Runs the command.
///
/// # Errors
/// [`Failure`] when no daemon answers, or `-w` has no terminal.
pub fn run(args: &ConnectionsArgs) -> Result<u8, Failure> {
    let daemons = args.endpoints.fleet()?;
    let terminal = io::stdout().is_terminal();
    if args.watch {
        if !terminal {
            return Err(Failure::usage(
                "--watch needs a terminal; for scripts run `tracer connections -o jsonl` repeatedly",
            ));
        }
        return output::again_and_again(REFRESH, |rows| {
            let list = fetch(&daemons, args)?;
            let text = written(&list, args, Some(output::columns()))?;
            let shown = text.lines().count().min(rows.saturating_sub(1));
            let rest = u64::try_from(text.lines().count() - shown).unwrap_or(0);
            let mut lines: Vec<String> = text.lines().take(shown).map(str::to_owned).collect();
            lines.push(match rest + list.omitted {
                0 => format!("{}; Ctrl-C ends", count(&list)),
                more => format!("{}, {more} lines more; Ctrl-C ends", count(&list)),
            });
            Ok(lines)
        });
    }
    let list = fetch(&daemons, args)?;
    output::print(&written(&list, args, terminal.then(output::columns))?)?;
    if list.connections.is_empty() && (args.pod.is_some() || args.namespace.is_some()) {
        output::note(
            "no open socket is known to be of such a pod: pods are known by the folders that the \
             kubelet has in /var/log/pods; without --pod and -n all sockets are shown",
        );
    }
    if list.omitted > 0 {
        output::note(&format!(
            "{} more were left out; raise --limit to see them",
            list.omitted
        ));
    }
    Ok(0)
}

fn count(list: &ConnectionList) -> String {
    units::count(list.connections.len() as u64, "socket")
}

fn written(
    list: &ConnectionList,
    args: &ConnectionsArgs,
    width: Option<usize>,
) -> Result<String, Failure> {
    let now = Timestamp::now();
    let mut text = columns::write(args.output, COLUMNS, &list.connections, list, now, width)?;
    let for_people = matches!(args.output, ListForm::Table | ListForm::Wide);
    if let Some(nodes) = list.nodes.as_ref().filter(|_| for_people) {
        text += &format!("{}\n", fleet::answered(nodes));
    }
    Ok(text)
}

/// What all daemons have, chosen and sorted.
fn fetch(fleet: &Fleet, args: &ConnectionsArgs) -> Result<ConnectionList, Failure> {
    let path = format!("/v1/connections?limit={}", to_ask(args));
    let mut list = ConnectionList {
        schema: SCHEMA,
        connections: Vec::new(),
        omitted: 0,
        nodes: None,
    };
    let mut nodes = Vec::new();
    let asked = fleet.ask::<ConnectionList>(&path, |who, mut answer| {
        if !who.alone {
            for row in &mut answer.connections {
                row.node.get_or_insert_with(|| who.name.clone());
            }
            nodes.push(merge::answered(who, None));
        }
        list.connections.extend(answer.connections);
        list.omitted += answer.omitted;
        select(&mut list, args);
    })?;
    asked.need_one()?;
    if asked.several() {
        list.nodes = Some(merge::in_places(nodes, &asked));
    }
    Ok(list)
}

/// A daemon gives the oldest; anything else than the oldest of all needs them all.
fn to_ask(args: &ConnectionsArgs) -> usize {
    let plain = args.pid.is_none()
        && args.process.is_none()
        && args.pod.is_none()
        && args.namespace.is_none()
        && args.state.is_none()
        && args.remote.is_none()
        && args.call_site.is_none()
        && args.idle.is_none()
        && args.sort_by == ConnectionSort::Age;
    if plain { args.limit } else { ALL }
}

fn select(list: &mut ConnectionList, args: &ConnectionsArgs) {
    let rows = &mut list.connections;
    rows.retain(|row| matches(row, args));
    rows.sort_by(|a, b| {
        let age = || b.age_seconds.total_cmp(&a.age_seconds);
        let order = match args.sort_by {
            ConnectionSort::Age => age(),
            ConnectionSort::Idle => b.idle_seconds.total_cmp(&a.idle_seconds).then_with(age),
            ConnectionSort::Pid => a.pid.cmp(&b.pid).then_with(age),
        };
        // equals by what never changes, so that rows do not jump
        order.then_with(|| (&a.node, a.pid, a.inode).cmp(&(&b.node, b.pid, b.inode)))
    });
    list.omitted += rows.len().saturating_sub(args.limit) as u64;
    rows.truncate(args.limit);
}

fn matches(row: &ConnectionRow, args: &ConnectionsArgs) -> bool {
    let contains = |text: &Option<String>, wanted: &str| {
        text.as_ref().is_some_and(|text| text.contains(wanted))
    };
    let pid = args
        .pid
        .is_none_or(|pid| row.pid == pid || row.holder_pid == Some(pid));
    let process = args.process.as_ref().is_none_or(|wanted| {
        let wanted = wanted.to_lowercase();
        row.comm.to_lowercase().contains(&wanted)
    });
    let pod = args
        .pod
        .as_ref()
        .is_none_or(|wanted| contains(&row.pod, wanted));
    let namespace = args.namespace.is_none() || args.namespace == row.namespace;
    let normal = |state: &str| state.to_lowercase().replace('-', "_");
    let state = args
        .state
        .as_ref()
        .is_none_or(|state| normal(state) == normal(&row.state));
    let remote = args.remote.as_ref().is_none_or(|wanted| {
        let named = contains(&row.url, wanted) || contains(&row.host, wanted);
        row.remote.contains(wanted) || named
    });
    let site = args.call_site.as_ref().is_none_or(|wanted| {
        let site = row.call_site.as_ref();
        site.is_some_and(|site| site.function.contains(wanted) || contains(&site.file, wanted))
    });
    let age = args
        .older_than
        .is_none_or(|least| row.age_seconds >= least.as_secs_f64());
    let idle = args
        .idle
        .is_none_or(|least| row.idle_seconds >= least.as_secs_f64());
    pid && process && pod && namespace && state && remote && site && age && idle
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed assumption fails the test")]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::samples;
    use crate::{
        cli::args::{Cli, Command},
        model::{Family, Role},
        report::{CallSite, NamedBy},
    };

    fn args(words: &[&str]) -> ConnectionsArgs {
        let cli = Cli::try_parse_from([&["tracer", "connections"], words].concat()).unwrap();
        match cli.command {
            Command::Connections(connections) => connections,
            other => panic!("{other:?}"),
        }
    }

    fn row(pid: u32, age: f64, idle: f64, state: &str) -> ConnectionRow {
        ConnectionRow {
            node: None,
            pid,
            comm: "app".to_owned(),
            container: None,
            pod: (pid == 3).then(|| "web-1".to_owned()),
            namespace: (pid == 3).then(|| "shop".to_owned()),
            workload: None,
            holder_pid: (pid == 2).then_some(9),
            fd: Some(5),
            role: Role::Client,
            family: Family::Tcp4,
            state: state.to_owned(),
            local_port: Some(40_000),
            remote: "10.0.0.7:443".to_owned(),
            url: (pid == 1).then(|| "http://h/a".to_owned()),
            named_by: NamedBy::Address,
            not_higher_because: None,
            peer: None,
            host: None,
            opened_at: samples::start(),
            preexisting: false,
            age_seconds: age,
            idle_seconds: idle,
            requests: 1,
            unread: 0,
            transaction: None,
            call_site: (pid == 1).then(|| CallSite {
                function: "main.fetch".to_owned(),
                file: Some("/src/main.go".to_owned()),
                line: Some(24),
                module: None,
            }),
            inode: 7,
        }
    }

    fn pids(words: &[&str]) -> (Vec<u32>, u64) {
        let mut list = ConnectionList {
            schema: SCHEMA,
            connections: vec![
                row(1, 10.0, 10.0, "established"),
                row(2, 300.0, 1.0, "close_wait"),
                row(3, 200.0, 100.0, "established"),
            ],
            omitted: 0,
            nodes: None,
        };
        select(&mut list, &args(words));
        (
            list.connections.iter().map(|row| row.pid).collect(),
            list.omitted,
        )
    }

    #[test]
    fn sockets_are_filtered_sorted_and_cut() {
        assert_eq!(pids(&[]), (vec![2, 3, 1], 0));
        assert_eq!(pids(&["--sort-by", "idle"]), (vec![3, 1, 2], 0));
        assert_eq!(pids(&["--sort-by", "pid"]), (vec![1, 2, 3], 0));
        assert_eq!(pids(&["--limit", "1"]), (vec![2], 2));
        assert_eq!(pids(&["--pid", "9"]), (vec![2], 0));
        assert_eq!(pids(&["--process", "APP"]), (vec![2, 3, 1], 0));
        assert_eq!(pids(&["--process", "x"]), (vec![], 0));
        assert_eq!(pids(&["--pod", "web"]), (vec![3], 0));
        assert_eq!(pids(&["--pod", "api"]), (vec![], 0));
        assert_eq!(pids(&["-n", "shop"]), (vec![3], 0));
        assert_eq!(pids(&["--namespace", "sho"]), (vec![], 0));
        assert_eq!(pids(&["--state", "CLOSE-WAIT"]), (vec![2], 0));
        assert_eq!(pids(&["--remote", "http://h"]), (vec![1], 0));
        assert_eq!(pids(&["--remote", ":443"]), (vec![2, 3, 1], 0));
        assert_eq!(pids(&["--call-site", "main.go"]), (vec![1], 0));
        assert_eq!(pids(&["--older-than", "1m"]), (vec![2, 3], 0));
        assert_eq!(pids(&["--idle", "1m"]), (vec![3], 0));
    }

    #[test]
    fn of_a_request_the_host_comes_first() {
        assert_eq!(short_url("GET http://a.test/b?c=…"), "a.test/b?c=…");
        assert_eq!(short_url("https://a.test/b"), "https://a.test/b");
    }

    #[test]
    fn equals_keep_their_places() {
        let mut list = ConnectionList {
            schema: SCHEMA,
            connections: [3, 1, 2]
                .map(|pid| row(pid, 5.0, 5.0, "established"))
                .into(),
            omitted: 0,
            nodes: None,
        };
        for order in ["age", "idle", "pid"] {
            list.connections.rotate_left(1);
            select(&mut list, &args(&["--sort-by", order]));
            let pids: Vec<u32> = list.connections.iter().map(|row| row.pid).collect();
            assert_eq!(pids, [1, 2, 3], "{order}");
        }
    }

    #[test]
    fn a_daemon_is_asked_for_no_more_than_needed() {
        assert_eq!(to_ask(&args(&["--limit", "7", "--older-than", "1m"])), 7);
        assert_eq!(to_ask(&args(&["--limit", "7", "--state", "x"])), ALL);
        assert_eq!(to_ask(&args(&["--sort-by", "idle"])), ALL);
    }
}
