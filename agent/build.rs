//! What the linker leaves out of the agent as it is installed.

use std::env;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=no-unwinding.ld");
    // The other profiles, of which tests are built in one, may unwind.
    if env::var("OPT_LEVEL").as_deref() != Ok("z") {
        return;
    }
    let folder = env::var("CARGO_MANIFEST_DIR").expect("cargo says where the package is");
    for argument in [
        // Of a relocation that adds the place of the program in memory, a bit instead of 24 bytes.
        "-z,pack-relative-relocs",
        "--no-eh-frame-hdr",
        &format!("-T,{folder}/no-unwinding.ld"),
    ] {
        println!("cargo::rustc-link-arg-bins=-Wl,{argument}");
    }
}
