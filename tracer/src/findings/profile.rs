//! Outstanding connections by stack, for what reads profiles: `go tool pprof`, Pyroscope, flame
//! graphs. What leaks has its stack from the call site outwards, so that the call site comes first where
//! what a stack ends with is counted; what is healthy has its call site.

use std::{collections::HashMap, fmt::Write as _, io::Write as _};

use flate2::{Compression, write::GzEncoder};
use jiff::Timestamp;
use prost::Message;

use crate::{
    model::Frame,
    report::{CallSite, Finding, Population, Report, StackFrame},
};

/// Stands where no stack could be taken or named.
const UNKNOWN: &str = "[no call site]";

/// A profile as folded stacks: `program;outermost;…;innermost N`, with the connections that are open.
#[must_use]
pub fn folded(report: &Report) -> String {
    let mut text = String::new();
    for sample in samples(report) {
        let mut line = in_one_line(sample.program);
        for place in sample.places.iter().rev() {
            line.push(';');
            line.push_str(&in_one_line(place.function));
        }
        let _ = writeln!(text, "{line} {}", sample.open);
    }
    text
}

/// A name without what parts names, lines and counts from each other.
fn in_one_line(name: &str) -> String {
    let parts = |c: char| c == ';' || c.is_control();
    name.replace(parts, ":")
}

/// A profile in pprof's format (github.com/google/pprof, proto/profile.proto), compressed by gzip:
/// connections that are open, and those that leaked, with labels for program, remote and kind.
///
/// # Errors
/// None in practice: it is written to memory.
pub fn pprof(report: &Report) -> std::io::Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(&Table::default().profile(report).encode_to_vec())?;
    encoder.finish()
}

/// A stack and how many connections it has.
struct Sample<'a> {
    program: &'a str,
    /// Innermost first, never empty.
    places: Vec<Place<'a>>,
    open: u64,
    leaked: u64,
    remote: &'a str,
    kind: &'a str,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Place<'a> {
    function: &'a str,
    file: &'a str,
    line: u32,
}

impl<'a> Place<'a> {
    fn of(frame: &'a Frame) -> Place<'a> {
        Place {
            function: &frame.function,
            file: frame.file.as_deref().unwrap_or_default(),
            line: frame.line.unwrap_or(0),
        }
    }

    fn of_site(site: Option<&'a CallSite>) -> Place<'a> {
        Place {
            function: site.map_or(UNKNOWN, |site| &site.function),
            file: site
                .and_then(|site| site.file.as_deref())
                .unwrap_or_default(),
            line: site.and_then(|site| site.line).unwrap_or(0),
        }
    }
}

fn samples(report: &Report) -> Vec<Sample<'_>> {
    let leaking = report.findings.iter().map(leaking);
    let healthy = report.populations.iter().map(healthy);
    leaking.chain(healthy).filter(|s| s.open > 0).collect()
}

fn leaking(finding: &Finding) -> Sample<'_> {
    let site = finding.call_site.as_ref();
    let is_site =
        |frame: &StackFrame| site.is_some_and(|site| CallSite::from(&frame.frame) == *site);
    // what libraries and the runtime do within it is not what is to be changed
    let within = finding.stack.iter().position(is_site).unwrap_or(0);
    let outwards = finding.stack.iter().skip(within);
    let mut places: Vec<Place> = outwards.map(|f| Place::of(&f.frame)).collect();
    if places.is_empty() {
        places.push(Place::of_site(finding.call_site.as_ref()));
    }
    let remote = &finding.remote;
    Sample {
        program: &finding.process.comm,
        places,
        open: finding.connections.open,
        leaked: finding.connections.outlived,
        remote: remote.url.as_deref().unwrap_or(&remote.address),
        kind: finding.kind.name(),
    }
}

fn healthy(population: &Population) -> Sample<'_> {
    Sample {
        program: &population.comm,
        places: vec![Place::of_site(population.call_site.as_ref())],
        open: population.open,
        leaked: 0,
        remote: &population.remote,
        kind: "healthy",
    }
}

/// Texts, functions and locations by number, as the format wants them.
#[derive(Default)]
struct Table<'a> {
    texts: HashMap<&'a str, i64>,
    places: HashMap<Place<'a>, u64>,
    functions: HashMap<(&'a str, &'a str), u64>,
    proto: Proto,
}

impl<'a> Table<'a> {
    fn profile(mut self, report: &'a Report) -> Proto {
        self.text("");
        let count = self.text("count");
        for name in ["leaked", "open"] {
            let name = self.text(name);
            self.proto.sample_type.push(ValueType { name, unit: count });
        }
        self.proto.default_sample_type = self.text("open");
        for sample in samples(report) {
            let location_id = sample.places.iter().map(|p| self.place(*p)).collect();
            let labels = [
                ("program", sample.program),
                ("remote", sample.remote),
                ("kind", sample.kind),
            ];
            let label = labels.map(|(key, text)| Label {
                key: self.text(key),
                text: self.text(text),
            });
            self.proto.sample.push(ProtoSample {
                location_id,
                value: vec![number(sample.leaked), number(sample.open)],
                label: label.to_vec(),
            });
        }
        self.proto.time_nanos = nanoseconds(report.started_at);
        self.proto.duration_nanos = (report.duration_seconds * 1e9) as i64;
        self.proto
    }

    fn text(&mut self, text: &'a str) -> i64 {
        let texts = &mut self.proto.string_table;
        *self.texts.entry(text).or_insert_with(|| {
            texts.push(text.to_owned());
            texts.len() as i64 - 1
        })
    }

    fn place(&mut self, place: Place<'a>) -> u64 {
        if let Some(&known) = self.places.get(&place) {
            return known;
        }
        let function_id = self.function(place.function, place.file);
        let line = i64::from(place.line);
        let id = self.proto.location.len() as u64 + 1;
        self.proto.location.push(Location {
            id,
            line: vec![Line { function_id, line }],
        });
        self.places.insert(place, id);
        id
    }

    fn function(&mut self, name: &'a str, file: &'a str) -> u64 {
        if let Some(&known) = self.functions.get(&(name, file)) {
            return known;
        }
        let (text, filename) = (self.text(name), self.text(file));
        let id = self.proto.function.len() as u64 + 1;
        self.proto.function.push(Function {
            id,
            name: text,
            system_name: text,
            filename,
        });
        self.functions.insert((name, file), id);
        id
    }
}

fn number(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

fn nanoseconds(at: Timestamp) -> i64 {
    i64::try_from(at.as_nanosecond()).unwrap_or(0)
}

#[derive(Clone, PartialEq, Message)]
struct Proto {
    #[prost(message, repeated, tag = "1")]
    sample_type: Vec<ValueType>,
    #[prost(message, repeated, tag = "2")]
    sample: Vec<ProtoSample>,
    #[prost(message, repeated, tag = "4")]
    location: Vec<Location>,
    #[prost(message, repeated, tag = "5")]
    function: Vec<Function>,
    #[prost(string, repeated, tag = "6")]
    string_table: Vec<String>,
    #[prost(int64, tag = "9")]
    time_nanos: i64,
    #[prost(int64, tag = "10")]
    duration_nanos: i64,
    #[prost(int64, tag = "14")]
    default_sample_type: i64,
}

#[derive(Clone, PartialEq, Message)]
struct ValueType {
    #[prost(int64, tag = "1")]
    name: i64,
    #[prost(int64, tag = "2")]
    unit: i64,
}

#[derive(Clone, PartialEq, Message)]
struct ProtoSample {
    #[prost(uint64, repeated, tag = "1")]
    location_id: Vec<u64>,
    #[prost(int64, repeated, tag = "2")]
    value: Vec<i64>,
    #[prost(message, repeated, tag = "3")]
    label: Vec<Label>,
}

#[derive(Clone, PartialEq, Message)]
struct Label {
    #[prost(int64, tag = "1")]
    key: i64,
    #[prost(int64, tag = "2")]
    text: i64,
}

#[derive(Clone, PartialEq, Message)]
struct Location {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(message, repeated, tag = "4")]
    line: Vec<Line>,
}

#[derive(Clone, PartialEq, Message)]
struct Line {
    #[prost(uint64, tag = "1")]
    function_id: u64,
    #[prost(int64, tag = "2")]
    line: i64,
}

#[derive(Clone, PartialEq, Message)]
struct Function {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(int64, tag = "2")]
    name: i64,
    #[prost(int64, tag = "3")]
    system_name: i64,
    #[prost(int64, tag = "4")]
    filename: i64,
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed assumption fails the test")]
mod tests {
    use std::io::Read as _;

    use flate2::read::GzDecoder;

    use super::*;
    use crate::{model::Role, samples};

    fn report() -> Report {
        let mut report = samples::report();
        report.populations.push(Population {
            node: None,
            pid: 1,
            comm: "shop;x".to_owned(),
            call_site: None,
            remote: "10.0.0.7:6379".to_owned(),
            role: Role::Client,
            open: 3,
            opened: 3,
            closed: 0,
            reused: 3,
            healthy_because: "used again".to_owned(),
        });
        report
    }

    #[test]
    fn folded_stacks_end_with_the_call_site_and_the_number_open() {
        let mut report = report();
        let mut library = report.findings[0].stack[0].clone();
        library.frame.function = "net/http.send".to_owned();
        report.findings[0].stack.insert(0, library);
        let text = folded(&report);
        let finding = &report.findings[0];
        let first = text.lines().next().unwrap();
        let innermost = &finding.stack[1].frame.function;
        let end = format!(";{innermost} {}", finding.connections.open);
        assert!(
            first.starts_with(&finding.process.comm) && first.ends_with(&end),
            "{first}"
        );
        assert_eq!(text.lines().last(), Some("shop:x;[no call site] 3"));
    }

    #[test]
    fn a_profile_has_each_stack_once_with_both_numbers_and_its_labels() {
        let report = report();
        let mut bytes = Vec::new();
        GzDecoder::new(&*pprof(&report).unwrap())
            .read_to_end(&mut bytes)
            .unwrap();
        let profile = Proto::decode(&*bytes).unwrap();
        let text = |number: i64| profile.string_table[number as usize].as_str();
        assert_eq!(text(0), "");
        let names: Vec<&str> = profile.sample_type.iter().map(|t| text(t.name)).collect();
        assert_eq!(names, ["leaked", "open"]);
        let sample = &profile.sample[0];
        let counts = &report.findings[0].connections;
        assert_eq!(sample.value, [counts.outlived as i64, counts.open as i64]);
        assert!(sample.label.iter().any(|l| text(l.key) == "kind"));
        for id in profile.sample.iter().flat_map(|s| &s.location_id) {
            let location = &profile.location[*id as usize - 1];
            let function = &profile.function[location.line[0].function_id as usize - 1];
            assert!(location.id == *id && !text(function.name).is_empty());
        }
    }
}
