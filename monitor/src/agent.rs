//! The running agent: the drain loop, the state that it publishes, and the files that the agent keeps.

pub mod audit;
pub mod connection_counts;
pub mod consequences;
pub mod depth_record;
pub mod drain_loop;
pub mod heartbeat;
pub mod history_keeper;
pub mod hit_log;
pub mod info;
pub mod logging;
pub mod pseudonym_key;
pub mod record_counts;
pub mod record_file;
pub mod reload;
pub mod service_manager;
pub mod shedding;
pub mod state;
pub mod store_stats;
pub mod table_fill;
pub mod verdict_records;

pub use heartbeat::Heartbeat;
pub use info::AgentInfo;
pub use state::AgentState;
