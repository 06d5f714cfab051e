"""``plan`` and ``show``: everything is told, nothing is touched."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lab.artifacts.store import cache_root
from lab.checks.datapath import TABLE
from lab.cli import main
from lab.cli.plan import _DECIDING
from lab.cli.run import command as run
from lab.config.catalog import CONFIGS, names
from lab.machine.keys import make_key

IPERF3 = "net-vp_vdpa-vhost_vdpa-iperf3"
MIGRATE = "net-vdpa_sim-vhost_vdpa-migrate"
FIO_ON_NET = """
summary = "fio on a network device"
class = "net"
device = { provider = "vp_vdpa" }
attach = { mode = "virtio_vdpa" }
workload = { kind = "fio", jobs = [{}] }
action = { kind = "migrate" }
"""


def said(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(words) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    return captured.out


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(words) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    return captured.err


def plans(capsys: pytest.CaptureFixture[str], *words: str) -> list[dict[str, Any]]:
    document = json.loads(said(capsys, "plan", "--json", *words))
    assert document["schema"] == 1
    return list(document["plans"])


def test_plan_names_everything_of_the_run(capsys: pytest.CaptureFixture[str]) -> None:
    text = said(capsys, "plan", IPERF3, "--cold", "--set", "device.vfs=3", "--accel", "tcg", "--kernel", "debug")
    assert text.startswith(f"{IPERF3}\n")
    for words in ("l1: memory_mb=2048", "l2: memory_mb=256", "cold", "vfs=3", "accelerator   tcg", "kernel=debug"):
        assert words in text
    for words in ("protocol=udp", "vf3=52:", "MiB of RAM", "capture at the VF's back end"):
        assert words in text


def test_plan_touches_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    said(capsys, "plan", "all")
    assert not cache_root().exists()


def test_plans_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    smoke = plans(capsys, "smoke")
    assert len(smoke) == 10
    [migrate] = plans(capsys, MIGRATE)
    assert list(migrate["machines"]) == ["l1", "l2", "l2dst"]
    assert migrate["config"]["action"]["kind"] == "migrate"


def test_what_is_impossible_is_refused_with_all_problems(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    own = tmp_path / "own.toml"
    own.write_text(FIO_ON_NET)
    problems = refused(capsys, "plan", str(own), "frobnicate", "--kernel-tree", "/absent", "--site", "mars")
    for words in ("fio needs a block device", "migrate acts on a guest", "migrate needs a vdpa_sim", "'frobnicate'"):
        assert words in problems
    assert "no site 'mars'" in problems
    assert "--kernel-tree /absent: does not exist" in problems


def test_plan_has_the_options_of_run_that_decide(capsys: pytest.CaptureFixture[str]) -> None:
    of_run = {parameter.name for parameter in run.params}
    assert set(_DECIDING) <= of_run
    told = {"jobs", "as_json", "keep", "stop_at", "repeat", "until_fail", "pcap", "update", "names"}
    assert of_run - set(_DECIDING) == told, "is the new option of run one that decides what would be done?"


def test_a_plan_that_would_be_skipped_says_what_is_lacking(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    site, key = tmp_path / "rack.toml", make_key(tmp_path / "identity")
    site.write_text(
        'kind = "ssh"\nsummary = "a server"\naddress = "192.0.2.1"\n'
        f'identity = "{key.private}"\nhost_key = "{key.public}"\n'
    )
    text = said(capsys, "plan", IPERF3, "--site", str(site))
    assert "lacks" in text
    assert "it would be skipped" in text


def test_show_explains_a_scenario_and_its_proof(capsys: pytest.CaptureFixture[str]) -> None:
    text = said(capsys, "show", MIGRATE)
    for words in ("live migration", "vdpa_sim: use_va=false", "l1, l2, l2dst", "vdpa dev vstats", "smoke"):
        assert words in text
    document = json.loads(said(capsys, "show", MIGRATE, "--json"))
    assert document["kind"] == "scenario"
    assert document["path"] == str(CONFIGS / "scenarios" / f"{MIGRATE}.toml")
    assert document["machines"] == ["l1", "l2", "l2dst"]
    assert document["suites"] == ["all", "quickstart", "smoke"]
    assert document["impossible"] == []


@pytest.mark.parametrize("name", names("scenarios"))
def test_every_scenario_has_a_proof(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert json.loads(said(capsys, "show", name, "--json"))["proof"]
    assert TABLE


def test_show_says_why_an_own_scenario_cannot_be(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    own = tmp_path / "own.toml"
    own.write_text(FIO_ON_NET)
    assert "fio needs a block device" in said(capsys, "show", str(own))


@pytest.mark.parametrize(
    ("name", "kind", "words"),
    [
        ("smoke", "suite", "scenario  net-vp_vdpa-vhost_vdpa-iperf3: iperf3 between"),
        ("nested", "site", "l1.memory_mb=2048"),
        ("debug", "kernel", "KASAN"),
    ],
)
def test_show_explains_the_rest(name: str, kind: str, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = said(capsys, "show", name)
    assert text.startswith(f"{kind} {name}\n")
    assert words in text
    assert json.loads(said(capsys, "show", name, "--json"))["kind"] == kind


def test_show_refuses_a_kernel_with_an_unknown_key(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "kernels").mkdir()
    (tmp_path / "kernels/mine.toml").write_text('summary = "x"\nsuite = "s"\npackage = "p"\nfragments = []\ncolour = 1')
    monkeypatch.setattr("lab.config.catalog.CONFIGS", tmp_path)
    assert "colour: unknown key" in refused(capsys, "show", "mine")


def test_show_explains_a_finding(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "findings").mkdir()
    (tmp_path / "findings" / "F001.toml").write_text(
        'id = "F001"\nsummary = "a splat"\nlevel = "l1-kernel"\npattern = "WARNING"\nreproducer = "vdpalab run x"\n'
    )
    monkeypatch.setattr("lab.config.catalog.CONFIGS", tmp_path)
    assert "a splat" in said(capsys, "show", "F001")


def test_show_helps_with_a_wrong_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert "did you mean net-vp_vdpa-vhost_vdpa-iperf3, net-vp_vdpa-vhost_vdpa-unplug?" in refused(
        capsys, "show", "net-vp_vdpa-vhost"
    )
    assert "did you mean smoke?" in refused(capsys, "show", "smok")
    assert "nothing is called 'qqq'\n" in refused(capsys, "show", "qqq")
