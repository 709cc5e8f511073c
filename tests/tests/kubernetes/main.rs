//! Kubernetes runs pods with bulkhead as their `RuntimeClass`. The tests speak to containerd as the kubelet does.

mod bad_input;
mod block_volumes;
mod containers;
mod cri;
mod environment;
mod lifecycle;
mod many;
mod network;
mod node;
mod pod;
mod port_forward;
mod resources;
mod security;
mod streams;
mod survival;
mod volumes;
