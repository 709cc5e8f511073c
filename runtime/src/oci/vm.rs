//! The `vm` section: which virtual machine the container is to run in.

use bulkhead_vmm::config::{ImageFormat, VmConfig};
use serde::Deserialize;

use super::{FieldError, VmmOptions};

/// The least memory that the VMM accepts, in bytes.
const LEAST_MEMORY: u64 = 16 << 20;
/// What memory is given in, in bytes.
const MIB: u64 = 1 << 20;

/// The section. What is empty in it is absent: Go writes `{"path": ""}` for a part that is not set.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Vm {
    /// The VMM.
    pub hypervisor: Hypervisor,
    /// The guest's kernel.
    pub kernel: Kernel,
    /// The guest's root, which is not the container's.
    pub image: Image,
    /// Its hardware. The specification writes `hwConfig`, and its Go binding `hwconfig`.
    #[serde(alias = "hwconfig")]
    pub hw_config: HardwareConfig,
}

/// The VMM.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Hypervisor {
    /// A `bulkhead-vmm` on the host.
    pub path: String,
    /// Its options, see [`VmmOptions`].
    pub parameters: Vec<String>,
}

/// The guest's kernel.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Kernel {
    /// An uncompressed `vmlinux` on the host.
    pub path: String,
    /// Words for its command line.
    pub parameters: Vec<String>,
    /// An initial RAM file system on the host.
    pub initrd: String,
}

/// The guest's root.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Image {
    /// A disk image on the host.
    pub path: String,
    /// How it stores its contents; empty: raw.
    pub format: String,
}

impl Image {
    /// How it stores its contents.
    ///
    /// # Errors
    /// No format of the specification.
    pub fn format(&self) -> Result<ImageFormat, FieldError> {
        if self.format.is_empty() {
            return Ok(ImageFormat::Raw);
        }
        let format = ImageFormat::ALL
            .into_iter()
            .find(|format| format.name() == self.format);
        format.ok_or_else(|| {
            let known = ImageFormat::ALL.map(ImageFormat::name).join(", ");
            FieldError::new(
                "vm.image.format",
                format!("{:?} cannot be read; what can is {known}", self.format),
            )
        })
    }
}

/// The hardware.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HardwareConfig {
    /// Virtual processors.
    pub vcpus: Option<u32>,
    /// Memory in bytes.
    pub memory: Option<u64>,
}

impl Vm {
    /// Checks what can be checked without looking at the host.
    ///
    /// # Errors
    /// The first field that is wrong or cannot be honoured.
    pub fn check(&self) -> Result<(), FieldError> {
        for (field, path) in [
            ("vm.hypervisor.path", &self.hypervisor.path),
            ("vm.kernel.path", &self.kernel.path),
            ("vm.kernel.initrd", &self.kernel.initrd),
            ("vm.image.path", &self.image.path),
        ] {
            if !path.is_empty() && !path.starts_with('/') {
                return Err(FieldError::new(
                    field,
                    format!("{path:?} is not an absolute path on the host"),
                ));
            }
        }
        VmmOptions::parse(&self.hypervisor.parameters)?;
        for parameter in &self.kernel.parameters {
            // The kernel takes a line of ASCII.
            if !parameter.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
                let problem = format!("{parameter:?} has characters other than printable ASCII");
                return Err(FieldError::new("vm.kernel.parameters", problem));
            }
        }
        if !self.image.path.is_empty() {
            self.image.format()?;
        }
        self.hw_config.check()
    }
}

impl HardwareConfig {
    fn check(&self) -> Result<(), FieldError> {
        let field =
            |name: &str, problem: String| Err(FieldError::new(format!("vm.hwConfig.{name}"), problem));
        if let Some(vcpus) = self.vcpus
            && !(1..=u32::from(VmConfig::MAX_VCPUS)).contains(&vcpus)
        {
            let problem = format!("{vcpus} is not between 1 and {}", VmConfig::MAX_VCPUS);
            return field("vcpus", problem);
        }
        if let Some(memory) = self.memory {
            if memory < LEAST_MEMORY || memory / MIB > u32::MAX.into() {
                let problem = format!("{memory} bytes are not between {LEAST_MEMORY} and 4 PiB");
                return field("memory", problem);
            }
            if !memory.is_multiple_of(MIB) {
                let next = memory.next_multiple_of(MIB);
                let problem = format!("{memory} bytes are not whole MiB; {next} are");
                return field("memory", problem);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::oci::Spec;

    fn check(vm: &Value) -> Result<Vm, String> {
        let spec = Spec::view(&json!({"vm": vm})).map_err(|error| error.to_string())?;
        let vm = spec.vm.expect("the section is there");
        vm.check().map_err(|error| error.to_string())?;
        Ok(vm)
    }

    #[test]
    fn what_go_writes_for_nothing_is_nothing() {
        let vm = check(&json!({
            "hypervisor": {"path": ""}, "kernel": {"path": ""}, "image": {"path": "", "format": ""}
        }));
        assert_eq!(vm, Ok(Vm::default()));
    }

    #[test]
    fn both_spellings_of_the_hardware() {
        for spelling in ["hwConfig", "hwconfig"] {
            let vm = check(&json!({spelling: {"vcpus": 3, "memory": 201_326_592}})).expect("valid");
            assert_eq!(
                (vm.hw_config.vcpus, vm.hw_config.memory),
                (Some(3), Some(192 << 20))
            );
        }
        let error = check(&json!({"hwConfig": {"vcpus": 3}, "hwconfig": {"vcpus": 4}})).expect_err("which?");
        assert!(error.starts_with("vm"), "{error}");
    }

    #[test]
    fn what_is_out_of_range_or_cannot_be_is_refused_by_name() {
        for (vm, field) in [
            (json!({"hwConfig": {"vcpus": 0}}), "vm.hwConfig.vcpus: 0"),
            (json!({"hwConfig": {"vcpus": 65}}), "vm.hwConfig.vcpus: 65"),
            (json!({"hwConfig": {"vcpus": -1}}), "vm.hwConfig.vcpus: "),
            (json!({"hwConfig": {"memory": 0}}), "vm.hwConfig.memory: 0"),
            (
                json!({"hwConfig": {"memory": 16_777_215}}),
                "vm.hwConfig.memory: 16777215",
            ),
            (
                json!({"hwConfig": {"memory": 200_000_000}}),
                "vm.hwConfig.memory: 200000000",
            ),
            (
                json!({"hwConfig": {"memory": u64::MAX}}),
                "vm.hwConfig.memory: 18446744073709551615",
            ),
            (json!({"kernel": {"path": "vmlinux"}}), "vm.kernel.path"),
            (json!({"kernel": {"initrd": "initrd"}}), "vm.kernel.initrd"),
            (
                json!({"kernel": {"parameters": ["a\nb"]}}),
                "vm.kernel.parameters",
            ),
            (json!({"kernel": {"parameters": "quiet"}}), "vm.kernel.parameters"),
            (json!({"hypervisor": {"path": "../vmm"}}), "vm.hypervisor.path"),
            (
                json!({"hypervisor": {"parameters": ["--fast"]}}),
                "vm.hypervisor.parameters[0]: \"--fast\"",
            ),
            (json!({"image": {"path": "image"}}), "vm.image.path"),
            (
                json!({"image": {"path": "/i", "format": "vhdx"}}),
                "vm.image.format: \"vhdx\"",
            ),
        ] {
            let error = check(&vm).expect_err(field);
            assert!(error.starts_with(field), "{error}");
        }
    }
}
