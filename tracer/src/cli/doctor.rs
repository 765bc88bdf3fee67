//! `tracer doctor`: what this kernel and these privileges allow.

use std::{collections::BTreeMap, fmt::Write as _, mem};

use super::{
    Failure, STATUS_UNSUPPORTED,
    args::{DoctorArgs, ReportForm},
    fleet, output,
    output::{Paint, clean, wrap},
};
use crate::{
    report::{Doctor, EventStatus, harmless},
    session::{MAX_SOCKETS, Options, Session, Surroundings, Target},
};

/// Runs the command: status 0 when everything needed works, else 3.
///
/// # Errors
/// [`Failure`] when no daemon answers.
pub fn run(args: &DoctorArgs) -> Result<u8, Failure> {
    let (found, share) = match args.endpoint.is_empty() && !args.ask.kube.kube {
        true => (vec![local(args)], None),
        false => remote(args)?,
    };
    let usable = found.iter().all(|doctor| doctor.usable);
    let text = match (args.output, found.as_slice()) {
        (ReportForm::Json, [doctor]) if share.is_none() => json(doctor)?,
        (ReportForm::Json, several) => json(&several)?,
        (ReportForm::Table, _) => {
            let paint = Paint::on(&std::io::stdout());
            let mut out = String::new();
            for (names, doctor) in alike(found) {
                let names: Vec<&str> = names.iter().map(String::as_str).collect();
                if !names.is_empty() {
                    let heading = format!("{}\n", paint.bold(&clean(&fleet::some(&names))));
                    out.push_str(&heading);
                }
                out.push_str(&render(&doctor, paint, output::width()));
            }
            if let Some(share) = share {
                let _ = writeln!(out, "\n{share}");
            }
            out
        }
    };
    output::print(&text)?;
    Ok(if usable { 0 } else { STATUS_UNSUPPORTED })
}

fn json(value: &impl serde::Serialize) -> Result<String, Failure> {
    let mut text = harmless(serde_json::to_string_pretty(value).map_err(anyhow::Error::from)?);
    text.push('\n');
    Ok(text)
}

/// What daemons say, in the order of the endpoints, and how many of how many do.
fn remote(args: &DoctorArgs) -> Result<(Vec<Doctor>, Option<String>), Failure> {
    let fleet = args.ask.fleet(&args.endpoint)?;
    let mut found: Vec<(usize, Doctor)> = Vec::new();
    let asked = fleet.ask::<Doctor>("/v1/doctor", |who, mut doctor| {
        doctor.node.get_or_insert(who.name);
        found.push((who.place, doctor));
    })?;
    asked.need_one()?;
    found.sort_by_key(|(place, _)| *place);
    let doctors = found.into_iter().map(|(_, doctor)| doctor).collect();
    Ok((doctors, asked.share()))
}

/// Those who say the same but for their counts are told of once, with all their names.
fn alike(doctors: Vec<Doctor>) -> Vec<(Vec<String>, Doctor)> {
    let mut groups: Vec<(Vec<String>, Doctor)> = Vec::new();
    for mut doctor in doctors {
        let name = doctor.node.take();
        let counts = mem::take(&mut doctor.accounting);
        let same = |known: &Doctor| {
            let known = Doctor {
                accounting: BTreeMap::new(),
                ..known.clone()
            };
            known == doctor
        };
        match groups.iter_mut().find(|(_, known)| same(known)) {
            Some((names, known)) => {
                names.extend(name);
                known.accounting.clear();
            }
            None => {
                doctor.accounting = counts;
                groups.push((name.into_iter().collect(), doctor));
            }
        }
    }
    groups
}

/// Attaches to this process alone, which shows what works, and detaches at once.
fn local(args: &DoctorArgs) -> Doctor {
    let started = Session::start(Options {
        target: Target::Processes(vec![std::process::id()]),
        backend: args.attach.backend.clone(),
        without: args.attach.without.clone(),
        trace_syscalls: args.attach.trace_syscalls(),
        max_sockets: MAX_SOCKETS.min(1024),
        rules: Vec::new(),
        debug_directories: Vec::new(),
        host_root: None,
        cluster: None,
        remotes: None,
        opted_out: Vec::new(),
        ask_jvms: false,
        patient: false,
        examples: false,
        btf: args.attach.btf.clone(),
        pin: None,
        record: None,
    });
    match started {
        Ok(session) => session.doctor(),
        Err(error) => {
            let mut doctor = Surroundings::read(args.attach.btf.as_deref()).doctor();
            doctor.degraded.insert(0, error.to_string());
            doctor
        }
    }
}

fn render(doctor: &Doctor, paint: Paint, width: usize) -> String {
    let mut out = String::new();
    let verdict = if doctor.usable {
        paint.good("tracer works here")
    } else {
        paint.bad("tracer does not work here")
    };
    let _ = writeln!(out, "{verdict}");
    let _ = writeln!(
        out,
        "  kernel    {} {}",
        clean(&doctor.kernel),
        clean(&doctor.architecture)
    );
    let _ = writeln!(out, "  BTF       {}", clean(&doctor.btf));
    let lockdown = doctor
        .lockdown
        .as_deref()
        .unwrap_or("unknown: there is no /sys/kernel/security/lockdown");
    let _ = writeln!(out, "  lockdown  {}", clean(lockdown));

    let _ = writeln!(out, "\n{}", paint.bold("Capabilities"));
    for one in &doctor.capabilities {
        let held = if one.held {
            paint.good("yes")
        } else {
            paint.bad("no ")
        };
        let label = format!("  {held}  {:<20} ", clean(&one.name));
        block(&mut out, &label, 28, &one.needed_for, width);
    }

    if !doctor.events.is_empty() {
        let _ = writeln!(out, "\n{}", paint.bold("Events"));
    }
    for one in &doctor.events {
        event(&mut out, one, paint, width);
    }

    if !doctor.degraded.is_empty() {
        let _ = writeln!(out, "\n{}", paint.bold("Not seen, or in the way"));
    }
    for sentence in &doctor.degraded {
        block(&mut out, "  - ", 4, sentence, width);
    }

    if !doctor.accounting.is_empty() {
        let _ = writeln!(
            out,
            "\n{}",
            paint.bold("Accounting (seen = live + folded + lost)")
        );
    }
    for (name, count) in &doctor.accounting {
        let _ = writeln!(out, "  {:<24} {count}", clean(name));
    }
    out
}

/// Text after a label of `indent` columns, wrapped below itself.
fn block(out: &mut String, label: &str, indent: usize, text: &str, width: usize) {
    let lines = wrap(&clean(text), width.saturating_sub(indent).max(40));
    for (index, line) in lines.iter().enumerate() {
        if index == 0 {
            let _ = writeln!(out, "{label}{line}");
        } else {
            let _ = writeln!(out, "{:indent$}{line}", "");
        }
    }
    if lines.is_empty() {
        let _ = writeln!(out, "{}", label.trim_end());
    }
}

fn event(out: &mut String, event: &EventStatus, paint: Paint, width: usize) {
    let backend = match event.backend.as_str() {
        "none" => paint.bad("none"),
        backend => clean(backend).into_owned(),
    };
    let hooks = event.hooks.join(", ");
    let label = format!("  {:<18} ", clean(&event.event));
    block(out, &label, 21, &format!("{backend}: {hooks}"), width);
    if let Some(lost) = &event.lost {
        block(out, &format!("{:21}lost: ", ""), 27, lost, width);
    }
    for refusal in &event.refused {
        let text = format!(
            "{} {} ({}) would add {}",
            refusal.backend, refusal.hook, refusal.error, refusal.would_add
        );
        block(out, &format!("{:21}refused: ", ""), 30, &text, width);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{Capability, Refusal, SCHEMA};

    fn doctor() -> Doctor {
        Doctor {
            schema: SCHEMA,
            node: None,
            kernel: "6.18.5".to_owned(),
            architecture: "x86_64".to_owned(),
            btf: "/sys/kernel/btf/vmlinux (7 bytes)".to_owned(),
            lockdown: Some("integrity".to_owned()),
            capabilities: vec![Capability {
                name: "CAP_BPF".to_owned(),
                held: true,
                needed_for: "loading every probe".to_owned(),
            }],
            events: vec![EventStatus {
                event: "tcp_open".to_owned(),
                backend: "tracepoint".to_owned(),
                hooks: vec!["sock:inet_sock_set_state".to_owned()],
                lost: Some("the errno of a failed connect".to_owned()),
                refused: vec![Refusal {
                    backend: "fexit".to_owned(),
                    hook: "inet_stream_connect".to_owned(),
                    error: "EPERM".to_owned(),
                    would_add: "that errno".to_owned(),
                }],
            }],
            degraded: vec!["UNIX closes are seen at sweeps only".to_owned()],
            accounting: [("seen".to_owned(), 912)].into(),
            usable: true,
        }
    }

    #[test]
    fn who_says_the_same_is_told_of_once() {
        let of = |name: &str, seen, kernel: &str| Doctor {
            node: Some(name.to_owned()),
            accounting: [("seen".to_owned(), seen)].into(),
            kernel: kernel.to_owned(),
            ..doctor()
        };
        let groups = alike(vec![
            of("a", 1, "6.1"),
            of("b", 2, "6.12"),
            of("c", 3, "6.1"),
        ]);
        let names: Vec<&[String]> = groups.iter().map(|(names, _)| names.as_slice()).collect();
        assert_eq!(names, [&["a", "c"][..], &["b"]]);
        assert!(groups[0].1.accounting.is_empty());
        assert_eq!(groups[1].1.accounting["seen"], 2);
    }

    #[test]
    fn everything_is_told_with_its_reason() {
        let expected = "\
tracer works here
  kernel    6.18.5 x86_64
  BTF       /sys/kernel/btf/vmlinux (7 bytes)
  lockdown  integrity

Capabilities
  yes  CAP_BPF              loading every probe

Events
  tcp_open           tracepoint: sock:inet_sock_set_state
                     lost: the errno of a failed connect
                     refused: fexit inet_stream_connect (EPERM) would add that errno

Not seen, or in the way
  - UNIX closes are seen at sweeps only

Accounting (seen = live + folded + lost)
  seen                     912
";
        let shown = render(&doctor(), Paint::OFF, 100);
        assert_eq!(shown, expected, "{shown}");
    }
}
