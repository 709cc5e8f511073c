use proptest::prelude::*;
use serde_json::json;

use super::*;

/// Runs a program as the kernel would: the answer to an access.
fn run(program: &[BpfInstruction], kind: u32, access: u32, major: u32, minor: u32) -> bool {
    let context = [kind | (access << 16), major, minor];
    let mut registers = [0_u32; 11];
    let mut next = 0;
    loop {
        let BpfInstruction {
            code,
            registers: pair,
            offset,
            immediate,
        } = program[next];
        let (destination, source) = (usize::from(pair & 15), usize::from(pair >> 4));
        let immediate = immediate.cast_unsigned();
        next += 1;
        match code {
            0x61 => registers[destination] = context[usize::try_from(offset).unwrap() / 4],
            COPY => registers[destination] = registers[source],
            SET => registers[destination] = immediate,
            AND => registers[destination] &= immediate,
            SHIFT_RIGHT => registers[destination] >>= immediate,
            JUMP_UNLESS_EQUAL if registers[destination] != immediate => {
                next += usize::try_from(offset).unwrap();
            }
            JUMP_IF_EQUAL if registers[destination] == immediate => next += usize::try_from(offset).unwrap(),
            JUMP_UNLESS_EQUAL | JUMP_IF_EQUAL => {}
            EXIT => return registers[0] == 1,
            _ => panic!("instruction {code:#x}"),
        }
    }
}

/// What the rules mean, in plain words.
fn decide(rules: &[Rule], kind: u32, access: u32, major: u32, minor: u32) -> bool {
    rules
        .iter()
        .rev()
        .find(|rule| {
            let access = if rule.allow {
                access & !rule.access == 0
            } else {
                access & rule.access != 0
            };
            rule.kind.is_none_or(|k| k == kind)
                && rule.major.is_none_or(|m| m == major)
                && rule.minor.is_none_or(|m| m == minor)
                && access
        })
        .is_some_and(|rule| rule.allow)
}

fn compiled(rules: serde_json::Value) -> Vec<BpfInstruction> {
    let rules: Vec<LinuxDeviceCgroup> = serde_json::from_value(rules).unwrap();
    compile(&rules).unwrap()
}

#[test]
fn without_rules_only_what_is_needed_is_allowed() {
    let program = compiled(json!([]));
    assert!(run(&program, CHARACTER, READ | WRITE, 1, 3));
    assert!(run(&program, CHARACTER, WRITE, 136, 9));
    assert!(run(&program, BLOCK, MAKE, 8, 0));
    assert!(!run(&program, BLOCK, READ, 8, 0));
    assert!(!run(&program, CHARACTER, READ, 10, 229));
}

#[test]
fn the_usual_list_of_a_container_engine_holds() {
    let program = compiled(json!([
        {"allow": false, "access": "rwm"},
        {"allow": true, "type": "c", "major": 10, "minor": 229, "access": "rw"},
    ]));
    assert!(run(&program, CHARACTER, READ | WRITE, 10, 229));
    assert!(!run(&program, CHARACTER, READ, 10, 230));
}

#[test]
fn a_privileged_container_may_use_everything() {
    let program = compiled(json!([{"allow": true, "access": "rwm"}]));
    assert!(run(&program, BLOCK, READ | WRITE, 254, 7));
}

#[test]
fn a_denied_part_denies_the_whole() {
    let program = compiled(json!([
        {"allow": true, "type": "b", "access": "rwm"},
        {"allow": false, "type": "b", "major": 8, "access": "w"},
    ]));
    assert!(run(&program, BLOCK, READ, 8, 1));
    assert!(!run(&program, BLOCK, READ | WRITE, 8, 1));
    assert!(run(&program, BLOCK, READ | WRITE, 9, 1));
}

#[test]
fn what_is_no_rule_is_refused() {
    for (rule, text) in [
        (
            json!([{"allow": true, "type": "c", "major": 5_000_000_000_i64, "access": "r"}]),
            "linux.resources.devices[0].major: 5000000000 is no device number",
        ),
        (
            json!([{"allow": true, "type": "c", "access": "x"}]),
            "linux.resources.devices[0].access: \"x\" is none of r, w and m",
        ),
    ] {
        let rules: Vec<LinuxDeviceCgroup> = serde_json::from_value(rule).unwrap();
        assert_eq!(compile(&rules).unwrap_err().to_string(), text);
    }
}

fn rule() -> impl Strategy<Value = Rule> {
    let number = || prop::option::of(0_u32..3);
    (
        any::<bool>(),
        prop::option::of(BLOCK..=CHARACTER),
        number(),
        number(),
        1..=ALL,
    )
        .prop_map(|(allow, kind, major, minor, access)| match kind {
            None => Rule {
                allow,
                kind,
                major: None,
                minor: None,
                access: ALL,
            },
            Some(_) => Rule {
                allow,
                kind,
                major,
                minor,
                access,
            },
        })
}

proptest! {
    #[test]
    fn the_program_means_what_the_rules_mean(
        rules in prop::collection::vec(rule(), 0..8),
        kind in BLOCK..=CHARACTER, access in 1..=ALL, major in 0_u32..3, minor in 0_u32..3,
    ) {
        prop_assert_eq!(
            run(&assemble(&rules), kind, access, major, minor),
            decide(&rules, kind, access, major, minor)
        );
    }
}
