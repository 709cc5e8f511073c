//! What an administrator has set for the runtime in containerd's configuration, as it comes with the request to create a
//! container.

use std::path::PathBuf;

use containerd_shim_protos::shim::oci;
use protobuf::{CodedInputStream, Message, well_known_types::any::Any};

/// The options of runtimes that containerd does not know. A program's names for them differ, the message is the same.
const GENERIC: &str = "runtimeoptions.v1.Options";
/// The options of runc.
const RUNC: &str = "containerd.runc.v1.Options";

/// The options that matter here.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// `ConfigPath`: bulkhead's configuration file, if not the usual one.
    pub config: Option<PathBuf>,
    /// `SystemdCgroup`: systemd makes the cgroups.
    pub systemd_cgroup: bool,
}

impl Options {
    /// Reads them; those of other runtimes say nothing.
    ///
    /// # Errors
    /// They are not what their type says.
    pub fn read(any: &Any) -> protobuf::Result<Self> {
        let name = any.type_url.rsplit('/').next().unwrap_or_default();
        if name.ends_with(GENERIC) {
            let path = config_path(&any.value)?;
            Ok(Self {
                config: Some(path).filter(|path| !path.is_empty()).map(PathBuf::from),
                ..Self::default()
            })
        } else if name == RUNC {
            let options = oci::Options::parse_from_bytes(&any.value)?;
            Ok(Self {
                systemd_cgroup: options.systemd_cgroup,
                ..Self::default()
            })
        } else {
            Ok(Self::default())
        }
    }
}

/// Field 2 of the generic options.
fn config_path(message: &[u8]) -> protobuf::Result<String> {
    let mut stream = CodedInputStream::from_bytes(message);
    let mut path = String::new();
    while let Some(tag) = stream.read_raw_tag_or_eof()? {
        // A field's number and its wire type, 2 for a text.
        if tag == 2 << 3 | 2 {
            path = stream.read_string()?;
        } else {
            protobuf::rt::skip_field_for_tag(tag, &mut stream)?;
        }
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(type_url: &str, value: &[u8]) -> protobuf::Result<Options> {
        Options::read(&Any {
            type_url: type_url.to_owned(),
            value: value.to_vec(),
            ..Any::default()
        })
    }

    #[test]
    fn the_configuration_file_is_named_by_the_generic_options() {
        let message = b"\x0a\x01t\x12\x02/c\x1a\x01b";
        for name in [
            GENERIC,
            "cri.runtimeoptions.v1.Options",
            "type.googleapis.com/runtimeoptions.v1.Options",
        ] {
            let options = read(name, message).expect("valid");
            assert_eq!(options.config, Some(PathBuf::from("/c")), "{name}");
        }
        assert_eq!(read(GENERIC, b"").expect("valid"), Options::default());
        assert_eq!(read("", b"anything").expect("nothing"), Options::default());
        read(GENERIC, b"\x12\x09/c").expect_err("cut short");
    }

    #[test]
    fn runcs_options_say_who_makes_cgroups() {
        let options = oci::Options {
            systemd_cgroup: true,
            ..oci::Options::default()
        };
        let options = read(RUNC, &options.write_to_bytes().expect("encodable")).expect("valid");
        assert!(options.systemd_cgroup && options.config.is_none());
    }

    proptest! {
        #[test]
        fn any_message_is_read_or_refused(message in prop::collection::vec(any::<u8>(), 0..32)) {
            let _ = read(GENERIC, &message);
        }
    }
}
