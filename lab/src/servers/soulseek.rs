//! A stand-in Soulseek server that lets two clients find each other.
//!
//! Login, addresses, searches of one user, and the relay of requests to connect, as the protocol documentation of
//! Nicotine+ has them. Messages: length, code, fields, all little endian; a string has its length before it.

use std::{
    collections::BTreeMap,
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::{Context, Result, ensure};

use super::{super::netns::Namespace, listen};

/// Port of the stand-in server.
pub const SOULSEEK_PORT: u16 = 2242;

const LOGIN: u32 = 1;
const SET_LISTEN_PORT: u32 = 2;
const GET_PEER_ADDRESS: u32 = 3;
const ADD_USER: u32 = 5;
const GET_USER_STATUS: u32 = 7;
const CONNECT_TO_PEER: u32 = 18;
const FILE_SEARCH: u32 = 26;
const USER_SEARCH: u32 = 42;
const CANNOT_CONNECT: u32 = 1001;
/// The status of a user who is there.
const ONLINE: u32 = 2;

struct User {
    stream: TcpStream,
    address: Ipv4Addr,
    port: u32,
    obfuscated_port: u32,
}

type Users = Arc<Mutex<BTreeMap<Vec<u8>, User>>>;

/// The stand-in server.
#[derive(Debug)]
pub struct SoulseekServer;

impl SoulseekServer {
    /// Listens on port [`SOULSEEK_PORT`] inside `namespace`, until that and this process end.
    ///
    /// # Errors
    /// The port is in use.
    pub fn start(namespace: &Namespace) -> Result<Self> {
        let address = SocketAddr::from((Ipv4Addr::UNSPECIFIED, SOULSEEK_PORT));
        listen(namespace, address, &Users::default(), serve)?;
        Ok(Self)
    }
}

fn serve(mut stream: TcpStream, users: &Users) -> Result<()> {
    let mut name = Vec::new();
    let ended = loop {
        if let Err(error) = receive(&mut stream).and_then(|message| handle(&message, &mut name, &stream, users)) {
            break error;
        }
    };
    users.lock().unwrap_or_else(PoisonError::into_inner).remove(&name);
    Err(ended)
}

fn receive(stream: &mut TcpStream) -> Result<Vec<u8>> {
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    let length = u32::from_le_bytes(length) as usize;
    ensure!((4..1 << 20).contains(&length), "not a Soulseek message");
    let mut message = vec![0; length];
    stream.read_exact(&mut message)?;
    Ok(message)
}

/// The fields of a message that are not read yet.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn number(&mut self) -> Result<u32> {
        let (bytes, rest) = self.0.split_first_chunk().context("a number")?;
        self.0 = rest;
        Ok(u32::from_le_bytes(*bytes))
    }

    fn text(&mut self) -> Result<&'a [u8]> {
        let length = self.number()? as usize;
        let (text, rest) = self.0.split_at_checked(length).context("a string")?;
        self.0 = rest;
        Ok(text)
    }
}

fn text(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u32).to_le_bytes()[..], bytes].concat()
}

fn send(mut stream: &TcpStream, code: u32, fields: &[&[u8]]) -> Result<()> {
    let body = fields.concat();
    let length = (body.len() as u32 + 4).to_le_bytes();
    Ok(stream.write_all(&[&length[..], &code.to_le_bytes(), &body].concat())?)
}

/// Handles one message of the user `name`.
fn handle(message: &[u8], name: &mut Vec<u8>, own: &TcpStream, users: &Users) -> Result<()> {
    let mut fields = Fields(message);
    let mut users = users.lock().unwrap_or_else(PoisonError::into_inner);
    match fields.number()? {
        LOGIN => {
            let SocketAddr::V4(peer) = own.peer_addr()? else { return Ok(()) };
            *name = fields.text()?.to_vec();
            let user = User { stream: own.try_clone()?, address: *peer.ip(), port: 0, obfuscated_port: 0 };
            users.insert(name.clone(), user);
            // Success, greeting, address, a hash that nobody checks, no privileges.
            send(own, LOGIN, &[&[1], &text(b""), &address(*peer.ip()), &text(b""), &[0]])?;
        }
        SET_LISTEN_PORT => {
            let user = users.get_mut(name).context("a user who is logged in")?;
            user.port = fields.number()?;
            let _kind = fields.number().unwrap_or(0);
            user.obfuscated_port = fields.number().unwrap_or(0);
        }
        GET_PEER_ADDRESS => {
            let wanted = fields.text()?;
            match users.get(wanted) {
                Some(user) => {
                    let ports =
                        [&user.port.to_le_bytes()[..], &obfuscated(user), &(user.obfuscated_port as u16).to_le_bytes()];
                    send(own, GET_PEER_ADDRESS, &[&text(wanted), &address(user.address), &ports.concat()])?;
                }
                None => send(own, GET_PEER_ADDRESS, &[&text(wanted), &[0; 14]])?,
            }
        }
        ADD_USER => {
            let wanted = fields.text()?;
            let exists = users.contains_key(wanted);
            // Status, average speed, uploads (eight bytes), files, folders.
            let rest = if exists { [&ONLINE.to_le_bytes()[..], &[0; 20]].concat() } else { Vec::new() };
            send(own, ADD_USER, &[&text(wanted), &[u8::from(exists)], &rest])?;
        }
        GET_USER_STATUS => {
            let wanted = fields.text()?;
            let status = if users.contains_key(wanted) { ONLINE } else { 0 };
            send(own, GET_USER_STATUS, &[&text(wanted), &status.to_le_bytes(), &[0]])?;
        }
        CONNECT_TO_PEER => {
            let (ticket, wanted, kind) = (fields.number()?, fields.text()?, fields.text()?);
            if let (Some(other), Some(user)) = (users.get(wanted), users.get(name)) {
                let ports = [&user.port.to_le_bytes()[..], &ticket.to_le_bytes(), &[0], &obfuscated(user)];
                let fields = [&text(name)[..], &text(kind), &address(user.address), &ports.concat()];
                send(&other.stream, CONNECT_TO_PEER, &[&fields.concat(), &user.obfuscated_port.to_le_bytes()])?;
            }
        }
        USER_SEARCH => {
            let (wanted, ticket, query) = (fields.text()?, fields.number()?, fields.text()?);
            if let Some(other) = users.get(wanted) {
                send(&other.stream, FILE_SEARCH, &[&text(name), &ticket.to_le_bytes(), &text(query)])?;
            }
        }
        CANNOT_CONNECT => {
            let (ticket, wanted) = (fields.number()?, fields.text()?);
            if let Some(other) = users.get(wanted) {
                send(&other.stream, CANNOT_CONNECT, &[&ticket.to_le_bytes()])?;
            }
        }
        _ => {}
    }
    Ok(())
}

/// The number of obfuscated ports.
fn obfuscated(user: &User) -> [u8; 4] {
    u32::from(user.obfuscated_port != 0).to_le_bytes()
}

/// An address has its last byte first.
fn address(address: Ipv4Addr) -> [u8; 4] {
    u32::from(address).to_le_bytes()
}
