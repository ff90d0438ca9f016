"""What a machine can do is found by trying, and what it cannot is said in sentences that help."""

import pytest
from qonduit_worker.sandbox import SandboxReport
from qonduit_worker.sandbox.hierarchies import Hierarchies
from qonduit_worker.sandbox.probing import judge

ALL_WORKS = dict.fromkeys(("room", "proc", "users", "seccomp", "uid", "others", "landlock", "landlock_network"))
DENIED = "unshare 0x20000: Operation not permitted"


def test_this_machine_answers(sandbox_report: SandboxReport) -> None:
    assert sandbox_report.tier in ("A", "B", "C")
    assert all(sentence.endswith(".") for sentence in sandbox_report.missing)


@pytest.mark.parametrize(
    ("failed", "tier", "words"),
    [
        ({}, "A", []),
        ({"uid": "not root"}, "A", []),
        ({"proc": "mount: Operation not permitted"}, "A", ["unmasked system paths"]),
        ({"landlock": "no Landlock", "landlock_network": "too old"}, "A", ["Linux 5.13"]),
        ({"room": DENIED, "proc": DENIED, "users": DENIED}, "B", ["unprivileged user namespaces"]),
        ({"room": DENIED, "landlock_network": "too old"}, "B", ["any TCP port", "user namespaces"]),
        ({"room": DENIED, "uid": "not root"}, "C", ["user namespaces", "worker's own user"]),
        ({"room": DENIED, "others": "/root is closed"}, "C", ["user namespaces", "everyone may read"]),
        ({"others": "/root is closed"}, "A", []),
        ({"seccomp": "Invalid argument"}, "C", ["any system call"]),
    ],
)
def test_tiers(failed: dict[str, str], tier: str, words: list[str]) -> None:
    report = judge({**ALL_WORKS, **failed}, Hierarchies(v2=None, v2_controllers=frozenset(("cpu", "memory", "pids"))))
    assert report.tier == tier
    assert len(report.missing) == len(words)
    for word in words:
        assert any(word in sentence for sentence in report.missing)


def test_missing_control_groups_are_named() -> None:
    report = judge(ALL_WORKS, Hierarchies())
    assert (report.tier, report.cgroup) == ("A", "none")
    assert len(report.missing) == 3
    assert "watchdog" in report.missing[1]
