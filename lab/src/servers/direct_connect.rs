//! Hubs of Direct Connect: uhub for ADC, and a stand-in for NMDC, of which Debian has none.
//!
//! The stand-in relays what two clients need to find each other, as the NMDC text of the DC++ project has it: lock,
//! names, descriptions, searches, results, and requests to connect.

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader, Write},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result, ensure};

use super::{
    super::{Lab, netns::Namespace, process::Process, wait::wait_for},
    listen,
};

/// Port of uhub.
pub const ADC_PORT: u16 = 1511;
/// Port of the stand-in NMDC hub.
pub const NMDC_PORT: u16 = 411;

/// uhub on the internet host, on IPv4 and IPv6.
#[derive(Debug)]
pub struct AdcHub {
    _process: Process,
}

impl AdcHub {
    /// Starts it on port [`ADC_PORT`], without TLS.
    ///
    /// # Errors
    /// The server does not start.
    pub fn start(lab: &Lab) -> Result<Self> {
        let directory = lab.subdirectory("uhub")?;
        let file = directory.join("uhub.conf");
        fs::write(&file, format!("server_port={ADC_PORT}\nserver_bind_addr=any\ntls_enable=0\n"))?;
        let mut command = lab.internet().command("uhub");
        command.arg("-c").arg(&file);
        let mut process = Process::spawn("uhub", &directory, &mut command)?;
        wait_for("hub", Duration::from_secs(20), Duration::from_millis(50), || {
            process.ensure_running()?;
            lab.internet().inside(|| Ok(TcpStream::connect((Ipv4Addr::LOCALHOST, ADC_PORT)).is_ok()))
        })?;
        Ok(Self { _process: process })
    }
}

/// The stand-in's record of a user.
struct User {
    stream: TcpStream,
    /// The last `$MyINFO`.
    info: Option<Vec<u8>>,
}

type Users = Arc<Mutex<BTreeMap<Vec<u8>, User>>>;

/// The stand-in NMDC hub.
#[derive(Debug)]
pub struct NmdcHub;

impl NmdcHub {
    /// Listens on port [`NMDC_PORT`] inside `namespace`, until that and this process end.
    ///
    /// # Errors
    /// The port is in use.
    pub fn start(namespace: &Namespace) -> Result<Self> {
        let address = SocketAddr::from((Ipv4Addr::UNSPECIFIED, NMDC_PORT));
        listen(namespace, address, &Users::default(), serve)?;
        Ok(Self)
    }
}

fn serve(stream: TcpStream, users: &Users) -> Result<()> {
    let mut own = stream.try_clone()?;
    own.write_all(b"$Lock EXTENDEDPROTOCOL_LABORATORY Pk=LABORATORY|")?;
    let mut nick = Vec::new();
    let mut reader = BufReader::new(stream);
    let ended = loop {
        let mut message = Vec::new();
        match reader.read_until(b'|', &mut message) {
            Ok(1..) => {}
            _ => break Ok(()),
        }
        if let Err(error) = handle(&message, &mut nick, &own, users) {
            break Err(error);
        }
    };
    users.lock().unwrap_or_else(PoisonError::into_inner).remove(&nick);
    ended
}

/// Handles one message, its closing `|` included.
fn handle(message: &[u8], nick: &mut Vec<u8>, mut own: &TcpStream, users: &Users) -> Result<()> {
    let mut users = users.lock().unwrap_or_else(PoisonError::into_inner);
    let words: Vec<&[u8]> = message.strip_suffix(b"|").context("a closing bar")?.split(|byte| *byte == b' ').collect();
    let to = |users: &BTreeMap<Vec<u8>, User>, name: &[u8], text: &[u8]| -> Result<()> {
        users.get(name).map_or(Ok(()), |user| Ok((&user.stream).write_all(text)?))
    };
    match words[0] {
        b"$Supports" => own.write_all(b"$Supports NoGetINFO NoHello UserIP2 |")?,
        b"$ValidateNick" => {
            ensure!(words.len() == 2 && !users.contains_key(words[1]), "a name of its own");
            *nick = words[1].to_vec();
            users.insert(nick.clone(), User { stream: own.try_clone()?, info: None });
            own.write_all(&[b"$HubName laboratory|$Hello ", &nick[..], b"|"].concat())?;
        }
        b"$GetNickList" => {
            let names: Vec<u8> = users.keys().flat_map(|name| [&name[..], b"$$"].concat()).collect();
            own.write_all(&[b"$NickList ", &names[..], b"|"].concat())?;
        }
        b"$MyINFO" => {
            users.get_mut(nick).context("a known user")?.info = Some(message.to_vec());
            for user in users.values() {
                (&user.stream).write_all(message)?;
                if let Some(info) = &user.info {
                    own.write_all(info)?;
                }
            }
        }
        b"$Search" => {
            for (_, user) in users.iter().filter(|(name, _)| *name != nick) {
                (&user.stream).write_all(message)?;
            }
        }
        b"$ConnectToMe" => to(&users, words.get(1).context("a name")?, message)?,
        b"$RevConnectToMe" => to(&users, words.get(2).context("a name")?, message)?,
        b"$SR" => {
            // The last field is the name of the one who searched, for the hub alone.
            let cut = message.iter().rposition(|byte| *byte == 5).context("a name")?;
            let name = &message[cut + 1..message.len() - 1];
            to(&users, name, &[&message[..cut], b"|"].concat())?;
        }
        _ => {}
    }
    Ok(())
}
