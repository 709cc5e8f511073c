//! Names of a kernel's functions.

/// A kernel's functions by address.
#[derive(Debug, Default)]
pub struct Symbols {
    /// In the order of addresses.
    functions: Vec<(u64, String)>,
}

impl Symbols {
    /// From lines as in `/proc/kallsyms` and System.map: address, kind, name, and the module if it is in one. Lines that are
    /// not about functions are left out.
    pub fn parse(text: &str) -> Self {
        let mut functions: Vec<(u64, String)> = text.lines().filter_map(function).collect();
        functions.sort();
        // Of several names of one address the first will do.
        functions.dedup_by_key(|(address, _)| *address);
        Self { functions }
    }

    /// The function that has code at this address.
    pub fn function(&self, address: u64) -> Option<&str> {
        let behind = self.functions.partition_point(|(begin, _)| *begin <= address);
        let (_, name) = self.functions.get(behind.checked_sub(1)?)?;
        Some(name)
    }
}

/// Whether a line of `/proc/kallsyms` is about a function, and more than the padding before one.
pub fn is_function(line: &str) -> bool {
    function(line).is_some()
}

fn function(line: &str) -> Option<(u64, String)> {
    let mut words = line.split_whitespace();
    let (address, kind, name) = (words.next()?, words.next()?, words.next()?);
    if !matches!(kind, "t" | "T" | "w" | "W") || name.starts_with("__pfx_") {
        return None;
    }
    let module = words
        .next()
        .map(|module| format!(" {module}"))
        .unwrap_or_default();
    Some((u64::from_str_radix(address, 16).ok()?, format!("{name}{module}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_in_the_function_before_it() {
        let symbols = Symbols::parse(
            "ffffffff81000010 T second\nffffffff81000000 t first\nffffffff81000018 d data\n\
             ffffffff81000008 t __pfx_second\nffffffffc0000000 t kvm_run\t[kvm]\n",
        );
        assert_eq!(symbols.function(0xffff_ffff_8100_000f), Some("first"));
        assert_eq!(symbols.function(0xffff_ffff_8100_0010), Some("second"));
        assert_eq!(symbols.function(0xffff_ffff_8100_0019), Some("second"));
        assert_eq!(symbols.function(0xffff_ffff_c000_0001), Some("kvm_run [kvm]"));
        assert_eq!(symbols.function(0x1000), None);
    }
}
