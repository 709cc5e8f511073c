//! A person builds an image with buildah, whose RUN steps bulkhead runs.

use std::fs;

use bulkhead_tests::harness::{PODMAN_IMAGE as IMAGE, Podman};

/// What differs between kernels.
const BOOT: &str = "/proc/sys/kernel/random/boot_id";

#[test]
fn steps_of_a_build_run_in_a_microvm() {
    let podman = Podman::new();
    let file = podman.host().file(
        "Containerfile",
        format!("FROM {IMAGE}\nRUN cat {BOOT} > /kernel && echo built > /made\nCMD [\"cat\", \"/made\", \"/kernel\"]\n"),
    );
    podman
        .buildah([
            "build",
            "--isolation=oci",
            "--network=none",
            "--tag=localhost/made",
            "--runtime",
        ])
        .arg(podman.runtime())
        .arg("--file")
        .arg(file)
        .arg(podman.host().directory("context"))
        .output()
        .with_code(0);
    let run = podman
        .podman(["run", "--rm", "--network=none", "localhost/made"])
        .output()
        .success();
    let (made, kernel) = run.split_once('\n').expect("two files");
    assert_eq!(made, "built");
    assert_ne!(
        kernel,
        fs::read_to_string(BOOT).unwrap(),
        "the step ran on the guest's kernel"
    );

    let container = podman.buildah(["from", "localhost/made"]).output().success();
    let container = container.trim_end();
    let refused = podman
        .buildah(["run", "--isolation=oci", "--network=none", "--runtime"])
        .arg(podman.runtime())
        .args([container, "--", "sh", "-c", "cat /made; exit 4"])
        .output()
        .with_code(4);
    assert_eq!(refused.stdout(), "built\n");
    podman.buildah(["rm", container]).output().with_code(0);
}
