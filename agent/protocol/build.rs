//! Generates the messages and the service from the .proto file, in pure Rust.

use std::{env, fs, path::PathBuf};

use ttrpc_codegen::{Codegen, Customize, ProtobufCustomize};

fn main() {
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    println!("cargo:rerun-if-changed=proto/agent.proto");
    Codegen::new()
        .out_dir(&out)
        .inputs(["proto/agent.proto"])
        .include("proto")
        .rust_protobuf()
        .rust_protobuf_customize(ProtobufCustomize::default().gen_mod_rs(false))
        .customize(Customize {
            async_all: true,
            gen_mod: false,
            ..Customize::default()
        })
        .run()
        .expect("agent.proto is valid");
    // `include!` wants files without inner attributes, a module file can have them.
    fs::write(out.join("mod.rs"), "pub mod agent;\npub mod agent_ttrpc;\n").expect("OUT_DIR is writable");
}
