"""The command line: a group of verbs, each in a module of its own that is imported only when it is used.

A verb is a file ``lab/cli/<verb>.py`` with a click command named ``command``. The command returns its exit status
(``None`` is 0), raises what went wrong (lab.cli.exit makes the status of it), writes results to stdout and all else
to stderr.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

import click
from click.shell_completion import CompletionItem, get_completion_class, shell_complete

import lab
from lab.cli.exit import flush_results, guarded
from lab.errors import Interrupted

PROGRAM = "vdpalab"

# One line each, here so that `vdpalab --help` imports no verb.
VERBS = {
    "quickstart": "Set this machine up, build everything, run the first scenarios",
    "test": "Check and test the project itself",
    "run": "Run scenarios, files or suites and judge them",
    "plan": "Show what a scenario would do here, and start nothing",
    "list": "List scenarios, suites, sites, kernels, findings and jobs",
    "show": "Show one scenario, suite, site or finding",
    "shell": "Log in to a machine of a lab that is up",
    "exec": "Run a command on a machine of a lab that is up",
    "logs": "Show or follow consoles and logs of a run",
    "report": "Show a job's results, write its report, compare jobs",
    "doctor": "Say what this machine lacks and which command fixes it",
    "artifacts": "List, explain, verify and remove built artifacts",
    "kernel": "Build kernels and single modules",
    "clean": "Remove what killed runs left, and old jobs",
    "bench": "Measure the lab's own speed",
    "setup": "Install the Debian packages that the lab needs",
}

_COMPLETE_VARIABLE = "_VDPALAB_COMPLETE"


class VerbGroup(click.Group):
    """Offers the verbs of the table whose module exists; imports the one that is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """Names of the verbs, in the table's order."""
        return [verb for verb in VERBS if Path(__file__).with_name(f"{verb}.py").exists()]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one verb; None when there is no such verb."""
        if cmd_name not in self.list_commands(ctx):
            return None
        command: click.Command = importlib.import_module(f"lab.cli.{cmd_name}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the verbs into the help text."""
        if verbs := self.list_commands(ctx):
            with formatter.section("Verbs"):
                formatter.write_dl([(verb, VERBS[verb]) for verb in verbs])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Complete verbs from the table, and the options of the group itself."""
        verbs = [CompletionItem(v, help=VERBS[v]) for v in self.list_commands(ctx) if v.startswith(incomplete)]
        return verbs + click.Command.shell_complete(self, ctx, incomplete)


def _print_completion(ctx: click.Context, _parameter: click.Parameter, shell: str | None) -> None:
    """Print the script that makes a shell complete vdpalab's words."""
    if shell is None or ctx.resilient_parsing:
        return
    completion = get_completion_class(shell)
    assert completion is not None, "the option's choices are shells that click knows"
    click.echo(completion(cli, {}, PROGRAM, _COMPLETE_VARIABLE).source())
    ctx.exit()


@click.group(PROGRAM, cls=VerbGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(lab.__version__, prog_name=PROGRAM)
@click.option(
    "--completion",
    type=click.Choice(["bash", "zsh", "fish"]),
    callback=_print_completion,
    expose_value=False,
    is_eager=True,
    help='Print the completion script of a shell: eval "$(vdpalab --completion bash)"',
)
def cli() -> None:
    """Test Linux vDPA end to end, in nested virtual machines or on real hosts.

    \b
    Examples:
      vdpalab quickstart                             from an empty machine to judged traffic
      vdpalab run net-vp_vdpa-vhost_vdpa-iperf3      one scenario
      vdpalab run smoke -j 2 --json                  a suite, two at a time, results as JSON
      vdpalab VERB --help                            what a verb takes, with an example
    """


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status (lab.cli.exit). ``argv`` is without the program's name."""
    signal.signal(signal.SIGTERM, _interrupt)
    # A shell without job control has what it puts into the background ignore it, and so would all that is started here:
    # a test run that nobody could interrupt.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # nohup
        signal.signal(signal.SIGHUP, _interrupt)
    arguments = list(sys.argv[1:] if argv is None else argv)
    status = guarded(lambda: _invoke(arguments))
    return flush_results(status)


def _invoke(arguments: list[str]) -> int:
    if instruction := os.environ.get(_COMPLETE_VARIABLE):
        return shell_complete(cli, {}, PROGRAM, _COMPLETE_VARIABLE, instruction)
    # Not cli.main(): that turns EOFError and a broken pipe from anywhere in the lab into statuses of its own.
    try:
        with cli.make_context(PROGRAM, arguments) as context:
            return int(cli.invoke(context) or 0)
    except click.exceptions.Exit as done:
        return done.exit_code


def _interrupt(number: int, _frame: FrameType | None) -> None:
    raise Interrupted(signal.Signals(number).name)
