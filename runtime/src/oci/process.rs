//! The process object: what is cheap to find wrong with it before a microVM is started, or is left out of it.

use bulkhead_agent_protocol::spec::RLIMITS;
use rustix::thread::CapabilitySet;
use serde_json::Value;

use super::{FieldError, refuse::refuse_unsupported_process, texts::check_texts_of};

/// Checks the process object of a further process.
///
/// # Errors
/// The first field that is wrong, or asks for what cannot be done, named as in config.json.
pub fn check_further_process(process: &Value) -> Result<(), FieldError> {
    check_texts_of(process, "process")?;
    refuse_unsupported_process(process)?;
    check_words(process)
}

/// Checks the words that the specification gives a meaning. Capabilities that are not known are said in the log, and
/// otherwise ignored.
///
/// # Errors
/// A resource limit that is not known, or given twice.
pub fn check_words(process: &Value) -> Result<(), FieldError> {
    let sets = process.get("capabilities").and_then(Value::as_object);
    for (set, names) in sets.into_iter().flatten() {
        for name in names.as_array().into_iter().flatten().filter_map(Value::as_str) {
            if !is_capability(name) {
                tracing::warn!("process.capabilities.{set}: {name} is not known, left out");
            }
        }
    }
    let limits = process.get("rlimits").and_then(Value::as_array);
    let kinds: Vec<_> = limits
        .into_iter()
        .flatten()
        .map(|limit| limit.get("type").and_then(Value::as_str).unwrap_or_default())
        .collect();
    for (index, kind) in kinds.iter().enumerate() {
        let wrong = |problem: String| Err(FieldError::new(format!("process.rlimits[{index}].type"), problem));
        if !RLIMITS.contains(kind) {
            return wrong(format!("{kind:?} is no resource limit"));
        }
        if kinds.iter().take(index).any(|earlier| earlier == kind) {
            return wrong(format!("{kind} is given twice"));
        }
    }
    Ok(())
}

fn is_capability(name: &str) -> bool {
    CapabilitySet::from_name(name.strip_prefix("CAP_").unwrap_or(name)).is_some()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn words_are_checked() {
        let limit = |kind: &str| json!({"type": kind, "soft": 1, "hard": 1});
        let error = |limits: Value| {
            check_words(&json!({"rlimits": limits}))
                .expect_err("it is wrong")
                .to_string()
        };
        assert_eq!(
            error(json!([limit("RLIMIT_CPU"), limit("RLIMIT_X")])),
            "process.rlimits[1].type: \"RLIMIT_X\" is no resource limit"
        );
        assert_eq!(
            error(json!([limit("RLIMIT_CPU"), limit("RLIMIT_CPU")])),
            "process.rlimits[1].type: RLIMIT_CPU is given twice"
        );
        assert_eq!(
            error(json!([{}])),
            "process.rlimits[0].type: \"\" is no resource limit"
        );
        check_words(
            &json!({"capabilities": {"bounding": ["CAP_FUTURE"]}, "rlimits": [limit("RLIMIT_RTTIME")]}),
        )
        .expect("an unknown capability is no error");
        assert!(is_capability("CAP_BPF") && !is_capability("CAP_FUTURE"));
    }
}
