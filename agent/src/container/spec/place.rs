//! Where in a JSON document something is.

use std::fmt;

/// The path to a value, which is shown as in `linux.seccomp.syscalls[0].names`.
#[derive(Debug, PartialEq, Eq)]
pub struct Place(Vec<Step>);

/// From a value to one in it.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    /// The member of an object, by its name as it is written.
    Member(String),
    /// The item of an array, from 0.
    Item(usize),
}

impl Place {
    /// What the document has at the end of `beginning`: a value that has just ended, or is about to begin. The document is JSON as
    /// far as that. serde_json's errors say how far it has come; a library that gives them a path wraps the
    /// deserializer of every type, which is the thirtieth part of the agent.
    pub fn at_the_end_of(beginning: &[u8]) -> Self {
        let mut steps = Vec::new();
        let mut rest = beginning;
        let mut string = None;
        while let Some((&byte, behind)) = rest.split_first() {
            rest = behind;
            match byte {
                b'{' => steps.push(Step::Member(String::new())),
                b'[' => steps.push(Step::Item(0)),
                b'}' | b']' => drop(steps.pop()),
                b'"' => {
                    let length = length_of_string(rest);
                    string = Some(&rest[..length]);
                    rest = rest.get(length + 1..).unwrap_or_default();
                }
                b':' => {
                    if let (Some(Step::Member(name)), Some(text)) = (steps.last_mut(), string) {
                        *name = String::from_utf8_lossy(text).into_owned();
                    }
                }
                b',' => {
                    if let Some(Step::Item(index)) = steps.last_mut() {
                        *index += 1;
                    }
                }
                _ => {}
            }
        }
        Self(steps)
    }
}

/// Of the string that begins with `text`, without its end.
fn length_of_string(text: &[u8]) -> usize {
    let mut is_escaped = false;
    let end = text.iter().position(|byte| {
        let ends = *byte == b'"' && !is_escaped;
        is_escaped = *byte == b'\\' && !is_escaped;
        ends
    });
    end.unwrap_or(text.len())
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, step) in self.0.iter().enumerate() {
            match step {
                Step::Member(name) if index == 0 => f.write_str(name)?,
                Step::Member(name) => write!(f, ".{name}")?,
                Step::Item(index) => write!(f, "[{index}]")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::{btree_map, vec};
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn place(beginning: &str) -> String {
        Place::at_the_end_of(beginning.as_bytes()).to_string()
    }

    #[test]
    fn paths_are_those_of_the_specification() {
        for (beginning, path) in [
            ("", ""),
            ("7", ""),
            (r#"{"a":"#, "a"),
            (r#"{"a":{"b":[1,{"c":null},"x""#, "a.b[2]"),
            (r#"{"a":{"b":[1]},"c\"d,e":true"#, r#"c\"d,e"#),
            (r#"{"a":"\\","b":"{[:,\"""#, "b"),
            ("]}", ""),
        ] {
            assert_eq!(place(beginning), path, "{beginning}");
        }
    }

    /// Any document in which a value is this one.
    fn document(marked: &Value) -> impl Strategy<Value = Value> + use<> {
        let other = prop_oneof![
            Just(json!(null)),
            any::<i32>().prop_map(Value::from),
            any::<String>().prop_map(Value::from),
            Just(json!({"x": [1, {}]})),
        ];
        Just(marked.clone()).prop_recursive(6, 32, 4, move |inner| {
            let around = (vec(other.clone(), 0..4), vec(other.clone(), 0..4));
            let members = btree_map(any::<String>(), other.clone(), 0..4);
            prop_oneof![
                (inner.clone(), around).prop_map(|(value, (mut items, more))| {
                    items.push(value);
                    items.extend(more);
                    Value::Array(items)
                }),
                (inner, any::<String>(), members).prop_map(|(value, name, others)| {
                    let mut members: serde_json::Map<_, _> = others.into_iter().collect();
                    members.insert(name, value);
                    Value::Object(members)
                }),
            ]
        })
    }

    proptest! {
        #[test]
        fn the_place_leads_to_the_value(document in document(&json!("!marked!"))) {
            let text = document.to_string();
            let end = text.find("\"!marked!\"").unwrap() + "\"!marked!\"".len();
            let Place(steps) = Place::at_the_end_of(&text.as_bytes()[..end]);
            let found = steps.iter().try_fold(&document, |value, step| match step {
                Step::Member(name) => value.get(serde_json::from_str::<String>(&format!("\"{name}\"")).unwrap()),
                Step::Item(index) => value.get(index),
            });
            prop_assert_eq!(found, Some(&json!("!marked!")));
        }

        #[test]
        fn anything_may_be_looked_at(bytes: Vec<u8>) {
            Place::at_the_end_of(&bytes).to_string();
        }
    }
}
