//! `tracer doctor`: what this kernel and these privileges allow.

use std::{fmt::Write as _, fs, path::Path};

use rustix::system::uname;

use super::{
    Failure, STATUS_UNSUPPORTED,
    args::{DoctorArgs, ReportForm},
    client,
    client::Endpoint,
    output,
    output::{Paint, clean, wrap},
    preflight::BTF,
};
use crate::{
    procs::capabilities::{capabilities, kernel_version},
    report::{Doctor, EventStatus, SCHEMA},
    session::{MAX_SOCKETS, Options, Session, Target},
};

/// Lockdown state; missing where securityfs is not mounted.
const LOCKDOWN: &str = "/sys/kernel/security/lockdown";

/// Runs the command: status 0 when everything needed works, else 3.
///
/// # Errors
/// [`Failure`] when no daemon answers.
pub fn run(args: &DoctorArgs) -> Result<u8, Failure> {
    let found = if args.endpoint.is_empty() {
        vec![(None, local(args))]
    } else {
        remote(args)?
    };
    let usable = found.iter().all(|(_, doctor)| doctor.usable);
    let text = match (args.output, found.as_slice()) {
        (ReportForm::Json, [(_, doctor)]) => json(doctor)?,
        (ReportForm::Json, several) => {
            let all: Vec<&Doctor> = several.iter().map(|(_, doctor)| doctor).collect();
            json(&all)?
        }
        (ReportForm::Table, all) => {
            let paint = Paint::on(&std::io::stdout());
            let mut out = String::new();
            for (endpoint, doctor) in all {
                if let Some(endpoint) = endpoint {
                    let _ = writeln!(out, "{}", paint.bold(endpoint));
                }
                out.push_str(&render(doctor, paint, output::width()));
            }
            out
        }
    };
    output::print(&text)?;
    Ok(if usable { 0 } else { STATUS_UNSUPPORTED })
}

fn json(value: &impl serde::Serialize) -> Result<String, Failure> {
    let mut text = serde_json::to_string_pretty(value).map_err(anyhow::Error::from)?;
    text.push('\n');
    Ok(text)
}

fn remote(args: &DoctorArgs) -> Result<Vec<(Option<String>, Doctor)>, Failure> {
    let endpoints = Endpoint::all(&args.endpoint)?;
    let answers = client::ask::<Doctor>(&endpoints, "/v1/doctor")?;
    client::need_one(&answers)?;
    let answers = answers.into_iter();
    Ok(answers
        .filter_map(|answer| Some((Some(answer.endpoint.to_string()), answer.result.ok()?)))
        .collect())
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
        ask_jvms: false,
        btf: args.attach.btf.clone(),
        pin: None,
    });
    match started {
        Ok(session) => complete(session.doctor(), args.attach.btf.as_deref(), None),
        Err(error) => complete(None, args.attach.btf.as_deref(), Some(error.to_string())),
    }
}

/// Fills in what the session does not know; `error` says why there is none.
fn complete(known: Option<Doctor>, btf: Option<&Path>, error: Option<String>) -> Doctor {
    let system = uname();
    let release = system.release().to_string_lossy().into_owned();
    let mut doctor = known.unwrap_or_else(|| Doctor {
        schema: SCHEMA,
        kernel: String::new(),
        architecture: String::new(),
        btf: String::new(),
        lockdown: None,
        capabilities: Vec::new(),
        events: Vec::new(),
        degraded: Vec::new(),
        accounting: Default::default(),
        usable: error.is_none(),
    });
    let fill = |field: &mut String, value: &dyn Fn() -> String| {
        if field.is_empty() {
            *field = value();
        }
    };
    fill(&mut doctor.kernel, &|| release.clone());
    fill(&mut doctor.architecture, &|| {
        system.machine().to_string_lossy().into_owned()
    });
    fill(&mut doctor.btf, &|| describe_btf(btf));
    if doctor.lockdown.is_none() {
        doctor.lockdown = fs::read_to_string(LOCKDOWN)
            .ok()
            .and_then(|text| chosen(&text));
    }
    if doctor.capabilities.is_empty() {
        doctor.capabilities = capabilities(kernel_version(&release).unwrap_or((0, 0)));
    }
    doctor.degraded.extend(error);
    if let Some(reason) = user_namespace() {
        doctor.degraded.push(reason);
    }
    doctor
}

fn describe_btf(given: Option<&Path>) -> String {
    let path = given.unwrap_or(Path::new(BTF));
    match fs::metadata(path) {
        Ok(meta) => format!("{} ({} bytes)", path.display(), meta.len()),
        Err(error) => format!(
            "none: {}: {error}; the kernel needs CONFIG_DEBUG_INFO_BTF, or give a file with --btf",
            path.display()
        ),
    }
}

/// The word in brackets, as in `none [integrity] confidentiality`.
fn chosen(text: &str) -> Option<String> {
    let (_, rest) = text.split_once('[')?;
    let (word, _) = rest.split_once(']')?;
    Some(word.to_owned())
}

/// Capabilities of a user namespace are not those of the host.
fn user_namespace() -> Option<String> {
    let map = fs::read_to_string("/proc/self/uid_map").ok()?;
    let all: Vec<&str> = map.split_ascii_whitespace().collect();
    (all != ["0", "0", "4294967295"]).then(|| {
        "this process runs in a user namespace, whose capabilities do not count for eBPF: run it \
         as the host's root, or in a privileged container"
            .to_owned()
    })
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
        .unwrap_or("unknown: securityfs is not mounted");
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
    use crate::report::{Capability, Refusal};

    fn doctor() -> Doctor {
        Doctor {
            schema: SCHEMA,
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

    #[test]
    fn without_a_session_the_reason_and_the_facts_remain() {
        let doctor = complete(None, None, Some("CAP_BPF is missing".to_owned()));
        assert!(!doctor.usable);
        assert!(doctor.degraded.contains(&"CAP_BPF is missing".to_owned()));
        assert!(!doctor.kernel.is_empty() && !doctor.architecture.is_empty());
        assert!(!doctor.capabilities.is_empty());
        let missing = complete(None, Some(Path::new("/no/btf")), None);
        assert!(missing.btf.starts_with("none: /no/btf"), "{}", missing.btf);
    }

    #[test]
    fn the_lockdown_in_force_is_the_one_in_brackets() {
        assert_eq!(
            chosen("none [integrity] confidentiality\n").as_deref(),
            Some("integrity")
        );
        assert_eq!(chosen("none"), None);
    }
}
