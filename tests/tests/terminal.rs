//! A person sits at a terminal.

use bulkhead_tests::harness::{Bundle, Host};
use bulkhead_tests::testbed::channel::WindowSize;
use nix::sys::termios::{LocalFlags, tcgetattr};
use serde_json::json;

const SIZE: WindowSize = WindowSize {
    rows: 33,
    columns: 101,
};

fn on_terminal(host: &Host, script: &str) -> Bundle {
    host.bundle(|config| {
        config["process"]["terminal"] = json!(true);
        config["process"]["args"] = json!(["sh", "-c", script]);
    })
}

#[test]
fn the_window_size_goes_in_and_follows() {
    let host = Host::new();
    let script =
        "trap 'stty size; exit 0' WINCH; tty; stty size; echo ready; while :; do sleep 1000 & wait $!; done";
    let running = host.run(&on_terminal(&host, script)).spawn_on_terminal(SIZE);
    let before = running.wait_for("ready");
    assert!(before.contains("/dev/pts/"), "{before}");
    assert!(before.contains("33 101\r\n"), "{before}");
    running.resize(WindowSize {
        rows: 12,
        columns: 45,
    });
    let output = running.wait().with_code(0);
    assert!(output.stdout().contains("12 45\r\n"), "{output:?}");
}

#[test]
fn control_c_interrupts_the_foreground() {
    let host = Host::new();
    let script = "trap 'echo interrupted; exit 9' INT; echo ready; while :; do sleep 1; done";
    let mut running = host.run(&on_terminal(&host, script)).spawn_on_terminal(SIZE);
    running.wait_for("ready");
    let settings = tcgetattr(running.terminal_handle()).unwrap();
    assert!(
        !settings.local_flags.contains(LocalFlags::ISIG),
        "the caller's terminal was handed over before the program ran"
    );
    running.send("\x03");
    let output = running.wait().with_code(9);
    assert!(output.stdout().contains("interrupted\r\n"), "{output:?}");
}

#[test]
fn a_shell_is_used_and_the_callers_terminal_is_left_as_it_was() {
    let host = Host::new();
    let bundle = host.bundle(|config| {
        config["process"]["terminal"] = json!(true);
        config["process"]["args"] = json!(["sh"]);
        config["process"]["env"] = json!(["PATH=/bin", "TERM=dumb", "PS1=prompt> "]);
    });
    let mut running = host.run(&bundle).spawn_on_terminal(SIZE);
    let terminal = running.terminal_handle();
    let before = tcgetattr(&terminal).unwrap();
    running.wait_for("prompt> ");
    running.send("echo $((6 * 7)); test -t 0 && test -t 1 && test -t 2 && echo all terminals\r");
    running.wait_for("42\r\n");
    running.wait_for("all terminals\r\n");
    running.send("exit 3\r");
    let output = running.wait().with_code(3);
    assert!(output.stdout().contains("42\r\n"), "{output:?}");
    assert_eq!(tcgetattr(&terminal).unwrap(), before);
}
