"""Packages of any Debian suite, without privileges: apt with a directory tree of the lab's own.

The mirror, and how it is reached (proxy, retries), are this machine's. Versions are resolved once and remembered in
``resolved.json``, so that a run in which nothing changed asks nobody; ``update`` asks again.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from filelock import FileLock

from lab.artifacts.mirror import Mirror, machine_mirror
from lab.artifacts.store import cache_root
from lab.errors import BuildError, CommandError, InputError
from lab.proc import run

T = TypeVar("T")

_NEWEST = "newest "
_REACH = re.compile(r"^Acquire::(?!IndexTargets|Changelogs|cdrom)")
_TIMEOUT_S = 900.0


class Apt:
    """Debian's archive; ``root`` (default: ``apt`` in the cache) holds index files and what was resolved."""

    def __init__(self, root: Path | None = None, mirror: Mirror | None = None) -> None:
        self.root = root or cache_root() / "apt"
        self._mirror = mirror

    @property
    def mirror(self) -> Mirror:
        """The mirror used. Raises InputError when this machine has none."""
        self._mirror = self._mirror or machine_mirror()
        return self._mirror

    def sources(self, suite: str) -> list[str]:
        """Lines of a sources.list for ``suite``, with updates and security, as mmdebstrap takes them too."""
        return self.mirror.sources(suite)

    def resolve(self, suite: str, names: Sequence[str], *, update: bool = False) -> dict[str, str]:
        """Versions of packages in ``suite`` (``X-backports`` falls back to ``X``).

        Raises InputError naming every package that does not exist, BuildError when the archive cannot be reached.
        """
        return dict(self._remembered(suite, names, update, lambda missing: self._policy(suite, missing)))

    def newest_source(self, suite: str, *, update: bool = False) -> tuple[str, str]:
        """Package (``linux-source-X.Y``) and version of the newest kernel source. Raises as ``resolve``."""
        found = self._remembered(suite, [_NEWEST + "linux-source"], update, lambda _missing: self._newest(suite))
        name, _, version = found[0][1].partition(" ")
        return name, version

    def download(self, suite: str, name: str, version: str, into: Path) -> Path:
        """Download one package file into a directory and return its path. Raises BuildError."""
        with self._locked():
            self._refresh(suite, only_if_new=True)
            try:
                self._apt(suite, ["apt-get", "download", f"{name}={version}"], cwd=into)
            except CommandError as error:
                hint = "--update takes the versions that the archive has now"
                raise BuildError(f"cannot download {name} {version} of {suite}\n{error.message}", hint=hint) from error
        return next(into.glob(f"{name}_*.deb"))

    # What was resolved

    def _remembered(
        self, suite: str, names: Sequence[str], update: bool, ask: Callable[[list[str]], dict[str, str]]
    ) -> list[tuple[str, str]]:
        """Answers for ``names``, from the file where it has them; ``ask`` gets the others, with fresh index files."""
        known = {} if update else self._read().get(suite, {})
        missing = [name for name in names if name not in known]
        if missing:
            with self._locked():
                self._refresh(suite)
                answers = ask(missing)
                everything = self._read()
                known = everything[suite] = {**everything.get(suite, {}), **answers}
                self._write(everything)
        return [(name, known[name]) for name in names]

    def _read(self) -> dict[str, dict[str, str]]:
        try:
            found = json.loads((self.root / "resolved.json").read_text())
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def _write(self, everything: dict[str, dict[str, str]]) -> None:
        path = self.root / "resolved.json"
        new = path.with_suffix(".new")
        new.write_text(json.dumps(everything, indent=1, sort_keys=True))
        new.replace(path)

    def _locked(self) -> FileLock:
        self.root.mkdir(parents=True, exist_ok=True)
        return FileLock(self.root / "lock")

    # apt itself

    def _policy(self, suite: str, names: list[str]) -> dict[str, str]:
        found = parse_policy(self._apt(suite, ["apt-cache", "policy", *names]))
        missing = [name for name in names if name not in found]
        if missing:
            raise InputError([f"suite {suite} has no package {name!r}" for name in missing])
        return {name: found[name] for name in names}

    def _newest(self, suite: str) -> dict[str, str]:
        name = newest_kernel(self._apt(suite, ["apt-cache", "pkgnames", "linux-source-"]).split())
        if name is None:
            raise InputError([f"suite {suite} has no package linux-source-X.Y"])
        return {_NEWEST + "linux-source": f"{name} {self._policy(suite, [name])[name]}"}

    def _refresh(self, suite: str, *, only_if_new: bool = False) -> None:
        """Fetch the suite's index files; ``only_if_new``: those that are there will do."""
        try:
            self._configure(suite)
            if only_if_new and any((self.root / suite / "lists").glob("*Release")):
                return
            self._apt(suite, ["apt-get", "update", "--error-on=any"])
        except CommandError as error:
            hint = "apt-get update must work on this machine; for NO_PUBKEY, upgrade debian-archive-keyring"
            raise BuildError(
                f"cannot read suite {suite} of {self.mirror.archive}\n{error.message}", hint=hint
            ) from error

    def _apt(self, suite: str, argv: list[str], cwd: Path | None = None) -> str:
        env = {"APT_CONFIG": str(self.root / suite / "apt.conf"), "LC_ALL": "C"}
        return run(argv, cwd=cwd, env=env, timeout_s=_TIMEOUT_S).text

    def _configure(self, suite: str) -> None:
        """Make the suite's directory tree and its apt.conf(5), which replaces the machine's but for ``Acquire``."""
        top = self.root / suite
        for folder in ("lists/partial", "archives/partial"):
            (top / folder).mkdir(parents=True, exist_ok=True)
        (top / "status").touch()
        (top / "sources.list").write_text("\n".join(self.sources(suite)) + "\n")
        (top / "apt.conf").write_text("\n".join([*reach(), *_settings(top, suite)]) + "\n")


def reach() -> list[str]:
    """Lines of this machine's apt.conf(5) that say how archives are reached: proxies, retries, what is checked."""
    return [line for line in run(["apt-config", "dump"], env={"LC_ALL": "C"}).text.splitlines() if _REACH.match(line)]


def _settings(top: Path, suite: str) -> list[str]:
    settings = {
        "Dir::State": top,
        "Dir::State::lists": top / "lists",
        "Dir::State::status": top / "status",
        "Dir::Cache": top,
        # Without its binary caches apt answers a second later, and leaves 100 MB less per suite.
        "Dir::Cache::pkgcache": "",
        "Dir::Cache::srcpkgcache": "",
        "Dir::Etc::SourceList": top / "sources.list",
        "Dir::Etc::SourceParts": "/dev/null",
        "Dir::Etc::Parts": "/dev/null",
        "Dir::Etc::Main": "/dev/null",
        "Dir::Etc::Preferences": "/dev/null",
        "Dir::Etc::PreferencesParts": "/dev/null",
        # Backports win only when asked for; a release's own name would put its security updates last.
        "APT::Default-Release": suite if suite.endswith("-backports") else "",
        "APT::Architecture": "amd64",
        "APT::Architectures": "amd64",
        # The index files lie in the user's cache, which apt's own user cannot enter when root runs this.
        "APT::Sandbox::User": "root" if os.geteuid() == 0 else "",
        "Acquire::Languages": "none",
        "Acquire::GzipIndexes": "true",
    }
    return [f'{name} "{value}";' for name, value in settings.items()]


def parse_policy(text: str) -> dict[str, str]:
    """Candidate versions by package from ``apt-cache policy``; packages without one are left out."""
    found = re.findall(r"^(\S+):\n  Installed: .*\n  Candidate: (\S+)$", text, re.MULTILINE)
    return {name: version for name, version in found if version != "(none)"}


def newest_kernel(names: Sequence[str]) -> str | None:
    """The ``linux-source-X.Y`` with the highest X.Y; None when there is none."""
    matches = [match for name in names if (match := re.fullmatch(r"linux-source-(\d+)\.(\d+)", name))]
    return max(matches, key=lambda match: (int(match[1]), int(match[2]))).string if matches else None
