//! Opcodes of eDonkey messages that more than one file of this folder names (eMule's `opcodes.h`).

/// Hello of a client, and login to a server.
pub(in crate::dissect) const HELLO: u8 = 0x01;
/// Source request to a server.
pub(in crate::dissect) const GET_SOURCES: u8 = 0x19;
/// Source request to a server by a client that supports obfuscation.
pub(in crate::dissect) const GET_SOURCES_OBFUSCATED: u8 = 0x23;
/// Answer of a server with sources.
pub(in crate::dissect) const FOUND_SOURCES: u8 = 0x42;
/// Answer of a server with sources, their options and user hashes.
pub(in crate::dissect) const FOUND_SOURCES_OBFUSCATED: u8 = 0x44;
/// Opcodes from here on belong to messages between clients.
pub(in crate::dissect) const FIRST_OF_CLIENTS: u8 = 0x46;
/// A part of a file.
pub(in crate::dissect) const SENDING_PART: u8 = 0x46;
/// Request for parts of a file.
pub(in crate::dissect) const REQUEST_PARTS: u8 = 0x47;
/// Answer to a hello.
pub(in crate::dissect) const HELLO_ANSWER: u8 = 0x4c;
/// Names the file that later requests are about.
pub(in crate::dissect) const SET_REQUESTED_FILE: u8 = 0x4f;
/// Parts of a file that a client has.
pub(in crate::dissect) const FILE_STATUS: u8 = 0x50;
/// Request for the hashes of a file's parts.
pub(in crate::dissect) const HASH_SET_REQUEST: u8 = 0x51;
/// Request for a place in the upload queue.
pub(in crate::dissect) const START_UPLOAD: u8 = 0x54;
/// Request for a file's name.
pub(in crate::dissect) const REQUEST_FILE_NAME: u8 = 0x58;
/// Answer with a file's name.
pub(in crate::dissect) const FILE_NAME_ANSWER: u8 = 0x59;
