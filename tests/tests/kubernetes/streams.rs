//! `kubectl exec`, `attach` and `logs`.

use std::fs;

use serde_json::json;

use crate::cri::messages::{AttachRequest, Empty, ExecRequest, StreamResponse};
use crate::cri::stream::{Stream, channel};
use crate::node::Node;

/// Opens the stream that a method's answer names.
fn open<Q: protobuf::MessageFull>(node: &Node, method: &str, request: &serde_json::Value) -> Stream {
    let answer = node.call::<Q, StreamResponse>(method, request);
    let url = answer.unwrap_or_else(|status| panic!("{status}")).url;
    Stream::open(&url)
}

#[test]
fn a_person_looks_into_a_pod() {
    let node = Node::new();
    let pod = node.pod(|_| ());
    let idle = pod.run("echo ready; exec sleep 1000000");
    idle.wait_for("ready\n");
    let exec = |script: &str, terminal: bool| {
        let request = json!({
            "container_id": idle.id,
            "cmd": ["sh", "-c", script],
            "stdin": true,
            "stdout": true,
            "stderr": !terminal,
            "tty": terminal,
        });
        open::<ExecRequest>(&node, "Exec", &request)
    };
    let mut piped = exec("read line; echo got $line; echo oops >&2; exit 3", false);
    piped.send(channel::STDIN, "a line\n");
    piped.wait();
    assert_eq!(piped.text(channel::STDOUT), "got a line\n");
    assert_eq!(piped.text(channel::STDERR), "oops\n");
    assert_eq!(piped.exit_code(), 3);

    let mut terminal = exec(
        "until [ \"$(stty size)\" = '33 101' ]; do sleep 0.1; done; exec sh",
        true,
    );
    terminal.send(channel::RESIZE, json!({"Width": 101, "Height": 33}).to_string());
    terminal.wait_for(channel::STDOUT, "# ");
    terminal.send(channel::STDIN, "tty; exit 5\r");
    terminal.wait();
    assert!(terminal.text(channel::STDOUT).contains("/dev/pts/"));
    assert_eq!(terminal.exit_code(), 5);

    // A container whose own input is open.
    let asking = pod.run_with(|config| {
        config["command"] = json!(["sh", "-c", "echo waiting; read line; echo got $line"]);
        config["stdin"] = json!(true);
    });
    asking.wait_for("waiting\n");
    let request = json!({"container_id": asking.id, "stdin": true, "stdout": true, "stderr": true});
    let mut attached = open::<AttachRequest>(&node, "Attach", &request);
    attached.send(channel::STDIN, "an answer\n");
    attached.wait();
    assert_eq!(attached.text(channel::STDOUT), "got an answer\n");
    assert_eq!(asking.success(), "waiting\ngot an answer\n");

    // The log is moved away, and goes on in a new file.
    let talking = pod.run("while :; do echo tick; sleep 0.2; done");
    talking.wait_for("tick\n");
    fs::rename(&talking.log, talking.log.with_extension("old")).unwrap();
    talking.call::<Empty>("ReopenContainerLog").expect("it reopens");
    node.wait_for("a new log", || talking.log.exists().then_some(()));
    talking.wait_for("tick\n");
    pod.remove();
}

#[test]
fn logs_lose_nothing() {
    const LINES: usize = 5000;
    const LONG: usize = 16 << 20;
    let node = Node::new();
    let pod = node.pod(|_| ());
    let talking = pod.run(&format!(
        "seq {LINES}; head -c {LONG} /dev/zero | tr '\\0' x; echo; seq {LINES}"
    ));
    let output = talking.success();
    let numbers: String = (1..=LINES).map(|number| format!("{number}\n")).collect();
    let middle = output
        .strip_prefix(&numbers)
        .and_then(|rest| rest.strip_suffix(&numbers));
    let middle = middle.expect("the lines before and after the long one");
    assert_eq!(middle.trim_end_matches('\n').trim_matches('x'), "");
    assert_eq!(middle.len(), LONG + 1);
    pod.remove();
}
