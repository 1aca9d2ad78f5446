//! aMule's "external connections", the protocol of its control port, for commands that amulecmd lacks.
//!
//! As `ECCodes.h`, `ECPacket.cpp` and `ExternalConn.cpp` of aMule 2.3.3 have it: flags and length, then an operation,
//! the number of its tags, and the tags: a name (doubled, since the lowest bit says that tags follow within), a type, a
//! length, a value. Numbers are big endian.

use std::{
    io::{Read, Write},
    net::{SocketAddr, SocketAddrV4, TcpStream},
    time::Duration,
};

use anyhow::{Context, Result, ensure};

use super::{PASSWORD, md5};
use crate::netns::Namespace;

/// The flags that every packet has; none of its options.
const FLAGS: u32 = 0x20;
/// Version 2.04 of the protocol.
const VERSION: u16 = 0x0204;
/// Longest time for an answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// Longest answer that is read; none here has more than a few tags.
const LONGEST: usize = 1 << 12;

mod operation {
    pub(super) const NOTHING: u8 = 0x01;
    pub(super) const LOG_IN: u8 = 0x02;
    pub(super) const LOGGED_IN: u8 = 0x04;
    pub(super) const BOOTSTRAP_KAD: u8 = 0x4e;
    pub(super) const SALT: u8 = 0x4f;
    pub(super) const PASSWORD: u8 = 0x50;
}

/// A tag: name, type, value.
type Tag<'a> = (u16, u8, &'a [u8]);

mod name {
    pub(super) const PASSWORD_HASH: u16 = 0x0001;
    pub(super) const PROTOCOL_VERSION: u16 = 0x0002;
    pub(super) const BOOTSTRAP_ADDRESS: u16 = 0x0008;
    pub(super) const BOOTSTRAP_PORT: u16 = 0x0009;
    pub(super) const CLIENT_NAME: u16 = 0x0100;
    pub(super) const CLIENT_VERSION: u16 = 0x0101;
}

/// Types of tags.
const U16: u8 = 3;
const U32: u8 = 4;
const TEXT: u8 = 6;
const HASH: u8 = 9;

/// Has the client with its control port at `port` ask `contact` for its contacts in Kad.
///
/// # Errors
/// The client refuses.
pub(super) fn bootstrap_kad(namespace: &Namespace, port: SocketAddr, contact: SocketAddrV4) -> Result<()> {
    let mut stream = namespace.inside(|| Ok(TcpStream::connect(port)?))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let about = [
        (name::CLIENT_NAME, TEXT, &b"laboratory\0"[..]),
        (name::CLIENT_VERSION, TEXT, b"1\0"),
        (name::PROTOCOL_VERSION, U16, &VERSION.to_be_bytes()),
    ];
    let salt = ask(&mut stream, operation::LOG_IN, &about, operation::SALT)?;
    // The only tag: count, name, type, length, and the salt in as many bytes as it needs.
    let salt = salt.get(9..).context("a salt")?.iter().fold(0, |salt, byte| salt << 8 | u64::from(*byte));
    let hash = md5(&format!("{}{}", md5(PASSWORD)?, md5(&format!("{salt:X}"))?))?;
    let hash = u128::from_str_radix(&hash, 16)?.to_be_bytes();
    ask(&mut stream, operation::PASSWORD, &[(name::PASSWORD_HASH, HASH, &hash)], operation::LOGGED_IN)?;
    let contact = [
        (name::BOOTSTRAP_ADDRESS, U32, &contact.ip().octets()[..]),
        (name::BOOTSTRAP_PORT, U16, &contact.port().to_be_bytes()),
    ];
    ask(&mut stream, operation::BOOTSTRAP_KAD, &contact, operation::NOTHING).map(drop)
}

/// Sends an operation and returns the body of the expected answer.
fn ask(stream: &mut TcpStream, operation: u8, tags: &[Tag<'_>], wanted: u8) -> Result<Vec<u8>> {
    let mut body = vec![operation];
    body.extend((tags.len() as u16).to_be_bytes());
    for (name, kind, value) in tags {
        body.extend((name << 1).to_be_bytes());
        body.push(*kind);
        body.extend((value.len() as u32).to_be_bytes());
        body.extend(*value);
    }
    stream.write_all(&[&FLAGS.to_be_bytes()[..], &(body.len() as u32).to_be_bytes(), &body].concat())?;
    let mut head = [0; 8];
    stream.read_exact(&mut head)?;
    let length = u32::from_be_bytes([head[4], head[5], head[6], head[7]]) as usize;
    ensure!((1..LONGEST).contains(&length), "no answer of aMule: {head:02x?}");
    let mut answer = vec![0; length];
    stream.read_exact(&mut answer)?;
    ensure!(answer[0] == wanted, "aMule answers {operation:#04x} with {answer:02x?}");
    Ok(answer.split_off(1))
}
