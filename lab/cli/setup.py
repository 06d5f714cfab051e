"""``vdpalab setup``: run the Ansible role that prepares a lab machine on this one, when it lacks something."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from pathlib import Path

import click

from lab import proc
from lab.cli import doctor
from lab.cli.exit import ExitStatus
from lab.errors import LabError


def lacking() -> list[str]:
    """What the role would add, in words; empty when this machine is set up. Takes no root and no Ansible."""
    packages = [f"package {name}" for name in doctor.missing_packages()]
    user = doctor.lab_user()
    return packages + [f"a range for {user} in /etc/{name}" for name in doctor.lacks_subids(user)]


def manual_commands() -> list[str]:
    """The commands that do the role's work by hand."""
    commands = []
    if packages := doctor.missing_packages():
        commands.append("sudo apt-get update")
        commands.append(f"sudo apt-get install -y --no-install-recommends {shlex.join(packages)}")
    user = doctor.lab_user()
    for name in doctor.lacks_subids(user):
        first = doctor.first_free_subid(name)
        commands += [f"sudo usermod --add-{name}s {first}-{first + doctor.SUBIDS - 1} {shlex.quote(user)}"]
    return commands


def set_up() -> bool:
    """Bring this machine to where the lab works; return whether there was something to do.

    Raises LabError when root's rights are needed and cannot be had, or when the playbook fails.
    """
    missing = lacking()
    if not missing:
        return False
    click.echo(f"vdpalab: setting up: {', '.join(missing)}", err=True)
    _play(_as_root())
    if still := lacking():
        raise LabError(f"after the playbook this machine still lacks: {', '.join(still)}", hint="vdpalab doctor")
    return True


def _as_root() -> list[str]:
    """The words before a command that make root run it. Raises LabError when nothing does."""
    if os.geteuid() == 0:
        return []
    if shutil.which("sudo") and (os.isatty(0) or proc.run(["sudo", "-n", "true"], check=False).returncode == 0):
        return ["sudo", "-H"]
    raise LabError(
        "setting this machine up needs root, and sudo cannot be used here; let somebody with root run:\n"
        + "\n".join(f"  {line}" for line in manual_commands()),
        hint="vdpalab doctor",
    )


def _play(as_root: list[str]) -> None:
    # Ansible refuses to start in a locale that is not UTF-8; C.UTF-8 is part of every Debian.
    playbook = [str(Path(sys.prefix, "bin", "ansible-playbook")), "site.yml", "-e", f"labhost_user={doctor.lab_user()}"]
    argv = [*as_root, "env", "LC_ALL=C.UTF-8", *playbook]
    if proc.foreground(argv, cwd=doctor.ANSIBLE, stdout=sys.stderr.buffer) != 0:
        raise LabError("the playbook ansible/site.yml failed; its output is above", hint="vdpalab doctor")


@click.command("setup")
@click.option("--check", is_flag=True, help="Change nothing; say what would be added, exit 3 when that is something.")
def command(check: bool) -> ExitStatus:
    """Install the Debian packages that the lab needs, and give its user subordinate ids.

    Runs the role in ansible/ on this machine, by sudo when not root. Does nothing when nothing is missing.

    \b
    Examples:
      vdpalab setup
      vdpalab setup --check
    """
    if check:
        missing = lacking()
        click.echo("\n".join(missing) if missing else "nothing is missing")
        return ExitStatus.ERROR if missing else ExitStatus.OK
    click.echo("this machine is set up now" if set_up() else "this machine is set up already")
    return ExitStatus.OK
