// WebTorrent: webtorrent_peer.js tracker PORT | seed FILE ANNOUNCE TORRENT | get TORRENT FOLDER
//
// Writes a line to standard output when it is ready. Runs until it is killed.

import fs from "node:fs";
import wrtc from "@roamhq/wrtc";
import bittorrentTracker from "bittorrent-tracker";
import WebTorrent from "webtorrent";

const [role, ...rest] = process.argv.slice(2);
// No server but the tracker: peers find each other by their own addresses.
const client = () =>
  new WebTorrent({ dht: false, lsd: false, utp: false, tracker: { wrtc, rtcConfig: { iceServers: [] } } });

if (role === "tracker") {
  const server = new bittorrentTracker.Server({ udp: false, http: false, ws: true, stats: false });
  server.listen(Number(rest[0]), "::", () => console.log("ready"));
} else if (role === "seed") {
  const [file, announce, torrentFile] = rest;
  client().seed(file, { announce: [announce] }, (torrent) => {
    torrent.discovery.tracker.once("update", () => {
      fs.writeFileSync(torrentFile, torrent.torrentFile);
      console.log("ready");
    });
  });
} else {
  const [torrentFile, folder] = rest;
  client().add(torrentFile, { path: folder });
  console.log("ready");
}
