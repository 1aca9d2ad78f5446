//! Folders for clients that are not Debian packages, filled by `cargo xtask setup`: in the repository's `target`, so
//! that nothing of the machine changes.

/// Exact versions of the Python packages.
pub const REQUIREMENTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/peers/requirements.txt");
/// The folder of their environment (venv).
pub const PYTHON_ENVIRONMENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/lab/python");
/// The interpreter that sees them.
pub const PYTHON: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/lab/python/bin/python");
/// Scripts for Node.js, and the exact versions of the packages that they use.
pub const NODE_SOURCES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/peers/node");
/// The folder of these packages.
pub const NODE_ENVIRONMENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/lab/node");
/// A file that exists once they are installed.
pub const NODE_INSTALLED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/lab/node/installed.json");
