//! What containerd tells a shim of its runtime's configuration.

use protobuf::well_known_types::any::Any;

/// `runtimeoptions.v1.Options` that name a configuration file, field 2, a string.
///
/// # Panics
/// The path is longer than 127 bytes.
#[must_use]
pub fn shim_options(config: &str) -> Any {
    let length = u8::try_from(config.len()).ok().filter(|length| *length < 128);
    let mut options = vec![2 << 3 | 2, length.expect("a short path")];
    options.extend_from_slice(config.as_bytes());
    Any {
        type_url: "runtimeoptions.v1.Options".to_owned(),
        value: options,
        ..Any::default()
    }
}
