//! How containers of a pod follow each other, are looked into, and end.

use std::fs;
use std::os::unix::fs::symlink;

use serde_json::json;

use crate::node::Node;

#[test]
fn init_containers_probes_hooks_and_graceful_ends() {
    let node = Node::new();
    let shared = node.volume("shared");
    let downward = node.volume("podinfo");
    fs::create_dir(downward.join("..1")).unwrap();
    fs::write(downward.join("..1/labels"), "app=\"web\"\n").unwrap();
    symlink("..1", downward.join("..data")).unwrap();
    symlink("..data/labels", downward.join("labels")).unwrap();
    let pod = node.pod(|_| ());
    let run = |script: &str| {
        pod.run_with(|config| {
            config["command"] = json!(["sh", "-c", script]);
            config["mounts"] = json!([
                {"container_path": "/shared", "host_path": shared},
                {"container_path": "/podinfo", "host_path": downward, "readonly": true},
            ]);
        })
    };

    // Init containers, one after the other.
    for number in 1..=2 {
        let init = run(&format!("ls /shared | wc -l; echo >/shared/init-{number}"));
        assert_eq!(init.success(), format!("{}\n", number - 1));
        init.remove();
    }
    let service = run(
        "trap 'cat /shared/stop; exit 7' TERM; cat /podinfo/labels; ls /shared
        while :; do sleep 1000 & wait $!; done",
    );
    service.wait_for("init-2\n");

    // Probes: by how they end, and by not ending in time, which they do not outlive.
    let probe = |command: &[&str]| service.try_exec(command, 2);
    assert_eq!(probe(&["test", "-e", "/shared/init-1"]).unwrap().exit_code, 0);
    assert_eq!(probe(&["test", "-e", "/shared/nonesuch"]).unwrap().exit_code, 1);
    let late = probe(&["sleep", "555555"]).expect_err("it takes too long");
    assert!(late.message.contains("timeout 2s exceeded"), "{}", late.message);
    assert_eq!(service.exec("ps -o args | grep -c '^sleep 555555' || :"), "0\n");

    // The preStop hook is executed, and then the container asked to end.
    service.exec("echo prepared >/shared/stop");
    service.stop(60);
    assert_eq!(service.wait().exit_code, 7);
    assert_eq!(
        service.output("stdout"),
        "app=\"web\"\ninit-1\ninit-2\nprepared\n"
    );

    // One that does not listen is killed when its time is up.
    let deaf = run("trap '' TERM; echo deaf; while :; do sleep 1000; done");
    deaf.wait_for("deaf\n");
    deaf.stop(1);
    assert_eq!(deaf.wait().exit_code, 137);
    pod.remove();
}

#[test]
fn an_ephemeral_container_sees_the_processes_of_its_target() {
    let node = Node::new();
    let pod = node.pod(|_| ());
    let target = pod.run("echo up; sleep 888888; echo woken; exec sleep 777777");
    target.wait_for("up\n");
    let other = pod.run("exec sleep 666666");
    let debugger = pod.run_with(|config| {
        config["linux"]["security_context"]["namespace_options"] =
            json!({"pid": "TARGET", "target_id": target.id});
        let script = "ps -o args | grep -E '^sleep [678]{6}'
            kill $(ps -o pid,args | awk '$2 == \"sleep\" {print $1}')";
        config["command"] = json!(["sh", "-c", script]);
    });
    assert_eq!(debugger.success(), "sleep 888888\n");
    // It looks, acts, and goes; who it looked at goes on.
    target.wait_for("woken\n");
    debugger.remove();
    assert!(target.is_running() && other.is_running());
    pod.remove();
}
