//! Compiles the lists of system calls to the filters that the kernel runs. Part of the build script.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read};

use libseccomp::error::SeccompError;
use libseccomp::{ScmpAction, ScmpArch, ScmpArgCompare, ScmpCompareOp, ScmpFilterContext, ScmpSyscall};
use serde::Deserialize;

/// An instruction of a filter, as linux/filter.h has it: code, two distances, and a constant.
pub type Instruction = (u16, u8, u8, u32);

/// The lists cannot be compiled.
#[derive(Debug, thiserror::Error)]
pub enum ListError {
    /// Not TOML, or not of the form that its head describes.
    #[error(transparent)]
    Form(#[from] toml::de::Error),
    /// A list includes what is not there, or itself.
    #[error("{list}: includes {included:?}, which is no other list")]
    Include {
        /// Who includes.
        list: String,
        /// What it includes.
        included: String,
    },
    /// A rule.
    #[error("{list}: {call}: {what}")]
    Rule {
        /// Where it is.
        list: String,
        /// The system call.
        call: String,
        /// What is wrong.
        what: String,
    },
    /// The library that makes the filters.
    #[error("{0}: no filter can be made: {1}")]
    Library(String, #[source] SeccompError),
    /// What it has made cannot be had.
    #[error("{0}: the filter cannot be read")]
    Export(String, #[source] io::Error),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Lists {
    parts: BTreeMap<String, List>,
    threads: BTreeMap<String, List>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct List {
    #[serde(rename = "why")]
    _why: String,
    #[serde(default)]
    includes: Vec<String>,
    calls: BTreeMap<String, Entry>,
}

#[derive(Deserialize)]
#[serde(
    untagged,
    expecting = "a reason, or a table with `why` and any of `argument`, `is`, `lacks` and `answer`"
)]
enum Entry {
    Any(#[expect(dead_code, reason = "reasons are for readers")] String),
    Some(Rule),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Rule {
    #[serde(rename = "why")]
    _why: String,
    argument: Option<u32>,
    #[serde(default)]
    is: Vec<String>,
    lacks: Option<String>,
    answer: Option<String>,
}

/// What happens to a call, and for which values of an argument.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Case {
    action: ScmpAction,
    condition: Option<Condition>,
}

/// An argument has this value under this mask.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Condition {
    argument: u32,
    mask: u64,
    value: u64,
}

/// Compiles the filter of each kind of thread.
///
/// # Errors
/// What is wrong with the lists, with its place.
pub fn compile(text: &str) -> Result<BTreeMap<String, Vec<Instruction>>, ListError> {
    let lists: Lists = toml::from_str(text)?;
    let compiled = lists.threads.keys().map(|name| {
        let mut cases = BTreeMap::new();
        collect(&lists, name, &mut BTreeSet::new(), &mut cases)?;
        let filter = filter(name, &cases)?;
        Ok((name.clone(), filter))
    });
    compiled.collect()
}

/// Adds what the list has, and what those have that it includes.
fn collect(
    lists: &Lists,
    name: &str,
    seen: &mut BTreeSet<String>,
    cases: &mut BTreeMap<String, Vec<Case>>,
) -> Result<(), ListError> {
    let Some(list) = lists.threads.get(name).or_else(|| lists.parts.get(name)) else {
        unreachable!("whoever includes it has looked");
    };
    // What several lists include is there once.
    if !seen.insert(name.to_owned()) {
        return Ok(());
    }
    for included in &list.includes {
        if included == name || !(lists.threads.contains_key(included) || lists.parts.contains_key(included)) {
            return Err(ListError::Include {
                list: name.to_owned(),
                included: included.clone(),
            });
        }
        collect(lists, included, seen, cases)?;
    }
    for (call, entry) in &list.calls {
        let new = entry_cases(entry).map_err(|what| ListError::Rule {
            list: name.to_owned(),
            call: call.clone(),
            what,
        })?;
        cases.entry(call.clone()).or_default().extend(new);
    }
    Ok(())
}

fn entry_cases(entry: &Entry) -> Result<Vec<Case>, String> {
    let Entry::Some(rule) = entry else {
        return Ok(vec![Case {
            action: ScmpAction::Allow,
            condition: None,
        }]);
    };
    let action = match &rule.answer {
        None => ScmpAction::Allow,
        Some(name) => ScmpAction::Errno(i32::try_from(number(name)?).map_err(|error| error.to_string())?),
    };
    let values = rule
        .is
        .iter()
        .map(|names| Ok((u64::from(u32::MAX), bits(names)?)));
    let mut masks: Vec<(u64, u64)> = values.collect::<Result<_, String>>()?;
    if let Some(names) = &rule.lacks {
        masks.push((bits(names)?, 0));
    }
    match (rule.argument, masks.is_empty()) {
        (None, true) if rule.answer.is_some() => Ok(vec![Case {
            action,
            condition: None,
        }]),
        (Some(argument @ 0..6), false) if rule.is.is_empty() || rule.lacks.is_none() => Ok(masks
            .into_iter()
            .map(|(mask, value)| Case {
                action,
                condition: Some(Condition {
                    argument,
                    mask,
                    value,
                }),
            })
            .collect()),
        _ => Err("`argument`, from 0 to 5, goes with either `is` or `lacks`".to_owned()),
    }
}

fn filter(list: &str, cases: &BTreeMap<String, Vec<Case>>) -> Result<Vec<Instruction>, ListError> {
    let library = |error| ListError::Library(list.to_owned(), error);
    let mut filter = ScmpFilterContext::new(ScmpAction::KillProcess).map_err(library)?;
    // Calls of other kinds (32 bits, x32) are none of the VMM's.
    filter.set_act_badarch(ScmpAction::KillProcess).map_err(library)?;
    if !filter.is_arch_present(ScmpArch::X8664).map_err(library)? {
        filter.add_arch(ScmpArch::X8664).map_err(library)?;
        filter.remove_arch(ScmpArch::Native).map_err(library)?;
    }
    // A binary tree: when a filter is installed, the kernel runs it for every system call there is.
    filter.set_ctl_optimize(2).map_err(library)?;
    for (call, cases) in cases {
        let wrong = |what: String| ListError::Rule {
            list: list.to_owned(),
            call: call.clone(),
            what,
        };
        let number = ScmpSyscall::from_name(call).map_err(|_| wrong("is no system call".to_owned()))?;
        for case in wanted(cases).map_err(wrong)? {
            let comparison = case.condition.map(|condition| {
                let Condition {
                    argument,
                    mask,
                    value,
                } = condition;
                ScmpArgCompare::new(argument, ScmpCompareOp::MaskedEqual(mask), value)
            });
            filter
                .add_rule_conditional_exact(case.action, number, comparison.as_slice())
                .map_err(library)?;
        }
    }
    let program = export(&filter).map_err(|error| ListError::Export(list.to_owned(), error))?;
    Ok(program
        .chunks_exact(8)
        .map(|bytes| {
            let [a, b, jump_true, jump_false, rest @ ..] = bytes else {
                unreachable!("chunks of eight bytes");
            };
            let constant = rest.try_into().expect("the other four of eight bytes");
            (
                u16::from_ne_bytes([*a, *b]),
                *jump_true,
                *jump_false,
                u32::from_ne_bytes(constant),
            )
        })
        .collect())
}

fn export(filter: &ScmpFilterContext) -> io::Result<Vec<u8>> {
    // It takes a descriptor. A pipe holds 64 KiB, and the longest filter that the kernel takes has 32.
    let (mut reader, writer) = io::pipe()?;
    filter.export_bpf(&writer).map_err(io::Error::other)?;
    drop(writer);
    let mut program = Vec::new();
    reader.read_to_end(&mut program)?;
    Ok(program)
}

/// The cases of a call from all lists together. What one list allows, another one's answer does not take away; what one
/// allows whatever the arguments are needs no comparison.
fn wanted(cases: &[Case]) -> Result<Vec<Case>, String> {
    if let Some(any) = cases
        .iter()
        .find(|case| case.condition.is_none() && case.action == ScmpAction::Allow)
    {
        return Ok(vec![*any]);
    }
    let mut wanted: Vec<Case> = Vec::new();
    for case in cases {
        match wanted.iter().find(|other| other.condition == case.condition) {
            Some(other) if other.action != case.action => {
                return Err("two lists differ in what happens to it".to_owned());
            }
            Some(_) => {}
            None => wanted.push(*case),
        }
    }
    if wanted.len() > 1 && wanted.iter().any(|case| case.condition.is_none()) {
        return Err("it is answered whatever its arguments are, and allowed for some".to_owned());
    }
    Ok(wanted)
}

/// The bits that names joined by `|` stand for.
fn bits(names: &str) -> Result<u64, String> {
    names
        .split('|')
        .try_fold(0, |bits, name| Ok(bits | number(name)?))
}

/// What a name of the C library stands for.
fn number(name: &str) -> Result<u64, String> {
    macro_rules! numbers {
        ($($name:ident)*) => {
            match name {
                $(stringify!($name) => u64::try_from(libc::$name).map_err(|error| error.to_string()),)*
                // A function of the C library, which takes the first two of the kernel's.
                "SIGRTMIN" => u64::try_from(libc::SIGRTMIN()).map_err(|error| error.to_string()),
                _ => Err(format!("{name} is not among the names that vmm/seccomp/compiler.rs knows")),
            }
        };
    }
    numbers!(
        AF_UNIX
        CLONE_CHILD_CLEARTID CLONE_FILES CLONE_FS CLONE_PARENT_SETTID CLONE_SETTLS CLONE_SIGHAND CLONE_SYSVSEM
        CLONE_THREAD CLONE_VM
        ENOENT ENOSYS
        F_DUPFD_CLOEXEC F_GETFD F_GETFL F_SETFL
        O_CLOEXEC O_RDONLY
        PROT_EXEC
        PR_SET_NAME
        SECCOMP_SET_MODE_FILTER
        SIGABRT
    )
}
