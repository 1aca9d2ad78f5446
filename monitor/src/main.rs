//! The Peertally agent.
fn main() {}
