//! Who a container is and what it may do: `securityContext`.

use serde_json::json;

use crate::node::Node;

#[test]
fn a_security_context_is_kept_to() {
    let node = Node::new();
    let profiles = node.volume("profiles");
    let profile = profiles.join("no-mkdir.json");
    let rule = json!({"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO"});
    let document = json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]});
    std::fs::write(&profile, document.to_string()).unwrap();

    let pod = node.pod(|_| ());
    let fields = "grep -E '^(NoNewPrivs|Seccomp|CapBnd):' /proc/self/status | tr -d '\\t'";
    let restricted = pod.run_with(|config| {
        config["command"] = json!([
            "sh",
            "-c",
            format!(
                "id -u; id -g; id -G; {fields}
            touch /file 2>/dev/null || echo read-only; wc -c </proc/uptime
            echo 1 2>/dev/null >/proc/sys/kernel/msgmax || echo settings stay"
            )
        ]);
        let context = &mut config["linux"]["security_context"];
        context["run_as_user"] = json!({"value": 1000});
        context["run_as_group"] = json!({"value": 2000});
        context["supplemental_groups"] = json!([3000]);
        context["readonly_rootfs"] = json!(true);
        context["no_new_privs"] = json!(true);
        context["capabilities"] = json!({"add_capabilities": ["NET_ADMIN"], "drop_capabilities": ["ALL"]});
        context["seccomp"] = json!({"profile_type": "RuntimeDefault"});
        context["masked_paths"] = json!(["/proc/uptime"]);
        context["readonly_paths"] = json!(["/proc/sys"]);
    });
    assert_eq!(
        restricted.success(),
        "1000\n2000\n2000 3000\nCapBnd:0000000000001000\nNoNewPrivs:1\nSeccomp:2\nread-only\n0\nsettings stay\n"
    );
    let ordinary = pod.run(&format!(
        "id -u; {fields}; touch /file && echo writable; mount -t tmpfs t /mnt"
    ));
    let ended = ordinary.wait();
    assert_eq!(
        ordinary.output("stdout"),
        "0\nCapBnd:00000000a80425fb\nNoNewPrivs:0\nSeccomp:0\nwritable\n"
    );
    assert_ne!(ended.exit_code, 0, "an ordinary container mounts nothing");
    let profiled = pod.run_with(|config| {
        config["command"] = json!(["sh", "-c", "mkdir /tmp/folder"]);
        config["linux"]["security_context"]["seccomp"] =
            json!({"profile_type": "Localhost", "localhost_ref": format!("localhost/{}", profile.display())});
    });
    assert_eq!(profiled.wait().exit_code, 1);
    assert!(profiled.output("stderr").contains("Operation not permitted"));
    pod.remove();
}

#[test]
fn privileged_is_privileged_in_the_guest_alone() {
    let node = Node::new();
    let pod = node.pod(|config| config["linux"]["security_context"]["privileged"] = json!(true));
    let root = pod.run_with(|config| {
        config["command"] = json!(["sh", "-c", "grep CapEff /proc/self/status | tr -d '\\t'
            mount -t tmpfs t /mnt && echo mounted; echo 1 >/proc/sys/vm/overcommit_memory && echo set
            ls -d /sys/fs/cgroup/cgroup.procs; test -e /dev/kvm || echo no KVM; cat /proc/sys/kernel/random/boot_id"]);
        config["linux"]["security_context"]["privileged"] = json!(true);
    });
    let output = root.success();
    let lines: Vec<_> = output.lines().collect();
    let capabilities = lines[0].strip_prefix("CapEff:").expect("a field of status");
    assert!(
        u64::from_str_radix(capabilities, 16).unwrap() >= (1 << 40) - 1,
        "{output}"
    );
    assert_eq!(
        lines[1..5],
        ["mounted", "set", "/sys/fs/cgroup/cgroup.procs", "no KVM"],
        "{output}"
    );
    let host = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    assert_ne!(lines[5], host.trim_end());
    pod.remove();
}
