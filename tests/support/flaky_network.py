"""A network that refuses, cuts or trickles: the fixture `flaky` stands between us and the S3 server."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest


class FlakyNetwork:
    """Passes connections on. `refusals` are still to be refused. `cuts` answers are to be cut in the middle of their
    body: every second one, or with `always_cut` all. `pause` is a wait in seconds before every 32 KB of an answer.
    `answers` counts bodies of more than 4 KB."""

    def __init__(self, server: tuple[str, int]) -> None:
        self.refusals, self.cuts, self.always_cut, self.pause, self.answers = 0, 0, False, 0.0, 0
        self._server, self._lock = server, threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _take(self, what: str) -> bool:
        with self._lock:
            if getattr(self, what) <= 0:
                return False
            setattr(self, what, getattr(self, what) - 1)
            return True

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                client, _ = self._listener.accept()
                if self._take("refusals"):
                    client.close()
                    continue
                server = socket.create_connection(self._server)
                threading.Thread(target=self._pass_on, args=(client, server), daemon=True).start()
                threading.Thread(target=self._answer, args=(server, client), daemon=True).start()

    def _pass_on(self, client: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := client.recv(1 << 16):
                server.sendall(data)
            server.shutdown(socket.SHUT_WR)

    def _answer(self, server: socket.socket, client: socket.socket) -> None:
        with contextlib.suppress(OSError), server, client:
            while data := server.recv(1 << 15):
                time.sleep(self.pause)
                large = len(data) > 4096
                if large:
                    self.answers += 1
                if large and (self.always_cut or self.answers % 2) and self._take("cuts"):
                    client.sendall(data[: len(data) // 2])
                    client.shutdown(socket.SHUT_RDWR)  # closing alone waits for the thread that listens to it
                    return
                client.sendall(data)


@pytest.fixture
def flaky(s3_bucket: str, s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[FlakyNetwork]:
    """Ours are the only retries, and they wait milliseconds: what is tested is not the libraries' patience."""
    import s3fs

    from reencoder_pipeline.stores import retry

    address = urlsplit(s3_endpoint)
    assert address.hostname is not None
    assert address.port is not None
    network = FlakyNetwork((address.hostname, address.port))
    monkeypatch.setenv("AWS_ENDPOINT_URL", network.url)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setattr(s3fs.S3FileSystem, "retries", 1)
    monkeypatch.setattr(retry, "FIRST_PAUSE", 0.002)
    s3fs.S3FileSystem.clear_instance_cache()
    yield network
    network.close()
    s3fs.S3FileSystem.clear_instance_cache()
