"""Makes a BitTorrent v2 torrent (BEP 52): make_torrent.py hybrid|v2 FILE TORRENT ANNOUNCE"""

import os
import sys

import libtorrent

kind, path, torrent, announce = sys.argv[1:]
files = libtorrent.file_storage()
libtorrent.add_files(files, path)
flags = {"hybrid": 0, "v2": libtorrent.create_torrent.v2_only}[kind]
creator = libtorrent.create_torrent(files, 64 * 1024, flags)
creator.add_tracker(announce)
libtorrent.set_piece_hashes(creator, os.path.dirname(path))
with open(torrent, "wb") as out:
    out.write(libtorrent.bencode(creator.generate()))
