"""A new kind of budget is one file and one line: it is then read, refused, judged and shown as every other."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import edgepress
import pytest
from edgepress.pipeline.budgets import KINDS, Budgets

ENERGY = '''
"""Energy: what one inference takes."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from .budget import Budget, Evidence, Finding, NotMeasuredError


class EnergyBudget(Budget[float]):
    """Most joules of one inference."""

    subject = "device"

    def name(self, found: Evidence) -> str:
        return f"energy on {self.device}"

    @property
    def limit_text(self) -> str:
        return f"{self.limit:g} J"

    def judged(self, found: Evidence) -> Finding:
        joules = found.on(self.device)[1].joules
        if joules is None:
            raise NotMeasuredError("the machine has no counter.")
        return Finding(f"{joules:g} J", joules <= self.limit, "by the machine's own counter.")


EnergyLimits = Annotated[
    dict[str, Annotated[float, Field(gt=0)]],
    EnergyBudget,
    Field(description="Most joules per device.", examples=[{"openvino:CPU": 0.5}]),
]
'''
RECIPE = """\
model: {source: edgepress.examples.digits.models:cnn}
data: {source: edgepress.examples.digits.data:digits}
targets: [openvino:CPU]
budgets: {memory: {openvino:CPU: 1 GB}, energy: {openvino:CPU: LIMIT}, bytes: 1 GB}
"""
JUDGE = """
import sys
from pathlib import Path
from edgepress.pipeline.judge import judge
from edgepress.pipeline.recipe.file import read_recipe
from edgepress.pipeline.recipe.reference import option_reference
from edgepress.pipeline.recipe.template import template
from edgepress.pipeline.report.write import write_reports
from edgepress.pipeline.record_file import write_record
from run_records import MODEL, STEPS, cpu, run

folder = Path(sys.argv[1])
(folder / "reference.md").write_text(option_reference())
(folder / "template.yaml").write_text(template())
recipe = read_recipe(folder / "recipe.yaml")
budgets, verdict, reason = judge(recipe.budgets, STEPS, [], [cpu()], [MODEL])
record = run(budgets=budgets, verdict=verdict, reason=reason, targets=[cpu()])
write_record(folder / "run.json", record)
write_reports(record, folder)
print([(b.name, b.limit, b.measured, b.verdict) for b in budgets], verdict, reason)
"""
Judged = Callable[[str], str]


@pytest.fixture(scope="module")
def with_energy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the package with a kind of its own."""
    folder = tmp_path_factory.mktemp("package")
    source, copy = Path(edgepress.__file__).parent, folder / "edgepress"
    left = shutil.ignore_patterns(
        ".*", "__pycache__", "tests", "benchmarks", "docs", "*.egg-info", "build", "runs"
    )
    shutil.copytree(source, copy, ignore=left)
    (copy / "pipeline/budgets/energy.py").write_text(ENERGY.lstrip())
    listing = copy / "pipeline/budgets/__init__.py"
    text = listing.read_text()
    imports, line = "from .int8_share import", "    memory: MemoryLimits = {}\n"
    assert text.count(imports) == text.count(line) == 1
    text = text.replace(imports, f"from .energy import EnergyLimits\n{imports}")
    listing.write_text(text.replace(line, f"{line}    energy: EnergyLimits = {{}}\n"))
    return folder


@pytest.fixture
def judged(with_energy: Path, tmp_path: Path) -> Judged:
    """What a recipe with this limit comes to; its reports lie in the test's folder."""
    support = Path(__file__).parents[2] / "support"
    paths = os.pathsep.join(map(str, (with_energy, support)))

    def judge(limit: str) -> str:
        (tmp_path / "recipe.yaml").write_text(RECIPE.replace("LIMIT", limit))
        command = [sys.executable, "-c", JUDGE, str(tmp_path)]
        done = subprocess.run(
            command, env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True
        )
        return done.stdout if done.returncode == 0 else done.stderr

    return judge


def test_it_is_judged_after_the_other_devices_and_shown(judged: Judged, tmp_path: Path) -> None:
    assert judged("0.5").strip() == (
        "[('peak memory on openvino:CPU', '1.00 GB', '78.40 MB', 'PASS'), "
        "('energy on openvino:CPU', '0.5 J', '0.012 J', 'PASS'), "
        "('size of model.onnx', '1.00 GB', '1.90 MB', 'PASS')] "
        "PASS All 3 budgets were kept, and every proof held."
    )
    for report in ("report.html", "report.md", "junit.xml"):
        assert "energy on openvino:CPU" in (tmp_path / report).read_text(), report
    assert "| Most joules per device. |" in (tmp_path / "reference.md").read_text()
    commented = "  # Most joules per device.\n  #energy: {openvino:CPU: 0.5}\n"
    assert commented in (tmp_path / "template.yaml").read_text()


def test_it_is_broken_in_its_own_words(judged: Judged) -> None:
    told = judged("0.01")
    assert told.endswith(
        "FAIL 1 of 3 budgets is broken. The energy on openvino:CPU is 0.012 J, the limit is 0.01 J.\n"
    )


def test_its_limit_and_its_device_are_checked_where_they_stand(judged: Judged) -> None:
    assert "recipe.yaml:4:64: budgets.energy.openvino:CPU: expected a number, more than 0, got -1" in judged(
        "-1"
    )
    assert "unknown target 'openvino:GPU'" in judged("1, openvino:GPU: 1")


@pytest.mark.parametrize("key", KINDS)
def test_only_a_budget_about_devices_takes_a_mapping_of_them(key: str) -> None:
    default = Budgets.model_fields[key].default
    assert default == ({} if KINDS[key].subject == "device" else None)
