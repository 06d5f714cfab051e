"""configs/findings: each file is a finding of its own name, and recognises the splat that was really seen."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from lab.checks import kernellog
from lab.config.catalog import CONFIGS, names
from lab.config.finding import Finding, load_findings
from lab.model import Check, Verdict
from lab.scenarios.findings import apply

SAMPLES = Path(__file__).parent / "samples" / "findings"
FINDINGS = load_findings()
# The release that the sample comes from.
RELEASES = {
    "F001": "6.12.117-lab",
    "F010": "6.12.118-lab",
    "F011": "6.12.118-lab",
    "F012": "6.12.118-lab",
    "F013": "any",
    "F014": "any",
    "F015": "6.12.118-lab",
    "F016": "any",
    "F017": "6.1.192-lab",
    "F018": "any",
    "F019": "6.12.118-lab",
}


def known(finding: Finding, sample: str, release: str) -> tuple[str, ...]:
    """Whether a finding explains a sample: a kernel's log, or what a check of the lab's own saw."""
    if (SAMPLES / f"{finding.id}.log").exists():
        checks = kernellog.judge(sample, None, machine="l1", level=finding.level)
    else:
        checks = [Check.judged("a check", False, sample.strip(), "better", level=finding.level)]
    assert Verdict.FAIL in {check.verdict for check in checks}
    scenario = "x" if finding.elsewhere else finding.scenarios[0]
    return apply(checks, [finding], scenario=scenario, kernel=release, qemu_l0="11.1.3", qemu_l1="11.1.3")[1]


def test_files_are_named_like_what_they_hold() -> None:
    assert [path.stem for path in sorted((CONFIGS / "findings").iterdir())] == [finding.id for finding in FINDINGS]
    assert {name for finding in FINDINGS for name in finding.scenarios} <= set(names("scenarios"))


def test_each_has_its_section_on_the_page_of_findings_in_order() -> None:
    page = (CONFIGS.parent / "docs" / "findings.md").read_text()
    assert re.findall(r"^## (F\d+): ", page, re.MULTILINE) == [finding.id for finding in FINDINGS]
    assert not re.search(r"^(<{7}|>{7}) ", page, re.MULTILINE), "a merge was left unfinished"


@pytest.mark.parametrize("finding", FINDINGS, ids=lambda finding: finding.id)
def test_the_splat_that_was_seen_is_known(finding: Finding) -> None:
    [path] = SAMPLES.glob(f"{finding.id}.*")
    log = path.read_text()
    assert known(finding, log, RELEASES[finding.id]) == (finding.id,)
    assert bool(known(finding, log, "5.0.0")) is (finding.kernel == ".*")


def test_f001_is_not_any_null_dereference() -> None:
    [finding] = [finding for finding in FINDINGS if finding.id == "F001"]
    log = (SAMPLES / "F001.log").read_text().replace("vp_vdpa_dev_del", "vdpasim_dev_del")
    assert known(finding, log, RELEASES["F001"]) == ()


def test_f014_is_of_the_versions_that_it_was_seen_with() -> None:
    """A later one of the series may have the fix: that its push tier stays green is what the e2e test goes by."""
    [finding] = [finding for finding in FINDINGS if finding.id == "F014"]
    assert [
        version for version in ("11.1.2", "11.1.3", "11.1.4", "11.1.30") if re.fullmatch(finding.qemu, version)
    ] == ["11.1.3"]


@pytest.mark.parametrize(
    ("name", "seen"),
    [
        ("F010", "`vdpa dev config show` says 0x300000003, the device 0x330030023"),
        ("F011", "refused: Device or resource busy"),
        ("F012", "hangs in msleep < vp_vdpa_reset"),
        ("F012", "hangs in no call into vDPA"),
        ("F016", "waited 37 s for v39260d2cb: tx_bytes to grow"),
        ("F016", "vhost VQ 0 ring restore failed: -22: Invalid argument (22)"),
        ("F018", "waited 20 s for v39260d2cb: tx_bytes to grow"),
        ("F018", "QEMU has lost 1 buffers of queue 0"),
        ("F018", "QEMU has lost 200 buffers of queue 1"),
        ("F018", "QEMU has lost 1 buffers of queue 1, 2 buffers of queue 2"),
        ("F018", "waited 20 s for v3b: tx_bytes to grow; 3 times TCP did not send again what the driver still held"),
        ("F018", "QEMU has lost 4 buffers of queue 1"),
        ("F019", "kmemleak: kmemleak: 1 new suspected memory leaks (see /sys/kernel/debug/kmemleak)"),
        ("F019", "unreferenced object 0xffff88800ac0b600 (size 64):\n  device_set_deferred_probe_reason+0x40/0x110"),
        ("F015", "with irq-lost on, ping has not ended after 114 s"),
    ],
)
def test_no_finding_explains_what_only_looks_like_it(name: str, seen: str) -> None:
    [finding] = [finding for finding in FINDINGS if finding.id == name]
    assert known(finding, seen, RELEASES[name]) == ()
