//! Texts that the operating system would not see whole.

use serde_json::Value;

use super::FieldError;

/// The sections of config.json whose texts reach an operating system, the host's or the guest's.
const SECTIONS: [&str; 8] = [
    "root",
    "mounts",
    "process",
    "hostname",
    "domainname",
    "hooks",
    "linux",
    "vm",
];

/// Refuses the first text, or name of a member, with a NUL byte in it: for a system call it ends there.
///
/// # Errors
/// That one, by its path.
pub fn check_texts(document: &Value) -> Result<(), FieldError> {
    SECTIONS
        .iter()
        .try_for_each(|section| match document.get(section) {
            Some(value) => check_texts_of(value, section),
            None => Ok(()),
        })
}

/// As [`check_texts`], for the value at `place`.
///
/// # Errors
/// As there.
pub fn check_texts_of(value: &Value, place: &str) -> Result<(), FieldError> {
    match value {
        Value::String(text) => check(text, place),
        Value::Array(items) => items
            .iter()
            .enumerate()
            .try_for_each(|(index, item)| check_texts_of(item, &format!("{place}[{index}]"))),
        Value::Object(members) => members.iter().try_for_each(|(name, member)| {
            check(name, place)?;
            check_texts_of(member, &format!("{place}.{name}"))
        }),
        _ => Ok(()),
    }
}

fn check(text: &str, place: &str) -> Result<(), FieldError> {
    if text.contains('\0') {
        return Err(FieldError::new(place, "has a NUL byte in it"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_nul_byte_is_found_wherever_it_is() {
        for (document, field) in [
            (json!({"hostname": "a\0b"}), "hostname"),
            (json!({"process": {"args": ["sh", "\0"]}}), "process.args[1]"),
            (json!({"linux": {"sysctl": {"a\0": "1"}}}), "linux.sysctl"),
            (
                json!({"mounts": [{}, {"options": ["ro", "x\0"]}]}),
                "mounts[1].options[1]",
            ),
        ] {
            let error = check_texts(&document).expect_err(field).to_string();
            assert_eq!(error, format!("{field}: has a NUL byte in it"));
        }
        check_texts(&json!({"annotations": {"a": "\0"}, "process": {"args": ["sh"]}}))
            .expect("nobody's text");
    }
}
