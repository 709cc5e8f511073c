//! The limits that a container has now: those of `config.json`, as later updates have changed them.

use serde::Deserialize;
use serde_json::Value;

use crate::oci::Resources;

/// `linux.resources`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Limits(Value);

impl Limits {
    /// Those of a `config.json`.
    pub fn of(document: &Value) -> Self {
        Self(document.pointer("/linux/resources").cloned().unwrap_or_default())
    }

    /// These and what `update` changes.
    pub fn with(&self, update: &Value) -> Self {
        let mut changed = self.clone();
        merge(&mut changed.0, update);
        changed
    }

    /// What the host's side acts upon.
    ///
    /// # Errors
    /// A field of another type than the specification's.
    pub fn view(&self) -> serde_json::Result<Resources> {
        Resources::deserialize(&self.0)
    }

    /// The limit of memory, as it is written.
    pub fn memory(&self) -> Option<&Value> {
        self.0.pointer("/memory/limit")
    }

    /// Every limit of the sections that `update` is about: a limit may mean something else beside others.
    pub fn about(&self, update: &Value) -> Value {
        let mut sections = self.0.clone();
        if let Some(members) = sections.as_object_mut() {
            members.retain(|name, _| update.get(name).is_some());
        }
        sections
    }
}

fn merge(into: &mut Value, update: &Value) {
    match (into, update) {
        (Value::Object(into), Value::Object(update)) => {
            for (name, value) in update {
                merge(into.entry(name).or_insert(Value::Null), value);
            }
        }
        (into, update) => update.clone_into(into),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_update_is_about_its_sections_and_changes_its_fields() {
        let limits = Limits::of(&json!({"linux": {"resources": {
            "cpu": {"quota": 50_000, "period": 100_000},
            "memory": {"limit": 100},
            "devices": [{"allow": false}],
        }}}));
        let update = json!({"cpu": {"period": 200_000}, "pids": {"limit": 5}});
        let changed = limits.with(&update);
        assert_eq!(
            changed.about(&update),
            json!({"cpu": {"quota": 50_000, "period": 200_000}, "pids": {"limit": 5}})
        );
        assert_eq!(
            changed
                .with(&json!({"memory": {"swap": 200}}))
                .about(&json!({"memory": {}})),
            json!({
                "memory": {"limit": 100, "swap": 200},
            })
        );
    }

    #[test]
    fn a_container_without_limits_can_get_some() {
        let limits = Limits::of(&json!({}));
        let update = json!({"pids": {"limit": 5}});
        assert_eq!(limits.with(&update).about(&update), update);
    }
}
