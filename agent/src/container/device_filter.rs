//! Decides which devices a container may use: the rules of linux.resources.devices as a BPF program on its cgroup.
//!
//! The last rule that applies to an access decides. An allowing rule applies when it covers every kind of the
//! access, a denying one when it covers any. Rules for what every container needs come after those of config.json,
//! and what no rule applies to is denied.

use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType};

use super::spec::SpecError;
use crate::syscalls::BpfInstruction;

const BLOCK: u32 = 1;
const CHARACTER: u32 = 2;
const MAKE: u32 = 1;
const READ: u32 = 2;
const WRITE: u32 = 4;
const ALL: u32 = MAKE | READ | WRITE;

/// One rule; `None` stands for every kind or number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Rule {
    allow: bool,
    kind: Option<u32>,
    major: Option<u32>,
    minor: Option<u32>,
    access: u32,
}

const fn allowed(kind: u32, major: Option<u32>, minor: Option<u32>, access: u32) -> Rule {
    Rule {
        allow: true,
        kind: Some(kind),
        major,
        minor,
        access,
    }
}

/// Any node may be made, as using it is another matter; and the devices that every container has.
const NEEDED: &[Rule] = &[
    allowed(CHARACTER, None, None, MAKE),
    allowed(BLOCK, None, None, MAKE),
    allowed(CHARACTER, Some(1), Some(3), ALL),
    allowed(CHARACTER, Some(1), Some(5), ALL),
    allowed(CHARACTER, Some(1), Some(7), ALL),
    allowed(CHARACTER, Some(1), Some(8), ALL),
    allowed(CHARACTER, Some(1), Some(9), ALL),
    allowed(CHARACTER, Some(5), Some(0), ALL),
    allowed(CHARACTER, Some(5), Some(2), ALL),
    allowed(CHARACTER, Some(136), None, ALL),
];

/// The program for the rules given.
///
/// # Errors
/// The first rule with a number or an access that is none.
pub fn compile(rules: &[LinuxDeviceCgroup]) -> Result<Vec<BpfInstruction>, SpecError> {
    let mut all = Vec::with_capacity(rules.len() + NEEDED.len());
    for (index, rule) in rules.iter().enumerate() {
        let rule = parse(index, rule)?;
        if rule.kind.is_none() {
            // It applies to everything, so nothing before it counts.
            all.clear();
        }
        all.push(rule);
    }
    all.extend_from_slice(NEEDED);
    Ok(assemble(&all))
}

fn parse(index: usize, rule: &LinuxDeviceCgroup) -> Result<Rule, SpecError> {
    let field = |name: &str| format!("linux.resources.devices[{index}].{name}");
    let number = |value: Option<i64>, name: &str| match value {
        None | Some(-1) => Ok(None),
        Some(value) => u32::try_from(value)
            .map(Some)
            .map_err(|_| SpecError::invalid(field(name), format!("{value} is no device number"))),
    };
    let kind = match rule.typ().unwrap_or_default() {
        // Like other runtimes: such a rule is for all devices, whatever numbers it has.
        LinuxDeviceType::A => {
            return Ok(Rule {
                allow: rule.allow(),
                kind: None,
                major: None,
                minor: None,
                access: ALL,
            });
        }
        LinuxDeviceType::B => BLOCK,
        LinuxDeviceType::C | LinuxDeviceType::U => CHARACTER,
        LinuxDeviceType::P => return Err(SpecError::invalid(field("type"), "\"p\" is no device")),
    };
    let mut access = 0;
    for letter in rule
        .access()
        .as_deref()
        .filter(|text| !text.is_empty())
        .unwrap_or("rwm")
        .chars()
    {
        access |= match letter {
            'r' => READ,
            'w' => WRITE,
            'm' => MAKE,
            _ => {
                return Err(SpecError::invalid(
                    field("access"),
                    format!("\"{letter}\" is none of r, w and m"),
                ));
            }
        };
    }
    Ok(Rule {
        allow: rule.allow(),
        kind: Some(kind),
        major: number(rule.major(), "major")?,
        minor: number(rule.minor(), "minor")?,
        access,
    })
}

/// Registers of the program.
const RESULT: u8 = 0;
const CONTEXT: u8 = 1;
const KIND: u8 = 2;
const ACCESS: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;
const SCRATCH: u8 = 6;

const fn load_word(destination: u8, offset: i16) -> BpfInstruction {
    // BPF_LDX | BPF_MEM | BPF_W
    instruction(0x61, destination, CONTEXT, offset, 0)
}

const fn instruction(code: u8, destination: u8, source: u8, offset: i16, immediate: i32) -> BpfInstruction {
    BpfInstruction {
        code,
        registers: destination | (source << 4),
        offset,
        immediate,
    }
}

const COPY: u8 = 0xbc; // BPF_ALU | BPF_MOV | BPF_X
const SET: u8 = 0xb7; // BPF_ALU64 | BPF_MOV | BPF_K
const AND: u8 = 0x54; // BPF_ALU | BPF_AND | BPF_K
const SHIFT_RIGHT: u8 = 0x74; // BPF_ALU | BPF_RSH | BPF_K
const JUMP_UNLESS_EQUAL: u8 = 0x56; // BPF_JMP32 | BPF_JNE | BPF_K
const JUMP_IF_EQUAL: u8 = 0x16; // BPF_JMP32 | BPF_JEQ | BPF_K
const EXIT: u8 = 0x95; // BPF_JMP | BPF_EXIT

fn assemble(rules: &[Rule]) -> Vec<BpfInstruction> {
    // The context: the kind in the low and the access in the high half of the first word, then major and minor.
    let mut program = vec![
        load_word(KIND, 0),
        instruction(COPY, ACCESS, KIND, 0, 0),
        instruction(AND, KIND, 0, 0, 0xffff),
        instruction(SHIFT_RIGHT, ACCESS, 0, 0, 16),
        load_word(MAJOR, 4),
        load_word(MINOR, 8),
    ];
    for rule in rules.iter().rev() {
        append(&mut program, rule);
        if rule.kind.is_none() {
            // The verifier refuses what can never be reached.
            return program;
        }
    }
    program.extend([instruction(SET, RESULT, 0, 0, 0), instruction(EXIT, 0, 0, 0, 0)]);
    program
}

fn append(program: &mut Vec<BpfInstruction>, rule: &Rule) {
    let mut tests = Vec::new();
    if let Some(kind) = rule.kind {
        tests.push(instruction(JUMP_UNLESS_EQUAL, KIND, 0, 0, kind.cast_signed()));
    }
    if rule.access != ALL {
        let (mask, jump) = if rule.allow {
            (ALL & !rule.access, JUMP_UNLESS_EQUAL)
        } else {
            (rule.access, JUMP_IF_EQUAL)
        };
        tests.push(instruction(COPY, SCRATCH, ACCESS, 0, 0));
        tests.push(instruction(AND, SCRATCH, 0, 0, mask.cast_signed()));
        tests.push(instruction(jump, SCRATCH, 0, 0, 0));
    }
    for (register, number) in [(MAJOR, rule.major), (MINOR, rule.minor)] {
        if let Some(number) = number {
            tests.push(instruction(
                JUMP_UNLESS_EQUAL,
                register,
                0,
                0,
                number.cast_signed(),
            ));
        }
    }
    // A failed test goes past the remaining tests and the two instructions of the verdict.
    let mut remaining = i16::try_from(tests.len()).expect("a rule has at most six instructions") + 2;
    for mut test in tests {
        remaining -= 1;
        if matches!(test.code, JUMP_UNLESS_EQUAL | JUMP_IF_EQUAL) {
            test.offset = remaining;
        }
        program.push(test);
    }
    program.extend([
        instruction(SET, RESULT, 0, 0, i32::from(rule.allow)),
        instruction(EXIT, 0, 0, 0, 0),
    ]);
}

#[cfg(test)]
mod tests;
