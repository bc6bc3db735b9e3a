"""The files to paste into a CI: their steps are run here in a repository with a recipe, on a simulated device."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from edits import replaced
from small_run import write_recipe

ROOT = Path(__file__).parents[1]
CI = ROOT / "docs" / "ci"
pytestmark = pytest.mark.skipif(not CI.is_dir(), reason="needs a checkout")

DEVICES = "devices:\n  quiet: { runtime: fake, noise: { launch_sd: 0.001 } }\n"


def steps_of(name: str) -> list[str]:
    """What a CI file runs, line by line, without the installation of edgepress, which is here already."""
    text = (CI / name).read_text()
    if name == "github.yml":
        steps = yaml.safe_load(text)["jobs"]["gate"]["steps"]
        lines = [line for step in steps for line in step.get("run", "").splitlines()]
    elif name == "gitlab.yml":
        lines = yaml.safe_load(text)["edgepress"]["script"]
    else:
        lines = [text]
    return [line for line in lines if "pip install" not in line]


def simulated(script: str) -> str:
    """The script with another device: no test may fail because the machine is slow, or busy."""
    return replaced(script, "--device openvino:CPU", "--device quiet")


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository with a recipe on the branch main, whose remote `origin` is itself."""
    write_recipe(tmp_path, passes=[], targets=["quiet"], budgets={})
    (tmp_path / "devices.yaml").write_text(DEVICES)
    for command in (
        "git init -q -b main",
        "git add .",
        "git -c user.name=a -c user.email=a@b commit -q -m recipe",
        "git remote add origin .",
        "git fetch -q origin",
    ):
        subprocess.run(command.split(), cwd=tmp_path, check=True)
    return tmp_path


NOTED = """\
#!/bin/sh
[ "$1" != run ] || [ -f "$2" ] || exit 2
echo "$*" >> "$NOTED"
"""
"""A `compress` that only notes how it was called."""


def run_steps(
    name: str, repository: Path, path: Path, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run all steps of a CI file. path: where its `compress` lies."""
    if name == "github.yml":  # what actions/checkout does in the second step
        shutil.copytree(repository / ".git", repository / ".baseline" / ".git")
        subprocess.run(["git", "checkout", "-q", "."], cwd=repository / ".baseline", check=True)
    environment = {
        **os.environ,
        "PATH": f"{path}{os.pathsep}{os.environ['PATH']}",
        "CI_MERGE_REQUEST_TARGET_BRANCH_NAME": "main",
        **environment,
    }
    script = "set -e\n" + simulated("\n".join(steps_of(name)))
    return subprocess.run(
        ["sh", "-c", script, "sh"], cwd=repository, env=environment, capture_output=True, text=True
    )


def test_the_steps_gate(repository: Path) -> None:
    summary = repository / "summary.md"
    own = Path(sys.executable).parent
    done = run_steps("github.yml", repository, own, GITHUB_STEP_SUMMARY=str(summary))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "PASS: All 4 measures hold." in done.stdout
    assert (repository / "gate" / "junit.xml").is_file()
    assert summary.read_text().startswith("## Gate: PASS\n")


@pytest.mark.parametrize("name", ["github.yml", "gitlab.yml", "pre-push.sh"])
def test_the_steps_of_each_file_run_the_same_commands(name: str, repository: Path, tmp_path_factory) -> None:
    """Each finds both recipes where it says they are; what the commands do is the same then."""
    place = tmp_path_factory.mktemp("bin")
    (place / "compress").write_text(NOTED)
    (place / "compress").chmod(0o755)
    done = run_steps(name, repository, place, NOTED=str(place / "noted"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert (place / "noted").read_text().splitlines() == [
        "run .baseline/recipe.yaml -o runs/baseline",
        "run recipe.yaml -o runs/candidate",
        "gate --baseline runs/baseline --candidate runs/candidate --device quiet --data recipe.yaml -o gate",
    ]


def test_a_hook_in_a_linked_worktree_leaves_its_branch_alone(repository: Path, tmp_path_factory) -> None:
    """Git gives hooks its own GIT_DIR, with which `git -C elsewhere checkout` would act on the pushing worktree."""
    linked = tmp_path_factory.mktemp("linked") / "work"
    for command in (f"git worktree add -q -b feature {linked}", "git remote set-url origin ."):
        subprocess.run(command.split(), cwd=repository, check=True)
    hook = (CI / "pre-push.sh").read_text().partition("compress run")[0]
    git_dir = subprocess.run(
        ["git", "rev-parse", "--absolute-git-dir"], cwd=linked, capture_output=True, text=True, check=True
    ).stdout.strip()
    environment = {**os.environ, "GIT_DIR": git_dir}
    subprocess.run(["sh", "-c", hook, "sh", "origin"], cwd=linked, env=environment, check=True)
    head = subprocess.run(["git", "branch", "--show-current"], cwd=linked, capture_output=True, text=True)
    assert head.stdout.strip() == "feature"


def test_every_line_of_the_files_is_a_command_that_there_is() -> None:
    from edgepress.cli import cli

    for name in ("github.yml", "gitlab.yml", "pre-push.sh"):
        lines = [
            line for text in steps_of(name) for line in text.splitlines() if line.startswith("compress ")
        ]
        assert lines
        for line in lines:
            command = cli.commands[line.split()[1]]
            known = {option for parameter in command.params for option in parameter.opts}
            assert set(re.findall(r"(?<= )--[a-z-]+", line)) <= known
