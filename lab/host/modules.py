"""Kernel modules with the parameters that a scenario asks for.

A module that is loaded already keeps its parameters, and modprobe says nothing about it; so they are read back from
/sys/module. Modules are never unloaded: what a run did is undone per device.
"""

from __future__ import annotations

import graphlib
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path

from lab.errors import CommandError, InputError, LabError, SiteLacks
from lab.host.base import Host
from lab.host.shell import run_script
from lab.model import Completed

Parameter = bool | int | str

# Physically contiguous chunks of guest memory that vhost_vdpa (and vdpa_sim behind it) will keep. The default of 2048
# is exceeded by a fragmented guest, and the data path is then dead without an error (nested.md section 5b).
IOTLB_ENTRIES = 262144

# Loads $1 with the parameters $2…; says the kernel's release and the value of each parameter that can be read.
_LOAD = """
uname -r
modprobe "$@"
cd "/sys/module/$1/parameters" 2>/dev/null || exit 0
shift
for setting; do
    name=${setting%%=*}
    [ ! -r "$name" ] || printf '%s=%s\\n' "$name" "$(cat "$name")"
done
"""


# Each module file in $1: its name, the module's, and what it depends on, with commas between.
_DEPENDS = """
cd "$1"
for file in *.ko; do
    echo "$file $(modinfo -F name "./$file") $(modinfo -F depends "./$file")"
done
"""

# Loads NAME=FILE… of the directory $1 in this order, after what is loaded under these names has gone the other way.
_REPLACE = """
cd "$1"
shift
gone=
for pair; do
    gone="${pair%%=*} $gone"
done
for name in $gone; do
    [ ! -d "/sys/module/$name" ] || rmmod "$name"
done
for pair; do
    file=${pair#*=}
    for need in $(modinfo -F depends "./$file" | tr , ' '); do
        [ -d "/sys/module/$need" ] || modprobe "$need"
    done
    insmod "./$file"
done
"""


def load(
    host: Host,
    module: str,
    parameters: Mapping[str, Parameter] | None = None,
    *,
    where_known: Mapping[str, Parameter] | None = None,
) -> None:
    """Load ``module`` with ``parameters``; ``where_known`` are parameters that only some kernels have.

    Raises SiteLacks (the run is a SKIP) when the kernel under test does not have the module or one of ``parameters``:
    whoever brought this kernel did not mean it to run this scenario; a kernel that the lab builds fails its build for
    a missing option. Raises LabError when the module was loaded before with other values.
    """
    wanted = {**(where_known or {}), **(parameters or {})}
    done = run_script(
        host, _LOAD, module.replace("-", "_"), *(f"{k}={_text(v)}" for k, v in wanted.items()), check=False
    )
    if done.returncode != 0:
        raise _failure(host, module, done)
    release, *lines = done.text.splitlines()
    loaded = dict(line.split("=", 1) for line in lines)
    if missing := sorted((parameters or {}).keys() - loaded.keys()):
        raise SiteLacks(f"parameter {', '.join(missing)} of module {module} (kernel {release} of {host.name})")
    if problems := _differences(wanted, loaded):
        raise LabError(
            f"{host.name}: module {module}: " + "; ".join(problems),
            hint=f"if it was loaded before for something else: 'modprobe -r {module}' there, or a fresh lab",
        )


def load_vhost_vdpa(host: Host, entries: int = IOTLB_ENTRIES) -> None:
    """Load the vhost_vdpa bus driver with room for every page of a guest, unless ``entries`` makes it too small.

    Raises what :func:`load` raises.
    """
    load(host, "vhost_vdpa", where_known={"max_iotlb_entries": entries})


def replace(host: Host, files: Sequence[Path], release: str) -> list[str]:
    """Load module files built for ``release``, in place of modules of the same names; return the names as loaded.

    What they depend on beside each other is loaded first. Raises InputError when the host runs another kernel,
    CommandError when a module is in use or the kernel refuses it.
    """
    running = host.run(["uname", "-r"]).text
    if running != release:
        raise InputError([f"{host.name} runs Linux {running}, and these modules are for {release}"])
    folder = f"{host.scratch}/modules-{secrets.token_hex(4)}"
    host.run(["mkdir", "-p", folder])
    try:
        for file in files:
            host.put(file.read_bytes(), f"{folder}/{file.name}")
        lines = run_script(host, _DEPENDS, folder).text.splitlines()
        depends = {file: (name, set(needs.split(","))) for file, name, needs in (line.split(" ") for line in lines)}
        named = {name: file for file, (name, _) in depends.items()}
        order = graphlib.TopologicalSorter(
            {file: [named[need] for need in needs if need in named] for file, (_, needs) in depends.items()}
        ).static_order()
        names = {depends[file][0]: file for file in order}
        run_script(host, _REPLACE, folder, *(f"{name}={file}" for name, file in names.items()))
    finally:
        host.run(["rm", "-rf", folder])
    return list(names)


def _text(value: Parameter) -> str:
    return str(int(value)) if isinstance(value, bool) else str(value)


def _same(wanted: Parameter, loaded: str) -> bool:
    # What is a switch to us is a bool (Y or N when read) or an int (1 or 0) to the kernel: vdpa_sim has one of each.
    return loaded in (("1", "Y") if wanted else ("0", "N")) if isinstance(wanted, bool) else loaded == str(wanted)


def _differences(wanted: Mapping[str, Parameter], loaded: Mapping[str, str]) -> list[str]:
    return [
        f"{name} is {loaded[name]}, asked for {_text(value)}"
        for name, value in wanted.items()
        if name in loaded and not _same(value, loaded[name])
    ]


def _failure(host: Host, module: str, done: Completed) -> LabError:
    if "not found in" in done.stderr.decode(errors="replace"):
        release = (done.text.splitlines() or ["?"])[0]
        return SiteLacks(f"module {module} (kernel {release} of {host.name})")
    return CommandError(host.name, done)
