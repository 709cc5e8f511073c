//! Mounts that show the files of other owners: `uidMappings` and `gidMappings` of a mount.

use serde::Deserialize;

use super::{FieldError, Linux, Mount};

/// A range of users or groups.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct IdRange {
    /// The first one in the file system.
    #[serde(rename = "containerID")]
    pub container: u32,
    /// What it is shown as.
    #[serde(rename = "hostID")]
    pub host: u32,
    /// How many.
    pub size: u32,
}

/// Who the owners of the files in a mount are shown as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdMappings {
    /// Users.
    pub users: Vec<IdRange>,
    /// Groups.
    pub groups: Vec<IdRange>,
    /// Whether in the mounts below, too.
    pub recursive: bool,
}

impl IdMappings {
    /// Of the mount at that place in `mounts`, if it is to have any: its own, or those of the container's user namespace.
    ///
    /// # Errors
    /// It is no bind mount, has but one of the two lists, or asks for mappings that are nowhere.
    pub fn of(mount: &Mount, index: usize, linux: &Linux) -> Result<Option<Self>, FieldError> {
        let field = |name: &str| format!("mounts[{index}].{name}");
        let option = mount
            .options
            .iter()
            .rev()
            .find(|option| matches!(option.as_str(), "idmap" | "ridmap"));
        let own = [&mount.uid_mappings, &mount.gid_mappings];
        let (users, groups) = match own.map(Vec::is_empty) {
            [false, false] => (&mount.uid_mappings, &mount.gid_mappings),
            [true, true] if option.is_none() => return Ok(None),
            [true, true] => (&linux.uid_mappings, &linux.gid_mappings),
            [true, false] => {
                return Err(FieldError::new(
                    field("uidMappings"),
                    "missing, and there are gidMappings",
                ));
            }
            [false, true] => {
                return Err(FieldError::new(
                    field("gidMappings"),
                    "missing, and there are uidMappings",
                ));
            }
        };
        if users.is_empty() || groups.is_empty() {
            let problem = "needs uidMappings and gidMappings, of the mount or of a user namespace";
            return Err(FieldError::new(field("options"), problem));
        }
        if !mount.is_bind() {
            let problem = "only a bind mount can have its users mapped";
            return Err(FieldError::new(field("options"), problem));
        }
        Ok(Some(Self {
            users: users.clone(),
            groups: groups.clone(),
            recursive: option.is_some_and(|option| option == "ridmap"),
        }))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn of(mount: Value, linux: Value) -> Result<Option<IdMappings>, String> {
        let mount: Mount = serde_json::from_value(mount).expect("a mount");
        let linux: Linux = serde_json::from_value(linux).expect("a section");
        IdMappings::of(&mount, 3, &linux).map_err(|error| error.to_string())
    }

    #[test]
    fn a_mount_has_its_own_mappings_or_the_containers() {
        let ids = json!([{"containerID": 0, "hostID": 1000, "size": 10}]);
        let one = IdRange {
            container: 0,
            host: 1000,
            size: 10,
        };
        let expected = |recursive| {
            Ok(Some(IdMappings {
                users: vec![one],
                groups: vec![one],
                recursive,
            }))
        };
        let own = json!({"type": "bind", "uidMappings": ids, "gidMappings": ids});
        assert_eq!(of(own, json!({})), expected(false));
        let asking = json!({"options": ["rbind", "ridmap"]});
        assert_eq!(
            of(asking, json!({"uidMappings": ids, "gidMappings": ids})),
            expected(true)
        );
        assert_eq!(of(json!({"type": "tmpfs"}), json!({})), Ok(None));
    }

    #[test]
    fn what_cannot_be_mapped_is_refused() {
        let ids = json!([{"containerID": 0, "hostID": 1000, "size": 10}]);
        for (mount, text) in [
            (
                json!({"type": "bind", "uidMappings": ids}),
                "mounts[3].gidMappings: missing, and there are uidMappings",
            ),
            (
                json!({"type": "bind", "gidMappings": ids}),
                "mounts[3].uidMappings: missing, and there are gidMappings",
            ),
            (
                json!({"options": ["bind", "idmap"]}),
                "mounts[3].options: needs uidMappings and gidMappings, of the mount or of a user namespace",
            ),
            (
                json!({"type": "tmpfs", "uidMappings": ids, "gidMappings": ids}),
                "mounts[3].options: only a bind mount can have its users mapped",
            ),
        ] {
            assert_eq!(of(mount, json!({})).expect_err(text), text);
        }
    }
}
