"""The kit for testing blueprints and blocks, which first and third parties both use."""

from composer.testing.mutations import MUTATIONS as MUTATIONS
from composer.testing.mutations import mutated as mutated
from composer.testing.mutations import outcome as outcome
from composer.testing.mutations import told as told
from composer.testing.reality import disagreements as disagreements
from composer.testing.strategies import blocks as blocks
from composer.testing.strategies import blueprints as blueprints
from composer.testing.strategies import sizes_for as sizes_for
from composer.testing.strategies import types_for as types_for
