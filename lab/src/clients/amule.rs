//! aMule: eDonkey over TCP and UDP, Kad, and the obfuscation of both.

mod control;

use std::{
    fs,
    net::{Ipv4Addr, SocketAddrV4},
    path::PathBuf,
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, ensure};

use super::super::{
    Lab,
    netns::Namespace,
    process::{Process, output},
    servers::edonkey::SERVER_PORT,
    wait::wait_for,
    web::random,
};

const CLIENT_PORT: u16 = 4662;
/// UDP port: Kad, and requests between clients.
const UDP_PORT: u16 = 4672;
const PAUSE: Duration = Duration::from_millis(250);
const CONTROL_PORT: u16 = 4712;
const PASSWORD: &str = "laboratory";
const FILE: &str = "image.iso";

/// An aMule client.
#[derive(Debug)]
pub struct Amule<'a> {
    namespace: &'a Namespace,
    /// Address of its control port.
    control: Ipv4Addr,
    process: Process,
    directory: PathBuf,
}

/// How a client is set up.
#[derive(Clone, Copy, Debug, Default)]
pub struct AmuleSetup<'a> {
    /// The eDonkey server that it connects to.
    pub server: Option<Ipv4Addr>,
    /// Place in Kad; `None` keeps the client out of Kad.
    pub kad: Option<KadSetup<'a>>,
    /// Whether it asks for obfuscation, and refuses clients without it.
    pub obfuscated: bool,
    /// Bytes of the file that it shares; 0 for none.
    pub shared: usize,
}

/// A client's place in Kad.
#[derive(Clone, Copy, Debug)]
pub struct KadSetup<'a> {
    /// The only address that the client uses: several clients may share a namespace.
    pub own: Ipv4Addr,
    /// Clients that it knows with their identifiers: the keys to obfuscated first messages.
    pub contacts: &'a [Ipv4Addr],
}

impl<'a> Amule<'a> {
    /// Starts one without obfuscation and Kad that shares a file of `shared` random bytes, if not 0, and connects to
    /// the server at `server`.
    ///
    /// # Errors
    /// The client does not start.
    pub fn start(lab: &Lab, namespace: &'a Namespace, server: Ipv4Addr, shared: usize) -> Result<Self> {
        Self::set_up(lab, namespace, AmuleSetup { server: Some(server), shared, ..AmuleSetup::default() })
    }

    /// Starts one as `setup` says; returns when it is connected to its server.
    ///
    /// # Errors
    /// The client does not start.
    pub fn set_up(lab: &Lab, namespace: &'a Namespace, setup: AmuleSetup<'_>) -> Result<Self> {
        let control = setup.kad.map_or(Ipv4Addr::LOCALHOST, |kad| kad.own);
        let directory = lab.subdirectory(&format!("amule-{}-{control}", namespace.name()))?;
        for folder in ["Incoming", "Temp"] {
            fs::create_dir_all(directory.join(folder))?;
        }
        if setup.shared > 0 {
            fs::write(directory.join("Incoming").join(FILE), random(setup.shared)?)?;
        }
        if let Some(kad) = setup.kad {
            fs::write(directory.join("preferencesKad.dat"), kad_preferences(kad.own))?;
            fs::write(directory.join("nodes.dat"), kad_contacts(kad.contacts))?;
        }
        fs::write(
            directory.join("amule.conf"),
            amule_configuration(&directory.display().to_string(), control, setup)?,
        )?;
        let mut command = namespace.command("amuled");
        command.arg("-c").arg(&directory).arg("-o").env("HOME", &directory).current_dir(&directory);
        let process = Process::spawn("amuled", &directory, &mut command)?;
        let mut client = Self { namespace, control, process, directory };
        wait_for("aMule", Duration::from_secs(60), PAUSE, || {
            client.process.ensure_running()?;
            Ok(client.command("status").is_ok())
        })?;
        if let Some(server) = setup.server {
            let link = format!("add ed2k://|server|{server}|{SERVER_PORT}|/");
            let connect = format!("connect {server}:{SERVER_PORT}");
            wait_for("aMule's server", Duration::from_secs(60), PAUSE, || {
                client.process.ensure_running()?;
                Ok(client.command(&link).is_ok() && client.command(&connect).is_ok())
            })?;
            client.wait_status("eD2k: Connected to")?;
        }
        Ok(client)
    }

    /// Waits until it is in Kad: it has heard from its contact.
    ///
    /// # Errors
    /// The client does not connect in time.
    pub fn wait_kad(&mut self) -> Result<()> {
        self.wait_status("Kad: Connected")
    }

    fn wait_status(&mut self, words: &str) -> Result<()> {
        wait_for(&format!("status `{words}` of aMule"), Duration::from_secs(60), PAUSE, || {
            self.process.ensure_running()?;
            Ok(self.command("status").is_ok_and(|status| status.contains(words)))
        })
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

    /// As [`Self::link`], for a downloader that is to obfuscate: the source with its user hash, which is the key.
    ///
    /// # Errors
    /// The client has not written its preferences.
    pub fn obfuscated_link(&self, address: Ipv4Addr) -> Result<String> {
        let preferences = fs::read(self.directory.join("preferences.dat"))?;
        let mut hash: [u8; 16] = preferences.get(1..17).context("a user hash")?.try_into()?;
        // The bytes that mark an eMule client (CPreferences::Init of aMule), which the file lacks.
        (hash[5], hash[14]) = (14, 111);
        let key: String = hash.iter().map(|byte| format!("{byte:02X}")).collect();
        // 131: obfuscation supported (1) and asked for (2), user hash present (128).
        Ok(self.link(address)?.replace(&format!(":{CLIENT_PORT}|/"), &format!(":{CLIENT_PORT}:131:{key}|/")))
    }

    /// Has it ask the client at `contact`, of which it knows nothing else, for contacts in Kad.
    ///
    /// # Errors
    /// aMule refuses it.
    pub fn bootstrap_kad(&self, contact: Ipv4Addr) -> Result<()> {
        let port = SocketAddrV4::new(self.control, CONTROL_PORT).into();
        control::bootstrap_kad(self.namespace, port, SocketAddrV4::new(contact, UDP_PORT))
    }

    /// Looks for a file by a word in Kad.
    ///
    /// # Errors
    /// aMule refuses it.
    pub fn search_kad(&self, word: &str) -> Result<()> {
        self.command(&format!("search kad {word}")).map(drop)
    }

    /// Starts to download the file of `link`.
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

    /// Waits for the download of the file that `other` shares.
    ///
    /// # Errors
    /// The client takes longer than `timeout`.
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
        let (host, port) = (self.control.to_string(), CONTROL_PORT.to_string());
        command.env("HOME", &self.directory).args(["-h", &host, "-p", &port, "-P", PASSWORD, "-c", words]);
        let output = output(&mut command)?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(output.status.success() && text.contains("Succeeded"), "amulecmd {words}: {text}");
        Ok(text)
    }
}

/// The Kad identifier of the client at `address`: known beforehand, since it is the key to an obfuscated first message.
fn kad_identifier(address: Ipv4Addr) -> Vec<u8> {
    address.octets().repeat(4)
}

/// A `preferencesKad.dat`: address, two bytes without use, the identifier, no tags (CPrefs::ReadFile of aMule).
fn kad_preferences(own: Ipv4Addr) -> Vec<u8> {
    [&[0; 6][..], &kad_identifier(own), &[0]].concat()
}

/// A `nodes.dat`: version 2, and of each contact its identifier, address (host order), ports, Kad version 8, no key,
/// and whether it is verified (CRoutingZone::ReadFile of aMule).
fn kad_contacts(contacts: &[Ipv4Addr]) -> Vec<u8> {
    let mut file = [0, 2, contacts.len() as u32].map(u32::to_le_bytes).concat();
    for contact in contacts {
        file.extend(kad_identifier(*contact));
        file.extend(u32::from(*contact).to_le_bytes());
        file.extend(UDP_PORT.to_le_bytes());
        file.extend(CLIENT_PORT.to_le_bytes());
        file.push(8);
        file.extend([0; 8]);
        file.push(1);
    }
    file
}

/// The MD5 hash of letters and digits, in hexadecimal digits.
fn md5(text: &str) -> Result<String> {
    let digest = output(Command::new("/bin/sh").args(["-c", &format!("printf %s {text} | md5sum | cut -d' ' -f1")]))?;
    Ok(String::from_utf8_lossy(&digest.stdout).trim().to_owned())
}

fn amule_configuration(directory: &str, control: Ipv4Addr, setup: AmuleSetup<'_>) -> Result<String> {
    let flag = u8::from;
    let address = setup.kad.map_or_else(String::new, |kad| format!("Address={}\n", kad.own));
    let (kad, obfuscated) = (flag(setup.kad.is_some()), flag(setup.obfuscated));
    let edonkey = flag(setup.server.is_some());
    let password = md5(PASSWORD)?;
    Ok(format!(
        "[eMule]
AppVersion=2.3.3
Nick=laboratory
{address}Port={CLIENT_PORT}
UDPPort={UDP_PORT}
UDPEnable=1
Autoconnect={kad}
MaxUpload=0
MaxDownload=0
SlotAllocation=500
ConnectToKad={kad}
ConnectToED2K={edonkey}
IncomingDir={directory}/Incoming
TempDir={directory}/Temp
FilterLanIPs=0
ParanoidFiltering=0
IpFilterClients=0
IpFilterServers=0
IsCryptLayerRequired=0
IsClientCryptLayerSupported={obfuscated}
IsCryptLayerRequested={obfuscated}
IsClientCryptLayerRequired={obfuscated}
UPnPEnabled=0
Ed2kServersUrl=
KadNodesUrl=
NewVersionCheck=0
[ExternalConnect]
AcceptExternalConnections=1
ECAddress={control}
ECPort={CONTROL_PORT}
ECPassword={password}
UPnPECEnabled=0
[Obfuscation]
CryptoKadUDPKey=12345
IsClientCryptLayerSupported={obfuscated}
IsCryptLayerRequested={obfuscated}
IsClientCryptLayerRequired={obfuscated}
"
    ))
}
