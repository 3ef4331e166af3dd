"""What a plugin can do wrong: each is one message with the place in its code, and the host lives."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import composer
from composer.diagnostics import PluginError
from composer.hookspecs import API
from composer.plugins import HOOKS, Plugin, added, failed
from composer.registry import Registry

HERE = Plugin("mine", "my-plugin", "1.2", package="test_plugins")


class Twice(composer.Block):
    """x + x, (B, N, C)."""

    name = "mine.twice"
    shape = "batch tokens dim -> batch tokens dim"
    factor: int = 2

    def build(self, dim: int) -> None: ...


def module(api: object = API, **hooks: object) -> SimpleNamespace:
    """A plugin; a hook that is no function gives that value."""
    made = SimpleNamespace(composer_api=api)
    for name, value in hooks.items():
        function = value if callable(value) and not isinstance(value, type) else lambda value=value: value
        setattr(made, name, composer.hookimpl(function))
    return made


def fault(made: object) -> str:
    """What is said of a plugin that breaks."""
    try:
        added(made, HERE)
    except BaseException as raised:
        return failed(HERE, raised).render()
    raise AssertionError("it loads")


def test_a_plugin_may_have_no_hook_at_all() -> None:
    brought = added(module(), HERE)
    assert (brought.plugin.hooks, brought.plugin.api) == ((), "1")


@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize("value", [None, 3, "conv", Twice])
def test_a_hook_gives_a_list(hook: str, value: object) -> None:
    said = fault(module(**{hook: lambda: value}))
    assert said.startswith("error[BP601]: the plugin `mine` (my-plugin 1.2) does not load: its hook")
    assert f"its hook `{hook}` gives {value!r}, not a list" in said
    assert "test_plugins.py:" in said


@pytest.mark.parametrize(
    ("hook", "item", "why"),
    [
        ("register_blocks", 3, "not a Block class with a name"),
        ("register_blocks", Twice(), "not a Block class with a name"),
        ("register_blocks", composer.Block, "not a Block class with a name"),
        ("register_passes", "fold", "not a composer.Pass"),
        ("register_passes", lambda program: program, "not a composer.Pass"),
        ("register_exporters", "csv", "not a pair of a format's name and a factory"),
        ("register_exporters", ("csv", "factory"), "not a pair of a format's name and a factory"),
        ("register_exporters", ("c s v", list), "not a pair of a format's name and a factory"),
        ("register_blueprints", 3, "which is not a path"),
        ("register_blueprints", __file__, "not a .yaml file"),
        ("register_blueprints", Path("nowhere.yaml"), "there is no such file"),
        ("register_replacements", ("old", "new"), "not a composer.Replacement"),
        ("register_references", ("vit", "timm"), "not a composer.Reference"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_a_hook_gives_what_it_is_for(hook: str, item: object, why: str) -> None:
    assert why in fault(module(**{hook: lambda: [item]}))


def test_a_hook_takes_nothing() -> None:
    def register_blocks(registry: object, *, strict: bool) -> None: ...

    said = fault(module(register_blocks=register_blocks))
    assert "its hook `register_blocks` asks for `registry`, `strict`; hooks are called with nothing" in said
    assert "write `def register_blocks():`" in said
    assert "test_plugins.py:" in said


def test_a_hook_of_an_unknown_name() -> None:
    said = fault(module(register_block=lambda: []))
    assert "there is no hook `register_block`; did you mean `register_blocks`?" in said


@pytest.mark.parametrize(("raised", "said"), [(SystemExit(3), "it ends the program"), (KeyError("x"), "KeyError: 'x'")])
def test_a_hook_that_raises(raised: BaseException, said: str) -> None:
    def register_blocks():
        yield Twice
        raise raised

    assert said in fault(module(register_blocks=register_blocks))


def test_a_function_without_the_mark_is_a_warning() -> None:
    made = module()
    made.register_passes = lambda: []
    (warning,) = added(made, HERE).plugin.warnings
    assert warning.severity == "warning"
    assert "the function `register_passes` of the plugin `mine` is not a hook" in warning.message


# --- the API version ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("api", "way"), [("2", "pip install -U blueprint-composer"), (0, "pip install -U my-plugin")])
def test_another_version_of_the_api_says_which_side_to_update(api: object, way: str) -> None:
    said = fault(module(api, register_blocks=lambda: sys.exit("never called")))
    assert f"error[BP606]: the plugin `mine` (my-plugin 1.2) was written for version {api} of the plugin API" in said
    assert "this Composer has 1" in said
    assert way in said


@pytest.mark.parametrize("api", ["1.0", "one", True, 1.0, [1], "-1"])
def test_an_api_version_is_a_whole_number(api: object) -> None:
    assert "its `composer_api` is a whole number such as '1'" in fault(module(api))


def test_a_plugin_without_a_version_loads() -> None:
    assert added(module(None, register_blocks=lambda: [Twice]), HERE).plugin.api == ""


# --- old names ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("replacement", "why"),
    [
        (composer.Replacement("mine.old"), "names neither another block"),
        (composer.Replacement("mine.old", "conv"), "leads to `conv`, which it does not register"),
        (composer.Replacement("mine.twice", "mine.twice"), "is of a block that it still registers"),
        (composer.Replacement("mine.twice", options={"by": "times"}), "`mine.twice` has no option `times`"),
        (composer.Replacement("mine.twice", options={"factor": "factor"}), "`mine.twice` still has `factor`"),
    ],
)
def test_a_replacement_leads_from_what_is_gone_to_what_is_there(replacement: composer.Replacement, why: str) -> None:
    assert why in fault(module(register_blocks=lambda: [Twice], register_replacements=lambda: [replacement]))


def test_one_old_name_has_one_replacement() -> None:
    both = [
        composer.Replacement("mine.old", "mine.twice"),
        composer.Replacement("mine.old", "mine.twice", {"by": "factor"}),
    ]
    said = fault(module(register_blocks=lambda: [Twice], register_replacements=lambda: both))
    assert "two replacements of `mine.old`" in said


# --- files -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "option",
    ["repeat: int = 1", "when: bool = True", "from_: int = Field(1, alias='from')"],
)
def test_an_option_named_like_a_word_of_the_language_is_placed_in_the_plugin(option: str, tmp_path: Path) -> None:
    path = tmp_path / "odd.py"
    path.write_text(
        "import composer\nfrom pydantic import Field\n\n\nclass Odd(composer.Block):\n"
        f'    """(B, N, C)."""\n    name = "odd.one"\n    shape = "b n c -> b n c"\n    {option}\n\n'
        "    def build(self, c): ...\n"
    )
    with pytest.raises(PluginError) as caught:
        Registry.discover([path])
    word = "from" if "alias" in option else option.partition(":")[0]
    assert f"DeclarationError: block `odd.one`: `{word}` is a word of the language" in str(caught.value)
    assert f"at {path}:5" in str(caught.value)
