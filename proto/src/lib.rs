//! The wire protocol between agents, the controller and voipctl.
//!
//! Messages are always built; the gRPC clients, servers and the TLS channel come with the
//! feature `grpc`.

/// Version 1 of the protocol, package `voipfleet.v1`.
#[allow(clippy::all, clippy::pedantic, missing_docs)]
pub mod v1 {
    include!(concat!(env!("OUT_DIR"), "/voipfleet.v1.rs"));
}

mod words;

#[cfg(feature = "grpc")]
pub mod channel;
mod drift;
#[cfg(feature = "grpc")]
pub mod proxy;
#[cfg(feature = "grpc")]
pub mod refusal;

/// The protocol as protobuf describes it: an encoded `FileDescriptorSet`.
pub const DESCRIPTORS: &[u8] =
    include_bytes!(concat!(env!("OUT_DIR"), "/voipfleet.v1.descriptors"));
