//! Generates the messages of Kubernetes' container runtime interface, in pure Rust.

use std::{env, fs, path::PathBuf};

use protobuf_codegen::{Codegen, Customize};

fn main() {
    const FOLDER: &str = "tests/kubernetes/cri";
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    println!("cargo:rerun-if-changed={FOLDER}/runtime.proto");
    Codegen::new()
        .pure()
        .out_dir(&out)
        .include(FOLDER)
        .input(format!("{FOLDER}/runtime.proto"))
        .customize(Customize::default().gen_mod_rs(false))
        .run()
        .expect("runtime.proto is valid");
    // `include!` wants files without inner attributes, a module file can have them.
    fs::write(out.join("cri.rs"), "pub mod runtime;\n").expect("OUT_DIR is writable");
}
