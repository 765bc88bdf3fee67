//! What a daemon gives up once it has its sockets and before it reads what strangers wrote.

use rustix::{
    io,
    thread::{
        CapabilitySet, CapabilitySets, capabilities, capability_is_in_bounding_set,
        remove_capability_from_bounding_set, set_capabilities, set_no_new_privs,
    },
};

/// What watching takes; docs/security.md says for what, and what fails without each.
const TO_WATCH: CapabilitySet = CapabilitySet::BPF
    .union(CapabilitySet::PERFMON)
    .union(CapabilitySet::SYS_PTRACE)
    .union(CapabilitySet::DAC_READ_SEARCH)
    .union(CapabilitySet::CHECKPOINT_RESTORE)
    .union(CapabilitySet::SYS_RESOURCE)
    .union(CapabilitySet::SYS_ADMIN)
    .union(CapabilitySet::KILL);
/// What asking virtual machines for their maps takes: a file of the user's in the user's folder, and
/// a signal.
const TO_ASK_JVMS: CapabilitySet = CapabilitySet::CHOWN.union(CapabilitySet::DAC_OVERRIDE);
/// What a reader process needs to become nobody. The daemon passes them on and never has them in
/// effect: a program started without new privileges gets no more than its parent was permitted.
const FOR_READERS: CapabilitySet = CapabilitySet::SETUID
    .union(CapabilitySet::SETGID)
    .union(CapabilitySet::SETPCAP);

/// Gives up every capability that watching does not take, in this thread and in those that it starts
/// from here on, and for good: neither this process nor one that it starts can get them back.
/// Privileges that it never had stay missing.
///
/// # Errors
/// What the kernel answered when the sets could not be set: they are as they were.
pub fn keep_what_watching_takes(asks_jvms: bool) -> io::Result<()> {
    let mut kept = TO_WATCH;
    if asks_jvms {
        kept = kept.union(TO_ASK_JVMS);
    }
    for capability in CapabilitySet::all()
        .difference(kept.union(FOR_READERS))
        .iter()
    {
        if capability_is_in_bounding_set(capability).unwrap_or(false) {
            // Refused without CAP_SETPCAP: then this process can't give it to another either.
            let _ = remove_capability_from_bounding_set(capability);
        }
    }
    set_no_new_privs(true)?;
    let held = capabilities(None)?;
    set_capabilities(
        None,
        CapabilitySets {
            effective: held.effective.intersection(kept),
            permitted: held.permitted.intersection(kept.union(FOR_READERS)),
            inheritable: CapabilitySet::empty(),
        },
    )
}
