//! Participants: a seeder, a tracker and a web server on the internet, BitTorrent and web clients of subscribers.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Result, anyhow};
use peertally_lab::{
    self as lab, DnsServer, INTERNET_V4, INTERNET_V6, Lab, Namespace, Reported, TRACKER_PORT, Tracker, Transfer,
    Transmission, WebServer,
};

/// Size of the file that is transferred by BitTorrent.
const TORRENT_BYTES: usize = 32 << 20;
/// Rate at which a client downloads, in kB/s: slow enough to watch.
const RATE: &str = "1600";
/// Size of the file that web clients fetch, again and again.
const WEB_BYTES: usize = 512 << 10;

/// Options of every BitTorrent client: plain peer wire where the other side agrees, no DHT (there is none here).
const PLAIN: [&str; 2] = ["-et", "-O"];

/// Activity of a subscriber.
pub(super) struct Role {
    /// For people.
    pub(super) name: &'static str,
    /// Options of its BitTorrent client, if it has one.
    pub(super) torrent: Option<&'static [&'static str]>,
    /// Whether it browses the web.
    pub(super) web: bool,
}

/// Activity of each subscriber.
pub(super) const ROLES: [Role; 3] = [
    Role { name: "BitTorrent", torrent: Some(&[]), web: false },
    Role { name: "web only", torrent: None, web: true },
    // TCP only: the others prefer uTP.
    Role { name: "BitTorrent and web", torrent: Some(&["--no-utp"]), web: true },
];

/// Bytes that a web client says it got.
pub(super) type WebBytes = [Arc<AtomicU64>; ROLES.len()];

/// Everybody who takes part.
pub(super) struct Participants<'a> {
    lab: &'a Lab,
    transfer: Transfer,
    _tracker: Tracker,
    _seeder: Transmission<'a>,
    leechers: Vec<(usize, Transmission<'a>)>,
    _web: WebServer,
    dns: DnsServer,
    web_bytes: WebBytes,
}

/// The clients' own reports at the end.
pub(super) struct Account {
    /// BitTorrent payload, by subscriber; `None` for those without a client.
    pub(super) torrent: [Option<Reported>; ROLES.len()],
    /// Bytes of web pages, by subscriber.
    pub(super) web: [u64; ROLES.len()],
    /// Size of the file that is transferred.
    pub(super) file_bytes: u64,
}

impl<'a> Participants<'a> {
    /// Starts everybody on the internet. Nothing crosses the router yet.
    pub(super) fn assemble(lab: &'a Lab) -> Result<Self> {
        let announce = format!("http://{INTERNET_V4}:{TRACKER_PORT}/announce");
        let transfer = lab::make_torrent(lab, "demo", TORRENT_BYTES, &announce)?;
        let mut tracker = Tracker::start(lab, &[&transfer])?;
        let seeder = Transmission::start(lab, lab.internet(), &transfer.seed, &PLAIN)?;
        seeder.add(&transfer)?;
        let web = WebServer::start(lab, WEB_BYTES)?;
        let dns = DnsServer::start(lab.internet(), INTERNET_V4)?;
        println!("  internet   nginx with HTTP and TLS, a name server, opentracker, and Transmission, which seeds");
        tracker.wait_seeded(lab, &transfer)?;
        let web_bytes = WebBytes::default();
        Ok(Self { lab, transfer, _tracker: tracker, _seeder: seeder, leechers: Vec::new(), _web: web, dns, web_bytes })
    }

    /// Starts the subscribers' clients; the web clients run as long as `watch` does.
    pub(super) fn play(&mut self, watch: impl FnOnce(&mut Self) -> Result<()>) -> Result<()> {
        for (index, role) in ROLES.iter().enumerate() {
            if let Some(options) = role.torrent {
                let downloads = self.lab.subdirectory(&format!("downloads-{}", index + 1))?;
                let options = [&PLAIN[..], options].concat();
                let client = Transmission::start(self.lab, self.lab.subscriber(index + 1), &downloads, &options)?;
                client.limit_download(RATE)?;
                client.add(&self.transfer)?;
                self.leechers.push((index, client));
            }
        }
        let stop = AtomicBool::new(false);
        let lab = self.lab;
        let dns = self.dns.clone();
        let web_bytes = self.web_bytes.clone();
        thread::scope(|scope| {
            let browsers: Vec<_> = ROLES
                .iter()
                .zip(&web_bytes)
                .enumerate()
                .filter(|(_, (role, _))| role.web)
                .map(|(index, (_, bytes))| {
                    let (stop, dns) = (&stop, &dns);
                    scope.spawn(move || browse(lab.subscriber(index + 1), dns, bytes, stop))
                })
                .collect();
            let watched = watch(self);
            stop.store(true, Ordering::Relaxed);
            for browser in browsers {
                let browsed = browser.join().map_err(|_| anyhow!("a web client panicked"))?;
                // An interruption of what is watched is the better message.
                if watched.is_ok() {
                    browsed?;
                }
            }
            watched
        })
    }

    /// Whether every transfer is complete, by a comparison of the files.
    pub(super) fn complete(&self) -> Result<bool> {
        for (_, client) in &self.leechers {
            if !client.has(&self.transfer)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Bytes of web pages that the client of subscriber `index` says it got.
    pub(super) fn web_bytes(&self, index: usize) -> u64 {
        self.web_bytes[index].load(Ordering::Relaxed)
    }

    /// Asks the clients what they transferred, and ends them.
    pub(super) fn leave(&mut self) -> Result<Account> {
        let mut torrent = [None; ROLES.len()];
        for (index, client) in &self.leechers {
            torrent[*index] = Some(client.reported()?);
        }
        self.leechers.clear();
        Ok(Account {
            torrent,
            web: std::array::from_fn(|index| self.web_bytes(index)),
            file_bytes: self.transfer.bytes,
        })
    }
}

/// Looks a name up and fetches a page, over HTTP and TLS, IPv4 and IPv6 in turn, until it is stopped.
fn browse(subscriber: &Namespace, dns: &DnsServer, bytes: &AtomicU64, stop: &AtomicBool) -> Result<()> {
    let urls = [
        format!("http://{INTERNET_V4}/file"),
        format!("https://{INTERNET_V4}/file"),
        format!("http://[{INTERNET_V6}]/file"),
        format!("https://[{INTERNET_V6}]/file"),
    ];
    for url in urls.iter().cycle() {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        dns.look_up(subscriber, "www.example.org")?;
        bytes.fetch_add(lab::fetch(subscriber, url)?, Ordering::Relaxed);
        // A reader looks at the page; nothing waits for this.
        thread::sleep(Duration::from_millis(250));
    }
    Ok(())
}
