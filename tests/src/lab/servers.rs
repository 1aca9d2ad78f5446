//! What clients need to find each other: real servers where Debian has one, stand-ins of a few lines elsewhere.

pub(super) mod announce;
pub(super) mod direct_connect;
pub(super) mod edonkey;
pub(super) mod soulseek;
pub(super) mod tracker;
