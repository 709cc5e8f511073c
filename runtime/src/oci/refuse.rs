//! The fields of `config.json` that cannot be honoured are refused by name, never dropped.

use bulkhead_agent_protocol::spec::{FIELDS, Handling, Refusal, When};
use serde_json::{Value, json};

use super::FieldError;

/// Every field that is refused, by its path in a document.
pub fn refusals() -> impl Iterator<Item = (&'static str, Refusal)> {
    FIELDS.iter().filter_map(|field| match field.handling {
        Handling::Refused(refusal) => Some((field.path, refusal)),
        _ => None,
    })
}

/// Whether every value of the field at `path` that asks for something is refused.
pub fn is_refused(path: &str) -> bool {
    refusals().any(|(refused, refusal)| refused == path && !matches!(refusal.when, When::Is(_)))
}

/// Refuses the first field of a document that asks for what cannot be done.
///
/// # Errors
/// That field, by its path.
pub fn refuse_unsupported(document: &Value) -> Result<(), FieldError> {
    refusals().try_for_each(|(path, refusal)| refuse(document, path, path, refusal))
}

/// The limits that a `linux` section changes, without those that are decided at creation; none if it changes none.
///
/// # Errors
/// As [`refuse_unsupported`].
pub fn changed_limits(linux: &Value) -> Result<Option<Value>, FieldError> {
    let mut document = json!({"linux": linux});
    refuse_unsupported(&document)?;
    let mut resources = document["linux"]["resources"].take();
    let Some(members) = resources.as_object_mut() else {
        return Ok(None);
    };
    // Which devices may be used is decided at creation, as with runc.
    members.remove("devices");
    Ok((!members.is_empty()).then_some(resources))
}

/// As [`refuse_unsupported`], for the process object of a further process. The error names it as in a document.
///
/// # Errors
/// As there.
pub fn refuse_unsupported_process(process: &Value) -> Result<(), FieldError> {
    refusals().try_for_each(|(path, refusal)| match path.strip_prefix("process.") {
        Some(below) => refuse(process, path, below, refusal),
        None => Ok(()),
    })
}

/// Refuses the field `path`, which is `below` the value.
fn refuse(value: &Value, path: &str, below: &str, refusal: Refusal) -> Result<(), FieldError> {
    let prefix = path.strip_suffix(below).unwrap_or_default().trim_end_matches('.');
    match find(value, below, prefix.to_owned(), refusal.when) {
        Some(place) => Err(FieldError::new(
            place,
            format!("{}; remove it from config.json", refusal.reason),
        )),
        None => Ok(()),
    }
}

/// The concrete path of the first value at `path` that is refused.
fn find(value: &Value, path: &str, place: String, when: When) -> Option<String> {
    if path.is_empty() {
        return asks(value, when).then_some(place);
    }
    let (segment, rest) = path.split_once('.').unwrap_or((path, ""));
    let name = segment.strip_suffix("[]").unwrap_or(segment);
    let member = value.get(name)?;
    let place = if place.is_empty() {
        name.to_owned()
    } else {
        format!("{place}.{name}")
    };
    if name.len() == segment.len() {
        return find(member, rest, place, when);
    }
    let items = member.as_array()?;
    items
        .iter()
        .enumerate()
        .find_map(|(index, item)| find(item, rest, format!("{place}[{index}]"), when))
}

fn asks(value: &Value, when: When) -> bool {
    match when {
        When::Present => !value.is_null(),
        When::Says => says_something(value),
        When::HasMember => value.as_object().is_some_and(|members| !members.is_empty()),
        When::IsFalse => value == &Value::Bool(false),
        When::Is(word) => match value {
            Value::Array(items) => items.iter().any(|item| item == word),
            value => value == word,
        },
    }
}

/// Whether a value is more than an elaborate nothing, such as `{"hypervisor": {"path": ""}}`.
fn says_something(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(set) => *set,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => items.iter().any(says_something),
        Value::Object(members) => members.values().any(says_something),
    }
}
