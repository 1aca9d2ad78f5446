// libp2p: libp2p_peer.js listen tcp|ws noise|tls ADDRESS PORT FILE | get tcp|ws noise|tls MULTIADDR FILE
//
// `listen` writes the multiaddr it can be reached at and gives FILE to whoever asks; `get` asks, and writes FILE. Runs until
// it is killed.

import fs from "node:fs";
import { createRequire } from "node:module";

// What libp2p expects of newer versions of Node.js.
Promise.withResolvers ??= function () {
  let resolve, reject;
  const promise = new Promise((first, second) => ([resolve, reject] = [first, second]));
  return { promise, resolve, reject };
};
globalThis.CustomEvent ??= class extends Event {
  constructor(type, options) {
    super(type, options);
    this.detail = options?.detail;
  }
};
globalThis.WebSocket ??= createRequire(import.meta.url)("ws").WebSocket;

const { createLibp2p } = await import("libp2p");
const { multiaddr } = await import("@multiformats/multiaddr");
const { noise } = await import("@chainsafe/libp2p-noise");
const { tls } = await import("@libp2p/tls");
const { tcp } = await import("@libp2p/tcp");
const { webSockets } = await import("@libp2p/websockets");
const { yamux } = await import("@chainsafe/libp2p-yamux");

const PROTOCOL = "/laboratory/1.0.0";
const CHUNK = 16384;
const [role, transport, encryption, ...rest] = process.argv.slice(2);
const node = await createLibp2p({
  addresses: { listen: role === "listen" ? [listenAddress(rest[0], rest[1])] : [] },
  transports: [transport === "ws" ? webSockets() : tcp()],
  connectionEncrypters: [encryption === "tls" ? tls() : noise()],
  streamMuxers: [yamux()],
});

function listenAddress(address, port) {
  const ip = address.includes(":") ? `/ip6/${address}` : `/ip4/${address}`;
  return `${ip}/tcp/${port}${transport === "ws" ? "/ws" : ""}`;
}

if (role === "listen") {
  const content = fs.readFileSync(rest[2]);
  await node.handle(PROTOCOL, async (stream) => {
    for (let at = 0; at < content.length; at += CHUNK) {
      if (!stream.send(content.subarray(at, at + CHUNK))) await stream.onDrain();
    }
    await stream.close();
  });
  console.log(node.getMultiaddrs()[0].toString());
} else {
  const stream = await node.dialProtocol(multiaddr(rest[0]), PROTOCOL);
  const parts = [];
  for await (const part of stream) parts.push(part.subarray());
  fs.writeFileSync(rest[1], Buffer.concat(parts));
}
