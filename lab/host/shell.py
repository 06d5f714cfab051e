"""Several small steps on a host as one command: a short shell script with its arguments beside it, never inside it.

One command over SSH costs 60 ms in L1 and far more in L2 (nested.md 1), so what belongs together is sent
together. Scripts must run in dash and in busybox ash.
"""

from __future__ import annotations

import shlex
from dataclasses import replace

from lab.errors import CommandError, DeadlineExceeded
from lab.host.base import COMMAND_S, Host
from lab.model import Completed

# put VALUE FILE: write to sysfs. Through tee, because a shell's own echo says "I/O error" whatever the kernel answered.
_PRELUDE = """put() { printf '%s\\n' "$1" | tee "$2" >/dev/null; }
"""


def run_script(
    host: Host,
    script: str,
    *arguments: str,
    input: bytes = b"",  # noqa: A002 - the name that subprocess.run uses
    check: bool = True,
    timeout_s: float = COMMAND_S,
) -> Completed:
    """Run a shell script that ends at its first failing command; ``arguments`` are its ``$1``, ``$2``, ….

    Raises what :meth:`lab.host.base.Host.run` raises, with the arguments but without the script's text.
    """
    argv = ["sh", "-ec", _PRELUDE + script, "vdpalab", *arguments]
    # The script is in the record; in a message it would bury the reason.
    short = ("sh", "-ec", "…", *argv[3:])
    try:
        return replace(host.run(argv, input=input, check=check, timeout_s=timeout_s), argv=short)
    except CommandError as error:
        raise CommandError(host.name, replace(error.completed, argv=short), log=error.log) from None
    except DeadlineExceeded as error:
        raise DeadlineExceeded(f"{host.name}: the end of {shlex.join(short)}", error.seconds) from None
