//! Taking over from an earlier daemon whose maps and links are pinned.

use super::{Btf, Pins, ProbeError, Probes, Table, Tables};
use crate::kernel::plan::{FENTRY, KPROBE};

impl Probes {
    /// Pins what was attached, and lets it collect in place of what an earlier daemon left.
    pub(super) fn take_over(&mut self, generation: u32) -> Result<(), ProbeError> {
        let Some(pins) = &self.pins else {
            return Ok(());
        };
        let names: Vec<String> = self.links.iter().map(|(_, name, _)| name.clone()).collect();
        let links = self.links.drain(..).map(|(_, name, link)| (name, link));
        pins.pin_links(generation, links)?;
        let active: Table<u32, u32> = Tables {
            ebpf: &self.ebpf,
            capacities: &mut self.capacities,
        }
        .table("ACTIVE")?;
        active
            .set(&0, &generation)
            .map_err(|e| ProbeError::Load(format!("map ACTIVE: {e}")))?;
        pins.drop_other_links(generation)?;
        // A trampoline that changes lets calls that are in it return past its programs, the old and
        // the new ones (bpf_tramp_image_put in kernel/bpf/trampoline.c); so does a kretprobe.
        let at_return = |backend: &str| backend == FENTRY || backend == KPROBE;
        let events = self.events.iter().filter(|e| at_return(e.backend));
        let events: Vec<&str> = events.map(|e| e.event).collect();
        if pins.resumed() && !events.is_empty() {
            self.degraded.push(format!(
                "{}: calls that were under way when this daemon took over from the one before it \
                 may not have been seen",
                events.join(", ")
            ));
        }
        let held: Vec<&String> = self
            .attached
            .iter()
            .filter(|a| !names.contains(a))
            .collect();
        if !held.is_empty() {
            let held: Vec<&str> = held.into_iter().map(String::as_str).collect();
            self.degraded.push(format!(
                "pins: {} can't be pinned on this kernel (perf events, before 5.15) and do not \
                 collect while the daemon is away",
                held.join(", ")
            ));
        }
        Ok(())
    }

    /// What is kept beyond the end of this process, and where.
    #[must_use]
    pub fn pins(&self) -> Option<&Pins> {
        self.pins.as_ref()
    }
}

/// Whether kprobes are attached by links, which can be pinned (5.15).
pub fn has_perf_links(btf: &Btf) -> bool {
    btf.enumerator("bpf_link_type", "BPF_LINK_TYPE_PERF_EVENT")
        .is_some()
}
