//! Test doubles, one of each kind. They panic where a test would: the caller is a test.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::missing_panics_doc
)]

pub mod agent;
pub mod clock;
pub mod controller;
pub mod credentials;
pub mod documents;
pub mod files;
#[cfg(feature = "agent-kernel")]
pub mod kernel;

pub use agent::{AgentSession, FakeAgent, RunningAgent};
pub use clock::TestClock;
pub use controller::FakeController;
pub use credentials::{Credentials, TestCa};
#[cfg(feature = "agent-kernel")]
pub use kernel::Intercept;

use std::time::Duration;

/// How long a test waits for an event that must come. A test that passes never waits for its end.
pub const PATIENCE: Duration = Duration::from_mins(2);

/// Any error; the doubles pass on those of TLS, HTTP/2 and gRPC.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;
