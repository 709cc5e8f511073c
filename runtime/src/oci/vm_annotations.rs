//! Annotations that say what the `vm` section says: all that users of a container engine can add to a `config.json`.
//!
//! A field's annotation is called as the field is: `dev.bulkhead.vm.kernel.path` for `vm.kernel.path`.

use std::{collections::BTreeMap, str::FromStr};

use super::{FieldError, MEMBER, Vm, sandbox_of};

/// What the names of these annotations begin with.
pub const PREFIX: &str = "dev.bulkhead.vm.";

/// Puts the value of a field into the section.
type Put = fn(&mut Vm, &str) -> Result<(), &'static str>;

/// Every field that has an annotation, by its name in the section.
const FIELDS: [(&str, Put); 9] = [
    ("hypervisor.path", |vm, value| put(&mut vm.hypervisor.path, value)),
    ("hypervisor.parameters", |vm, value| {
        put_words(&mut vm.hypervisor.parameters, value)
    }),
    ("kernel.path", |vm, value| put(&mut vm.kernel.path, value)),
    ("kernel.parameters", |vm, value| {
        put_words(&mut vm.kernel.parameters, value)
    }),
    ("kernel.initrd", |vm, value| put(&mut vm.kernel.initrd, value)),
    ("image.path", |vm, value| put(&mut vm.image.path, value)),
    ("image.format", |vm, value| put(&mut vm.image.format, value)),
    ("hwConfig.vcpus", |vm, value| {
        put_number(&mut vm.hw_config.vcpus, value)
    }),
    ("hwConfig.memory", |vm, value| {
        put_number(&mut vm.hw_config.memory, value)
    }),
];

/// Puts what annotations say into the section, over what it says itself. Of a container that joins a sandbox they say
/// nothing: engines repeat the pod's annotations for each of its containers.
///
/// # Errors
/// The first annotation that is for no field, or whose value is not of the field's type.
pub fn complete(vm: &mut Option<Vm>, annotations: &BTreeMap<String, String>) -> Result<(), FieldError> {
    if sandbox_of(annotations, Some(MEMBER)).is_some() {
        return Ok(());
    }
    for (key, value) in annotations {
        let Some(name) = key.strip_prefix(PREFIX) else {
            continue;
        };
        let refused = |problem: String| FieldError::new(format!("annotations.{key}"), problem);
        let Some((_, put)) = FIELDS.iter().find(|(field, _)| *field == name) else {
            let known = FIELDS.map(|(field, _)| field).join(", ");
            return Err(refused(format!(
                "no such field of the vm section; there are {known}"
            )));
        };
        put(vm.get_or_insert_default(), value).map_err(|problem| refused(format!("{value:?} {problem}")))?;
    }
    Ok(())
}

fn put(field: &mut String, value: &str) -> Result<(), &'static str> {
    value.clone_into(field);
    Ok(())
}

fn put_words(field: &mut Vec<String>, value: &str) -> Result<(), &'static str> {
    *field = value.split_whitespace().map(str::to_owned).collect();
    Ok(())
}

fn put_number<N: FromStr>(field: &mut Option<N>, value: &str) -> Result<(), &'static str> {
    *field = Some(value.parse().map_err(|_| "is not a number in its range")?);
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::oci::Spec;

    fn complete_section(document: &Value) -> Result<Option<Vm>, String> {
        let mut spec = Spec::view(document).expect("the types are right");
        complete(&mut spec.vm, &spec.annotations)
            .map_err(|error| error.to_string())
            .map(|()| spec.vm)
    }

    #[test]
    fn every_field_can_be_annotated() {
        let section = json!({
            "hypervisor": {"path": "/v", "parameters": ["--console=on"]},
            "kernel": {"path": "/k", "parameters": ["a", "b=c"], "initrd": "/i"},
            "image": {"path": "/m", "format": "qcow2"},
            "hwConfig": {"vcpus": 3, "memory": 201_326_592},
        });
        let mut annotations = json!({"other": "x"});
        for (group, fields) in section.as_object().expect("an object") {
            for (name, value) in fields.as_object().expect("an object") {
                let value = match value {
                    Value::Array(words) => {
                        let words: Vec<_> = words.iter().filter_map(Value::as_str).collect();
                        words.join("  ")
                    }
                    Value::String(text) => text.clone(),
                    other => other.to_string(),
                };
                annotations[format!("{PREFIX}{group}.{name}")] = value.into();
            }
        }
        assert_eq!(
            annotations.as_object().expect("an object").len(),
            FIELDS.len() + 1,
            "every field is in the test"
        );
        let expected = Spec::view(&json!({"vm": section})).expect("valid").vm;
        assert_eq!(
            complete_section(&json!({"annotations": annotations})),
            Ok(expected.clone())
        );
        // What they leave out stays, and no other annotation makes a section.
        let one = json!({"annotations": {"dev.bulkhead.vm.image.format": "qcow2"}, "vm": section});
        assert_eq!(complete_section(&one), Ok(expected));
        assert_eq!(complete_section(&json!({"annotations": {"x": "y"}})), Ok(None));
    }

    #[test]
    fn what_is_no_field_or_no_value_is_named() {
        let error = |key: &str, value: &str| {
            complete_section(&json!({"annotations": {key: value}})).expect_err("refused")
        };
        let text = error("dev.bulkhead.vm.kernel", "/k");
        assert!(
            text.starts_with("annotations.dev.bulkhead.vm.kernel: no such field")
                && text.contains("kernel.path"),
            "{text}"
        );
        assert_eq!(
            error("dev.bulkhead.vm.hwConfig.memory", "1Gi"),
            "annotations.dev.bulkhead.vm.hwConfig.memory: \"1Gi\" is not a number in its range"
        );
    }

    #[test]
    fn the_pods_annotations_are_not_its_containers() {
        let member = json!({"annotations": {
            "io.kubernetes.cri.container-type": "container",
            "io.kubernetes.cri.sandbox-id": "p",
            "dev.bulkhead.vm.nonesuch": "x",
        }});
        assert_eq!(complete_section(&member), Ok(None));
    }
}
