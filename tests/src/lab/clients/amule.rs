//! aMule: eDonkey over TCP and UDP, Kad, and the obfuscation of both.

use std::{fs, net::Ipv4Addr, path::PathBuf, process::Command, time::Duration};

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
const PASSWORD: &str = "laboratory";
const FILE: &str = "image.iso";

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
