//! `-v` and `-info`: what this program is.

use std::io::Write;

use anyhow::Context;
use containerd_shim_protos::types::introspection::{RuntimeInfo, RuntimeVersion};
use protobuf::{Message, MessageField};

use super::NAME;

/// Prints the version.
///
/// # Errors
/// Nobody reads it.
pub fn print_version() -> anyhow::Result<()> {
    let version = env!("CARGO_PKG_VERSION");
    writeln!(std::io::stdout(), "{NAME}:\n  Version:  {version}").context("write the version")
}

/// Prints what containerd 1.7 and later asks a runtime about itself.
///
/// # Errors
/// Nobody reads it.
pub fn print() -> anyhow::Result<()> {
    let info = RuntimeInfo {
        name: "io.containerd.bulkhead.v2".to_owned(),
        version: MessageField::some(RuntimeVersion {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            ..RuntimeVersion::default()
        }),
        ..RuntimeInfo::default()
    };
    let bytes = info.write_to_bytes().context("encode the answer")?;
    std::io::stdout().write_all(&bytes).context("write the answer")
}
