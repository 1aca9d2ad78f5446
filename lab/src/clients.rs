//! Real clients, one per file. Each starts headless inside a namespace, is driven by its control port or script, and
//! ends when dropped.

pub(super) mod aioslsk;
pub(super) mod amule;
pub(super) mod aria2;
pub(super) mod ctorrent;
pub(super) mod libtorrent;
pub(super) mod ncdc;
pub(super) mod node;
pub(super) mod qbittorrent;
pub(super) mod rtorrent;
pub(super) mod transmission;
