//! `kubectl port-forward`.

use std::io::Write;

use bulkhead_tests::pattern::{self, Checker};
use serde_json::json;

use crate::cri::messages::{PortForwardRequest, StreamResponse};
use crate::cri::stream::{Stream, channel};
use crate::node::Node;
use crate::pod::Pod;

/// What each channel begins with: the port.
const PREFIX: usize = 2;

/// Connects to a port of the pod.
#[track_caller]
fn connect(pod: &Pod<'_>, port: u16) -> Stream {
    let request = json!({"pod_sandbox_id": pod.id, "port": [port]});
    let answer = pod
        .node
        .call::<PortForwardRequest, StreamResponse>("PortForward", &request);
    let url = answer.unwrap_or_else(|status| panic!("{status}")).url;
    Stream::open(&format!("{url}?port={port}"))
}

/// What has come from the port.
fn answer(stream: &Stream) -> &[u8] {
    stream.bytes(channel::DATA).get(PREFIX..).unwrap_or_default()
}

/// Why the port cannot be reached.
fn error(stream: &Stream) -> String {
    let text = stream.bytes(channel::ERROR).get(PREFIX..).unwrap_or_default();
    String::from_utf8_lossy(text).into_owned()
}

#[test]
fn ports_that_listen_inside_alone_are_reached() {
    const LENGTH: usize = 1 << 20;
    let node = Node::new();
    let pod = node.pod(|_| ());
    let server = pod.run(
        "mkdir /srv; echo hello >/srv/page; httpd -p 127.0.0.1:80 -h /srv; httpd -p '[::1]:81' -h /srv
         nc -ll -p 7000 -e cat & echo ready; wait",
    );
    server.wait_for("ready\n");

    // Two at once, one of which listens with IPv6 only.
    let mut pages = [80, 81].map(|port| connect(&pod, port));
    for page in pages.iter_mut().rev() {
        page.send(channel::DATA, "GET /page HTTP/1.0\r\n\r\n");
    }
    for page in &mut pages {
        page.wait();
        let text = String::from_utf8_lossy(answer(page)).into_owned();
        assert!(text.ends_with("\r\n\r\nhello\n"), "{text:?}");
        assert_eq!(error(page), "");
    }

    // Every byte comes back, in order, though more is on its way than any buffer holds.
    let mut sent = Vec::new();
    pattern::write(&mut sent, LENGTH).unwrap();
    let mut echo = connect(&pod, 7000);
    for (number, chunk) in sent.chunks(LENGTH / 8).enumerate() {
        echo.send(channel::DATA, chunk);
        echo.wait_for_length(channel::DATA, PREFIX + (number + 1) * LENGTH / 8);
    }
    let mut checker = Checker::new();
    checker.write_all(answer(&echo)).unwrap();
    assert_eq!(checker.finish(), Ok(LENGTH));
    drop(echo);

    // Nobody listens: the connection is over, and the runtime says which port it was.
    let mut nobody = connect(&pod, 9);
    nobody.wait();
    assert_eq!(answer(&nobody), b"");
    assert!(error(&nobody).contains("port 9 "), "{}", error(&nobody));
    pod.remove();
}
