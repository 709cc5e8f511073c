//! `bulkhead spec` makes a config.json to start from.

use std::fs;

use bulkhead_tests::harness::Host;
use serde_json::{Value, json};

#[test]
fn a_new_config_json_runs() {
    let host = Host::new();
    let bundle = host.script("true");
    fs::remove_file(bundle.config()).unwrap();
    let spec = || host.bulkhead().args(["spec", "--bundle"]).arg(bundle.folder());
    assert_eq!(spec().output().success(), "");

    let mut config: Value = serde_json::from_slice(&fs::read(bundle.config()).unwrap()).unwrap();
    assert_eq!(config["process"]["args"], json!(["sh"]));
    assert_eq!(config["process"]["terminal"], json!(true));
    config["process"]["args"] = json!(["sh", "-c", "hostname; id -u; touch /x"]);
    config["process"]["terminal"] = json!(false);
    config["process"]["env"]
        .as_array_mut()
        .unwrap()
        .push(json!("PATH=/bin"));
    bundle.write_config(config.to_string().as_bytes());
    let output = host.run(&bundle).output();
    assert!(output.stdout().ends_with("\n0\n"), "{output:?}");
    assert!(output.stderr().contains("Read-only file system"), "{output:?}");

    let rootless = host.directory("rootless");
    let mut command = host.bulkhead().args(["spec", "--rootless"]);
    command.command().current_dir(&rootless);
    let line = command.output().refusal();
    assert!(line.contains("only root"), "{line}");
    assert!(!rootless.join("config.json").exists());

    let before = fs::read(bundle.config()).unwrap();
    let line = spec().output().refusal();
    assert!(line.contains("config.json") && line.contains("exists"), "{line}");
    assert_eq!(fs::read(bundle.config()).unwrap(), before);
}
