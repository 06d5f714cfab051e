"""``vdpalab exec``: run a command on a machine of a lab that is up."""

from __future__ import annotations

import click

from lab.cli.attached import complete_machines, run_option, the_run
from lab.errors import InputError


# What follows MACHINE belongs to the command, whatever it looks like.
@click.command("exec", context_settings={"allow_interspersed_args": False})
@run_option()
@click.argument("machine", shell_complete=complete_machines)
@click.argument("argv", nargs=-1, required=True, metavar="-- COMMAND...", type=click.UNPROCESSED)
def command(where: str, machine: str, argv: tuple[str, ...]) -> int:
    """Run a command on L1 or a guest of a lab that another terminal keeps up.

    Standard input and output are the command's, byte for byte, and its exit status is this one's (255: the connection
    was lost or a signal ended it).

    \b
    Examples:
      vdpalab exec l1 -- vdpa -j dev show
      vdpalab exec l2 -- dmesg | grep -i virtio
      vdpalab exec l1 -- sh -c 'cat >/tmp/probe.sh' <probe.sh
      gdb vmlinux -ex 'target remote | vdpalab exec l1 -- socat - UNIX:/run/vdpalab/l2/gdb.sock'
    """
    from lab.host.relay import relay
    from lab.topology.attachable import logged_in

    words = argv[1:] if argv[0] == "--" else argv
    if not words:
        raise InputError(["say what to run after --"], hint=f"vdpalab exec {machine} -- COMMAND")
    with logged_in(the_run(where), machine) as host:
        return relay(host.open_command(words))
