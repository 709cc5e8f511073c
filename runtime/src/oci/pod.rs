//! Pods: what container engines say of them, by annotations, in the `config.json` of each of their containers.
//!
//! A pod's first container stands for the pod. CRI has it run a program that does nothing but to keep namespaces alive.
//! Here a microVM keeps them, and that container is one in name only: it has a microVM and namespaces, and runs nothing.

use std::{collections::BTreeMap, str::FromStr};

use super::{CpuLimits, FieldError, MemoryLimits, Namespace, Resources, Spec};

/// By which annotations engines say what a container is, and of which sandbox: CRI's, and CRI-O's and podman's.
pub const FAMILIES: [(&str, &str); 2] = [
    (CONTAINER_TYPE, SANDBOX_ID),
    (
        "io.kubernetes.cri-o.ContainerType",
        "io.kubernetes.cri-o.SandboxID",
    ),
];

/// What the first annotation of a family says of a container that joins a sandbox.
pub const MEMBER: &str = "container";

const CONTAINER_TYPE: &str = "io.kubernetes.cri.container-type";
const SANDBOX_ID: &str = "io.kubernetes.cri.sandbox-id";

/// What CRI says of the container that stands for a pod.
const POD: &str = "sandbox";

const MEMORY: &str = "io.kubernetes.cri.sandbox-memory";
const CPU_QUOTA: &str = "io.kubernetes.cri.sandbox-cpu-quota";
const CPU_PERIOD: &str = "io.kubernetes.cri.sandbox-cpu-period";

/// The namespaces of the host that a pod can ask for in place of its own, and how Kubernetes calls that.
const OF_THE_HOST: [(&str, &str); 3] = [
    (Namespace::NETWORK, "hostNetwork"),
    ("ipc", "hostIPC"),
    ("pid", "hostPID"),
];

impl Spec {
    /// Whether it describes a pod, and not a container with a program.
    pub fn is_pod(&self) -> bool {
        is_pod(&self.annotations)
    }

    /// The limits by which the microVM is sized: the pod's, as far as they are known when it starts, or the container's.
    ///
    /// # Errors
    /// An annotation that is not the number that it should be.
    pub fn sizing(&self) -> Result<Resources, FieldError> {
        if !self.is_pod() {
            return Ok(self.linux.resources.clone());
        }
        Ok(Resources {
            memory: MemoryLimits {
                limit: number(&self.annotations, MEMORY)?,
                swap: None,
            },
            cpu: CpuLimits {
                quota: number(&self.annotations, CPU_QUOTA)?,
                period: number(&self.annotations, CPU_PERIOD)?,
                ..CpuLimits::default()
            },
            ..Resources::default()
        })
    }
}

/// Whether that is what CRI's annotation says.
pub fn is_pod(annotations: &BTreeMap<String, String>) -> bool {
    annotations.get(CONTAINER_TYPE).is_some_and(|kind| kind == POD)
}

/// The annotations by which CRI says that a container stands for a pod.
pub fn pod_annotations(id: &str) -> [(&'static str, &str); 2] {
    [(CONTAINER_TYPE, POD), (SANDBOX_ID, id)]
}

/// The annotations by which CRI says a pod's limits; 0 is none.
pub fn pod_limits(memory: i64, cpu_quota: i64, cpu_period: i64) -> impl Iterator<Item = (&'static str, i64)> {
    [(MEMORY, memory), (CPU_QUOTA, cpu_quota), (CPU_PERIOD, cpu_period)]
        .into_iter()
        .filter(|(_, limit)| *limit != 0)
}

fn number<T: FromStr>(annotations: &BTreeMap<String, String>, key: &str) -> Result<Option<T>, FieldError> {
    let parse = |text: &String| {
        text.parse().map_err(|_| {
            FieldError::new(
                format!("annotations.{key}"),
                format!("{text:?} is not a number in its range"),
            )
        })
    };
    annotations.get(key).map(parse).transpose()
}

/// Checks what must hold of a pod.
///
/// # Errors
/// It is to share a namespace of the host, or its size is none.
pub fn check_pod(spec: &Spec) -> Result<(), FieldError> {
    if !spec.is_pod() {
        return Ok(());
    }
    spec.sizing()?;
    for (kind, asked) in OF_THE_HOST {
        if !spec
            .linux
            .namespaces
            .iter()
            .any(|namespace| namespace.kind == kind)
        {
            let problem = format!(
                "no {kind} namespace: the pod is to share the host's ({asked}), which a virtual machine cannot; \
                 leave {asked} out, or use another runtime class"
            );
            return Err(FieldError::new("linux.namespaces", problem));
        }
    }
    Ok(())
}

/// The annotation that names a sandbox, and the name, if that is what a container's annotations say with `kind`.
pub fn sandbox_of<'a>(
    annotations: &'a BTreeMap<String, String>,
    kind: Option<&str>,
) -> Option<(&'static str, &'a str)> {
    FAMILIES.iter().find_map(|(kind_key, sandbox_key)| {
        let matches = kind.is_none_or(|kind| annotations.get(*kind_key).is_some_and(|own| own == kind));
        let sandbox = annotations
            .get(*sandbox_key)
            .filter(|sandbox| !sandbox.is_empty());
        sandbox
            .filter(|_| matches)
            .map(|sandbox| (*sandbox_key, sandbox.as_str()))
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(changes: impl FnOnce(&mut Value)) -> Spec {
        let kinds = ["network", "ipc", "pid", "uts", "mount"];
        let namespaces: Vec<_> = kinds.iter().map(|kind| json!({"type": kind})).collect();
        let mut document = json!({
            "annotations": {CONTAINER_TYPE: POD},
            "linux": {"namespaces": namespaces, "resources": {"cpu": {"shares": 2}}},
        });
        changes(&mut document);
        Spec::view(&document).expect("valid")
    }

    #[test]
    fn a_pod_is_as_big_as_its_annotations_say() {
        let spec = pod(|document| {
            document["annotations"][MEMORY] = json!("1048576");
            document["annotations"][CPU_QUOTA] = json!("150000");
            document["annotations"][CPU_PERIOD] = json!("100000");
        });
        check_pod(&spec).expect("good");
        let sizing = spec.sizing().expect("numbers");
        assert_eq!(sizing.memory.limit, Some(1 << 20));
        assert_eq!(
            (sizing.cpu.quota, sizing.cpu.period),
            (Some(150_000), Some(100_000))
        );
        assert_eq!(
            sizing.cpu.shares, None,
            "the shares are those of a program that is not run"
        );
        let spec = pod(|document| document["annotations"][MEMORY] = json!("1Gi"));
        assert_eq!(
            check_pod(&spec).expect_err("no number").to_string(),
            format!("annotations.{MEMORY}: \"1Gi\" is not a number in its range")
        );
    }

    #[test]
    fn what_a_pod_would_share_with_the_host_is_refused_by_name() {
        for (index, (kind, asked)) in OF_THE_HOST.iter().enumerate() {
            let spec = pod(|document| {
                let list = document["linux"]["namespaces"].as_array_mut().expect("a list");
                assert_eq!(list.remove(index)["type"], **kind);
            });
            let text = check_pod(&spec).expect_err("refused").to_string();
            assert!(
                text.starts_with("linux.namespaces: ") && text.contains(asked),
                "{text}"
            );
        }
        check_pod(&Spec::default()).expect("no pod");
    }
}
