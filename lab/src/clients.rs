//! Real clients, one a file. Each starts headless inside a namespace, is driven by its own control port or script, and
//! ends when it is dropped.

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
