//! The files of a container's cgroup (version 2) in the guest, as the guest's kernel shows them.

use std::collections::BTreeMap;

use bulkhead_agent_protocol::messages::CgroupFile;

/// Files by their names. One that is not there has nothing to say.
pub struct CgroupFiles(BTreeMap<String, String>);

/// The numbers of a file with lines of a key and a number.
pub struct Counts(pub BTreeMap<String, u64>);

/// A line of `io.stat`: the numbers of a device, and what is counted of it.
pub struct DeviceCounts<'a> {
    /// First part of the device's number.
    pub major: u64,
    /// Second part of the device's number.
    pub minor: u64,
    /// Keys and numbers, in the line's order.
    pub counts: Vec<(&'a str, u64)>,
}

impl CgroupFiles {
    /// Those that the agent has sent.
    pub fn new(files: Vec<CgroupFile>) -> Self {
        Self(files.into_iter().map(|file| (file.name, file.content)).collect())
    }

    /// What a file says.
    pub fn text(&self, name: &str) -> &str {
        self.0.get(name).map_or("", String::as_str)
    }

    /// The number that a file says, if it says one.
    pub fn number(&self, name: &str) -> Option<u64> {
        number(self.text(name))
    }

    /// The number that a file says, zero if none.
    pub fn value(&self, name: &str) -> u64 {
        self.number(name).unwrap_or_default()
    }

    /// A limit, the largest number where there is none.
    pub fn limit(&self, name: &str) -> u64 {
        self.number(name).unwrap_or(u64::MAX)
    }

    /// The numbers of a file with lines of a key and a number.
    pub fn counts(&self, name: &str) -> Counts {
        Counts::of(self.text(name))
    }

    /// The lines of `io.stat`, like `8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6`.
    pub fn devices(&self) -> impl Iterator<Item = DeviceCounts<'_>> {
        self.text("io.stat").lines().filter_map(|line| {
            let mut words = line.split_ascii_whitespace();
            let (major, minor) = words.next()?.split_once(':')?;
            let pairs = words.filter_map(|word| word.split_once('='));
            Some(DeviceCounts {
                major: number(major)?,
                minor: number(minor)?,
                counts: pairs
                    .map(|(key, value)| (key, number(value).unwrap_or_default()))
                    .collect(),
            })
        })
    }

    /// The sizes of huge pages: there are `hugetlb.<size>.current`, `.max` and `.events` of each.
    pub fn huge_page_sizes(&self) -> impl Iterator<Item = &str> {
        self.0.keys().filter_map(|name| {
            let size = name.strip_prefix("hugetlb.")?.strip_suffix(".current")?;
            (!size.contains('.')).then_some(size)
        })
    }
}

impl Counts {
    /// Those of a file with that text.
    pub fn of(text: &str) -> Self {
        let pair = |line: &str| {
            let (key, value) = line.split_once(' ')?;
            Some((key.to_owned(), number(value)?))
        };
        Self(text.lines().filter_map(pair).collect())
    }

    /// The number of a key, if it is there.
    pub fn find(&self, key: &str) -> Option<u64> {
        self.0.get(key).copied()
    }

    /// The number of a key, zero if it is not there.
    pub fn get(&self, key: &str) -> u64 {
        self.find(key).unwrap_or_default()
    }
}

/// The number that a text is; none for `max` and for what is no number.
pub fn number(text: &str) -> Option<u64> {
    text.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_read_from_the_files_of_a_cgroup() {
        let counts = Counts::of("usage_usec 1500000\nusage_user_usec 1\n");
        assert_eq!(counts.find("usage_usec"), Some(1_500_000));
        assert_eq!(counts.find("usage"), None);
        assert_eq!(number("42\n"), Some(42));
        assert_eq!(number("max\n"), None);
    }
}
