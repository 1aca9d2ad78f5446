//! A stand-in eDonkey server that lets two clients find each other.
//!
//! Speaks the eDonkey protocol over TCP: login, identifier, offered files, sources, as the eMule protocol
//! specification (Kulbak and Bickson, 2005) has them.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result, ensure};

use super::{
    super::{netns::Namespace, wait::wait_for},
    listen,
};

/// Port of the stand-in server.
pub(in super::super) const SERVER_PORT: u16 = 4661;
/// Port of a client that names none.
const CLIENT_PORT: u16 = 4662;

/// First byte of an eDonkey message.
const EDONKEY: u8 = 0xe3;
const LOGIN: u8 = 0x01;
const OFFER_FILES: u8 = 0x15;
const GET_SOURCES: u8 = 0x19;
const SERVER_STATUS: u8 = 0x34;
const SERVER_MESSAGE: u8 = 0x38;
const ID_CHANGE: u8 = 0x40;
const FOUND_SOURCES: u8 = 0x42;

type Hash = [u8; 16];
type Sources = Arc<Mutex<BTreeMap<Hash, BTreeSet<(Ipv4Addr, u16)>>>>;

/// The stand-in server.
#[derive(Debug)]
pub struct EdonkeyServer {
    sources: Sources,
}

impl EdonkeyServer {
    /// Listens on port `SERVER_PORT` inside `namespace`, until that and this process end.
    ///
    /// # Errors
    /// The port is in use.
    pub fn start(namespace: &Namespace) -> Result<Self> {
        let address = SocketAddr::from((Ipv4Addr::UNSPECIFIED, SERVER_PORT));
        let sources = Sources::default();
        listen(namespace, address, &sources, serve)?;
        Ok(Self { sources })
    }

    /// Waits until a client has offered a file. Before that it may not have read it, and would deny having it.
    ///
    /// # Errors
    /// Nobody does.
    pub fn wait_offered(&self) -> Result<()> {
        wait_for("offer of a file", Duration::from_secs(60), Duration::from_millis(100), || {
            Ok(!self.sources.lock().unwrap_or_else(PoisonError::into_inner).is_empty())
        })
    }
}

fn serve(mut stream: TcpStream, sources: &Sources) -> Result<()> {
    let SocketAddr::V4(peer) = stream.peer_addr()? else { return Ok(()) };
    let mut own = (*peer.ip(), CLIENT_PORT);
    loop {
        let mut header = [0; 5];
        stream.read_exact(&mut header)?;
        let length = u32::from_le_bytes([header[1], header[2], header[3], header[4]]) as usize;
        ensure!(header[0] == EDONKEY && (1..1 << 20).contains(&length), "not an eDonkey message");
        let mut body = vec![0; length];
        stream.read_exact(&mut body)?;
        let (opcode, data) = (body[0], &body[1..]);
        match opcode {
            LOGIN => {
                // User hash, client identifier, port.
                let port: [u8; 2] = data.get(20..22).context("a port")?.try_into()?;
                own.1 = u16::from_le_bytes(port);
                let text = b"laboratory";
                send(&mut stream, SERVER_MESSAGE, &[&[text.len() as u8, 0], &text[..]].concat())?;
                send(&mut stream, ID_CHANGE, &[own.0.octets(), [0; 4]].concat())?;
                send(&mut stream, SERVER_STATUS, &[2, 0, 0, 0, 1, 0, 0, 0])?;
            }
            OFFER_FILES => {
                // Only the first file's hash is needed: the lab shares one at a time.
                if let Some(hash) = data.get(4..20) {
                    let mut sources = sources.lock().unwrap_or_else(PoisonError::into_inner);
                    sources.entry(hash.try_into()?).or_default().insert(own);
                }
            }
            GET_SOURCES => {
                let hash: Hash = data.get(..16).context("a hash")?.try_into()?;
                let known =
                    sources.lock().unwrap_or_else(PoisonError::into_inner).get(&hash).cloned().unwrap_or_default();
                let others: Vec<_> = known.into_iter().filter(|source| *source != own).collect();
                let mut answer = hash.to_vec();
                answer.push(others.len() as u8);
                for (address, port) in others {
                    answer.extend(address.octets());
                    answer.extend(port.to_le_bytes());
                }
                send(&mut stream, FOUND_SOURCES, &answer)?;
            }
            _ => {}
        }
    }
}

fn send(stream: &mut TcpStream, opcode: u8, data: &[u8]) -> Result<()> {
    let mut message = vec![EDONKEY];
    message.extend(u32::try_from(data.len() + 1)?.to_le_bytes());
    message.push(opcode);
    message.extend(data);
    Ok(stream.write_all(&message)?)
}
