//! What strangers put before tracer and was refused, counted by what it was and why.
//!
//! The list is closed: nothing that a stranger says becomes a name here, so that coverage and metrics
//! stay as small as it is. Whoever reads something with a bound counts here when the bound was
//! passed, where the reading is done and not in what only parses. What events are lost by full
//! maps and rings of the kernel side is counted there (`tracer_ebpf::Counter`).

use std::sync::atomic::{AtomicU64, Ordering};

/// Declares the refusals: name, what was refused, why.
macro_rules! refusals {
    ($($(#[$doc:meta])* $name:ident: $what:literal, $reason:literal;)*) => {
        /// Something that was refused, and why.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Refusal {
            $($(#[$doc])* $name,)*
        }

        impl Refusal {
            /// All of them.
            pub const ALL: &[Refusal] = &[$(Refusal::$name,)*];

            /// What was refused.
            #[must_use]
            pub const fn what(self) -> &'static str {
                match self { $(Refusal::$name => $what,)* }
            }

            /// Why.
            #[must_use]
            pub const fn reason(self) -> &'static str {
                match self { $(Refusal::$name => $reason,)* }
            }
        }
    };
}

refusals! {
    /// More segments than a program has.
    Segments: "executable", "too_many_segments";
    /// A table of its headers is beyond its end.
    ExecutableCutOff: "executable", "cut_off";
    /// A file larger than any program.
    ExecutableSize: "executable", "too_large";
    /// The file can't be read.
    ExecutableUnreadable: "executable", "unreadable";
    /// More sections than a linked program has; the program is read without.
    Sections: "sections", "too_many";
    /// The table of sections is beyond the file's end, or has entries of another size.
    SectionsCutOff: "sections", "cut_off";
    /// The table of the sections' names is larger than any, or a name is.
    SectionNames: "sections", "names_too_long";
    /// A build id longer than any linker writes.
    BuildId: "build_id", "too_long";
    /// Frame descriptions are larger than what is read of a file at once, or the file has shrunk.
    FrameTable: "frame_table", "unreadable";
    /// Frame descriptions of all files together found no room.
    FrameTableRoom: "frame_table", "no_room";
    /// Symbols or their names are larger than what is read of a file.
    Symbols: "symbols", "too_large";
    /// Symbols with names that take too long to search.
    SymbolsSlow: "symbols", "too_slow";
    /// More relocations than a program has, or tables that overlap.
    Relocations: "relocations", "too_many";
    /// Compressed debug information whose header can't be true.
    Compression: "debug_information", "compression";
    /// Debug information that unpacks to more than is read.
    DebugInfoSize: "debug_information", "too_large";
    /// The reader ended over it.
    ReaderEnded: "debug_information", "reader_ended";
    /// It took longer than the reader has.
    ReaderSlow: "debug_information", "too_slow";
    /// What the reader said made no sense.
    ReaderNonsense: "debug_information", "nonsense";
    /// No reader could be started.
    ReaderMissing: "debug_information", "no_reader";
    /// The time that naming the stacks of one process, or of all, may take is used up; asked again later.
    ReaderTime: "names", "no_time";
    /// A perf map larger than what is read of it.
    PerfMapSize: "perf_map", "too_large";
    /// A perf map that is written again and again; not read at this moment.
    PerfMapChanging: "perf_map", "changing";
    /// A perf map that is a link, a pipe or another user's file.
    PerfMapForeign: "perf_map", "not_its_own";
    /// A list of mappings that is cut, or more executable mappings than are kept.
    Mappings: "mappings", "too_many";
    /// A long list of mappings that is not read again at this moment.
    MappingsOften: "mappings", "too_often";
    /// A file that found no room for its name in stacks.
    ModuleRoom: "module", "no_room";
    /// A stack beyond the share of its process.
    StackRoom: "stack", "no_room";
    /// A stack of a process that has taken as much time as it may; taken the next time.
    StackTime: "stack", "no_time";
    /// A population that found no room.
    PopulationRoom: "population", "no_room";
    /// A request's text that found no room.
    RequestRoom: "request", "no_room";
    /// A Go program without tables that can be used.
    GoTables: "go_program", "tables";
    /// An interpreter or virtual machine whose tables make no sense or are of no known version.
    Interpreter: "interpreter", "not_understood";
    /// A library that lacks a function of its kind, or can't be probed.
    Library: "library", "not_probed";
    /// More libraries to probe than there is room for.
    LibraryRoom: "library", "no_room";
    /// A client while all places were taken.
    ClientPlaces: "client", "no_place";
    /// A client whose address has as many connections as it may.
    ClientAddress: "client", "too_many_of_address";
    /// A client that took too long to say what it wants.
    ClientSlow: "client", "too_slow";
    /// A client that did not speak HTTP, or with too large a head.
    ClientNonsense: "client", "nonsense";
    /// A client that held its connection for too long.
    ClientLong: "client", "too_long";
    /// A request addressed to another host.
    ClientHost: "client", "unknown_host";
    /// A request without the token.
    ClientToken: "client", "no_token";
    /// A request while too many waited.
    ClientBusy: "client", "too_busy";
    /// A request for more than is listed.
    ClientLimit: "client", "limit_lowered";
    /// What an earlier daemon kept, or somebody else pinned, can't be read.
    SavedState: "saved_state", "unreadable";
}

static COUNTS: [AtomicU64; Refusal::ALL.len()] = [const { AtomicU64::new(0) }; Refusal::ALL.len()];

impl Refusal {
    /// Counts it.
    pub fn count(self) {
        // the order of variants is that of ALL
        if let Some(count) = COUNTS.get(self as usize) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// How often it was counted since this process began.
    #[must_use]
    pub fn times(self) -> u64 {
        COUNTS
            .get(self as usize)
            .map_or(0, |count| count.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::Refusal;

    #[test]
    fn each_has_a_name_of_its_own_and_a_count() {
        let names: BTreeSet<_> = Refusal::ALL
            .iter()
            .map(|refusal| (refusal.what(), refusal.reason()))
            .collect();
        assert_eq!(names.len(), Refusal::ALL.len());
        for (number, refusal) in Refusal::ALL.iter().enumerate() {
            assert_eq!(*refusal as usize, number);
        }
        let before = Refusal::Relocations.times();
        Refusal::Relocations.count();
        assert!(Refusal::Relocations.times() > before);
    }
}
