//! eDonkey: aMule clients, and a stand-in server that knows as much as they need to find each other.
//!
//! The server speaks the eDonkey protocol over TCP: login, identifier, offered files, sources, as the eMule protocol
//! specification (Kulbak and Bickson, 2005) has them.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::PathBuf,
    process::Command,
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};

use super::{
    Lab,
    netns::Namespace,
    process::{Process, output},
    wait::wait_for,
    web::random,
};

/// Port of the stand-in server.
const SERVER_PORT: u16 = 4661;
const CLIENT_PORT: u16 = 4662;
const PASSWORD: &str = "laboratory";
const FILE: &str = "image.iso";

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
        let listener =
            namespace.inside(|| TcpListener::bind(address).with_context(|| format!("listen on {address}")))?;
        let sources = Sources::default();
        let shared = Arc::clone(&sources);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let sources = Arc::clone(&shared);
                // A client that disconnects ends its thread with an error: nothing is owed to it.
                thread::spawn(move || serve(stream, &sources).ok());
            }
        });
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
                // Only the first file's hash is needed: the laboratory shares one at a time.
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

/// An aMule client.
#[derive(Debug)]
pub struct Amule<'a> {
    namespace: &'a Namespace,
    process: Process,
    directory: PathBuf,
}

impl<'a> Amule<'a> {
    /// Starts one without obfuscation and Kad that shares a file of `shared` random bytes, if not 0, and connects to the
    /// server at `server`.
    ///
    /// # Errors
    /// It does not start.
    pub fn start(lab: &Lab, namespace: &'a Namespace, server: Ipv4Addr, shared: usize) -> Result<Self> {
        let directory = lab.subdirectory(&format!("amule-{}", namespace.name()))?;
        for folder in ["Incoming", "Temp"] {
            fs::create_dir_all(directory.join(folder))?;
        }
        if shared > 0 {
            fs::write(directory.join("Incoming").join(FILE), random(shared)?)?;
        }
        fs::write(directory.join("amule.conf"), amule_configuration(&directory.display().to_string())?)?;
        let mut command = namespace.command("amuled");
        command.arg("-c").arg(&directory).arg("-o").env("HOME", &directory).current_dir(&directory);
        let process = Process::spawn("amuled", &directory, &mut command)?;
        let mut client = Self { namespace, process, directory };
        let link = format!("add ed2k://|server|{server}|{SERVER_PORT}|/");
        let connected = format!("connect {server}:{SERVER_PORT}");
        wait_for("aMule", Duration::from_secs(60), Duration::from_millis(250), || {
            client.process.ensure_running()?;
            Ok(client.command(&link).is_ok() && client.command(&connected).is_ok())
        })?;
        wait_for("aMule's connection to its server", Duration::from_secs(60), Duration::from_millis(250), || {
            client.process.ensure_running()?;
            Ok(client.command("status").is_ok_and(|status| status.contains("eD2k: Connected to")))
        })?;
        Ok(client)
    }

    /// Link to the shared file, with this client at `address` as its source.
    ///
    /// # Errors
    /// openssl's, that makes the MD4 hash (of a file below 9,728,000 bytes, which has one part).
    pub fn link(&self, address: Ipv4Addr) -> Result<String> {
        let file = self.file();
        let bytes = fs::metadata(&file)?.len();
        let digest = output(Command::new("openssl").args(["dgst", "-provider", "legacy", "-md4"]).arg(&file))?;
        let text = String::from_utf8_lossy(&digest.stdout).into_owned();
        let hash = text.split_whitespace().next_back().context("an MD4 hash")?;
        Ok(format!("ed2k://|file|{FILE}|{bytes}|{hash}|/|sources,{address}:{CLIENT_PORT}|/"))
    }

    /// Starts to download what `link` names.
    ///
    /// # Errors
    /// aMule refuses it.
    pub fn download(&self, link: &str) -> Result<()> {
        self.command(&format!("add {link}")).map(drop)
    }

    /// The file it shares or has downloaded.
    #[must_use]
    pub fn file(&self) -> PathBuf {
        self.directory.join("Incoming").join(FILE)
    }

    /// Waits until it has downloaded what `other` shares.
    ///
    /// # Errors
    /// It does not within `timeout`.
    pub fn wait_complete(&mut self, other: &Self, timeout: Duration) -> Result<()> {
        let wanted = fs::read(other.file())?;
        wait_for("complete file", timeout, Duration::from_millis(500), || {
            self.process.ensure_running()?;
            Ok(fs::read(self.file()).is_ok_and(|content| content == wanted))
        })
        .with_context(|| self.command("show dl").unwrap_or_default())
    }

    fn command(&self, words: &str) -> Result<String> {
        let mut command = self.namespace.command("amulecmd");
        command.env("HOME", &self.directory).args(["-h", "127.0.0.1", "-p", "4712", "-P", PASSWORD, "-c", words]);
        let output = output(&mut command)?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(output.status.success() && text.contains("Succeeded"), "amulecmd {words}: {text}");
        Ok(text)
    }
}

fn amule_configuration(directory: &str) -> Result<String> {
    let digest =
        output(Command::new("/bin/sh").args(["-c", &format!("printf %s {PASSWORD} | md5sum | cut -d' ' -f1")]))?;
    let password = String::from_utf8_lossy(&digest.stdout).trim().to_owned();
    Ok(format!(
        "[eMule]
AppVersion=2.3.3
Nick=laboratory
Port={CLIENT_PORT}
UDPPort=4672
UDPEnable=1
Autoconnect=0
MaxUpload=0
MaxDownload=0
SlotAllocation=500
ConnectToKad=0
ConnectToED2K=1
IncomingDir={directory}/Incoming
TempDir={directory}/Temp
FilterLanIPs=0
ParanoidFiltering=0
IpFilterClients=0
IpFilterServers=0
IsCryptLayerRequired=0
IsClientCryptLayerSupported=0
IsCryptLayerRequested=0
IsClientCryptLayerRequired=0
UPnPEnabled=0
Ed2kServersUrl=
KadNodesUrl=
NewVersionCheck=0
[ExternalConnect]
AcceptExternalConnections=1
ECAddress=127.0.0.1
ECPort=4712
ECPassword={password}
UPnPECEnabled=0
[Obfuscation]
IsClientCryptLayerSupported=0
IsCryptLayerRequested=0
IsClientCryptLayerRequired=0
"
    ))
}
