"""The command `composer`: what is imported lives until the end, so nobody looks for garbage in it meanwhile.

That takes a tenth of the time of a check, and can only be said before the first import: this package stands beside
`composer` because importing anything inside it imports it first.
"""

import gc


def main() -> None:
    """Import the command and run it."""
    gc.disable()
    from composer.cli.main import main

    main()
