"""The package's layout: who may import whom, what stays light, what every part must bring along."""

from __future__ import annotations

import ast
import configparser
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import edgepress
import pytest
from edgepress.passes import PASSES
from edgepress.pipeline.budgets import KINDS
from edgepress.targets import TARGETS
from edgepress.targets.base import Target

ROOT = Path(edgepress.__file__).parent
FOLDERS = ("cli", "calibration", "passes", "targets", "pipeline")
RANKS = {"core": 0, "calibration": 1, "passes": 2, "targets": 2, "pipeline": 3, "cli": 4}
"""A module imports from its own part and from lower ranks only: passes and targets do not know each other."""
CORE = (
    "errors", "isolated", "progress", "model", "macs", "torch_macs", "torch_formulas", "compiled", "trellis", "text",
    "version", "writing", "record", "section", "form",
)  # fmt: skip
CHECKOUT = (ROOT / "tests").is_dir()


def modules() -> Iterator[Path]:
    """Every module of the package, examples included."""
    yield from sorted(ROOT.glob("*.py"))
    for folder in (*FOLDERS, "examples"):
        yield from sorted((ROOT / folder).rglob("*.py"))


def part_of(dotted: str) -> str:
    """The part of the package that a module, named inside it (`targets.base`), belongs to."""
    top = dotted.partition(".")[0]
    if top in FOLDERS:
        return top
    return "core" if top in CORE else top


def dotted_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imported(path: Path) -> Iterator[tuple[int, str]]:
    """Line and name, inside the package, of every import of it; those under TYPE_CHECKING count too."""
    package = list(path.relative_to(ROOT).parent.parts)
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level:
            base = [
                *package[: len(package) + 1 - node.level],
                *(node.module.split(".") if node.module else []),
            ]
            names = ["edgepress." + ".".join([*base, alias.name]) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        else:
            continue
        yield from (
            (node.lineno, name.partition(".")[2]) for name in names if name.split(".")[0] == "edgepress"
        )


RANKED = [path for path in modules() if part_of(dotted_name(path)) in RANKS]
"""`__init__` imports lazily from everywhere, examples import as a user does."""


def test_all_but_the_entrance_and_the_examples_are_ranked() -> None:
    others = [dotted_name(path) for path in modules() if path not in RANKED]
    assert [name for name in others if name.partition(".")[0] != "examples"] == ["__init__", "__main__"]


@pytest.mark.parametrize("path", RANKED, ids=dotted_name)
def test_imports_go_one_way(path: Path) -> None:
    own = part_of(dotted_name(path))
    wrong = []
    for line, name in imported(path):
        other = part_of(name)
        allowed = other == own or RANKS.get(other, 9) < RANKS[own]
        if not allowed:
            wrong.append(f"{path.name}:{line}: {own} imports {other} ({name})")
    assert wrong == []


def imports_of_ours() -> dict[str, set[str]]:
    """The modules of ours that each module imports, anywhere in it."""
    names = {dotted_name(path): path for path in modules()}
    graph: dict[str, set[str]] = {}
    for name, path in names.items():
        found = {full if full in names else full.rpartition(".")[0] for _, full in imported(path)}
        graph[name] = (found & set(names)) - {name}
    return graph


def in_circles(graph: dict[str, set[str]]) -> list[str]:
    """The modules that reach themselves by their imports, or lie between two that do."""
    left = dict(graph)
    while free := [name for name, others in left.items() if not others & set(left)]:
        for name in free:
            del left[name]
    while unread := [name for name in left if not any(name in others for others in left.values())]:
        for name in unread:
            del left[name]
    return sorted(left)


def test_no_imports_run_in_a_circle() -> None:
    """Those inside functions and for types alone count: what needs each other is one thing, or misplaced."""
    assert in_circles(imports_of_ours()) == []
    assert in_circles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"a"}}) == ["b", "c"]


def test_the_import_check_sees_what_it_should() -> None:
    assert [part_of(name) for name in ("cli", "cli.run", "model.Model", "targets")] == [
        "cli",
        "cli",
        "core",
        "targets",
    ]
    assert {"targets.openvino", "targets.base.Target"} <= {
        n for _, n in imported(ROOT / "targets/__init__.py")
    }
    assert "errors.CompressError" in {n for _, n in imported(ROOT / "passes/quantization/placement.py")}
    assert "calibration.scheme.QuantScheme" in {n for _, n in imported(ROOT / "targets/base.py")}


def is_of_a_target(dotted: str) -> bool:
    """Whether a module, or a name in it, is a target's own: `targets.openvino`, `targets.openvino_shared.part`."""
    return any(re.match(rf"targets\.{name}(_\w+)?(\.|$)", dotted) for name in TARGETS)


def named_targets(path: Path) -> list[str]:
    """Where a module names a target: as a text of its own, or as the module that it imports."""
    texts = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant)]
    found = [(node.lineno, node.value) for node in texts if node.value in TARGETS]
    found += [(line, name) for line, name in imported(path) if is_of_a_target(name)]
    return [f"{path.name}:{line}: {name}" for line, name in found]


@pytest.mark.parametrize("path", modules(), ids=dotted_name)
def test_no_module_asks_for_a_runtime_by_its_name(path: Path) -> None:
    """What is particular to one is a fact of its target, so that one more works everywhere; REFERENCE names one."""
    if not is_of_a_target(dotted_name(path)) and path != ROOT / "targets/__init__.py":  # the list of them
        assert named_targets(path) == []


def test_the_check_for_names_of_runtimes_sees_what_it_should() -> None:
    assert any("openvino" in found for found in named_targets(ROOT / "targets/__init__.py"))
    assert any("tensorrt" in found for found in named_targets(ROOT / "targets/tensorrt.py"))


@pytest.mark.parametrize("name", TARGETS)
def test_a_target_states_every_fact(name: str) -> None:
    facts = {*Target.__annotations__, *(key for key in vars(Target) if not key.startswith("_"))}
    assert "own_float_default" in facts and "build" in facts
    assert [fact for fact in sorted(facts) if not hasattr(TARGETS[name], fact)] == []


@pytest.mark.parametrize("path", modules(), ids=dotted_name)
def test_every_module_says_what_it_is(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text()))


@pytest.mark.parametrize(
    ("module", "light"),
    [
        pytest.param("edgepress", (), id="the package"),
        pytest.param("edgepress.targets.measuring.worker", ("numpy",), id="the process of each launch"),
    ],
)
def test_importing_loads_nothing_heavy(module: str, light: tuple[str, ...]) -> None:
    libraries = ("torch", "numpy", "onnx", "openvino", "onnxruntime", "brevitas", "click", "pydantic")
    heavy = [name for name in libraries if name not in light]
    program = f"import sys, {module}; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_public_name_of_the_package_is_there() -> None:
    assert all(getattr(edgepress, name) is not None for name in edgepress.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = edgepress.nothing


@pytest.mark.skipif(not CHECKOUT, reason="needs a checkout")
class TestCheckout:
    """What adding a pass or a target takes: file, dict line, test file and README heading."""

    @pytest.mark.parametrize("name", PASSES)
    def test_a_pass_has_file_test_and_heading(self, name: str) -> None:
        assert PASSES[name].name == name
        assert (ROOT / "passes" / f"{name}.py").is_file()
        assert (ROOT / "tests" / "passes" / f"test_{name}.py").is_file()
        assert f"### {name}" in headings()

    @pytest.mark.parametrize("name", TARGETS)
    def test_a_target_has_file_test_and_heading(self, name: str) -> None:
        assert TARGETS[name].name == name
        assert (ROOT / "targets" / f"{name}.py").is_file()
        tests = [p.read_text() for p in (ROOT / "tests" / "targets").rglob("test_*.py")]
        assert any(re.search(rf"\b{name}\b", text) for text in tests)
        assert f"### {name}" in headings()

    @pytest.mark.parametrize("name", KINDS)
    def test_a_budget_has_file_kept_and_broken_case(self, name: str) -> None:
        assert KINDS[name].__module__ == f"edgepress.pipeline.budgets.{name}"
        cases = (ROOT / "tests" / "pipeline" / "test_judge.py").read_text()
        kept, broken = cases.partition("BROKEN = [")[::2]
        assert f'"{name}":' in kept and f'"{name}":' in broken

    def test_no_test_imports_another(self) -> None:
        """What several of them share lies in tests/support."""
        tests = sorted((ROOT / "tests").rglob("test_*.py"))
        found = [
            f"{path.name}: {line.strip()}"
            for path in tests
            for line in path.read_text().splitlines()
            if re.match(r"\s*(from|import) +test_", line)
        ]
        assert len(tests) > 50 and found == []

    def test_the_map_names_what_there_is(self) -> None:
        """Every file and folder of CONTRIBUTING's table is there, and every folder of the package is in it."""
        table = (ROOT / "CONTRIBUTING.md").read_text().partition("| folder |")[2].partition("\n\n")[0]
        rows = [re.findall(r"`([\w./]+)`", row.split("|")[1]) for row in table.splitlines()[2:]]
        named = set()
        for first, *others in rows:
            parent = Path(first).parent if not first.endswith("/") else Path(first.rstrip("/")).parent
            named |= {Path(first), *(parent / other for other in others)}
        assert [str(path) for path in sorted(named) if not (ROOT / path).exists()] == []
        folders = {p.parent.relative_to(ROOT) for p in modules() if len(p.relative_to(ROOT).parts) > 2}
        assert folders - named - set(Path("examples").glob("*")) <= {
            Path("examples/digits"),
            Path("examples/mnist"),
            Path("examples/solar"),
        }

    def test_every_package_is_installed(self) -> None:
        """An editable install hides a package that setup.cfg forgets; a wheel would lack it."""
        config = configparser.ConfigParser()
        config.read(ROOT / "setup.cfg")
        listed = set(config["options"]["packages"].split())
        found = {path.parent for path in modules()}
        assert {".".join(("edgepress", *folder.relative_to(ROOT).parts)) for folder in found} == listed

    def test_every_file_that_the_package_reads_is_installed(self) -> None:
        config = configparser.ConfigParser()
        config.read(ROOT / "setup.cfg")
        patterns = config["options.package_data"]
        for package, name in (("pipeline.pages", "templates/report.html"), ("examples.digits", "cnn.yaml")):
            assert (ROOT / package.replace(".", "/") / name).is_file()
            assert any(Path(name).match(p) for p in patterns[f"edgepress.{package}"].split()), name


def headings() -> list[str]:
    return [line.strip() for line in (ROOT / "README.md").read_text().splitlines() if line.startswith("#")]


def test_compiled_loops_use_nothing_of_other_files() -> None:
    """What numba keeps on disk is made anew when the loop's own file changes, and for no other reason."""
    found = 0
    for path in modules():
        tree = ast.parse(path.read_text())
        loops = [n for n in tree.body if isinstance(n, ast.FunctionDef) and _is_compiled(n)]
        ours = {
            alias.asname or alias.name
            for node in tree.body
            if isinstance(node, ast.ImportFrom) and node.level
            for alias in node.names
        }
        for loop in loops:
            found += 1
            used = {node.id for part in loop.body for node in ast.walk(part) if isinstance(node, ast.Name)}
            assert not used & ours, f"{path.name}: {loop.name} uses {', '.join(sorted(used & ours))}"
    assert found > 10


def _is_compiled(function: ast.FunctionDef) -> bool:
    return any(isinstance(each, ast.Name) and each.id == "compiled" for each in function.decorator_list)
