"""Other implementations of the shipped networks, for `composer bench`: of transformers, MONAI and torch.

Importing this package imports none of them. A factory gets a blueprint's parameters and says the same in the arguments
of the other library; what that library cannot say is a `ValueError`, whose message the user sees.
"""

from collections.abc import Iterable

import composer
from composer_references import monai, pytorch, transformers

composer_api = "1"


@composer.hookimpl
def register_references() -> Iterable[composer.Reference]:
    """Every reference of every library."""
    return (*transformers.REFERENCES, *monai.REFERENCES, *pytorch.REFERENCES)
