"""The system's `ssh`: where a device is, the command that starts its agent, and what ssh's error output means."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from ...errors import CompressError
from ...version import __version__

AGENT = "edgepress.targets.remote.agent"


@dataclass(frozen=True)
class SshHost:
    """How to reach a device; see `ssh(1)`. What is left out follows ssh's own configuration.

    identity: a private key; known_hosts: the only file of host keys that then counts.
    python: the Python there that has edgepress; workdir: a folder there that keeps files between connections, else a
        temporary one.
    timeout_s: for one answer, beyond what the limits of engines allow where some are named; heartbeat_s: the longest
        silence; connect_timeout_s: for the connection.
    config: ssh's configuration file, `Path("none")` for none.
    """

    host: str
    user: str = ""
    port: int = 0
    identity: Path | None = None
    known_hosts: Path | None = None
    python: str = "python3"
    workdir: str = ""
    timeout_s: float = 600
    heartbeat_s: float = 15
    connect_timeout_s: float = 15
    config: Path | None = None

    def __post_init__(self) -> None:
        for name in ("host", "user"):
            value = getattr(self, name)
            if value.startswith("-") or any(c.isspace() or not c.isprintable() for c in value):
                raise CompressError(f"{name} {value!r}: expected a name without spaces that starts without -")
        for name in ("python", "workdir"):
            value = getattr(self, name)
            if value.startswith("-") or not value.isprintable():
                raise CompressError(f"{name} {value!r}: expected the path of a file on the device")
        if not self.host or not self.python:
            raise CompressError("a device over SSH needs a host and a python")
        if not 0 <= self.port <= 65535:
            raise CompressError(f"port {self.port}: expected 1 to 65535, or 0 for ssh's own default")
        for name in ("timeout_s", "heartbeat_s", "connect_timeout_s"):
            if not getattr(self, name) > 0:
                raise CompressError(f"{name} {getattr(self, name)}: expected seconds, more than 0")
        for name in ("identity", "known_hosts"):
            if '"' in str(getattr(self, name)):
                raise CompressError(f"{name} {getattr(self, name)}: ssh takes no path with quotes")
        if self.identity is not None and not self.identity.is_file():
            raise CompressError(f"identity {self.identity}: there is no such file; give a private key")


def ssh_command(host: SshHost) -> list[str]:
    """The command that starts the agent on the host and is the pipe to it. It never asks, and never learns a host key.

    A shared connection (ControlMaster) is not used: it would skip the check of the host key.
    """
    options = [
        "BatchMode=yes",
        "StrictHostKeyChecking=yes",
        "UpdateHostKeys=no",
        "ServerAliveInterval=5",
        "ServerAliveCountMax=3",
        f"ConnectTimeout={max(1, round(host.connect_timeout_s))}",
        "ControlMaster=no",
        "ControlPath=none",
        "ForwardAgent=no",
        "ClearAllForwardings=yes",
        "RemoteCommand=none",
    ]
    if host.known_hosts is not None:
        options += [f"UserKnownHostsFile={_quoted(host.known_hosts)}", "GlobalKnownHostsFile=none"]
    if host.identity is not None:
        options += [f"IdentityFile={_quoted(host.identity)}", "IdentitiesOnly=yes"]
    command = ["ssh", "-T", *(part for option in options for part in ("-o", option))]
    command += ["-F", str(host.config)] if host.config is not None else []
    command += ["-l", host.user] if host.user else []
    command += ["-p", str(host.port)] if host.port else []
    # exec: nothing stands between the connection and the agent. -P: a module in the home folder is not edgepress's
    return [*command, "--", host.host, "exec " + shlex.join([host.python, "-P", "-m", AGENT])]


def _quoted(path: Path) -> str:
    """A path as ssh's options take it, where spaces separate and % starts a token."""
    return '"' + str(path).replace("%", "%%") + '"'


def explained(errors: str, host: SshHost) -> str | None:
    """Why no agent answered, by what ssh and the shell there said; None when they said nothing that is known."""
    name = f"{host.user}@{host.host}" if host.user else host.host
    file = host.known_hosts or "~/.ssh/known_hosts"
    port = f"-p {host.port} " if host.port else ""
    quoted = shlex.quote(str(file)) if host.known_hosts else file
    learn = (
        f"`ssh-keyscan {port}{host.host} >> {quoted}`, and compare its fingerprint (`ssh-keygen -lf {quoted}`) "
        "with that on the device (`ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub` there)"
    )
    meanings = {
        r"Host key for .* has changed": f"its host key is not the one in {file}: it was set up anew, or "
        f"somebody answers in its place; when you know why, remove the old line and add the new one: {learn}",
        r"Host key verification failed|No .* host key is known": f"its host key is not in {file}; add it: {learn}",
        r"Permission denied": f"it does not let {name} in: give its user and the private key whose public half is "
        "in authorized_keys there; one with a passphrase must be in ssh-agent",
        r"Could not resolve hostname": "there is no machine of this name: check `host`",
        r"Connection refused|Connection timed out|No route to host|Network is unreachable": "it does not answer: "
        "check `host` and `port`, that it is on, and that sshd runs there",
        r"No module named .?edgepress": f"{host.python} there has no edgepress, or an older one: `{host.python} -m "
        f"pip install edgepress=={__version__}` there, or give the `python` that has it",
        r"Unknown option: -P": f"{host.python} there is older than Python 3.11, which edgepress needs",
        r"(command )?not found|No such file or directory": f"there is no {host.python} there: give the path of the "
        "`python` that has edgepress",
    }
    found = (text for pattern, text in meanings.items() if re.search(pattern, errors))
    return next(found, None)
