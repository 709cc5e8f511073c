//! Pods of several containers that come and go.

use serde_json::json;

use crate::node::Node;

/// What differs between kernels.
const BOOT: &str = "/proc/sys/kernel/random/boot_id";

#[test]
fn containers_of_a_pod_come_and_go_in_one_machine() {
    let node = Node::new();
    let pod = node.pod(|_| ());
    assert!(pod.is_ready());

    // An init container, then two others side by side.
    let init = pod.run(&format!("cat {BOOT}; echo warning >&2; exit 3"));
    let ended = init.wait();
    assert_eq!((ended.exit_code, ended.reason.as_str()), (3, "Error"), "{ended}");
    assert_eq!(init.output("stderr"), "warning\n");
    let boot = init.output("stdout");
    let service =
        pod.run("trap 'echo stopping; exit 5' TERM; echo ready; while :; do sleep 1000 & wait $!; done");
    let sidecar = pod.run("exec sleep 1000000");
    service.wait_for("ready\n");
    assert!(sidecar.is_running());
    assert_eq!(sidecar.exec(&format!("cat {BOOT}")), boot, "one kernel");

    // Programs in a container.
    let exec = service
        .try_exec(&["sh", "-c", "echo out; echo err >&2; exit 7"], 0)
        .expect("it runs");
    assert_eq!(
        (exec.exit_code, &*exec.stdout, &*exec.stderr),
        (7, &b"out\n"[..], &b"err\n"[..])
    );
    let missing = service.try_exec(&["nonesuch"], 0).expect_err("there is none");
    assert!(missing.message.contains("nonesuch"), "{missing:?}");

    // One crashes and is made anew; the others do not notice.
    sidecar.stop(0);
    assert_eq!(sidecar.wait().exit_code, 137);
    sidecar.remove();
    let again = pod.run_with(|config| {
        config["metadata"]["attempt"] = json!(1);
        config["command"] = json!(["sh", "-c", format!("cat {BOOT}")]);
    });
    assert_eq!(again.success(), boot, "the same kernel");

    // The last one ends as it is asked to, and another one comes after it.
    service.stop(60);
    assert_eq!(service.wait().exit_code, 5);
    assert_eq!(service.output("stdout"), "ready\nstopping\n");
    assert!(pod.is_ready());
    let last = pod.run(&format!("cat {BOOT}"));
    assert_eq!(last.success(), boot, "still the same kernel");
    pod.remove();
}
