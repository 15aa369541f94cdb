"""A WebSocket echo over a real implementation. `serve` prints its port; `ask URL MIB` sends so much and reads it back.

Both print a line for each connection: bytes and SHA-256 of what came in.
"""

import hashlib
import os
import sys
import threading

from websockets.sync.client import connect
from websockets.sync.server import serve

MIB = 1 << 20


def echo(connection):
    size, digest = 0, hashlib.sha256()
    for message in connection:
        size += len(message)
        digest.update(message)
        connection.send(message)
    print(size, digest.hexdigest(), flush=True)


def ask(url, mib):
    with connect(url, max_size=2 * MIB, compression=None) as connection:
        sent, got, size = hashlib.sha256(), hashlib.sha256(), 0

        def send():
            for _ in range(mib):
                message = os.urandom(MIB)
                sent.update(message)
                connection.send(message)

        sender = threading.Thread(target=send)
        sender.start()
        while size < mib * MIB:
            message = connection.recv(timeout=60)
            got.update(message)
            size += len(message)
        sender.join()
    assert sent.digest() == got.digest(), "what came back is not what was sent"
    print(size, got.hexdigest(), flush=True)


if sys.argv[1] == "serve":
    with serve(echo, "127.0.0.1", 0, max_size=2 * MIB, compression=None) as server:
        print(server.socket.getsockname()[1], flush=True)
        server.serve_forever()
else:
    ask(sys.argv[2], int(sys.argv[3]))
