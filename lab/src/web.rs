//! Ordinary traffic: a web server (nginx) with and without TLS, curl, and name look-ups.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket},
    path::Path,
    process::Command,
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};

use super::{
    Lab,
    netns::Namespace,
    process::{Process, output, run},
    wait::wait_for,
};

/// nginx with port 80, and TLS on port 443.
#[derive(Debug)]
pub struct WebServer {
    _nginx: Process,
}

impl WebServer {
    /// Starts nginx on the internet host, with one file `/file` of `bytes` bytes.
    ///
    /// # Errors
    /// nginx does not start.
    pub fn start(lab: &Lab, bytes: usize) -> Result<Self> {
        let directory = lab.subdirectory("web")?;
        fs::write(directory.join("file"), random(bytes)?)?;
        let request = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=internet.example"];
        run(Command::new("openssl")
            .args(request)
            .arg("-keyout")
            .arg(directory.join("key"))
            .arg("-out")
            .arg(directory.join("cert")))?;
        let configuration = directory.join("nginx.conf");
        fs::write(&configuration, nginx_configuration(&directory))?;
        let mut command = lab.internet().command("nginx");
        command.arg("-p").arg(&directory).arg("-c").arg(&configuration).args(["-e", "stderr"]);
        let mut nginx = Process::spawn("nginx", &directory, &mut command)?;
        wait_for("web server", Duration::from_secs(20), Duration::from_millis(50), || {
            nginx.ensure_running()?;
            Ok(fetch(lab.internet(), "http://127.0.0.1/file").is_ok())
        })?;
        Ok(Self { _nginx: nginx })
    }
}

/// One process in the foreground that keeps every file in `directory`.
fn nginx_configuration(directory: &Path) -> String {
    let directory = directory.display();
    format!(
        "daemon off; master_process off; pid {directory}/pid; error_log stderr;
events {{}}
http {{
  access_log off;
  client_body_temp_path {directory}/t1; proxy_temp_path {directory}/t2; fastcgi_temp_path {directory}/t3;
  uwsgi_temp_path {directory}/t4; scgi_temp_path {directory}/t5;
  server {{
    listen 80; listen [::]:80; listen 443 ssl; listen [::]:443 ssl;
    ssl_certificate {directory}/cert; ssl_certificate_key {directory}/key;
    root {directory};
  }}
}}
"
    )
}

/// Fetches a URL with curl from inside `namespace`; gives the number of bytes of the body.
///
/// # Errors
/// curl's; the message holds its words.
pub fn fetch(namespace: &Namespace, url: &str) -> Result<u64> {
    let arguments = ["-sS", "-k", "-f", "--max-time", "60", "-o", "/dev/null", "-w", "%{size_download}", url];
    let output = output(namespace.command("curl").args(arguments))?;
    ensure!(output.status.success(), "curl {url}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().parse().context("a size")
}

/// A name server on the internet host that gives every name one address (RFC 1035).
#[derive(Clone, Debug)]
pub struct DnsServer {
    address: SocketAddr,
}

impl DnsServer {
    /// Starts to answer on port 53 of `address`.
    ///
    /// # Errors
    /// The port is in use.
    pub fn start(namespace: &Namespace, address: impl Into<IpAddr>) -> Result<Self> {
        let address = SocketAddr::new(address.into(), 53);
        let socket = namespace.inside(|| UdpSocket::bind(address).with_context(|| format!("listen on {address}")))?;
        thread::spawn(move || {
            let mut buffer = [0; 512];
            while let Ok((length, client)) = socket.recv_from(&mut buffer) {
                let mut answer = buffer[..length].to_vec();
                if length < 12 {
                    continue;
                }
                // A response without error, with one answer: pointer to the name, A, IN, 60 s, 4 bytes.
                answer[2..4].copy_from_slice(&[0x81, 0x80]);
                answer[7] = 1;
                answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
                answer.extend(Ipv4Addr::new(198, 51, 100, 2).octets());
                // A client that went away needs no answer.
                socket.send_to(&answer, client).ok();
            }
        });
        Ok(Self { address })
    }

    /// Looks `name` up from inside `namespace`.
    ///
    /// # Errors
    /// No answer.
    pub fn look_up(&self, namespace: &Namespace, name: &str) -> Result<Ipv4Addr> {
        // Recursion desired, one question.
        let mut query = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        for label in name.split('.') {
            query.push(u8::try_from(label.len())?);
            query.extend(label.bytes());
        }
        query.extend([0, 0, 1, 0, 1]);
        let local: SocketAddr = if self.address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }.parse()?;
        namespace.inside(|| {
            let socket = UdpSocket::bind(local)?;
            socket.set_read_timeout(Some(Duration::from_secs(10)))?;
            socket.connect(self.address)?;
            socket.send(&query)?;
            let mut answer = [0; 512];
            let length = socket.recv(&mut answer).with_context(|| format!("look {name} up"))?;
            let address = answer[..length].last_chunk::<4>().context("an address")?;
            Ok(Ipv4Addr::from(*address))
        })
    }
}

/// Bytes that do not compress.
///
/// # Errors
/// The kernel's.
pub(super) fn random(bytes: usize) -> Result<Vec<u8>> {
    use std::io::Read;
    let mut content = vec![0; bytes];
    fs::File::open("/dev/urandom")?.read_exact(&mut content)?;
    Ok(content)
}
