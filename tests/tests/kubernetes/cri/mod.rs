//! Kubernetes' container runtime interface, from the kubelet's side.

pub mod grpc;
pub mod stream;

use std::path::Path;

use protobuf::MessageFull;
use serde_json::Value;

pub use grpc::Status;

#[allow(
    missing_docs,
    clippy::all,
    clippy::pedantic,
    unused_qualifications,
    reason = "generated"
)]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/cri.rs"));
}

pub use generated::runtime as messages;

/// Calls a method of the runtime's service; `request` is in protobuf's JSON form.
///
/// # Panics
/// `request` is not of that form, or there is no answer.
#[track_caller]
pub fn runtime<Q: MessageFull, A: MessageFull>(
    socket: &Path,
    method: &str,
    request: &Value,
) -> Result<A, Status> {
    call::<Q, A>(socket, "RuntimeService", method, request)
}

/// Calls a method of the images' service.
///
/// # Panics
/// As [`runtime`].
#[track_caller]
pub fn image<Q: MessageFull, A: MessageFull>(
    socket: &Path,
    method: &str,
    request: &Value,
) -> Result<A, Status> {
    call::<Q, A>(socket, "ImageService", method, request)
}

#[track_caller]
fn call<Q: MessageFull, A: MessageFull>(
    socket: &Path,
    service: &str,
    method: &str,
    request: &Value,
) -> Result<A, Status> {
    let request = protobuf_json_mapping::parse_from_str::<Q>(&request.to_string())
        .unwrap_or_else(|error| panic!("{method} of {request}: {error}"));
    grpc::call(socket, &format!("/runtime.v1.{service}/{method}"), &request)
}
