"""The commit that a result belongs to."""

from __future__ import annotations

import os
import subprocess


def current_commit() -> str:
    """The commit checked out in the current folder, else that of the CI job, else ""."""
    try:
        told = subprocess.run(["git", "rev-parse", "--verify", "HEAD"], capture_output=True, text=True)
    except FileNotFoundError:  # no git here
        return _of_job()
    return told.stdout.strip() if told.returncode == 0 else _of_job()


def _of_job() -> str:
    return os.environ.get("GITHUB_SHA") or os.environ.get("CI_COMMIT_SHA") or ""
