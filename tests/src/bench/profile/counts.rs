//! What bulkhead-profiler has counted.

use std::collections::BTreeMap;

use super::symbols::Symbols;

/// Kernels are in the upper half of all addresses.
const KERNEL: u64 = 1 << 63;

/// Functions of the host's kernel that do nothing but clear memory, or copy it.
const CLEAR: [&str; 3] = ["clear_page", "memset", "__memset"];
const COPY: [&str; 5] = ["copy_", "_copy_", "__copy_", "rep_movs", "memcpy"];

/// Who executed instructions, and what for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// Programs on the host: the VMM, the runtime, and the stopwatch.
    HostPrograms,
    /// The host's kernel clears memory.
    HostClears,
    /// The host's kernel copies memory.
    HostCopies,
    /// KVM.
    Kvm,
    /// All else of the host's kernel.
    HostKernel,
    /// The guest's kernel.
    GuestKernel,
    /// The guest's programs.
    GuestPrograms,
}

impl Part {
    /// All, from the host's programs to the guest's.
    pub const ALL: [Self; 7] = [
        Self::HostPrograms,
        Self::HostKernel,
        Self::HostClears,
        Self::HostCopies,
        Self::Kvm,
        Self::GuestKernel,
        Self::GuestPrograms,
    ];

    /// What it is called.
    pub fn name(self) -> &'static str {
        match self {
            Self::HostPrograms => "the host's programs",
            Self::HostKernel => "the host's kernel, but for what follows",
            Self::HostClears => "the host's kernel clears memory",
            Self::HostCopies => "the host's kernel copies memory",
            Self::Kvm => "the host's KVM",
            Self::GuestKernel => "the guest's kernel",
            Self::GuestPrograms => "the guest's programs",
        }
    }

    fn of(is_guest: bool, address: u64, function: &str) -> Self {
        let is_any = |prefixes: &[&str]| prefixes.iter().any(|prefix| function.starts_with(prefix));
        match (is_guest, address >= KERNEL) {
            (true, true) => Self::GuestKernel,
            (true, false) => Self::GuestPrograms,
            (false, false) => Self::HostPrograms,
            (false, true) if is_any(&CLEAR) => Self::HostClears,
            (false, true) if is_any(&COPY) => Self::HostCopies,
            (false, true) if function.ends_with("[kvm]") || function.ends_with("[kvm_amd]") => Self::Kvm,
            (false, true) => Self::HostKernel,
        }
    }
}

/// What was executed between two marks.
#[derive(Debug, Default, PartialEq)]
pub struct Counts {
    /// Instructions by part and function; programs have no names of functions.
    pub functions: BTreeMap<(Part, String), u64>,
    /// How often the host entered a guest.
    pub entries: u64,
}

impl Counts {
    /// Everything that was counted, in order. None if a line is none of the profiler's.
    pub fn parse(text: &str, host: &Symbols, guest: &Symbols) -> Option<Vec<Self>> {
        let mut all = Vec::new();
        let mut counts = Self::default();
        for line in text.lines() {
            let words: Vec<&str> = line.split(' ').collect();
            match words[..] {
                [world @ ("host" | "guest"), address, count] => {
                    let is_guest = world == "guest";
                    let address = u64::from_str_radix(address, 16).ok()?;
                    let symbols = if is_guest { guest } else { host };
                    let function = if address >= KERNEL {
                        symbols.function(address)
                    } else {
                        None
                    };
                    let function = function.unwrap_or_default();
                    let part = Part::of(is_guest, address, function);
                    *counts.functions.entry((part, function.to_owned())).or_default() +=
                        count.parse::<u64>().ok()?;
                }
                ["entries", count] => counts.entries = count.parse().ok()?,
                ["end"] => all.push(std::mem::take(&mut counts)),
                _ => return None,
            }
        }
        Some(all)
    }

    /// Of a part, milliseconds of virtual time.
    pub fn milliseconds(&self, part: Part) -> f64 {
        self.of(part).map(|(_, milliseconds)| milliseconds).sum()
    }

    /// Of all.
    pub fn total_milliseconds(&self) -> f64 {
        Part::ALL.iter().map(|part| self.milliseconds(*part)).sum()
    }

    /// The functions of a part, those first that take most.
    pub fn largest(&self, part: Part) -> Vec<(&str, f64)> {
        let mut functions: Vec<_> = self.of(part).collect();
        functions.sort_by(|(_, one), (_, other)| other.total_cmp(one));
        functions
    }

    /// The functions of a part, and their milliseconds of virtual time, in which one instruction is one nanosecond.
    fn of(&self, part: Part) -> impl Iterator<Item = (&str, f64)> {
        self.functions
            .iter()
            .filter(move |((of, _), _)| *of == part)
            .map(|((_, function), count)| (function.as_str(), *count as f64 / 1e6))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: &str = "ffffffff81000000 t do_idle\nffffffff81000100 t clear_page_orig\nffffffff81000200 t rep_movs_alternative\n\
        ffffffffc0000000 t vcpu_run\t[kvm]\n";

    #[test]
    fn blocks_are_counted_by_part_and_function() {
        let text = "host ffffffff81000000 1000000\nhost ffffffff81000110 2000000\nhost ffffffff81000200 4000000\n\
            host ffffffffc0000008 8000000\nhost ffffffffc0000010 500000\nguest ffffffff81000000 16000000\nhost 400000 32000000\n\
            guest 400000 64000000\nentries 7\nend\nentries 0\nend\n";
        let guest = Symbols::parse("ffffffff80200000 T start_kernel\n");
        let all = Counts::parse(text, &Symbols::parse(HOST), &guest).unwrap();
        assert_eq!((all.len(), all[0].entries), (2, 7));
        let parts = Part::ALL.map(|part| all[0].milliseconds(part));
        assert_eq!(parts, [32.0, 1.0, 2.0, 4.0, 8.5, 16.0, 64.0]);
        assert_eq!(all[0].largest(Part::Kvm), [("vcpu_run [kvm]", 8.5)]);
        assert_eq!(all[0].largest(Part::GuestKernel), [("start_kernel", 16.0)]);
        assert_eq!(all[1], Counts::default());
    }

    #[test]
    fn what_is_not_the_profilers_is_refused() {
        let none = Symbols::default();
        for text in ["host", "host x 1", "host 1 -1", "entries", "words"] {
            assert_eq!(Counts::parse(text, &none, &none), None, "{text}");
        }
    }
}
