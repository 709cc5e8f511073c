//! The `vm` section of `config.json` says what virtual machine a container runs in.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use bulkhead_tests::harness::{Bundle, Host, initramfs, kernel, processes, vmm};
use nix::unistd::Pid;
use serde_json::{Value, json};

/// A host that allows the test's own folder, whose configured kernel, initramfs and VMM are not there.
fn host_without_defaults() -> Host {
    let mut host = Host::new();
    let folder = host.folder().to_str().unwrap().to_owned();
    host.settings.insert("vm_paths".into(), vec![folder].into());
    for key in ["kernel", "initramfs", "vmm"] {
        host.settings.insert(key.into(), "/nonexistent".into());
    }
    host
}

/// A kernel of another release: the same one but for its name.
fn other_kernel(host: &Host) -> Value {
    let mut kernel = fs::read(kernel()).unwrap();
    let release = b"6.12.";
    let other = b"6.99.";
    let places: Vec<_> = kernel
        .windows(release.len())
        .enumerate()
        .filter(|(_, window)| window == release)
        .map(|(place, _)| place)
        .collect();
    for place in places {
        kernel[place..place + other.len()].copy_from_slice(other);
    }
    json!(host.file("other-vmlinux", kernel))
}

fn copy(host: &Host, from: &Path, name: &str) -> Value {
    let to = host.folder().join(name);
    fs::copy(from, &to).unwrap();
    json!(to)
}

#[test]
fn kernel_initrd_hypervisor_and_hardware() {
    let host = host_without_defaults();
    let (kernel, initrd) = (other_kernel(&host), copy(&host, &initramfs(), "other-initrd"));
    let hypervisor = copy(&host, &vmm(), "other-vmm");
    let bundle = host.bundle(|config| {
        let script = "uname -r; cat /proc/cmdline; nproc; grep ^MemTotal: /proc/meminfo";
        config["process"]["args"] = json!(["sh", "-c", script]);
        // Limits that would have the machine grow, if it were not said how big it is.
        config["linux"]["resources"] = json!({
            "memory": {"limit": 512 << 20},
            "cpu": {"quota": 400_000, "period": 100_000},
        });
        config["vm"] = json!({
            "hypervisor": {"path": hypervisor, "parameters": []},
            "kernel": {"path": kernel, "initrd": initrd, "parameters": ["test.one=1", "test.two=\"a b\""]},
            "image": {"path": "", "format": ""},
            "hwConfig": {"vcpus": 3, "memory": 192 << 20},
        });
    });
    let output = host.run(&bundle).output().success();
    let mut lines = output.lines();
    let release = lines.next().unwrap();
    assert!(release.starts_with("6.99."), "{output}");
    let command_line = lines.next().unwrap();
    assert!(command_line.ends_with(" test.one=1 test.two=\"a b\""), "{output}");
    assert_eq!(lines.next(), Some("3"), "{output}");
    let total = lines.next().unwrap().split_whitespace().nth(1);
    let kib: u32 = total.unwrap().parse().unwrap();
    // The kernel keeps 1/64 for its page structures, and its own image.
    assert!((150 << 10..192 << 10).contains(&kib), "{output}");
}

/// The values of a field of `smaps` for every mapping of a process, in their order.
fn mappings(pid: Pid, field: &str) -> Vec<String> {
    let smaps = fs::read_to_string(processes::file(pid, "smaps")).unwrap();
    smaps
        .lines()
        .filter_map(|line| line.strip_prefix(field))
        .map(|value| value.trim().to_owned())
        .collect()
}

#[test]
fn options_of_the_vmm() {
    let host = Host::new();
    let vmm_of = |parameters: &[&str], look: &dyn Fn(Pid)| {
        let bundle = host.bundle(|config| {
            config["process"]["args"] = json!(["sh", "-c", "echo up; read line"]);
            config["vm"] = json!({
                "hypervisor": {"parameters": parameters},
                "kernel": {"parameters": ["loglevel=7"]},
                "hwConfig": {"memory": 128 << 20},
            });
        });
        let log = host.folder().join("log");
        let mut running = host
            .bulkhead()
            .arg("--log")
            .arg(&log)
            .args(["run", "--bundle"])
            .args([bundle.folder().as_os_str(), host.new_id().as_ref()])
            .spawn();
        running.wait_for("up");
        look(running.vmm());
        running.send("\n");
        running.wait().success();
        fs::read_to_string(log).unwrap()
    };
    let resident = |pid| processes::status_mib(pid, "VmRSS");
    let wants_huge = |pid| mappings(pid, "VmFlags:").iter().any(|flags| flags.contains("hg"));

    let log = vmm_of(&[], &|vmm| {
        assert!(wants_huge(vmm));
        assert!(resident(vmm) < 110, "{} MiB", resident(vmm));
    });
    assert!(!log.contains("Linux version"), "{log}");
    let log = vmm_of(&["--huge-pages=off", "--prefault=on", "--console=on"], &|vmm| {
        assert!(!wants_huge(vmm));
        assert!(resident(vmm) >= 128, "{} MiB", resident(vmm));
    });
    assert!(log.contains("Linux version"), "{log}");
}

/// Runs a container with this `vm` section, which must be refused in a line that has all these words.
#[track_caller]
fn assert_refused(host: &Host, vm: &Value, words: &[&str]) {
    let bundle: Bundle = host.bundle(|config| config["vm"] = vm.clone());
    let line = host.run(&bundle).output().refusal();
    for word in words {
        assert!(line.contains(word), "{word:?} is not in: {line}");
    }
}

#[test]
fn what_an_x86_machine_cannot_have_or_is_out_of_range() {
    let host = Host::new();
    for (vm, words) in [
        (
            json!({"hwConfig": {"deviceTree": "/x"}}),
            ["vm.hwConfig.deviceTree", "x86"],
        ),
        (
            json!({"hwConfig": {"dtdevs": ["x"]}}),
            ["vm.hwConfig.dtdevs", "x86"],
        ),
        (
            json!({"hwConfig": {"iomems": [{"firstGFN": 1, "firstMFN": 1, "nrMFNs": 1}]}}),
            ["vm.hwConfig.iomems", "I/O memory"],
        ),
        (
            json!({"hwconfig": {"irqs": [1]}}),
            ["vm.hwconfig.irqs", "interrupt"],
        ),
        (json!({"hwconfig": {"vcpus": 65}}), ["vm.hwConfig.vcpus", "65"]),
        (
            json!({"hwConfig": {"memory": 1 << 20}}),
            ["vm.hwConfig.memory", "1048576"],
        ),
        (
            json!({"hwConfig": {"memory": 1u64 << 50}}),
            ["vm.hwConfig.memory", "the host has"],
        ),
        (
            json!({"hypervisor": {"parameters": ["--prefault=on", "--turbo"]}}),
            ["vm.hypervisor.parameters[1]: \"--turbo\"", "--huge-pages=on|off"],
        ),
        (
            json!({"image": {"path": "/x", "format": "vhdx"}}),
            ["vm.image.format", "vhdx"],
        ),
    ] {
        assert_refused(&host, &vm, &words);
    }
}

#[test]
fn files_outside_the_allowed_folders() {
    let mut host = Host::new();
    let allowed = host.directory("allowed");
    let allowed_name = allowed.to_str().unwrap().to_owned();
    host.settings
        .insert("vm_paths".into(), vec![allowed_name.clone()].into());
    let secret = host.file("secret", "\u{7f}ELF");
    symlink(&secret, allowed.join("link")).unwrap();
    let dots = allowed.join("../secret");
    let link = allowed.join("link");
    for (vm, field) in [
        (json!({"kernel": {"path": secret}}), "vm.kernel.path"),
        (
            json!({"kernel": {"path": "", "initrd": link}}),
            "vm.kernel.initrd",
        ),
        (json!({"image": {"path": dots}}), "vm.image.path"),
        (json!({"hypervisor": {"path": link}}), "vm.hypervisor.path"),
    ] {
        let words = [field, secret.to_str().unwrap(), "vm_paths", &allowed_name];
        assert_refused(&host, &vm, &words);
    }
    // Without the key, what is installed is allowed.
    host.settings.remove("vm_paths");
    let words = ["vm.kernel.path", "/usr/share/bulkhead, /usr/libexec/bulkhead"];
    assert_refused(&host, &json!({"kernel": {"path": secret}}), &words);
}

#[test]
fn files_that_are_something_else() {
    let mut host = Host::new();
    let folder = host.folder().to_str().unwrap().to_owned();
    host.settings
        .insert("vm_paths".into(), vec![folder.clone()].into());
    let text = host.file("text", "no kernel\n");
    fs::set_permissions(&text, fs::Permissions::from_mode(0o755)).unwrap();
    let missing = host.folder().join("missing");
    for (vm, words) in [
        (
            json!({"kernel": {"path": text}}),
            ["vm.kernel.path", "not an uncompressed kernel"],
        ),
        (
            json!({"kernel": {"initrd": text}}),
            ["vm.kernel.initrd", "not an initramfs"],
        ),
        (
            json!({"kernel": {"path": missing}}),
            ["vm.kernel.path", "No such file"],
        ),
        (
            json!({"image": {"path": host.state()}}),
            ["vm.image.path", "not a regular file"],
        ),
        (
            json!({"hypervisor": {"path": text}}),
            ["text", "Exec format error"],
        ),
    ] {
        assert_refused(&host, &vm, &words);
    }
}
