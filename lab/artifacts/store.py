"""The store of artifacts: each is made once per set of inputs, published whole, checked at each use.

::

    ROOT/entries/NAME/KEY/files/         what the builder made (Artifact.path)
                          manifest.json  inputs, why it was built, a record of every file
                          build.log      used (its time: last use)      corrupt (what `verify` found)
    ROOT/tmp/NAME@KEY/                   being built, under ROOT/locks/NAME@KEY
    ROOT/logs/NAME@KEY.log               of a build that runs or has failed
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from lab.artifacts.digest import file_digest, tree_digest
from lab.artifacts.entry import Entry, problems, read_entry, write_manifest
from lab.artifacts.progress import Progress
from lab.errors import BuildError, CompileError, InputError, LabError
from lab.evidence import marks
from lab.proc import BUILD_MARK

__all__ = ["Artifact", "Entry", "Progress", "Recipe", "Store", "cache_root", "file_digest", "tree_digest"]

_KEY_DIGITS = 20
_NO_SPACE = "No space left on device"


@dataclass(frozen=True)
class Recipe:
    """How an artifact is made, and everything that decides what comes out.

    ``inputs`` has every input by a readable name; the key is the digest of all of them, so none may depend on where
    the checkout or the cache lies. ``build`` fills an empty directory and raises BuildError.
    """

    name: str
    inputs: Mapping[str, str]
    build: Callable[[Path, Progress], None]

    @property
    def key(self) -> str:
        """Digest of name and inputs, in hex."""
        text = json.dumps([self.name, dict(self.inputs)], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:_KEY_DIGITS]


@dataclass(frozen=True)
class Artifact:
    """A published artifact; ``path`` is the directory its builder filled, ``built`` whether that was just now."""

    name: str
    key: str
    path: Path
    inputs: Mapping[str, str]
    built: bool


def cache_root() -> Path:
    """``$VDPALAB_CACHE``, or ``~/.cache/vdpalab``."""
    return Path(os.environ.get("VDPALAB_CACHE") or Path.home() / ".cache" / "vdpalab")


class Store:
    """Artifacts below ``root`` (default: ``artifacts`` in the cache). ``report`` gets lines for the user."""

    def __init__(self, root: Path | None = None, report: Callable[[str], None] = lambda _line: None) -> None:
        # The real path: it is what the kernel tells of open files, and one artifact has one name for all who share it.
        self.root = (root or cache_root() / "artifacts").resolve()
        self._report = report

    def get(self, recipe: Recipe) -> Artifact:
        """Return the artifact of the recipe, made now if it is not there or is no longer what was published.

        Processes that want the same one at once share one build. Raises BuildError, whose ``log`` is kept.
        """
        if not self._state(recipe):
            return self._used(recipe, built=False)
        with self._build_lock(recipe):
            why = self._state(recipe)
            if why:
                self._build(recipe, why)
            return self._used(recipe, built=bool(why))

    def entries(self, name: str | None = None) -> list[Entry]:
        """The entries (of one name), last used first; those with an unreadable manifest are left out."""
        folders = (self.root / "entries").glob(f"{name or '*'}/*/")
        found = [entry for folder in folders if (entry := read_entry(folder))]
        return sorted(found, key=lambda entry: entry.used, reverse=True)

    def verify(self, name: str | None = None) -> dict[str, list[str]]:
        """Compare every file with what was published; return the problems by ``NAME@KEY``, and mark those entries.

        A marked entry is rebuilt at its next use. Raises InputError when no entry has the name.
        """
        found: dict[str, list[str]] = {}
        for folder in self._folders(name):
            wrong = problems(folder, full=True)
            found[f"{folder.parent.name}@{folder.name}"] = wrong
            if wrong:
                (folder / "corrupt").write_text("\n".join(wrong))
        return found

    def explain(self, name: str) -> list[str]:
        """Why the last used entry of this name was built, and its inputs, as sentences. Raises InputError."""
        self._folders(name)
        entries = self.entries(name)
        if not entries:
            return [f"{name}: no readable entry; the next use builds it"]
        last = entries[0]
        lines = [f"{name}@{last.key} was built because {last.why}"]
        lines += [f"  {field} = {value}" for field, value in sorted(last.inputs.items())]
        if len(entries) > 1:
            lines.append(f"against the one before ({entries[1].key}): {_differences(entries[1].inputs, last.inputs)}")
        return lines

    def gc(self, *, max_age_s: float | None = None, max_bytes: int | None = None, grace_s: float = 3600) -> list[Entry]:
        """Remove entries unused for ``max_age_s``, then the longest unused until ``max_bytes`` hold; return them.

        One used within ``grace_s`` seconds, being built, or with a file that some process has open, stays. What
        killed builds left, and entries that cannot be read, go too.
        """
        now = time.time()
        busy = _open_files()
        entries = sorted(self.entries(), key=lambda entry: entry.used)
        total = sum(entry.size for entry in entries)
        removed = []
        for entry in entries:
            old = max_age_s is not None and now - entry.used > max_age_s
            over = max_bytes is not None and total > max_bytes
            idle = now - entry.used > grace_s and not any(path.startswith(f"{entry.path}/") for path in busy)
            if (old or over) and idle and self._remove(entry.path):
                total -= entry.size
                removed.append(entry)
        for folder in self._folders(None):
            if read_entry(folder) is None:
                self._remove(folder)
        self.clean_dead_builds()
        return removed

    def clean_dead_builds(self, *, but: Recipe | None = None, dry_run: bool = False) -> list[Path]:
        """Remove what killed builders left, directories in ``tmp`` whose lock nobody holds; return them."""
        dead = []
        for folder in sorted((self.root / "tmp").glob("*@*")):
            if but and folder.name == _label(but):
                continue
            with contextlib.suppress(Timeout), self._lock(folder.name).acquire(timeout=0):
                dead.append(folder)
                if not dry_run:
                    _remove_dead_build(folder)
        return dead

    # One build

    def _build(self, recipe: Recipe, why: str) -> None:
        self._report(f"{recipe.name}: building, because {why}")
        self.clean_dead_builds(but=recipe)
        work = self.root / "tmp" / _label(recipe)
        _remove_dead_build(work)
        log = self.root / "logs" / f"{_label(recipe)}.log"
        begin = time.monotonic()
        try:
            for folder in ("files", "scratch"):
                (work / folder).mkdir(parents=True)
            log.parent.mkdir(exist_ok=True)
            log.write_text("")
            earlier = self.entries(recipe.name)
            expected = earlier[0].lines if earlier else 0
            progress = Progress(recipe.name, log, self._report, scratch=work / "scratch", expected=expected)
            recipe.build(work / "files", progress)
            shutil.rmtree(progress.scratch)
            write_manifest(work, recipe.inputs, why, progress.lines)
            shutil.move(log, work / "build.log")
            self._publish(recipe, work)
        except (LabError, OSError) as error:
            raise self._failure(recipe, error, log) from error
        finally:
            shutil.rmtree(work, ignore_errors=True)
        self._report(f"{recipe.name}: built in {time.monotonic() - begin:.0f} s")

    def _publish(self, recipe: Recipe, work: Path) -> None:
        """Put the finished directory in its place by one rename; a corrupt one there goes out of the way first."""
        place = self._place(recipe)
        place.parent.mkdir(parents=True, exist_ok=True)
        if place.exists():
            place.rename(work / "replaced")
        work.rename(place)
        shutil.rmtree(place / "replaced", ignore_errors=True)

    def _failure(self, recipe: Recipe, error: LabError | OSError, log: Path | None = None) -> BuildError:
        text = error.message if isinstance(error, LabError) else str(error)
        full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
        if full or _NO_SPACE in text:
            free = shutil.disk_usage(self.root).free >> 20
            text = f"no space left in the cache {self.root} ({free} MiB free)\n{text}"
            hint = "vdpalab artifacts gc --max-size 0, or set VDPALAB_CACHE to a larger disk"
        else:
            hint = getattr(error, "hint", "")
        refused = isinstance(error, CompileError) and not (full or _NO_SPACE in text)
        kind = CompileError if refused else BuildError
        return kind(f"{recipe.name}: {text}", hint=hint, log=log if log and log.exists() else None)

    # State of entries

    def _state(self, recipe: Recipe) -> str:
        """Why the recipe must be built; empty when its entry is good."""
        place = self._place(recipe)
        if place.is_dir():
            wrong = problems(place, full=False)
            return f"the entry {_label(recipe)} is corrupt ({'; '.join(wrong[:3])})" if wrong else ""
        entries = self.entries(recipe.name)
        return _differences(entries[0].inputs, recipe.inputs) if entries else "there was none"

    def _used(self, recipe: Recipe, *, built: bool) -> Artifact:
        place = self._place(recipe)
        with contextlib.suppress(OSError):
            (place / "used").touch()
        return Artifact(recipe.name, recipe.key, place / "files", dict(recipe.inputs), built)

    def _place(self, recipe: Recipe) -> Path:
        return self.root / "entries" / recipe.name / recipe.key

    def _folders(self, name: str | None) -> list[Path]:
        folders = sorted((self.root / "entries").glob(f"{name or '*'}/*/"))
        if name and not folders:
            have = sorted({folder.parent.name for folder in self._folders(None)})
            raise InputError([f"no artifact is called {name!r}"], hint=f"there are: {', '.join(have) or 'none yet'}")
        return folders

    def _remove(self, folder: Path) -> bool:
        with contextlib.suppress(Timeout), self._lock(f"{folder.parent.name}@{folder.name}").acquire(timeout=0):
            shutil.rmtree(folder, ignore_errors=True)
        return not folder.exists()

    @contextlib.contextmanager
    def _build_lock(self, recipe: Recipe) -> Iterator[None]:
        try:
            lock = self._lock(_label(recipe))
            with contextlib.suppress(Timeout):
                lock.acquire(timeout=0)
            if not lock.is_locked:
                self._report(f"{recipe.name}: waiting for the process that builds it")
                lock.acquire()
        except OSError as error:
            raise self._failure(recipe, error) from error
        try:
            yield
        finally:
            lock.release()

    def _lock(self, label: str) -> FileLock:
        folder = self.root / "locks"
        folder.mkdir(parents=True, exist_ok=True)
        return FileLock(folder / label)


def _label(recipe: Recipe) -> str:
    return f"{recipe.name}@{recipe.key}"


def _remove_dead_build(work: Path) -> None:
    """Remove what a killed builder left, with the commands of it that go on: they would write into the next build."""
    marks.end(marks.marked(work.parent, BUILD_MARK).get(work, {}), work, BUILD_MARK)
    shutil.rmtree(work, ignore_errors=True)


def _differences(old: Mapping[str, str], new: Mapping[str, str]) -> str:
    """Which inputs differ, as a part of a sentence."""
    found = [
        f"{name} changed ({old[name]} -> {new[name]})"
        for name in sorted(old.keys() & new.keys())
        if old[name] != new[name]
    ]
    found += [f"{name} is new ({new[name]})" for name in sorted(new.keys() - old.keys())]
    found += [f"{name} is gone" for name in sorted(old.keys() - new.keys())]
    return ", ".join(found) or "its entry was removed"


def _open_files() -> set[str]:
    """Paths that the processes we may look at have open or mapped."""
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            found |= {line.split(maxsplit=5)[5] for line in (process / "maps").read_text().splitlines() if "/" in line}
        with contextlib.suppress(OSError):
            for descriptor in (process / "fd").iterdir():
                with contextlib.suppress(OSError):
                    found.add(os.readlink(descriptor))
    return found
