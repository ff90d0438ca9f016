"""Programs that go wrong: each job ends with the right reason and a text that helps."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from qonduit import Configuration
from qonduit.exceptions import JobCanceledError, JobFailedError

if TYPE_CHECKING:
    from collections.abc import Callable

    from qonduit import Job

    Submit = Callable[..., Job]


def failure(job: Job) -> str:
    with pytest.raises(JobFailedError) as caught:
        job.result(timeout=300)
    assert job.status() == "ERROR"
    assert job.in_terminal_state()
    return str(caught.value)


def test_a_program_that_raises_gives_its_own_traceback(submit: Submit) -> None:
    job = submit("def deep():\n    raise RuntimeError('the sky fell')\n\ndeep()\n")
    text = failure(job)
    assert "RuntimeError: the sky fell" in text
    assert "program.py" in text
    assert "line 2, in deep" in text
    assert "qonduit/program" not in text, "the runner's own frames say nothing to the author"
    assert "the sky fell" in job.logs()
    assert "the sky fell" in job.error_message()


def test_exit_code_three(submit: Submit) -> None:
    text = failure(submit("import sys\nprint('bye')\nsys.exit(3)\n"))
    assert "exited with code 3" in text


def test_exit_code_zero_is_no_failure(submit: Submit) -> None:
    job = submit("import sys\nfrom qiskit_serverless import save_result\nsave_result({'n': 1})\nsys.exit(0)\n")
    assert job.result(timeout=300) == {"n": 1}


def test_a_killed_program_names_the_signal(submit: Submit) -> None:
    text = failure(submit("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n"))
    assert "SIGKILL" in text


def test_a_segfault_names_the_signal(submit: Submit) -> None:
    text = failure(submit("import ctypes\nctypes.string_at(0)\n"))
    assert "SIGSEGV" in text


def test_a_memory_hog_is_told_its_limit_and_its_neighbour_lives(submit: Submit) -> None:
    small = Configuration(mem=256 * 1024**2)
    neighbour = submit(
        "import sys, time\nfrom pathlib import Path\nfrom qiskit_serverless import get_arguments, save_result\n"
        "import qiskit\nprint('up', flush=True)\nsum(i for i in range(10_000_000))\nsave_result({'alive': True})\n"
    )
    text = failure(submit("print('growing')\nhog = []\nwhile True:\n    hog.append(bytearray(10 * 2**20))\n", small))
    assert "256" in text
    assert "mem" in text
    assert neighbour.result(timeout=300) == {"alive": True}


def test_a_program_past_its_time_limit(submit: Submit) -> None:
    text = (
        "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nprint('stubborn', flush=True)\nsignal.pause()\n"
    )
    message = failure(submit(text, Configuration(time_limit_s=2)))
    assert "2" in message
    assert "limit" in message


def test_children_that_a_program_leaves_behind_die_with_it(submit: Submit) -> None:
    text = (
        "import os, time\n"
        "from qiskit_serverless import save_result\n"
        "if os.fork() == 0:\n"
        "    os.setsid()\n"
        "    if os.fork() == 0:\n"
        "        open('/data/never.tar', 'wb').close()\n"
        "        import signal; signal.pause()\n"
        "    os._exit(0)\n"
        "os.wait()\n"
        "save_result({'left': True})\n"
    )
    assert submit(text).result(timeout=300) == {"left": True}


def test_a_result_that_cannot_be_serialised_is_an_error_naming_the_value(submit: Submit) -> None:
    job = submit(
        "from qiskit_serverless import save_result\n"
        "try:\n    save_result({'fine': 1, 'inner': {'callback': print}})\nexcept Exception:\n    pass\n"
    )
    text = failure(job)
    assert "callback" in text


def test_an_unmet_dependency_is_named_before_the_program_runs(client, tmp_path) -> None:  # type: ignore[no-untyped-def] # noqa: ANN001
    from qonduit import QiskitFunction  # noqa: PLC0415 - Beside its only use.

    (tmp_path / "program.py").write_text("print('never')\n")
    function = client.upload(
        QiskitFunction(
            title="needs-more",
            entrypoint="program.py",
            working_dir=str(tmp_path),
            dependencies=["no-such-distribution-anywhere>=3"],
        )
    )
    job = function.run()
    assert "no-such-distribution-anywhere" in failure(job)
    assert "never" not in job.logs()


def test_a_job_that_can_never_fit_is_told_so_with_the_numbers(submit: Submit) -> None:
    text = failure(submit("print('never')", Configuration(cpu=500)))
    assert "500" in text
    assert "16" in text


def test_a_task_that_can_never_fit_is_told_so_with_the_numbers(submit: Submit) -> None:
    text = failure(
        submit(
            "from qiskit_serverless import distribute_task, get\n"
            "@distribute_task(target={'cpu': 400})\ndef f():\n    return 1\nget(f())\n"
        )
    )
    assert "400" in text


def test_cancel_ends_a_stubborn_program_and_again_says_so(submit: Submit) -> None:
    job = submit(
        "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nprint('stubborn', flush=True)\nsignal.pause()\n"
    )
    assert any("stubborn" in piece for piece in job.stream_logs())
    job.cancel()
    with pytest.raises(JobCanceledError):
        job.result(timeout=300)
    assert job.status() == "CANCELED"
    assert "CANCELED" in str(job.cancel()).upper()


def test_the_sandbox_has_no_network_and_no_way_to_the_system(submit: Submit) -> None:
    job = submit(
        "import os, socket\n"
        "from qiskit_serverless import save_result\n"
        "found = {}\n"
        "for name, address in {'out': ('1.1.1.1', 53), 'metadata': ('169.254.169.254', 80)}.items():\n"
        "    try:\n        socket.create_connection(address, timeout=2)\n        found[name] = 'open'\n"
        "    except OSError:\n        found[name] = 'closed'\n"
        "for path in ('/usr/x', '/etc/x', '/x'):\n"
        "    try:\n        open(path, 'w')\n        found[path] = 'written'\n"
        "    except OSError:\n        found[path] = 'refused'\n"
        "found['uid'] = os.getuid() != 0\n"
        "found['secrets'] = [k for k in os.environ if 'AMQP' in k or 'KEY_FILE' in k]\n"
        "save_result(found)\n"
    )
    assert job.result(timeout=300) == {
        "out": "closed",
        "metadata": "closed",
        "/usr/x": "refused",
        "/etc/x": "refused",
        "/x": "refused",
        "uid": True,
        "secrets": [],
    }
