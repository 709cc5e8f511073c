//! Many small questions to one container: a boot is what costs.

use bulkhead_tests::harness::{Bundle, Host};
use serde_json::{Value, json};

/// What a shell command in the container must print, for a field of config.json.
pub type Check<'a> = (&'a str, &'a str, &'a str);

/// A bundle that answers the checks, made by `edit`.
pub fn bundle(host: &Host, edit: impl FnOnce(&mut Value), checks: &[Check<'_>]) -> Bundle {
    let script: String = checks
        .iter()
        .enumerate()
        .map(|(index, (_, command, _))| format!("echo '#{index}'\n({command}) 2>&1\n"))
        .collect();
    host.bundle(|config| {
        config["process"]["args"] = json!(["sh", "-c", script, "zero", "one two"]);
        edit(config);
    })
}

/// Runs the container and compares its answers.
#[track_caller]
pub fn run(host: &Host, bundle: &Bundle, checks: &[Check<'_>]) {
    let output = host.run(bundle).output();
    let text = output.stdout();
    assert!(text.starts_with("#0\n"), "{output:?}");
    let mut wrong = String::new();
    for (index, (field, command, expected)) in checks.iter().enumerate() {
        let begin = format!("#{index}\n");
        let end = format!("#{}\n", index + 1);
        let answer = text.split_once(&begin).map_or("", |(_, rest)| rest);
        let answer = answer
            .split_once(&end)
            .map_or(answer, |(answer, _)| answer)
            .trim_end();
        if answer != *expected {
            wrong.push_str(&format!(
                "{field}: `{command}` printed {answer:?}, not {expected:?}\n"
            ));
        }
    }
    assert!(wrong.is_empty(), "{wrong}{output:?}");
}

/// Makes the bundle and runs it.
#[track_caller]
pub fn check(edit: impl FnOnce(&mut Value), checks: &[Check<'_>]) {
    let host = Host::new();
    let bundle = bundle(&host, edit, checks);
    run(&host, &bundle, checks);
}

/// Adds an item to a list of config.json.
pub fn push(config: &mut Value, list: &str, item: Value) {
    config[list].as_array_mut().expect("a list").push(item);
}

/// Runs what must be refused in a line with these words.
#[track_caller]
pub fn refused(edit: impl FnOnce(&mut Value), words: &[&str]) {
    refused_on(&Host::new(), edit, words);
}

/// The same, where there are things that it names.
#[track_caller]
pub fn refused_on(host: &Host, edit: impl FnOnce(&mut Value), words: &[&str]) {
    let bundle = host.bundle(edit);
    let line = host.run(&bundle).output().refusal();
    for word in words {
        assert!(line.contains(word), "{word:?} is not in: {line}");
    }
}
