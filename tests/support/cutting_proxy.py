"""A way to a server that fails: it refuses, cuts connections in the middle, answers with an error, or never."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

Fails = Callable[[int], str]  # number of a connection -> "" (goes through), "cut", "cut answer", "silent", or a status


@contextmanager
def proxy(endpoint: str, fails: Fails) -> Iterator[tuple[str, list[str]]]:
    """The URL of the proxy, and what became of each connection."""
    server = urlsplit(endpoint)
    log: list[str] = []
    listening = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                client, _ = listening.accept()
            except OSError:
                return
            log.append(fails(len(log)))
            threading.Thread(target=one, args=(client, log[-1]), daemon=True).start()

    def one(client: socket.socket, how: str) -> None:
        with client:
            try:
                if how.isdecimal():
                    client.recv(65536)
                    client.sendall(f"HTTP/1.1 {how} No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode())
                elif how == "silent":
                    while client.recv(65536):
                        pass
                elif how == "cut":
                    client.recv(16)  # within the request's first line
                else:
                    _through(client, (server.hostname or "", server.port or 80), cut=how == "cut answer")
                client.shutdown(socket.SHUT_RDWR)  # closing alone waits for the thread that still reads
            except OSError:
                return

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}", log
    finally:
        listening.close()


def _through(client: socket.socket, server: tuple[str, int], *, cut: bool) -> None:
    """`cut`: the server does what it was asked for, and nobody hears of it."""
    with socket.create_connection(server) as upstream:
        threading.Thread(target=_copy, args=(client, upstream), daemon=True).start()
        if cut:
            upstream.recv(65536)
        else:
            _copy(upstream, client)


def _copy(here: socket.socket, there: socket.socket) -> None:
    try:
        while piece := here.recv(65536):
            there.sendall(piece)
    except OSError:
        return
