//! The running agent: its state, its static facts, its key file and the heartbeat of its drain loop.

pub mod heartbeat;
pub mod info;
pub mod pseudonym_key;
pub mod state;

pub use heartbeat::Heartbeat;
pub use info::AgentInfo;
pub use state::AgentState;
