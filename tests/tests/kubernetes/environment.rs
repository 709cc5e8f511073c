//! What a pod's containers find around them: names, files, kernel settings, each other.

use serde_json::{Value, json};

use crate::node::Node;

fn shares_processes(config: &mut Value) {
    config["linux"]["security_context"]["namespace_options"]["pid"] = json!("POD");
}

#[test]
fn names_files_settings_and_namespaces_are_those_asked_for() {
    let node = Node::new();
    let pod = node.pod(|config| {
        shares_processes(config);
        config["hostname"] = json!("web-0");
        config["dns_config"] = json!({
            "servers": ["10.96.0.10"],
            "searches": ["default.svc.cluster.local", "svc.cluster.local"],
            "options": ["ndots:5"],
        });
        config["linux"]["sysctls"] = json!({"net.core.somaxconn": "1234", "kernel.shm_rmid_forced": "1"});
    });
    let hosts = node.containerd.host().file("hosts", "10.1.2.3 friend\n");
    let first = pod.run_with(|config| {
        shares_processes(config);
        config["command"] = json!(["sh", "-c", "echo made >/dev/shm/by-first; exec sleep 777777"]);
        config["mounts"] = json!([{"container_path": "/etc/hosts", "host_path": hosts}]);
    });
    assert_eq!(first.exec("cat /etc/hosts"), "10.1.2.3 friend\n");
    let second = pod.run_with(|config| {
        shares_processes(config);
        config["envs"] = json!([{"key": "GREETING", "value": "hello"}]);
        config["working_dir"] = json!("/tmp");
        config["command"] = json!(["sh", "-c"]);
        config["args"] = json!(["hostname; cat /etc/hostname /etc/resolv.conf
            cat /proc/sys/net/core/somaxconn /proc/sys/kernel/shm_rmid_forced
            cat /dev/shm/by-first; df -m /dev/shm | awk 'NR == 2 {print $2}'
            ps -o args | grep -c '^sleep 777777'; pwd; echo $GREETING"]);
    });
    assert_eq!(
        second.success(),
        "web-0\nweb-0\nsearch default.svc.cluster.local svc.cluster.local\nnameserver 10.96.0.10\n\
         options ndots:5\n1234\n1\nmade\n64\n1\n/tmp\nhello\n"
    );
    // One that shares no processes is its own first one.
    let alone = pod.run("echo $$; ps -o args | grep -c '^sleep' || :; readlink /proc/self/ns/ipc");
    assert_eq!(
        alone.success(),
        format!("1\n0\n{}", first.exec("readlink /proc/self/ns/ipc"))
    );
    pod.remove();
}
