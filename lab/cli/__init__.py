"""The command line: one file per verb, and the only place that prints results and exits.

Nothing lives in this file itself: modules called ``list`` and ``exec`` become names of this package, and would hide
the builtins.
"""

from lab.cli.group import main

__all__ = ["main"]
