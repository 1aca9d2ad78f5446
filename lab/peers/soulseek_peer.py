"""One Soulseek client (aioslsk): soulseek_peer.py NAME SERVER PORT FOLDER clear|obfuscated [--get WORD FROM]

Shares FOLDER, or with --get downloads to it the first file that FROM has for WORD. Writes a line to standard output when it
is logged in and when the download is complete. Runs until it is killed.
"""

import asyncio
import sys

from aioslsk.client import SoulSeekClient
from aioslsk.settings import CredentialsSettings, Settings

name, server, port, folder, mode, *rest = sys.argv[1:]


def settings():
    value = Settings(credentials=CredentialsSettings(username=name, password="laboratory"))
    value.network.server.hostname = server
    value.network.server.port = int(port)
    value.network.upnp.enabled = False
    value.network.listening.port = 2234
    value.network.listening.obfuscated_port = 2235
    value.network.peer.obfuscate = mode == "obfuscated"
    value.debug.search_for_parent = False
    if rest:
        value.shares.download = folder
    else:
        value.shares.directories = [{"path": folder}]
    return value


async def get(client, word, owner):
    while True:
        request = await client.searches.search_user(owner, word)
        for _ in range(20):
            await asyncio.sleep(0.1)
            for result in request.results:
                for item in result.shared_items:
                    transfer = await client.transfers.download(result.username, item.filename)
                    while not transfer.is_finalized():
                        await asyncio.sleep(0.1)
                    return


async def main():
    async with SoulSeekClient(settings()) as client:
        await client.login()
        print("ready", flush=True)
        if rest:
            await get(client, *rest[1:])
            print("complete", flush=True)
        await asyncio.Event().wait()


asyncio.run(main())
