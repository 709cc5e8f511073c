//! What is refused is refused before anything is started.

use bulkhead_agent_protocol::spec::{FIELDS, Handling, When};
use bulkhead_tests::harness::Host;
use serde_json::{Value, json};

/// Puts a value at a path, where `[]` stands for a second item of a list, and makes what is missing on the way.
fn put(document: &mut Value, path: &str, value: Value) {
    let mut place = document;
    for step in path.split('.') {
        if !place.is_object() {
            *place = json!({});
        }
        let name = step.strip_suffix("[]").unwrap_or(step);
        place = place
            .as_object_mut()
            .expect("an object")
            .entry(name)
            .or_insert(Value::Null);
        if step != name {
            if !place.is_array() {
                *place = json!([]);
            }
            let list = place.as_array_mut().expect("a list");
            list.push(Value::Null);
            place = list.last_mut().expect("an item");
        }
    }
    *place = value;
}

#[test]
fn every_refused_field_is_named_with_the_reason() {
    let host = Host::new();
    let mut count = 0;
    for field in FIELDS {
        let Handling::Refused(refusal) = field.handling else {
            continue;
        };
        let value = match refusal.when {
            When::Present => json!({}),
            When::Says => json!("something"),
            When::HasMember => json!({"eth0": {}}),
            When::IsFalse => json!(false),
            When::Is(word) => json!(word),
        };
        let bundle = host.bundle(|config| put(config, field.path, value));
        let line = host.run(&bundle).output().refusal();
        let last = field
            .path
            .rsplit(['.', '['])
            .next()
            .unwrap_or_default()
            .trim_end_matches(']');
        assert!(
            line.contains("config.json: ") && line.contains(last),
            "{}: {line}",
            field.path
        );
        assert!(
            line.contains(refusal.reason) && line.ends_with("; remove it from config.json"),
            "{}: {line}",
            field.path
        );
        count += 1;
    }
    assert!(count > 20, "{count} refused fields");
}
