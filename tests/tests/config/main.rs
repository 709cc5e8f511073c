//! Every field of config.json does what it says, seen from inside the container, or is refused by its name. The rows of
//! docs/oci-compliance.md name these tests.

mod checks;
mod devices;
mod mounts;
mod namespaces;
mod process;
mod refused;
mod resources;
mod security;
mod wrong;
