//! CRI's description of a pod, `runtime.v1.PodSandboxConfig`, as far as it matters for the pod's machine. Of what else is in it,
//! containerd makes files and networks itself.

use std::collections::BTreeMap;

use protobuf::{CodedInputStream, rt::WireType};

use crate::oci::Namespace;

/// What CRI says of a pod.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Described {
    /// The host name.
    pub hostname: String,
    /// The pod's own annotations.
    pub annotations: BTreeMap<String, String>,
    /// The pod's cgroup.
    pub cgroup_parent: String,
    /// The kernel's settings.
    pub sysctls: BTreeMap<String, String>,
    /// The namespaces that are to be the host's, as the runtime specification calls them.
    pub of_the_host: Vec<&'static str>,
    /// Microseconds of a period; 0: not said.
    pub cpu_period: i64,
    /// Microseconds of processor time in a period; 0: not said.
    pub cpu_quota: i64,
    /// The limit of memory in bytes; 0: not said.
    pub memory: i64,
}

/// CRI's mode of a namespace that is the host's.
const NODE: i32 = 2;

impl Described {
    /// Reads it.
    ///
    /// # Errors
    /// It is no such message.
    pub fn read(message: &[u8]) -> protobuf::Result<Self> {
        let mut pod = Self::default();
        each_field(message, |field, stream| {
            match field {
                (2, WireType::LengthDelimited) => pod.hostname = stream.read_string()?,
                (7, WireType::LengthDelimited) => pod.annotations.extend([entry(stream)?]),
                (8, WireType::LengthDelimited) => pod.read_linux(&stream.read_bytes()?)?,
                _ => return Ok(false),
            }
            Ok(true)
        })?;
        Ok(pod)
    }

    fn read_linux(&mut self, message: &[u8]) -> protobuf::Result<()> {
        each_field(message, |field, stream| {
            match field {
                (1, WireType::LengthDelimited) => self.cgroup_parent = stream.read_string()?,
                (2, WireType::LengthDelimited) => self.read_security_context(&stream.read_bytes()?)?,
                (3, WireType::LengthDelimited) => self.sysctls.extend([entry(stream)?]),
                (5, WireType::LengthDelimited) => self.read_resources(&stream.read_bytes()?)?,
                _ => return Ok(false),
            }
            Ok(true)
        })
    }

    fn read_security_context(&mut self, message: &[u8]) -> protobuf::Result<()> {
        each_field(message, |field, stream| match field {
            (1, WireType::LengthDelimited) => self.read_namespaces(&stream.read_bytes()?).map(|()| true),
            _ => Ok(false),
        })
    }

    fn read_namespaces(&mut self, message: &[u8]) -> protobuf::Result<()> {
        each_field(message, |field, stream| {
            let kind = match field {
                (1, WireType::Varint) => Namespace::NETWORK,
                (2, WireType::Varint) => "pid",
                (3, WireType::Varint) => "ipc",
                _ => return Ok(false),
            };
            if stream.read_int32()? == NODE {
                self.of_the_host.push(kind);
            }
            Ok(true)
        })
    }

    fn read_resources(&mut self, message: &[u8]) -> protobuf::Result<()> {
        each_field(message, |field, stream| {
            match field {
                (1, WireType::Varint) => self.cpu_period = stream.read_int64()?,
                (2, WireType::Varint) => self.cpu_quota = stream.read_int64()?,
                (4, WireType::Varint) => self.memory = stream.read_int64()?,
                _ => return Ok(false),
            }
            Ok(true)
        })
    }
}

/// An entry of a map of texts.
fn entry(stream: &mut CodedInputStream<'_>) -> protobuf::Result<(String, String)> {
    let (mut key, mut value) = (String::new(), String::new());
    each_field(&stream.read_bytes()?, |field, stream| {
        match field {
            (1, WireType::LengthDelimited) => key = stream.read_string()?,
            (2, WireType::LengthDelimited) => value = stream.read_string()?,
            _ => return Ok(false),
        }
        Ok(true)
    })?;
    Ok((key, value))
}

/// Has `read` take the fields of a message, by number and wire type. Those that it says it has not taken are skipped.
fn each_field(
    message: &[u8],
    mut read: impl FnMut((u32, WireType), &mut CodedInputStream<'_>) -> protobuf::Result<bool>,
) -> protobuf::Result<()> {
    let mut stream = CodedInputStream::from_bytes(message);
    while let Some(tag) = stream.read_raw_tag_or_eof()? {
        let field = WireType::new(tag & 7).map(|kind| (tag >> 3, kind));
        let is_taken = match field {
            Some(field) => read(field, &mut stream)?,
            None => false,
        };
        if !is_taken {
            protobuf::rt::skip_field_for_tag(tag, &mut stream)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_matters_is_read_and_the_rest_skipped() {
        let message = [
            &b"\x0a\x03\x0a\x01n\x12\x03web"[..],
            b"\x3a\x06\x0a\x01a\x12\x01b",
            b"\x42\x2b\x0a\x08/pods/p1\x12\x08\x0a\x06\x08\x02\x10\x01\x18\x02",
            b"\x1a\x06\x0a\x01s\x12\x011",
            b"\x2a\x0d\x08\xa0\x8d\x06\x10\xc0\x9a\x0c\x18\x02\x20\x80\x20",
        ]
        .concat();
        let expected = Described {
            hostname: "web".to_owned(),
            annotations: [("a".to_owned(), "b".to_owned())].into(),
            cgroup_parent: "/pods/p1".to_owned(),
            sysctls: [("s".to_owned(), "1".to_owned())].into(),
            of_the_host: vec!["network", "ipc"],
            cpu_period: 100_000,
            cpu_quota: 200_000,
            memory: 4096,
        };
        assert_eq!(Described::read(&message).expect("a description"), expected);
    }

    proptest! {
        #[test]
        fn any_description_is_read_or_refused(message in prop::collection::vec(any::<u8>(), 0..40)) {
            let _ = Described::read(&message);
        }
    }
}
