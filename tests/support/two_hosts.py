"""Two network namespaces that stand for two hosts, and a link between them that can be made slow.

Needs root, `ip` and `tc`. Rates are limited by the kernel (tbf); latency, which not every kernel
can add, by a thread that keeps IP packets of two tun devices back.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import select
import shutil
import signal
import struct
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path

ADDRESSES = ("10.77.0.1", "10.77.0.2")
_TUN = Path("/dev/net/tun")
_TUNSETIFF = 0x400454CA
_TUN_WITHOUT_HEADER = 0x1001
_MOST_PACKET_BYTES = 1 << 16
_BURST_SECONDS = 1.6e-4  # what tbf lets pass at once: 2,000 bytes at 100 Mbit/s
_QUEUE_MS = 500


def why_not() -> str | None:
    """What is missing here, in one sentence; None where two hosts can be made."""
    if not sys.platform.startswith("linux"):
        return "network namespaces are Linux's."
    if os.geteuid() != 0:
        return "network namespaces need root."
    missing = [tool for tool in ("ip", "tc") if shutil.which(tool) is None]
    if missing:
        return f"{' and '.join(missing)} not found; install iproute2."
    if not _TUN.exists():
        return f"{_TUN} is missing, and with it latency."
    return None


class TwoHosts:
    """Namespaces with the addresses of `ADDRESSES`, joined by a veth pair and by two tun devices.

    A context manager: all that it made, and every process in the namespaces, ends with it.
    """

    def __init__(self) -> None:
        number = os.getpid()
        self.names = (f"glm-a-{number}", f"glm-b-{number}")
        self._veths = (f"gv{number}a", f"gv{number}b")
        self._tuns = (f"gt{number}a", f"gt{number}b")
        self._relay: Delay | None = None

    def __enter__(self) -> TwoHosts:
        try:
            self._make()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _make(self) -> None:
        for name in self.names:
            _run("ip", "netns", "add", name)
        _run("ip", "link", "add", self._veths[0], "type", "veth", "peer", "name", self._veths[1])
        self._relay = Delay(self._tuns)
        for host, name in enumerate(self.names):
            for device in (self._veths[host], self._tuns[host]):
                _run("ip", "link", "set", device, "netns", name)
                _run("ip", "-n", name, "link", "set", device, "up")
            _run("ip", "-n", name, "link", "set", "lo", "up")
            _run("ip", "-n", name, "address", "add", f"{ADDRESSES[host]}/32", "dev", "lo")
        self.shape(None, 0.0)

    def shape(self, gbit_per_second: float | None, latency_seconds: float) -> None:
        """Limit the link's rate, each way, and delay each packet; connections stay."""
        assert self._relay is not None
        self._relay.seconds = latency_seconds
        for host, name in enumerate(self.names):
            device = (self._tuns if latency_seconds else self._veths)[host]
            own, other = ADDRESSES[host], ADDRESSES[1 - host]
            _run("ip", "-n", name, "route", "replace", other, "dev", device, "src", own)
            subprocess.run(
                ["tc", "-n", name, "qdisc", "del", "dev", device, "root"],
                check=False,
                capture_output=True,
            )
            if gbit_per_second is not None:
                bits = int(1e9 * gbit_per_second)
                burst = max(2000, int(bits / 8 * _BURST_SECONDS))
                limit = ("rate", f"{bits}bit", "burst", f"{burst}b", "latency", f"{_QUEUE_MS}ms")
                _run("tc", "-n", name, "qdisc", "add", "dev", device, "root", "tbf", *limit)

    def start(
        self,
        host: int,
        command: Sequence[str],
        environment: Mapping[str, str],
        output: Path | None = None,
    ) -> subprocess.Popen[bytes]:
        """Start a command on host 0 or 1, with more environment, and its output in a file."""
        words = ["ip", "netns", "exec", self.names[host], *command]
        whole = {**os.environ, **environment}
        if output is None:
            return subprocess.Popen(words, env=whole)
        with output.open("wb") as log:
            return subprocess.Popen(words, env=whole, stdout=log, stderr=subprocess.STDOUT)

    def end_processes(self, host: int) -> None:
        """End whatever runs on a host."""
        until = time.monotonic() + 10.0
        while (inside := _processes(self.names[host])) and time.monotonic() < until:
            for process in inside:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
            time.sleep(0.1)

    def close(self) -> None:
        """End processes, namespaces and devices, as far as they are there."""
        for host in range(len(self.names)):
            self.end_processes(host)
        if self._relay is not None:
            self._relay.close()
        for words in (
            ["ip", "link", "del", self._veths[0]],
            *(["ip", "netns", "del", name] for name in self.names),
        ):
            subprocess.run(words, check=False, capture_output=True)


class Delay:
    """Two tun devices; a packet written to one comes out of the other after `seconds`."""

    def __init__(self, names: tuple[str, str]) -> None:
        self.seconds = 0.0
        self._files: list[int] = []
        self._end, self._tell = os.pipe()
        for name in names:
            file = os.open(_TUN, os.O_RDWR | os.O_NONBLOCK)
            self._files.append(file)
            fcntl.ioctl(file, _TUNSETIFF, struct.pack("16sH", name.encode(), _TUN_WITHOUT_HEADER))
        self._thread = threading.Thread(target=self._carry, daemon=True)
        self._thread.start()

    def _carry(self) -> None:
        waiting: deque[tuple[float, int, bytes]] = deque()
        while True:
            left = max(0.0, waiting[0][0] - time.monotonic()) if waiting else None
            readable = select.select([*self._files, self._end], [], [], left)[0]
            if self._end in readable:
                return
            for number, file in enumerate(self._files):
                if file in readable:
                    with contextlib.suppress(BlockingIOError):
                        packet = os.read(file, _MOST_PACKET_BYTES)
                        due = time.monotonic() + self.seconds
                        waiting.append((due, self._files[1 - number], packet))
            while waiting and waiting[0][0] <= time.monotonic():
                _, target, packet = waiting.popleft()
                try:
                    os.write(target, packet)
                except OSError as error:  # the other side is not up, or full: as on a real wire
                    if error.errno not in (errno.EIO, errno.EAGAIN, errno.EINVAL):
                        raise

    def close(self) -> None:
        """Stop, and remove the devices."""
        os.write(self._tell, b"x")
        self._thread.join()
        for file in (*self._files, self._end, self._tell):
            os.close(file)


def _processes(namespace: str) -> list[int]:
    told = subprocess.run(
        ["ip", "netns", "pids", namespace], check=False, capture_output=True, text=True
    )
    return [int(word) for word in told.stdout.split()]


def _run(*words: str) -> None:
    done = subprocess.run(words, check=False, capture_output=True, text=True)
    if done.returncode:
        raise OSError(f"`{' '.join(words)}` failed: {done.stderr.strip()}")
