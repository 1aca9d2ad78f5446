//! The kinds of hook, one file each. `config/raw/hook.rs` lists them.

pub mod exec;
pub mod webhook;
