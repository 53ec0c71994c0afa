"""Claims: which process makes which shard, agreed upon through the store alone; and how the dead are noticed.

A claim is a small object that can be created once. Its holder renews it; whoever waits looks at whether its *content*
changes, by his own monotonic clock, so that clocks that differ or jump do not matter. A claim that did not change for
the lease that it names may be taken over, on the machine of its holder as soon as that process has ended.

A takeover can be wrong (a holder that was only very slow). Then a shard is made twice: deterministic bytes under the
same name, committed once. That costs time and never data.
"""

from __future__ import annotations

import json
import secrets
import socket
import threading
from dataclasses import dataclass
from time import monotonic, time

from reencoder_pipeline.errors import CacheError
from reencoder_pipeline.stores.store import Store
from reencoder_pipeline.stores.writer_id import has_ended, owner

LEASE = 120.0  # seconds; attributes of files may lag by 60 on NFS
LONGEST_LEASE = 3600.0  # whatever a claim says: it is a foreign file


@dataclass(frozen=True)
class Holder:
    """What a claim says of the process that holds it. `about`: what that process is at work on."""

    host: str
    owner: str
    lease: float
    about: str

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.host}, process {self.owner.split('-')[1]}"


class Claim:
    """Held and renewed from `with claim:` on. Made by `take`."""

    def __init__(self, store: Store, name: str, *, lease: float, about: str) -> None:
        self.name, self.about, self._store, self._lease = name, about, store, lease
        self._owner, self._token, self._beat = owner(), secrets.token_hex(8), 0
        self._writing, self._ended = threading.Lock(), threading.Event()
        self._renewing = threading.Thread(target=self._renew, daemon=True)

    def content(self) -> bytes:
        holder = {"host": socket.gethostname(), "owner": self._owner, "lease": self._lease, "about": self.about}
        return json.dumps({**holder, "token": self._token, "beat": self._beat, "time": time()}).encode()

    def is_held(self) -> bool:
        """Whether nobody took it over."""
        content = self._store.read(self.name)
        return content is not None and self._token.encode() in content

    def tell(self, about: str) -> None:
        """Say at once what this process is at work on."""
        self.about = about
        self._write()

    def __enter__(self) -> Claim:
        self._renewing.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._renewing.join()
        try:
            if self.is_held():
                self._store.remove(self.name)
        except (OSError, CacheError):
            return  # it runs out by itself

    def _renew(self) -> None:
        while not self._ended.wait(self._lease / 4):
            try:
                if not self.is_held():
                    return
                self._write()
            except (OSError, CacheError):
                continue  # the work itself meets the same fault and tells of it; until then the next beat tries again

    def _write(self) -> None:
        with self._writing:
            self._beat += 1
            self._store.write(self.name, self.content())


def take(store: Store, name: str, *, lease: float, about: str = "") -> Claim | None:
    """None if somebody else has it."""
    claim = Claim(store, name, lease=lease, about=about)
    return claim if store.create(name, claim.content()) else None


def read_holder(content: bytes) -> Holder | None:
    """None if it is damaged."""
    try:
        values = json.loads(content)
        lease = min(float(values["lease"]), LONGEST_LEASE)
        host, its_owner, about = (str(values[name]) for name in ("host", "owner", "about"))
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return Holder(host, its_owner, lease, about) if its_owner.count("-") == 2 and lease > 0 else None


class Watch:
    """Tells claims whose holder lives from those whose holder is gone, and gives the latter free."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._seen: dict[str, tuple[bytes, float]] = {}
        self._gone: set[str] = set()

    def is_free(self, name: str) -> bool:
        """Whether nobody holds this claim (any more). A holder of another machine has to be asked about repeatedly."""
        content = self._store.read(name)
        if content is None:
            self._seen.pop(name, None)
            return True
        holder, now = read_holder(content), monotonic()
        if name not in self._seen or self._seen[name][0] != content:
            self._seen[name] = (content, now)
        ran_out = now - self._seen[name][1] >= (holder.lease if holder else LEASE)
        if not ran_out and not (holder and self.has_ended(holder.owner)):
            return False
        if self._store.read(name) != content:  # renewed, or taken over by another who waited
            return False
        if holder:
            self._gone.add(holder.owner)
        self._store.remove(name)
        return True

    def look_again(self) -> None:
        """At every claim that was looked at so far: while waiting, so that whatever ran out is noticed."""
        for name in list(self._seen):
            self.is_free(name)

    def has_ended(self, its_owner: str) -> bool:
        """Whether a process is known to be gone: by this machine, or because a claim of it ran out."""
        return its_owner in self._gone or has_ended(its_owner)
