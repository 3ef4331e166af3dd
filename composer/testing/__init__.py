"""The kit for testing blueprints and blocks, which first and third parties both use."""

from composer.testing.mutations import MUTATIONS as MUTATIONS
from composer.testing.mutations import mutated as mutated
from composer.testing.mutations import outcome as outcome
