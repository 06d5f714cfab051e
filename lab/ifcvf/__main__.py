"""``python3 -m lab.ifcvf``: serve VFs, or ask a server that is up. ``docs/ifcvf.md`` is the manual."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lab.ifcvf.config import ConfigError, parse
from lab.ifcvf.control import ControlError, ask
from lab.ifcvf.serve import run

_OK, _REFUSED, _USAGE = 0, 1, 2


def main(argv: Sequence[str] | None = None) -> int:
    """The exit status: 0, 1 when the server refuses or cannot start, 2 for bad input or nobody to ask."""
    arguments = _parser().parse_args(argv)
    status: int = arguments.call(arguments)
    return status


def _serve(arguments: argparse.Namespace) -> int:
    try:
        text = sys.stdin.read() if arguments.config == "-" else Path(arguments.config).read_text()
        config = parse(text)
    except ConfigError as error:
        return _complain(_USAGE, *error.problems)
    except (OSError, ValueError) as error:
        return _complain(_USAGE, f"{arguments.config}: {error}")
    try:
        run(config, lambda line: print(line, flush=True))
    except OSError as error:
        return _complain(_REFUSED, str(error))
    return _OK


def _ctl(arguments: argparse.Namespace) -> int:
    request: dict[str, Any] = {"op": arguments.op}
    if arguments.vf is not None:
        request["vf"] = arguments.vf
    problems = _WORDS.get(arguments.op, _options)(request, arguments.words)
    if problems:
        return _complain(_USAGE, problems)
    try:
        print(json.dumps(ask(arguments.socket, request), indent=2))
    except ControlError as error:
        return _complain(_REFUSED, str(error))
    except (OSError, ValueError) as error:
        return _complain(_USAGE, f"{arguments.socket}: {error}")
    return _OK


def _options(request: dict[str, Any], words: list[str]) -> str:
    """KEY=VALUE words; a value is JSON, numbers may be hexadecimal. Returns what is wrong."""
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or key in request:
            return f"{word!r} is not KEY=VALUE"
        try:
            request[key] = int(value, 0) if value[:1].isdigit() else json.loads(value)
        except ValueError:
            return f"{value!r} is no number, true or false"
    return ""


def _fault_words(request: dict[str, Any], words: list[str]) -> str:
    if len(words) < 2 or words[1] not in ("on", "off"):
        return "fault VF NAME on|off [KEY=VALUE …]"
    request |= {"name": words[0], "on": words[1] == "on"}
    return _options(request, words[2:])


def _link_words(request: dict[str, Any], words: list[str]) -> str:
    if words not in (["up"], ["down"]):
        return "link VF up|down"
    request["up"] = words == ["up"]
    return ""


_WORDS = {"fault": _fault_words, "link": _link_words}


def _complain(status: int, *problems: str) -> int:
    for problem in problems:
        print(f"ifcvf: {problem}", file=sys.stderr)
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="ifcvf", description="Emulated Intel IFC VFs over vfio-user.")
    verbs = parser.add_subparsers(required=True, metavar="VERB")
    serve = verbs.add_parser("serve", help="serve VFs until SIGTERM")
    serve.add_argument("--config", required=True, metavar="FILE", help="JSON, see docs/ifcvf.md; - is stdin")
    serve.set_defaults(call=_serve)
    ctl = verbs.add_parser("ctl", help="ask a server, or tell it")
    ctl.add_argument("socket", help="its control socket")
    ctl.add_argument("op", help="state, counters, dma, events, faults, fault, link or shutdown")
    ctl.add_argument("vf", nargs="?", help="a VF's name")
    ctl.add_argument("words", nargs="*", help="what the operation takes: NAME on|off, up|down, KEY=VALUE")
    ctl.set_defaults(call=_ctl)
    return parser


if __name__ == "__main__":
    sys.exit(main())
