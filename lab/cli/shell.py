"""``vdpalab shell``: log in to a machine of a lab that is up."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import click

from lab.cli.attached import complete_machines, run_option, the_run
from lab.errors import InputError


@click.command("shell")
@run_option()
@click.argument("machine", default="l1", metavar="[l1|l2]", shell_complete=complete_machines)
def command(where: str, machine: str) -> int:
    """Log in to L1 (the vDPA host) or to a guest in it, in a lab that another terminal keeps up.

    \b
    Examples:
      vdpalab run net-vp_vdpa-vhost_vdpa-iperf3 --keep     in one terminal
      vdpalab shell                                        in another: L1
      vdpalab shell l2                                     the guest, through L1
    """
    run_dir = the_run(where)
    if shutil.which("ssh"):
        _become_ssh(run_dir, machine)
    return _own_terminal(run_dir, machine)


def _become_ssh(run_dir: Path, machine: str) -> None:
    """Replace this process by ssh(1), which knows terminals best. The pinned keys lie with the run's other secrets."""
    from lab.topology.attachable import known_hosts_text, ssh_argv

    known_hosts = run_dir / "secrets" / f"known_hosts.{os.getpid()}"
    argv = ssh_argv(run_dir, machine, known_hosts)
    known_hosts.write_text(known_hosts_text(run_dir))
    os.execvp(argv[0], argv)


def _own_terminal(run_dir: Path, machine: str) -> int:
    """The same without ssh(1)."""
    from lab.host.relay import raw_terminal, relay
    from lab.topology.attachable import logged_in

    if not sys.stdin.isatty():
        raise InputError(["shell needs a terminal"], hint=f"vdpalab exec {machine} -- COMMAND")
    with logged_in(run_dir, machine) as host:
        channel = host.open_terminal(os.environ.get("TERM", "vt100"), *shutil.get_terminal_size())
        with raw_terminal(channel):
            return relay(channel)
