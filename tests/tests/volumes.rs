//! Volumes as Kubernetes makes them of configMaps and secrets: their content changes while containers run.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use bulkhead_tests::harness::Host;
use nix::sys::signal::Signal;
use nix::sys::wait::WaitStatus;
use serde_json::json;

/// Writes a new content, and turns the link to it, as the kubelet does.
fn write(volume: &Path, data: &str, files: &[(&str, &str)]) {
    fs::create_dir(volume.join(data)).unwrap();
    for (name, content) in files {
        fs::write(volume.join(data).join(name), content).unwrap();
        let link = volume.join(name);
        if !link.is_symlink() {
            symlink(format!("..data/{name}"), link).unwrap();
        }
    }
    symlink(data, volume.join("..data_tmp")).unwrap();
    fs::rename(volume.join("..data_tmp"), volume.join("..data")).unwrap();
}

#[test]
fn a_program_that_watches_a_volume_sees_it_change() {
    let host = Host::new();
    let volume = host.directory("config");
    write(
        &volume,
        "..1",
        &[("key", "old"), ("run", "#!/bin/sh\necho ran"), ("gone", "")],
    );
    // It tells of every name that is moved into the volume.
    let bundle = host.bundle(|config| {
        config["process"]["args"] = json!(["workload", "watch", "/config"]);
        config["mounts"].as_array_mut().unwrap().push(json!({
            "destination": "/config", "type": "bind", "source": volume, "options": ["rbind", "ro"],
        }));
    });
    let container = host.started(&bundle.with_program("workload"));
    container.wait_for("watching");
    assert_eq!(
        container.shell("cat /config/key; sh /config/run; touch /config/new 2> /dev/null || echo read-only"),
        "oldran\nread-only\n"
    );
    write(&volume, "..2", &[("key", "new"), ("added", "more")]);
    container.wait_for("..data");
    let listing = "cat /config/key /config/added; ls -A /config | grep -v run";
    assert_eq!(container.shell(listing), "newmore..2\n..data\nadded\nkey\n");
    container.kill("KILL");
    assert_eq!(
        container.wait(),
        WaitStatus::Signaled(container.pid, Signal::SIGKILL, false)
    );
    container.delete();
}
