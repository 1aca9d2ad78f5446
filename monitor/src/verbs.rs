//! The commands, one file each: every verb wires the other rooms together and holds no shared logic.

pub mod check_config;
pub mod detach;
pub mod plan;
pub mod replay;
pub mod run;
pub mod status;
