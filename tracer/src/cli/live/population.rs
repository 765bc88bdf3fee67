//! All populations of a report as rows: what leaks first, then what is healthy, with the reason.

use std::cmp::Reverse;

use jiff::Timestamp;

use crate::{
    cli::{
        columns::{Cell, Column},
        finding,
        output::clean,
        units,
    },
    report::{CallSite, Finding, Population, Report},
};

/// One population.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// What it is known again by in the next report.
    pub key: String,
    /// The finding that it is, if it leaks.
    pub finding: Option<String>,
    open: u64,
    opened: u64,
    closed: u64,
    reused: Option<u64>,
    comm: String,
    pid: u32,
    remote: String,
    site: Option<CallSite>,
    verdict: &'static str,
    /// Why it is healthy, or what leaks.
    why: String,
}

/// Orders of the list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// What leaks in the order of the findings, then the largest.
    Verdict,
    /// Most open first.
    Open,
    /// Most opened first.
    Opened,
    /// By the process's name.
    Process,
}

impl Order {
    /// The one that the next key asks for.
    #[must_use]
    pub fn next(self) -> Order {
        match self {
            Order::Verdict => Order::Open,
            Order::Open => Order::Opened,
            Order::Opened => Order::Process,
            Order::Process => Order::Verdict,
        }
    }

    /// What it sorts by.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Order::Verdict => "verdict",
            Order::Open => "open",
            Order::Opened => "opened",
            Order::Process => "process",
        }
    }
}

/// The columns of the list.
pub const COLUMNS: &[Column<Row>] = &[
    Column::<Row>::new("OPEN", |row, _| Cell::Count(row.open)),
    Column::<Row>::new("OPENED", |row, _| Cell::Count(row.opened)).leaves(2),
    Column::<Row>::new("CLOSED", |row, _| Cell::Count(row.closed)).leaves(3),
    Column::<Row>::new("REUSED", |row, _| {
        row.reused.map_or(Cell::None, Cell::Count)
    })
    .leaves(1),
    Column::<Row>::new("VERDICT", |row, _| Cell::Text(row.verdict.to_owned())),
    Column::<Row>::new("PROCESS", |row, _| Cell::Text(row.comm.clone())).leaves(5),
    Column::<Row>::new("PID", |row, _| Cell::Count(u64::from(row.pid))).leaves(0),
    Column::<Row>::new("REMOTE", |row, _| Cell::remote(&row.remote)).elastic(20),
    Column::<Row>::new("CALL SITE", |row, _| {
        let site = row.site.as_ref();
        site.map_or(Cell::None, |site| Cell::site(Some(site)))
    })
    .elastic(24),
    Column::<Row>::new("WHY", |row, _| Cell::Text(row.why.clone())).elastic(40),
];

impl Row {
    fn leaking(leak: &Finding) -> Row {
        Row {
            key: leak.id.clone(),
            finding: Some(leak.id.clone()),
            open: leak.connections.open,
            opened: leak.connections.opened,
            closed: leak.connections.closed,
            reused: None,
            comm: leak.process.comm.clone(),
            pid: leak.process.pid,
            remote: finding::remote(leak),
            site: leak.call_site.clone(),
            verdict: "leaks",
            why: format!(
                "{} ({}), {} outlived",
                leak.kind.name(),
                leak.confidence.name(),
                leak.connections.outlived
            ),
        }
    }

    fn healthy(one: &Population) -> Row {
        let site = one.call_site.as_ref();
        Row {
            key: format!(
                "{} {} {} {:?}",
                one.pid,
                one.role.name(),
                one.remote,
                site.map(|site| (&site.function, site.line))
            ),
            finding: None,
            open: one.open,
            opened: one.opened,
            closed: one.closed,
            reused: Some(one.reused),
            comm: one.comm.clone(),
            pid: one.pid,
            remote: one.remote.clone(),
            site: one.call_site.clone(),
            verdict: "healthy",
            why: one.healthy_because.clone(),
        }
    }

    /// Whether it has the text in what its row says, in lower case.
    #[must_use]
    pub fn contains(&self, wanted: &str) -> bool {
        let pid = self.pid.to_string();
        let site = self.site.as_ref().map_or("", |site| &site.function);
        let file = self.site.as_ref().and_then(|site| site.file.as_deref());
        [
            &self.key,
            &self.comm,
            &pid,
            &self.remote,
            site,
            file.unwrap_or_default(),
            self.verdict,
            &self.why,
        ]
        .iter()
        .any(|known| known.to_lowercase().contains(wanted))
    }

    /// Everything about it, in lines; `at` is when it was looked at.
    #[must_use]
    pub fn told(&self, at: Timestamp) -> String {
        let site = Cell::site(self.site.as_ref()).shown();
        let reused = self
            .reused
            .map_or(String::new(), |n| format!(", {n} reused"));
        format!(
            "{}\n   at      {site}\n   to      {}\n   by      {}, pid {}\n   count   {} open, {} opened, \
             {} closed{reused}\n   because {}\n   as of   {}\n",
            self.verdict,
            clean(&self.remote),
            clean(&self.comm),
            self.pid,
            units::count(self.open, "connection"),
            self.opened,
            self.closed,
            clean(&self.why),
            crate::cli::words::seconds(at),
        )
    }
}

/// The rows of a report; equals stand as by verdict: findings in their order, then the healthy ones,
/// the largest first.
#[must_use]
pub fn rows(report: &Report, order: Order) -> Vec<Row> {
    let mut healthy: Vec<Row> = report.populations.iter().map(Row::healthy).collect();
    healthy.sort_by(|a, b| (b.open, &a.key).cmp(&(a.open, &b.key)));
    let leaking = report.findings.iter().map(Row::leaking);
    let mut rows: Vec<Row> = leaking.chain(healthy).collect();
    match order {
        Order::Verdict => {}
        Order::Open => rows.sort_by_key(|row| Reverse(row.open)),
        Order::Opened => rows.sort_by_key(|row| Reverse(row.opened)),
        Order::Process => rows.sort_by(|a, b| (&a.comm, a.pid).cmp(&(&b.comm, b.pid))),
    }
    rows
}
