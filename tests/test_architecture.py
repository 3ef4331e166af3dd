"""The shape of the package: imports go one way, plugins have no privilege, the public names are pinned."""

# ruff: noqa: SIM905 - blueprints and messages stand on one line each

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import composer

CORE = Path(composer.__file__).parent
PLUGIN = CORE.parent / "plugins" / "composer_blocks"
PASSES = sorted(f"passes.{p.stem}" for p in (CORE / "passes").glob("*.py") if p.stem != "__init__")
WALK = [
    *"frozen diagnostics dims types traits expressions source names addresses notation block interfaces locks replacements references hookspecs shipped".split(),
    *"later plugins announced registry faults folders".split(),
    *"phrases sizes layouts blueprint graph scopes edits reaching renewing requirements origins linking liveness inference strides".split(),
    "sourcemap",
    "causes",
    *"orders onednn kernels standardizing prepared locality sweeps chunking regions".split(),
    *PASSES,
    *"passes writing document flat locking keymap init fitting weights pretrained calls segments taps evaluating attention streaming module sharding exporters".split(),
    *"exporters.wanting exporters.opening exporters.tracing exporters.verifying exporters.torch exporters.onnx exporters.netron".split(),
    *"figures memory budget storages estimates plans".split(),
    *"cost planning mending compose remedies doctor".split(),
    *"codes scene catalogue".split(),
    *"eject.expressions eject.recording eject.sources eject.layout eject.names eject.parts eject.flow eject.regions".split(),
    *"eject.sizing eject.padding eject.forward eject.classes eject.places eject.constructors eject.statements eject.initial".split(),
    *"eject.runtime eject.file eject".split(),
    *"imaging segmenting pretexts training training.cases training.recipe training.store training.suiting training.room".split(),
    *"training.patches training.objective training.tables lightning pretraining training.runs training.transfer training.engine".split(),
    *"training.predicting training.scoring training.demonstration".split(),
    "nnunet",
    *"nnunet.architecture nnunet.heads nnunet.topology nnunet.planning nnunet.supervision nnunet.reporting".split(),
    *"nnunet.installing nnunet.trainer nnunet.planner".split(),
    *"hub bundles exporters.hub exporters.bundle".split(),
    *"search search.space search.limits search.front search.composing search.study".split(),
]
"""Each may import those before it."""
FREE = {"__init__", "cli"}
"""The table of contents, and the commands, which stand on top of everything."""


def modules() -> dict[str, Path]:
    found = {}
    for path in sorted(CORE.rglob("*.py")):
        words = path.relative_to(CORE).with_suffix("").parts
        found[".".join(words[:-1] if words[-1] == "__init__" and len(words) > 1 else words)] = path
    return found


def imports(path: Path, lazy: bool = False) -> set[str]:
    """What a file imports when it is imported; with `lazy` also what its functions import when they run."""
    found: set[str] = set()
    for node in _statements(ast.parse(path.read_text()), lazy):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= (
                {f"{node.module}.{alias.name}" for alias in node.names}
                if node.module == "composer"
                else {node.module or ""}
            )
    return found


def _statements(tree: ast.AST, lazy: bool) -> list[ast.AST]:
    found: list[ast.AST] = []
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and not lazy:
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        found += [node, *_statements(node, lazy)]
    return found


def ours(path: Path, lazy: bool = False) -> set[str]:
    names = {n.removeprefix("composer.") for n in imports(path, lazy) if n.startswith("composer.")}
    known = set(modules())
    return {n if n in known else n.rpartition(".")[0] for n in names} - {""}


@pytest.mark.parametrize("name", [m for m in WALK if m in modules()])
def test_imports_go_one_way(name: str) -> None:
    before = set(WALK[: WALK.index(name)])
    assert ours(modules()[name]) & set(WALK) <= before


@pytest.mark.parametrize("name", [m for m in WALK if m in modules() and m not in ("compose", "exporters")])
def test_only_the_walk_imports_lazily(name: str) -> None:
    late = ours(modules()[name], lazy=True) - ours(modules()[name])
    assert late & set(WALK) <= set(WALK[: WALK.index(name)])


def test_nothing_below_the_walk_knows_the_commands() -> None:
    for name in WALK:
        if name in modules():
            assert not any(n.split(".")[0] == "cli" for n in ours(modules()[name], lazy=True)), name


def test_the_core_does_not_know_its_shipped_plugin() -> None:
    assert [str(p) for p in CORE.rglob("*.py") if "composer_blocks" in p.read_text()] == []


def test_the_core_special_cases_no_block() -> None:
    """The names of shipped blocks stand in no comparison of the linker or the inference."""
    names = {n for n in composer.Registry.discover().blocks if "." in n}
    for name in ("graph", "inference", "blueprint", "sizes"):
        for node in ast.walk(ast.parse(modules()[name].read_text())):
            if isinstance(node, ast.Constant):
                assert node.value not in names, f"{name}: {node.value}"


def test_the_shipped_plugin_enters_by_the_public_door() -> None:
    for path in PLUGIN.rglob("*.py"):
        for name in imports(path, lazy=True):
            top = name.split(".")[0]
            if top == "composer" and name != "composer":
                assert name.split(".")[1] in PUBLIC, f"{path.name} imports {name}"
            assert top in {"composer", "composer_blocks", "torch", "scipy", "", *sys.stdlib_module_names}, (
                f"{path.name}: {name}"
            )


def fresh(code: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    ).stdout.strip()


def test_importing_composer_imports_no_torch() -> None:
    assert fresh("import sys, composer; print([m for m in ('torch', 'numpy', 'networkx') if m in sys.modules])") == "[]"


def test_checking_a_shipped_blueprint_imports_no_torch() -> None:
    assert fresh("import sys, composer; composer.load('unet').check(); print('torch' in sys.modules)") == "False"


PUBLIC = set(
    "Block BlueprintError Blueprint ComposerError DeclarationError Diagnostic Exporter Int InternalError Natural Number Pass PerAxis "
    "PerAxisNatural PluginError Positive Program Rate Reference Registry Replacement Rule Scope Size Slot Traits Type Value ceil_div compose hookimpl load map_ "
    "maximum minimum product queries slot vector".split()
)


def test_what_needs_torch_is_exported_lazily() -> None:
    assert fresh("import composer, sys; a = 'torch' in sys.modules; composer.parallel; print(a)") == "False"
    assert fresh("import composer, sys; a = 'composer.passes' in sys.modules; composer.Pass; print(a)") == "False"
    assert fresh("import composer.sharding; from composer import parallel; print(parallel.__name__)") == "parallel"
    with pytest.raises(AttributeError, match="no attribute 'paralel'"):
        composer.paralel  # noqa: B018


def test_exported_names() -> None:
    tree = ast.parse((CORE / "__init__.py").read_text())
    exported = {a.asname for n in tree.body if isinstance(n, ast.ImportFrom) for a in n.names}
    assert exported | set(composer._LATER) == PUBLIC | {"parallel", "from_pretrained"}
    assert all(a.asname == a.name for n in tree.body if isinstance(n, ast.ImportFrom) for a in n.names)
