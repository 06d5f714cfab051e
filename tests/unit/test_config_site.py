"""lab.config.site."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lab.config.site import NestedSite, SiteFile, SshSite
from lab.config.strict import validate
from lab.errors import InputError
from lab.machine.keys import make_key

SSH: dict[str, Any] = {"kind": "ssh", "summary": "a server", "address": "192.0.2.1", "identity": "/key"}


def test_a_nested_site_has_sizes() -> None:
    site = validate(SiteFile, {"site": {"kind": "nested", "summary": "here"}}, "x").site
    assert isinstance(site, NestedSite)
    assert (site.l1.memory_mb, site.l1.cpus, site.l2.memory_mb) == (2048, 2, 256)


def test_a_real_site(tmp_path: Path) -> None:
    key = make_key(tmp_path / "key").public
    for text in (key, f"{key} root@server"):
        site = validate(SiteFile, {"site": {**SSH, "host_key": text}}, "x").site
        assert isinstance(site, SshSite)
        assert (site.port, site.user, site.host_key, site.identity) == (22, "root", text, Path("/key"))


@pytest.mark.parametrize(
    "host_key",
    ["", "ssh-ed25519", "ssh-ed25519 ", "ssh-ed25519 AAAA", "ssh-ed25519 %%%", "ssh-rsa AAAAC3NzaC1lZDI1NTE5AAAA",
     "AAAAC3NzaC1lZDI1NTE5AAAA", "ssh-dss AAAAB3NzaC1kc3M=", "server ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAA"],
)  # fmt: skip
def test_a_host_key_that_is_none(host_key: str) -> None:
    with pytest.raises(InputError, match="host_key: not a public key"):
        validate(SiteFile, {"site": {**SSH, "host_key": host_key}}, "x")


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"kind": "cloud"}, "'nested', 'ssh'"),
        ({"kind": "nested", "summary": "x", "l1": {"memory_mb": 1, "cpus": 1}}, "l1.memory_mb"),
        ({"kind": "nested", "summary": "x", "l1": {"memory_mb": 512, "cpus": 0}}, "l1.cpus"),
        ({"kind": "nested", "summary": "x", "port": 1}, "port: unknown key"),
        ({**SSH, "port": 0, "host_key": "x"}, "port"),
        (SSH, "host_key: Field required"),
    ],
)
def test_what_is_refused(change: dict[str, Any], problem: str) -> None:
    with pytest.raises(InputError) as caught:
        validate(SiteFile, {"site": change}, "x")
    assert any(problem in told for told in caught.value.problems)
