//! Compiles the lists of system calls into the program, so that a start parses nothing.

#[path = "seccomp/compiler.rs"]
mod compiler;

use std::fmt::Write;
use std::path::PathBuf;
use std::{env, fs};

use anyhow::Context;

const LISTS: &str = "seccomp/lists.toml";

fn main() -> anyhow::Result<()> {
    for input in ["build.rs", "seccomp"] {
        println!("cargo:rerun-if-changed={input}");
    }
    let text = fs::read_to_string(LISTS).context(LISTS)?;
    let mut code = String::new();
    for (name, filter) in compiler::compile(&text).context(LISTS)? {
        let name = name.to_uppercase().replace('-', "_");
        writeln!(code, "pub static {name}: [sock_filter; {}] = [", filter.len())?;
        for (code_, jt, jf, k) in filter {
            writeln!(
                code,
                "    sock_filter {{ code: {code_}, jt: {jt}, jf: {jf}, k: {k} }},"
            )?;
        }
        writeln!(code, "];")?;
    }
    let out = PathBuf::from(env::var_os("OUT_DIR").context("cargo sets OUT_DIR")?);
    fs::write(out.join("filters.rs"), code).context("OUT_DIR")
}
