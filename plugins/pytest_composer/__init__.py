"""The option `--composer-blocks` of pytest. Without it nothing is imported: no composer, no torch.

    pytest --composer-blocks my_dist        a distribution, a plugin's name, or a plugin's .py file

collects one test for each block and aspect of its contract (`composer.testing.check_block`), and nothing else unless
paths are given too. `-k`, `-x`, `--collect-only` and the rest of pytest work as ever.

It is a package of its own, because importing a part of `composer` imports `composer`.
"""

from __future__ import annotations

from typing import Any


def pytest_addoption(parser: Any) -> None:
    """Declare the option."""
    group = parser.getgroup("composer")
    group.addoption(
        "--composer-blocks",
        action="append",
        default=[],
        metavar="NAME",
        help="hold the contract of every block of a distribution, a plugin or a plugin's .py file (repeatable)",
    )


def pytest_configure(config: Any) -> None:
    """Where it is given, the rest of the plugin is loaded."""
    if config.option.composer_blocks:
        from composer.testing import pytest_plugin

        config.pluginmanager.register(pytest_plugin.Blocks(config), "composer-blocks")
