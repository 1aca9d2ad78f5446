"""One libtorrent session: libtorrent_peer.py TORRENT FOLDER PORT [SETTING=VALUE]... [--node HOST:PORT] [--peer HOST:PORT]
[--also TORRENT FOLDER] [--trackerless]

A torrent of --also is added as soon as its file exists.
Writes a JSON object a line to standard output, several times a second: whether it has the whole file, and the bytes it
received and sent without headers, and the uTP packets that it sent again. Runs until it is killed.
"""

import json
import os
import sys
import time

import libtorrent

torrent, folder, port, *rest = sys.argv[1:]
settings = {
    "listen_interfaces": f"0.0.0.0:{port},[::]:{port}",
    "enable_upnp": False,
    "enable_natpmp": False,
    "enable_lsd": False,
    "enable_dht": False,
    "dht_bootstrap_nodes": "",
    "dht_restrict_routing_ips": False,
    "allow_multiple_connections_per_ip": True,
    "alert_mask": libtorrent.alert.category_t.stats_notification,
}
nodes = []
peers = []
later = []
trackerless = False
arguments = iter(rest)
for argument in arguments:
    if argument == "--node":
        host, _, node_port = next(arguments).rpartition(":")
        nodes.append((host.strip("[]"), int(node_port)))
    elif argument == "--peer":
        host, _, peer_port = next(arguments).rpartition(":")
        peers.append((host.strip("[]"), int(peer_port)))
    elif argument == "--also":
        later.append((next(arguments), next(arguments)))
    elif argument == "--trackerless":
        trackerless = True
    else:
        name, _, value = argument.partition("=")
        settings[name] = value == "True" if value in ("True", "False") else int(value)

session = libtorrent.session(settings)
for node in nodes:
    session.add_dht_node(node)


def add(torrent, folder):
    parameters = {"ti": libtorrent.torrent_info(torrent), "save_path": folder}
    if trackerless:
        parameters["trackers"] = []
    handle = session.add_torrent(parameters)
    if trackerless:
        handle.replace_trackers([])
    for peer in peers:
        handle.connect_peer(peer)
    return handle


handles = [add(torrent, folder)]
metrics = {metric.name: metric.value_index for metric in libtorrent.session_stats_metrics()}
while True:
    for entry in [entry for entry in later if os.path.exists(entry[0])]:
        later.remove(entry)
        handles.append(add(*entry))
    session.post_session_stats()
    session.wait_for_alert(500)
    for alert in session.pop_alerts():
        if isinstance(alert, libtorrent.session_stats_alert):
            values = alert.values
            print(
                json.dumps(
                    {
                        "complete": all(handle.status().is_seeding for handle in handles),
                        "peers": sum(handle.status().num_peers for handle in handles),
                        "received": values["net.recv_bytes"],
                        "sent": values["net.sent_bytes"],
                        "resent_packets": values["utp.utp_packet_resend"],
                    }
                ),
                flush=True,
            )
    time.sleep(0.2)
