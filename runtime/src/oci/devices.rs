//! `linux.devices`: the guest has the devices that its kernel makes, and none of the host's.

use std::mem;

use serde::Deserialize;
use serde_json::Value;

use super::{Device, FieldError, Spec};

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

/// The most devices that are left out by name.
const NAMED: usize = 5;

/// Leaves out of a privileged container's devices what only the host has. An engine lists all nodes of the host for it, and
/// none of these has been asked for by name: neither is a disk of the host's passed on, nor is the container refused.
///
/// Privileged is who may use every device, by `linux.resources.devices`. How many are left out is said in the log.
pub fn leave_out_devices_of_the_host(spec: &mut Spec, document: &mut Value) {
    if !spec.linux.resources.allow_every_device() {
        return;
    }
    let all = mem::take(&mut spec.linux.devices);
    let (left_out, stay): (Vec<_>, Vec<_>) = all.into_iter().partition(is_of_the_host);
    spec.linux.devices = stay;
    let stays = |item: &Value| Device::deserialize(item).is_ok_and(|device| !is_of_the_host(&device));
    if let Some(items) = document
        .pointer_mut("/linux/devices")
        .and_then(Value::as_array_mut)
    {
        items.retain(stays);
    }
    if !left_out.is_empty() {
        tracing::warn!("{}", left_out_text(&left_out));
    }
}

fn left_out_text(devices: &[Device]) -> String {
    let mut named: Vec<_> = devices
        .iter()
        .take(NAMED)
        .map(|device| device.path.as_str())
        .collect();
    if devices.len() > NAMED {
        named.push("…");
    }
    format!(
        "linux.devices: {} left out, which the host has and a virtual machine does not: {}; the container is privileged in \
         its virtual machine, not on the host",
        devices.len(),
        named.join(", ")
    )
}

/// Refuses the first character device that only the host has.
///
/// # Errors
/// Names it.
pub fn check_devices(devices: &[Device]) -> Result<(), FieldError> {
    for (index, device) in devices.iter().enumerate() {
        // A block device that is asked for by name becomes a disk of the guest.
        if device.kind != "b" && is_of_the_host(device) {
            let problem = format!(
                "{} ({}:{}) is a device of the host, which a virtual machine does not have; remove it from config.json",
                device.path, device.major, device.minor
            );
            return Err(FieldError::new(format!("linux.devices[{index}]"), problem));
        }
    }
    Ok(())
}

/// Whether a device needs what is behind it on the host. A block device always does.
fn is_of_the_host(device: &Device) -> bool {
    let known = |(major, minor): &(i64, Option<i64>)| {
        *major == device.major && minor.is_none_or(|minor| minor == device.minor)
    };
    match device.kind.as_str() {
        "b" => true,
        "c" | "u" => !IN_THE_GUEST.iter().any(known),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn devices() -> Value {
        json!([
            {"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229, "fileMode": 438},
            {"path": "/run/pipe", "type": "p"},
            {"path": "/dev/kvm", "type": "c", "major": 10, "minor": 232},
            {"path": "/dev/sda", "type": "b", "major": 8, "minor": 0},
        ])
    }

    /// What is left of the devices in the view and in the document alike.
    fn left(rules: &Value) -> Value {
        let mut document = json!({"linux": {"devices": devices(), "resources": {"devices": rules}}});
        let mut spec = Spec::view(&document).expect("the types are right");
        leave_out_devices_of_the_host(&mut spec, &mut document);
        let again = Spec::view(&document).expect("the types are right");
        assert_eq!(spec, again);
        document["linux"]["devices"].take()
    }

    #[test]
    fn a_device_of_the_host_is_named() {
        let check = |document: Value| {
            check_devices(&Spec::view(&document).expect("the types are right").linux.devices)
                .map_err(|error| error.to_string())
        };
        let error = check(json!({"linux": {"devices": devices()}})).expect_err("the guest has none");
        assert_eq!(
            error,
            "linux.devices[2]: /dev/kvm (10:232) is a device of the host, which a virtual machine does not have; remove \
             it from config.json"
        );
        check(json!({"linux": {"devices": [devices()[0], devices()[1], devices()[3]]}}))
            .expect("no such device");
        check(json!({})).expect("none at all");
    }

    #[test]
    fn a_privileged_container_has_the_devices_of_its_guest() {
        let of_the_guest = json!([devices()[0], devices()[1]]);
        for privileged in [
            json!([{"allow": true, "access": "rwm"}]),
            json!([{"allow": false}, {"allow": true, "type": "a", "major": -1, "minor": -1}]),
            json!([{"allow": true}, {"allow": false, "type": "c", "major": 10, "minor": 229}]),
        ] {
            assert_eq!(left(&privileged), of_the_guest, "{privileged}");
        }
        for not in [
            json!([]),
            json!([{"allow": false, "access": "rwm"}, {"allow": true, "type": "b"}, {"allow": true, "type": "c"}]),
            json!([{"allow": true}, {"allow": false}]),
        ] {
            assert_eq!(left(&not), devices(), "{not}");
        }
    }

    #[test]
    fn the_first_that_are_left_out_are_named() {
        let device = |number: usize| Device {
            path: format!("/dev/x{number}"),
            ..Device::default()
        };
        let devices: Vec<_> = (0..7).map(device).collect();
        assert_eq!(
            left_out_text(&devices),
            "linux.devices: 7 left out, which the host has and a virtual machine does not: /dev/x0, /dev/x1, /dev/x2, \
             /dev/x3, /dev/x4, …; the container is privileged in its virtual machine, not on the host"
        );
        assert!(left_out_text(&devices[..2]).contains(": /dev/x0, /dev/x1; the"));
    }
}
