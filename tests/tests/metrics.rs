//! Figures for Prometheus: of all sandboxes by a command, of one by its socket.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use bulkhead_tests::harness::Host;
use serde_json::json;

/// The figure of that name and labels.
#[track_caller]
fn figure(text: &str, name: &str, labels: &str) -> f64 {
    let start = format!("bulkhead_{name}{{{labels}}} ");
    let line = text.lines().find_map(|line| line.strip_prefix(&start));
    line.unwrap_or_else(|| panic!("no {start}in:\n{text}"))
        .parse()
        .unwrap()
}

#[test]
fn the_figures_of_a_node_and_of_one_sandbox_can_be_scraped() {
    let host = Host::new();
    let first = host.started(&host.script("exec sleep 100000"));
    let joins = host.bundle(|config| {
        config["annotations"] = json!({
            "io.kubernetes.cri.container-type": "container",
            "io.kubernetes.cri.sandbox-id": first.id,
        });
        config["process"]["args"] = json!(["sleep", "100000"]);
    });
    let member = host.started(&joins);
    let other = host.started(&host.script("exec sleep 100000"));

    let all = host.bulkhead().arg("metrics").output().success();
    assert!(all.ends_with("# EOF\n"), "{all}");
    let of = |sandbox: &str, container: &str| format!("sandbox=\"{sandbox}\",container=\"{container}\"");
    for (sandbox, container) in [(&first, &first), (&first, &member), (&other, &other)] {
        let labels = of(&sandbox.id, &container.id);
        assert_eq!(figure(&all, "container_processes", &labels), 1.0);
        assert!(figure(&all, "container_memory_bytes", &labels) > 4096.0);
        assert!(figure(&all, "container_cpu_seconds_total", &labels) > 0.0);
        assert_eq!(figure(&all, "container_oom_kills_total", &labels), 0.0);
        assert!(
            figure(
                &all,
                "start_seconds",
                &format!("{labels},stage=\"start container\"")
            ) > 0.0
        );
    }
    let boot = format!("{},stage=\"boot guest\"", of(&first.id, &first.id));
    assert!(figure(&all, "start_seconds", &boot) > 0.01);
    let sandbox = format!("sandbox=\"{}\"", first.id);
    assert_eq!(figure(&all, "sandbox_guest_answers", &sandbox), 1.0);
    assert!(figure(&all, "sandbox_memory_bytes", &sandbox) > 1e6);
    assert!(figure(&all, "sandbox_cpu_seconds_total", &sandbox) > 0.01);

    let mut socket = UnixStream::connect(host.state().join(&first.id).join("metrics.sock")).unwrap();
    socket
        .write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .unwrap();
    let mut page = String::new();
    socket.read_to_string(&mut page).unwrap();
    assert!(page.starts_with("HTTP/1.1 200 OK\r\n"), "{page}");
    assert_eq!(
        figure(&page, "container_processes", &of(&first.id, &member.id)),
        1.0
    );
    assert!(!page.contains(&other.id), "{page}");
    drop(socket);

    for container in [member, first, other] {
        container.kill("KILL");
        let _ = container.wait();
        container.delete();
    }
    let none = host.bulkhead().arg("metrics").output().success();
    assert!(!none.contains("sandbox="), "{none}");
}
