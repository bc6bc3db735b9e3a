"""A real SSH server on loopback with keys of its own: the system's sshd, or asyncssh where there is none."""

from __future__ import annotations

import asyncio
import getpass
import importlib.util
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgepress.targets.remote.device import SshHost

SSHD = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin:/usr/local/sbin")
START_S = 30.0

SSHD_CONFIG = """\
Port {port}
ListenAddress 127.0.0.1
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/user_key.pub
StrictModes no
UsePAM no
PidFile none
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
SetEnv TMPDIR={folder}/tmp{threads}
"""


@dataclass(frozen=True)
class SshServer:
    """A running server. kind: "sshd" or "asyncssh"; temporary: the temporary folder of what it starts."""

    kind: str
    host: SshHost
    temporary: Path
    process: subprocess.Popen[bytes]


def kinds() -> list[str]:
    """The servers that this machine has; tests need one, and the system's `ssh`."""
    found = ["sshd"] if SSHD else []
    return [*found, "asyncssh"] if importlib.util.find_spec("asyncssh") else found


@contextmanager
def running(kind: str, folder: Path) -> Iterator[SshServer]:
    """Start a server that lets this user in with a new key, and stop it at the end."""
    for name in ("host_key", "user_key"):
        new_key(folder / name)
    (folder / "tmp").mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    public = (folder / "host_key.pub").read_text()
    (folder / "known_hosts").write_text(f"[127.0.0.1]:{port} {public}")
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(_command(kind, folder, port), stdin=subprocess.DEVNULL, stderr=log)
    try:
        _wait(process, port, folder / "server.log")
        host = SshHost(
            "127.0.0.1",
            getpass.getuser(),
            port,
            folder / "user_key",
            folder / "known_hosts",
            sys.executable,
            config=Path("none"),
        )
        yield SshServer(kind, host, folder / "tmp", process)
    finally:
        process.kill()
        process.wait()


def new_key(path: Path) -> None:
    """Make a key pair without a passphrase."""
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True)


def _command(kind: str, folder: Path, port: int) -> list[str]:
    if kind == "asyncssh":
        return [sys.executable, __file__, str(folder), str(port)]
    assert SSHD
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # sshd will not start as root without it
    threads = os.environ.get("OMP_NUM_THREADS")  # sshd hands nothing on, and both ends are to be alike
    passed = f" OMP_NUM_THREADS={threads}" if threads else ""
    (folder / "sshd_config").write_text(SSHD_CONFIG.format(port=port, folder=folder, threads=passed))
    return [SSHD, "-D", "-e", "-f", str(folder / "sshd_config")]


def _wait(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    end = time.monotonic() + START_S
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError as error:
            if process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"the SSH server did not start: {log.read_text()}") from error
        time.sleep(0.05)


async def _copy(source: Any, sink: Any) -> None:
    """All that comes; `process.redirect` drops the whole connection when the program ends before its input."""
    import asyncssh

    with suppress(OSError, asyncssh.Error):
        while data := await source.read(1 << 16):
            sink.write(data)
            await sink.drain()
    if isinstance(sink, asyncio.StreamWriter):
        sink.close()  # the client has nothing more to say, or is gone


async def _serve(folder: Path, port: int) -> None:
    import asyncssh

    environment = {**os.environ, "TMPDIR": str(folder / "tmp")}

    async def run(process: asyncssh.SSHServerProcess[bytes]) -> None:
        pipe = asyncio.subprocess.PIPE
        child = await asyncio.create_subprocess_shell(
            process.command or "", stdin=pipe, stdout=pipe, stderr=pipe, env=environment
        )
        feeding = asyncio.create_task(_copy(process.stdin, child.stdin))
        await asyncio.gather(_copy(child.stdout, process.stdout), _copy(child.stderr, process.stderr))
        feeding.cancel()
        code = await child.wait()
        process.exit(code if code >= 0 else 128 - code)

    server = await asyncssh.listen(
        "127.0.0.1",
        port,
        server_host_keys=[str(folder / "host_key")],
        authorized_client_keys=str(folder / "user_key.pub"),
        process_factory=run,
        encoding=None,
    )
    await server.wait_closed()


if __name__ == "__main__":
    asyncio.run(_serve(Path(sys.argv[1]), int(sys.argv[2])))
