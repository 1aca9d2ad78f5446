"""One libtorrent session: libtorrent_peer.py TORRENT FOLDER PORT [SETTING=VALUE]... [--node HOST:PORT] [--peer HOST:PORT] [--trackerless]

Writes a JSON object a line to standard output, several times a second: whether it has the whole file, and the bytes it
received and sent without headers, and the uTP packets that it sent again. Runs until it is killed.
"""

import json
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
trackerless = False
arguments = iter(rest)
for argument in arguments:
    if argument == "--node":
        host, _, node_port = next(arguments).rpartition(":")
        nodes.append((host, int(node_port)))
    elif argument == "--peer":
        host, _, peer_port = next(arguments).rpartition(":")
        peers.append((host, int(peer_port)))
    elif argument == "--trackerless":
        trackerless = True
    else:
        name, _, value = argument.partition("=")
        settings[name] = value == "True" if value in ("True", "False") else int(value)

session = libtorrent.session(settings)
for node in nodes:
    session.add_dht_node(node)
info = libtorrent.torrent_info(torrent)
parameters = {"ti": info, "save_path": folder}
if trackerless:
    parameters["trackers"] = []
handle = session.add_torrent(parameters)
if trackerless:
    handle.replace_trackers([])
for peer in peers:
    handle.connect_peer(peer)
metrics = {metric.name: metric.value_index for metric in libtorrent.session_stats_metrics()}
while True:
    session.post_session_stats()
    session.wait_for_alert(500)
    for alert in session.pop_alerts():
        if isinstance(alert, libtorrent.session_stats_alert):
            values = alert.values
            print(
                json.dumps(
                    {
                        "complete": handle.status().is_seeding,
                        "peers": handle.status().num_peers,
                        "received": values["net.recv_bytes"],
                        "sent": values["net.sent_bytes"],
                        "resent_packets": values["utp.utp_packet_resend"],
                    }
                ),
                flush=True,
            )
    time.sleep(0.2)
