"""Which Debian mirror this machine uses, read from its own apt configuration (sources.list(5)).

The lab names no host: a machine's administrator has chosen a mirror already, and often a proxy to go with it.
``VDPALAB_MIRROR`` overrides the choice: the archive's URI, and after a space that of the security archive.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from lab.errors import InputError

KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
OVERRIDE = "VDPALAB_MIRROR"

_RELEASES = ("bookworm", "trixie", "forky", "sid", "stable", "testing", "unstable", "oldstable")
_ONE_LINE = re.compile(r"^deb\s+(?:\[(?P<options>[^\]]*)\]\s+)?(?P<uri>\S+)\s+(?P<suite>\S+)\s*(?P<components>.*)$")


@dataclass(frozen=True)
class Source:
    """One archive and suite of an apt configuration; ``signed_by`` is a keyring's path or empty."""

    uri: str
    suite: str
    components: tuple[str, ...]
    signed_by: str = ""
    trusted: bool = False


@dataclass(frozen=True)
class Mirror:
    """URIs of Debian's archive and of its security archive (empty: none known), and what checks their signatures."""

    archive: str
    security: str = ""
    keyrings: tuple[str, ...] = (KEYRING,)
    trusted: bool = False

    def sources(self, suite: str) -> list[str]:
        """Lines of a sources.list for ``suite`` with its updates; for ``X-backports``, also those of ``X``."""
        base = suite.removesuffix("-backports")
        suites = [base] if base == "sid" else [base, f"{base}-updates"]
        suites += [suite] if suite != base else []
        places = [(self.archive, name) for name in suites]
        if self.security and base != "sid":
            places.append((self.security, f"{base}-security"))
        return [f"deb [{self._options()}] {uri} {name} main" for uri, name in places]

    def _options(self) -> str:
        trust = " trusted=yes" if self.trusted else ""
        return f"arch=amd64 signed-by={','.join(self.keyrings)}{trust}"


def machine_mirror(etc: Path = Path("/etc/apt"), environ: Mapping[str, str] = os.environ) -> Mirror:
    """The mirror of this machine. Raises InputError when its apt knows none and the override is not set."""
    override = environ.get(OVERRIDE, "").split()
    if override:
        return Mirror(override[0].rstrip("/"), override[1].rstrip("/") if len(override) > 1 else "")
    return choose(machine_sources(etc))


def machine_sources(etc: Path) -> list[Source]:
    """All binary sources of an apt configuration directory that are enabled."""
    one_line = [etc / "sources.list", *sorted((etc / "sources.list.d").glob("*.list"))]
    found: list[Source] = []
    for path in one_line:
        if path.is_file():
            found += parse_one_line(path.read_text(errors="replace"))
    for path in sorted((etc / "sources.list.d").glob("*.sources")):
        found += parse_deb822(path.read_text(errors="replace"))
    return found


def parse_one_line(text: str) -> Iterator[Source]:
    """The sources of a file in one-line form; what is no ``deb`` line is left out."""
    for line in text.splitlines():
        match = _ONE_LINE.match(line.partition("#")[0].strip())
        if match:
            options = dict(word.partition("=")[::2] for word in (match["options"] or "").split())
            yield _source(match["uri"], match["suite"], match["components"].split(), options)


def parse_deb822(text: str) -> Iterator[Source]:
    """The sources of a file in deb822 form; disabled stanzas and those without ``deb`` are left out."""
    for stanza in re.split(r"\n\s*\n", text):
        fields = _fields(stanza)
        if "deb" not in fields.get("types", "").split() or fields.get("enabled", "yes").lower() in ("no", "false", "0"):
            continue
        for uri in fields.get("uris", "").split():
            for suite in fields.get("suites", "").split():
                yield _source(uri, suite, fields.get("components", "").split(), fields)


def choose(sources: Iterable[Source]) -> Mirror:
    """Debian's own archive among the sources, which may hold any third party's. Raises InputError."""
    every = list(sources)
    archives = [source for source in every if source.suite in _RELEASES and "main" in source.components]
    if not archives:
        raise InputError(
            ["this machine's apt has no Debian mirror that the lab could use"],
            hint=f"export {OVERRIDE}='URI-of-debian URI-of-debian-security'",
        )
    best = max(archives, key=lambda source: _likeness(source, every))
    security = [source.uri for source in every if source.suite.endswith("-security") and "main" in source.components]
    keyrings = dict.fromkeys(path for path in (best.signed_by, KEYRING) if path)
    return Mirror(best.uri, next(iter(security), ""), tuple(keyrings), best.trusted)


def _likeness(source: Source, every: Iterable[Source]) -> int:
    """How much a source looks like Debian's archive: only that has ``-updates``, its keys, and usually its name."""
    updates = any(other.uri == source.uri and other.suite == f"{source.suite}-updates" for other in every)
    return 4 * updates + 2 * (source.signed_by == KEYRING) + source.uri.endswith("/debian")


def _source(uri: str, suite: str, components: list[str], options: Mapping[str, str]) -> Source:
    signed_by = options.get("signed-by", "")
    return Source(
        uri=uri.rstrip("/"),
        suite=suite,
        components=tuple(components),
        # A key can also be written out in place; then there is no keyring to name.
        signed_by=signed_by if signed_by.startswith("/") else "",
        trusted=options.get("trusted", "").lower() in ("yes", "true"),
    )


def _fields(stanza: str) -> dict[str, str]:
    fields: dict[str, str] = {}
    name = ""
    for line in stanza.splitlines():
        if line.startswith("#"):
            continue
        if line[:1].isspace():
            fields[name] = f"{fields.get(name, '')} {line.strip()}".strip()
        elif ":" in line:
            name, _, value = line.partition(":")
            name = name.strip().lower()
            fields[name] = value.strip()
    return fields
