//! What must hold of `config.json` before a virtual machine is worth starting.

use std::{
    fs, io,
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::{Component, Path, PathBuf},
};

use bulkhead_agent_protocol::{hook::Hooks, spec::NAMESPACES};

use super::{FieldError, IdMappings, Mount, Namespace, Process, Root, Spec, disks::block_source};

/// The host's side of a bind mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BindSource {
    /// Its place in `mounts`.
    pub index: usize,
    /// An absolute path on the host.
    pub path: PathBuf,
    /// Whether it is a folder; else it is mounted over a file.
    pub is_folder: bool,
    /// Whether the mounts below it come with it.
    pub recursive: bool,
    /// Whether the guest may only read it; what is mounted below may be writable.
    pub read_only: bool,
    /// Whether the guest may only read it and what is mounted below.
    pub read_only_below: bool,
    /// Whom the owners of its files are shown as, if not themselves.
    pub mappings: Option<IdMappings>,
}

/// The devices with no hardware behind them, which are the same in the guest: null, zero, full, random, urandom, and the
/// caller's terminal.
const ALIKE_EVERYWHERE: [u64; 6] = [
    libc::makedev(1, 3),
    libc::makedev(1, 5),
    libc::makedev(1, 7),
    libc::makedev(1, 8),
    libc::makedev(1, 9),
    libc::makedev(5, 0),
];

/// Checks the fields that the host's side acts upon; answers with the root file system and the bind mounts.
///
/// # Errors
/// The first field that is missing or wrong.
pub fn validate<'a>(spec: &'a Spec, bundle: &Path) -> Result<(&'a Root, Vec<BindSource>), FieldError> {
    check_version(&spec.oci_version)?;
    let process = spec
        .process
        .as_ref()
        .ok_or_else(|| FieldError::new("process", "missing; it says which program to run"))?;
    check_process(process)?;
    let root = spec
        .root
        .as_ref()
        .ok_or_else(|| FieldError::new("root", "missing; it says where the root file system is"))?;
    check_rootfs(root, bundle)?;
    if Path::new(&spec.linux.cgroups_path)
        .components()
        .any(|part| part == Component::ParentDir)
    {
        let problem = format!("{:?} leaves the cgroup tree by \"..\"", spec.linux.cgroups_path);
        return Err(FieldError::new("linux.cgroupsPath", problem));
    }
    check_hooks(&spec.hooks)?;
    check_namespace_types(&spec.linux.namespaces)?;
    for (index, namespace) in spec.linux.namespaces.iter().enumerate() {
        check_namespace(namespace)
            .map_err(|problem| FieldError::new(format!("linux.namespaces[{index}].path"), problem))?;
    }
    if let Some(vm) = &spec.vm {
        vm.check()?;
    }
    let mut binds = Vec::new();
    for (index, mount) in spec.mounts.iter().enumerate() {
        if !mount.destination.starts_with('/') {
            let problem = format!("{:?} is not an absolute path in the container", mount.destination);
            return Err(FieldError::new(format!("mounts[{index}].destination"), problem));
        }
        let mappings = IdMappings::of(mount, index, &spec.linux)?;
        if mount.is_bind() && block_source(mount, bundle).is_none() {
            binds.push(BindSource {
                mappings,
                ..bind_source(mount, index, bundle)?
            });
        }
    }
    Ok((root, binds))
}

/// The absolute path of what `config.json` names, which may be relative to the bundle.
pub fn resolve(bundle: &Path, path: &str) -> PathBuf {
    bundle.join(path)
}

fn check_version(version: &str) -> Result<(), FieldError> {
    let numeric =
        |part: Option<&str>| part.is_some_and(|p| !p.is_empty() && p.bytes().all(|b| b.is_ascii_digit()));
    let core = version.split(['-', '+']).next().unwrap_or_default();
    let mut parts = core.split('.');
    let major = parts.next();
    let well_formed =
        numeric(major) && numeric(parts.next()) && numeric(parts.next()) && parts.next().is_none();
    let problem = match major {
        _ if version.is_empty() => "missing; this is bulkhead for version 1 of the specification".to_owned(),
        _ if !well_formed => format!("{version:?} is not a version, which looks like \"1.2.0\""),
        Some("1") => return Ok(()),
        _ => format!("{version:?} is not supported, only version 1 of the specification is"),
    };
    Err(FieldError::new("ociVersion", problem))
}

/// Checks what must hold of every process object.
///
/// # Errors
/// The first field that is wrong.
pub fn check_process(process: &Process) -> Result<(), FieldError> {
    if process.args.first().is_none_or(String::is_empty) {
        return Err(FieldError::new(
            "process.args",
            "empty; its first item is the program to run",
        ));
    }
    if !process.cwd.starts_with('/') {
        let problem = format!("{:?} is not an absolute path in the container", process.cwd);
        return Err(FieldError::new("process.cwd", problem));
    }
    Ok(())
}

fn check_hooks(hooks: &Hooks) -> Result<(), FieldError> {
    for (index, hook) in hooks.create_container.iter().enumerate() {
        let field = format!("hooks.createContainer[{index}].path");
        let path = Path::new(&hook.path);
        let metadata = fs::metadata(path).map_err(|error| unusable(&field, path, &error))?;
        if !metadata.is_file() {
            return Err(FieldError::new(
                field,
                format!("{} is not a file", path.display()),
            ));
        }
    }
    for (name, list) in hooks.lists() {
        for (index, hook) in list.iter().enumerate() {
            hook.check().map_err(|(field, problem)| {
                FieldError::new(format!("hooks.{name}[{index}].{field}"), problem)
            })?;
        }
    }
    Ok(())
}

fn check_namespace_types(namespaces: &[Namespace]) -> Result<(), FieldError> {
    for (index, Namespace { kind, .. }) in namespaces.iter().enumerate() {
        let wrong = |problem: String| {
            Err(FieldError::new(
                format!("linux.namespaces[{index}].type"),
                problem,
            ))
        };
        if !NAMESPACES.contains(&kind.as_str()) {
            return wrong(format!("{kind:?} is no type of namespace"));
        }
        if namespaces.iter().take(index).any(|earlier| earlier.kind == *kind) {
            return wrong(format!("a second {kind} namespace"));
        }
    }
    Ok(())
}

/// Network namespaces that cannot be joined: all their traffic would be the guest's.
const HOST_NETWORKS: [(&str, &str); 2] = [
    ("/proc/1/ns/net", "the host's own network namespace"),
    ("/proc/self/ns/net", "the network namespace of who runs bulkhead"),
];

/// A network of the host can be joined, but not the host's own.
fn check_namespace(namespace: &Namespace) -> Result<(), String> {
    let path = &namespace.path;
    // Those of other containers are looked for when it is known which there are.
    if path.is_empty() || namespace.is_of_another() {
        return Ok(());
    }
    let identity = |path: &str| fs::metadata(path).map(|file| (file.dev(), file.ino()));
    let joined = identity(path).map_err(|error| format!("{path}: {error}"))?;
    let is_joined = |host: &&(&str, &str)| identity(host.0).is_ok_and(|host| host == joined);
    match HOST_NETWORKS.iter().find(is_joined) {
        None => Ok(()),
        Some((_, whose)) => Err(format!(
            "{path} is {whose}, which a virtual machine cannot share; give the container one of its own"
        )),
    }
}

fn check_rootfs(root: &Root, bundle: &Path) -> Result<(), FieldError> {
    if root.path.is_empty() {
        return Err(FieldError::new(
            "root.path",
            "empty; it names the root file system's folder",
        ));
    }
    let path = resolve(bundle, &root.path);
    let metadata = fs::metadata(&path).map_err(|e| unusable("root.path", &path, &e))?;
    if !metadata.is_dir() {
        return Err(FieldError::new(
            "root.path",
            format!("{} is not a folder", path.display()),
        ));
    }
    Ok(())
}

fn bind_source(mount: &Mount, index: usize, bundle: &Path) -> Result<BindSource, FieldError> {
    let field = format!("mounts[{index}].source");
    if mount.source.is_empty() {
        return Err(FieldError::new(
            field,
            "empty; a bind mount needs a path on the host",
        ));
    }
    let path = resolve(bundle, &mount.source);
    let metadata = fs::metadata(&path).map_err(|e| unusable(&field, &path, &e))?;
    if let Some(kind) = only_on_the_host(&metadata) {
        let problem = format!(
            "{} is a {kind}, which cannot be reached from a virtual machine",
            path.display()
        );
        return Err(FieldError::new(field, problem));
    }
    Ok(BindSource {
        index,
        is_folder: metadata.is_dir(),
        recursive: mount.is_recursive(),
        read_only: mount.is_read_only(),
        read_only_below: mount.is_read_only_below(),
        mappings: None,
        path,
    })
}

/// What a file is, if the guest would find something else behind its name than the host has there.
fn only_on_the_host(metadata: &fs::Metadata) -> Option<&'static str> {
    let kind = metadata.file_type();
    if kind.is_socket() {
        Some("socket")
    } else if kind.is_fifo() {
        Some("named pipe")
    } else if kind.is_char_device() && !ALIKE_EVERYWHERE.contains(&metadata.rdev()) {
        Some("character device")
    } else {
        None
    }
}

fn unusable(field: &str, path: &Path, error: &io::Error) -> FieldError {
    let reason = match error.kind() {
        io::ErrorKind::NotFound => "does not exist".to_owned(),
        io::ErrorKind::NotADirectory => "leads through a file that is not a folder".to_owned(),
        _ => format!("cannot be used: {error}"),
    };
    FieldError::new(field, format!("{} {reason}", path.display()))
}
