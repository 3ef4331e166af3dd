"""The kit for testing blueprints and blocks, which first and third parties both use."""

from composer.testing.contract import ASPECTS as ASPECTS
from composer.testing.contract import Check as Check
from composer.testing.contract import Contract as Contract
from composer.testing.contract import Failure as Failure
from composer.testing.contract import check_block as check_block
from composer.testing.contract import contract_of as contract_of
from composer.testing.mutations import MUTATIONS as MUTATIONS
from composer.testing.mutations import mutated as mutated
from composer.testing.mutations import outcome as outcome
from composer.testing.mutations import told as told
from composer.testing.reality import disagreements as disagreements
from composer.testing.strategies import blocks as blocks
from composer.testing.strategies import blueprints as blueprints
from composer.testing.strategies import sizes_for as sizes_for
from composer.testing.strategies import types_for as types_for
