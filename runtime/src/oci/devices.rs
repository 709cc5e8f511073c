//! `linux.devices`: the guest has the devices that its kernel makes, and none of the host's.

use serde_json::Value;

use super::FieldError;

/// The character devices of the guest's kernel that a container may be given, major and minor number. No minor number
/// stands for all.
const IN_THE_GUEST: &[(i64, Option<i64>)] = &[
    (1, Some(3)),    // null
    (1, Some(5)),    // zero
    (1, Some(7)),    // full
    (1, Some(8)),    // random
    (1, Some(9)),    // urandom
    (1, Some(11)),   // kmsg
    (5, Some(0)),    // tty
    (5, Some(1)),    // console
    (5, Some(2)),    // ptmx
    (10, Some(200)), // net/tun
    (10, Some(229)), // fuse
    (10, Some(237)), // loop-control
    (136, None),     // pts
];

/// Refuses the first character device that only the host has.
///
/// # Errors
/// Names it.
pub fn check_devices(document: &Value) -> Result<(), FieldError> {
    let devices = document.pointer("/linux/devices").and_then(Value::as_array);
    for (index, device) in devices.into_iter().flatten().enumerate() {
        let text = |name: &str| device.get(name).and_then(Value::as_str).unwrap_or_default();
        let number = |name: &str| device.get(name).and_then(Value::as_i64).unwrap_or_default();
        let (major, minor) = (number("major"), number("minor"));
        let known = |(in_guest, one): &(i64, Option<i64>)| {
            *in_guest == major && one.is_none_or(|in_guest| in_guest == minor)
        };
        if matches!(text("type"), "c" | "u") && !IN_THE_GUEST.iter().any(known) {
            let problem = format!(
                "{} ({major}:{minor}) is a device of the host, which a virtual machine does not have; remove it from \
                 config.json",
                text("path")
            );
            return Err(FieldError::new(format!("linux.devices[{index}]"), problem));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_device_of_the_host_is_named() {
        let fuse = json!({"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229});
        let kvm = json!({"path": "/dev/kvm", "type": "c", "major": 10, "minor": 232});
        let pipe = json!({"path": "/run/pipe", "type": "p"});
        let with = |devices: Value| check_devices(&json!({"linux": {"devices": devices}}));
        with(json!([fuse, pipe])).expect("the guest has it");
        assert_eq!(
            with(json!([fuse, kvm]))
                .expect_err("the guest has none")
                .to_string(),
            "linux.devices[1]: /dev/kvm (10:232) is a device of the host, which a virtual machine does not have; remove \
             it from config.json"
        );
        check_devices(&json!({})).expect("none at all");
    }
}
