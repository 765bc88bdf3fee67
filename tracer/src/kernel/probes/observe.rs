//! Attaching, event by event, what the plan prefers and this kernel takes.

use std::path::Path;

use aya::{Btf as AyaBtf, programs::Program};

use super::{Btf, ProbeError, Probes, Setup};
use crate::kernel::{
    attach::{AttachError, HandOut, attach},
    observed::{Observed, Refused},
    plan::{Attach, Choice, Event, KPROBE, NONE, Probe, SYSCALLS, unseen},
};

/// Only kernels with kprobes have this.
const KPROBES: &str = "/sys/bus/event_source/devices/kprobe/type";

impl Probes {
    /// Attaches the first choice for an event that this kernel takes.
    pub(super) fn observe(
        &mut self,
        event: &Event,
        btf: &Btf,
        aya_btf: &AyaBtf,
        setup: &Setup<'_>,
    ) -> Result<Observed, ProbeError> {
        let mut status = Observed {
            event: event.name,
            backend: NONE,
            hooks: Vec::new(),
            lost: None,
            refused: Vec::new(),
        };
        let mut better: Vec<&str> = Vec::new();
        let left_out = setup.without.iter().any(|without| without == event.name);
        for choice in event.ways(setup.backend).filter(|_| !left_out) {
            let backend = choice.backend();
            let Some(first) = choice.probes.first() else {
                continue;
            };
            if backend == SYSCALLS && !setup.trace_syscalls {
                status.refused.push(Refused {
                    backend,
                    hook: first.hook,
                    error: "it slows every system call of the host down, so it is used only \
                            with --trace-syscalls"
                        .to_owned(),
                    would_add: choice.would_add(),
                });
                continue;
            }
            if !fits(choice, btf) {
                continue;
            }
            match self.attach_all(choice, btf, aya_btf) {
                Ok(()) => {
                    status.backend = backend;
                    status.hooks = choice.probes.iter().map(|p| p.hook).collect();
                    break;
                }
                Err((probe, error)) => {
                    if !choice.adds.is_empty() {
                        better.push(choice.adds);
                    }
                    status.refused.push(Refused {
                        backend,
                        hook: probe.hook,
                        error: error.to_string(),
                        would_add: choice.would_add(),
                    });
                }
            }
        }
        if status.backend == NONE {
            let Some(without) = event.without else {
                let refused: Vec<String> = status
                    .refused
                    .iter()
                    .map(|r| format!("{}: {}", r.hook, r.error))
                    .collect();
                return Err(ProbeError::Refused {
                    event: event.name,
                    refused: refused.join("; "),
                });
            };
            status.lost = Some(without.to_owned());
        } else if !better.is_empty() {
            better.dedup();
            status.lost = Some(better.join("; "));
        }
        if let Some(lost) = &status.lost {
            self.degraded.push(format!("{}: {lost}", event.name));
        } else {
            status.lost = unseen(event.name).map(str::to_owned);
        }
        Ok(status)
    }

    fn attach_all(
        &mut self,
        choice: &Choice,
        btf: &Btf,
        aya_btf: &AyaBtf,
    ) -> Result<(), (Probe, AttachError)> {
        let mut done: Vec<(&str, String)> = Vec::new();
        for probe in choice.probes {
            let name = probe_name(probe);
            if self.attached.contains(&name) {
                continue;
            }
            if let Err(error) = self.attach(probe, btf, aya_btf) {
                // all of a choice or nothing of it, else events would be counted twice
                for (program, name) in done {
                    self.unload(program);
                    self.attached.retain(|attached| *attached != name);
                }
                self.unload(probe.program);
                return Err((*probe, error));
            }
            done.push((probe.program, name.clone()));
            self.attached.push(name);
        }
        Ok(())
    }

    fn attach(&mut self, probe: &Probe, btf: &Btf, aya_btf: &AyaBtf) -> Result<(), AttachError> {
        let exists = match probe.attach {
            // found out before loading: verifying takes long on old kernels
            Attach::Tracepoint | Attach::RawTracepoint | Attach::Syscalls => {
                btf.has_tracepoint(probe.hook)
            }
            _ => btf.arguments(probe.hook).is_some(),
        };
        if !exists {
            return Err(AttachError::NoHook);
        }
        if probe.attach.backend() == KPROBE && !Path::new(KPROBES).exists() {
            return Err(AttachError::NoKprobes);
        }
        let hand_out = match self.is_taken_off(probe.hook) {
            true => HandOut::Tracing,
            false => self.hand_out,
        };
        let program = self
            .ebpf
            .program_mut(probe.program)
            .ok_or(AttachError::NoProgram(probe.program))?;
        let link = attach(program, probe.hook, aya_btf, hand_out)?;
        let name = probe_name(probe);
        self.links
            .extend(link.map(|link| (probe.program, name, link)));
        Ok(())
    }

    /// Takes a program out of the kernel, with every link it has.
    fn unload(&mut self, program: &str) {
        self.links.retain(|(of, ..)| *of != program);
        let unloaded = match self.ebpf.program_mut(program) {
            Some(Program::BtfTracePoint(p)) => p.unload(),
            Some(Program::RawTracePoint(p)) => p.unload(),
            Some(Program::FEntry(p)) => p.unload(),
            Some(Program::FExit(p)) => p.unload(),
            Some(Program::KProbe(p)) => p.unload(),
            _ => Ok(()),
        };
        if let Err(error) = unloaded {
            tracing::debug!(program, %error, "was not loaded");
        }
    }
}

/// Whether the functions have the numbers of arguments that the programs were written for; one
/// that is missing is for attaching to complain about.
fn fits(choice: &Choice, btf: &Btf) -> bool {
    choice.probes.iter().all(|probe| match probe.attach {
        Attach::Fexit { arguments } | Attach::KprobeOf { arguments } => {
            btf.arguments(probe.hook).is_none_or(|n| n == arguments)
        }
        _ => true,
    })
}

fn probe_name(probe: &Probe) -> String {
    format!("{}@{}", probe.program, probe.hook)
}
