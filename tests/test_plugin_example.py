"""The example of a third party (`plugin_example/`): only public names, and everything that it adds is there once it is
installed into an environment of its own."""

from __future__ import annotations

import ast
import csv
import json
import shutil
import sys
from pathlib import Path

import pytest
from environments import Environment

import composer

EXAMPLE = Path(__file__).parent / "plugin_example"
SOURCES = sorted(EXAMPLE.rglob("*.py"))
PUBLIC = {name for name in dir(composer) if not name.startswith("_")}


def imported(path: Path) -> set[str]:
    """Every name that a file imports, inside functions too."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: p.name)
def test_it_uses_only_public_names(path: Path) -> None:
    for name in imported(path):
        top, _, rest = name.partition(".")
        if top == "composer":
            assert rest == "" or rest in PUBLIC or rest in ("testing", "testing.check_block"), name
        else:
            assert top in {"composer_axial", "torch", "pytest", *sys.stdlib_module_names}, name


def test_no_private_attribute_of_the_host_is_read() -> None:
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute):
                assert not node.attr.startswith("_") or node.attr == "__init__", f"{path.name}:{node.lineno}"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Environment, Path]:
    """An environment with the example, built from a copy, and an empty folder."""
    folder = tmp_path_factory.mktemp("third_party")
    shutil.copytree(EXAMPLE, folder / "source")
    made = Environment.create(folder / "venv")
    made.install(str(folder / "source"), at=folder)
    (folder / "work").mkdir()
    return made, folder / "work"


@pytest.mark.slow
def test_its_own_tests_pass_there(installed: tuple[Environment, Path]) -> None:
    environment, work = installed
    shutil.copytree(EXAMPLE / "tests", work / "tests")
    done = environment.run([environment.python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests"], work)
    assert done.returncode == 0, done.stdout[-4000:]


@pytest.mark.slow
def test_the_host_knows_everything_it_adds(installed: tuple[Environment, Path]) -> None:
    environment, work = installed
    said = json.loads(environment.composer("plugins", "--json", at=work).stdout)
    (mine,) = [p for p in said["plugins"] if p["distribution"] == "composer-axial"]
    assert (mine["version"], mine["api"], mine["fault"], mine["warnings"]) == ("1.1.0", "1", None, [])
    assert mine["blocks"] == ["axial.attention", "axial.gated"]
    assert (mine["passes"], mine["formats"], mine["blueprints"]) == (["no_idle_dropout"], ["csv"], ["axial_unet"])
    assert len(mine["hooks"]) == 5
    for verb, where in (("blocks", "axial.attention"), ("list", "axial_unet")):
        assert where in {row["name"] for row in json.loads(environment.composer(verb, "--json", at=work).stdout)}
    assert '"axial.attention"' in environment.composer("schema", at=work).stdout
    for arguments, word in ((["blocks", "axial.a"], "axial.attention"), (["show", "axial"], "axial_unet")):
        shell = {
            "_COMPOSER_COMPLETE": "complete_bash",
            "COMP_WORDS": " ".join(["composer", *arguments]),
            "COMP_CWORD": "2",
        }
        command = [
            environment.python,
            "-c",
            "from composer.cli.main import application; application()(prog_name='composer')",
        ]
        assert word in environment.run(command, work, **shell).stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["check", "axial_unet"], 0, "axial_unet: no mistakes"),
        (["check", "swin_unet", "encoder.*.blocks.*.attention={use: axial.attention, heads: 3}"], 0, "no mistakes"),
        (["check", "unet", "up.*.fuse=axial.gated"], 0, "no mistakes"),
        (["plugins", "doctor", "composer-axial"], 0, "axial.gated      ok"),
        (["--no-plugins", "check", "axial_unet"], 1, "there is no blueprint `axial_unet`"),
        (["--no-plugins", "check", "unet", "up.*.fuse=axial.gated"], 1, "it may be in `axial`, which is switched off"),
        (["--no-plugins", "check", "unet"], 0, "unet: no mistakes"),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, list) else None,
)
def test_commands_with_it(arguments: list[str], status: int, said: str, installed: tuple[Environment, Path]) -> None:
    environment, work = installed
    done = environment.composer(*arguments, at=work)
    assert said in done.stdout + done.stderr
    assert done.returncode == status


@pytest.mark.slow
def test_the_format_writes_a_table(installed: tuple[Environment, Path]) -> None:
    environment, work = installed
    code = (
        "import composer; from pathlib import Path; registry = composer.Registry.discover();"
        "network = composer.load('axial_unet').build(device='meta');"
        "registry.exporters['csv']()(network, Path('axial.csv')); print(sum(p.numel() for p in network.state_dict().values()))"
    )
    done = environment.run([environment.python, "-c", code], work)
    rows = list(csv.DictReader((work / "axial.csv").read_text().splitlines()))
    assert sum(int(r["numbers"]) for r in rows) == int(done.stdout)


@pytest.mark.slow
def test_the_command_writes_the_same_table(installed: tuple[Environment, Path]) -> None:
    environment, work = installed
    done = environment.composer("export", "vit:tiny", "--format", "csv", "-o", "vit.csv", at=work)
    assert done.returncode == 0, done.stderr
    rows = list(csv.DictReader((work / "vit.csv").read_text().splitlines()))
    assert sum(int(r["numbers"]) for r in rows) == 5_717_416


@pytest.mark.slow
def test_without_it_its_blueprint_says_what_to_install(tmp_path: Path) -> None:
    path = tmp_path / "axial_unet.yaml"
    shutil.copy(EXAMPLE / "composer_axial" / "blueprints" / "axial_unet.yaml", path)
    with pytest.raises(composer.BlueprintError) as caught:
        composer.load(path).check()
    assert caught.value.diagnostics[0].help == ("pip install 'composer-axial>=1.1'",)
