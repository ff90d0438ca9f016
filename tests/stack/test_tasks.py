"""Parallel tasks as a program's author sees them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from qonduit import Job

    Submit = Callable[..., Job]

HEAD = "from qiskit_serverless import distribute_task, get, get_arguments, put, save_result\n"


def test_many_tasks_of_two_shapes_come_back_in_order(submit: Submit) -> None:
    text = HEAD + (
        "@distribute_task(target={'cpu': 0.5, 'mem': 200 * 2**20})\ndef half(n):\n    return n / 2\n"
        "@distribute_task\ndef double(n, plus=0):\n    return 2 * n + plus\n"
        "halves = [half(n) for n in range(40)]\n"
        "doubles = [double(n, plus=1) for n in range(40)]\n"
        "save_result({'halves': get(halves), 'doubles': get(doubles), 'one': get(double(21))})\n"
    )
    result = submit(text).result(timeout=300)
    assert result["halves"] == [n / 2 for n in range(40)]
    assert result["doubles"] == [2 * n + 1 for n in range(40)]
    assert result["one"] == 42


def test_an_exception_arrives_as_its_own_type_with_the_remote_traceback(submit: Submit) -> None:
    text = HEAD + (
        "class Odd(ValueError):\n    pass\n"
        "@distribute_task()\ndef even(n):\n    if n % 2:\n        raise Odd(f'{n} is odd')\n    return n\n"
        "try:\n    get([even(2), even(3)])\n"
        "except Odd as error:\n"
        "    save_result({'text': str(error), 'notes': error.__notes__, 'rest': get(even(4))})\n"
    )
    result = submit(text).result(timeout=300)
    assert result["text"] == "3 is odd"
    assert "in even" in result["notes"][0]
    assert "executor.py" not in result["notes"][0]
    assert result["rest"] == 4


def test_a_task_over_its_memory_fails_alone_and_its_neighbours_go_on(submit: Submit) -> None:
    text = HEAD + (
        "from qonduit.program.tasks import TaskOutOfMemoryError\n"
        "@distribute_task(target={'cpu': 1, 'mem': 128 * 2**20})\n"
        "def fill(mib):\n    return len(bytearray(mib * 2**20))\n"
        "good, bad, after = fill(10), fill(500), fill(20)\n"
        "try:\n    get(bad)\n    text = 'no error'\nexcept TaskOutOfMemoryError as error:\n    text = str(error)\n"
        "save_result({'text': text, 'good': get(good), 'after': get(after)})\n"
    )
    result = submit(text).result(timeout=300)
    assert "more than its 128 MiB of memory (peak 1" in result["text"]
    assert (result["good"], result["after"]) == (10 * 2**20, 20 * 2**20)


def test_a_task_that_kills_its_executor_fails_with_that_reason(submit: Submit) -> None:
    text = HEAD + (
        "import os, signal\n"
        "from qonduit.program.tasks import TaskLostError\n"
        "@distribute_task()\ndef die():\n    os.kill(os.getpid(), signal.SIGKILL)\n"
        "@distribute_task()\ndef live():\n    return 'alive'\n"
        "try:\n    get(die())\nexcept TaskLostError as error:\n"
        "    save_result({'text': str(error), 'other': get(live())})\n"
    )
    result = submit(text).result(timeout=300)
    assert "4 times" in result["text"]
    assert "signal 9" in result["text"]
    assert result["other"] == "alive"


def test_large_arguments_values_and_put_objects(submit: Submit) -> None:
    text = HEAD + (
        "import numpy as np\n"
        "array = np.arange(1_000_000, dtype=float)\n"
        "shared = put(array)\n"
        "@distribute_task()\ndef total(values, times):\n    return float(values.sum()) * times\n"
        "@distribute_task()\ndef grow(values):\n    return values * 2\n"
        "doubled = get(grow(array))\n"
        "assert np.array_equal(doubled, array * 2)\n"
        "assert np.array_equal(get(shared), array)\n"
        "save_result({'totals': get([total(shared, n) for n in range(4)])})\n"
    )
    result = submit(text).result(timeout=300)
    whole = 999_999 * 1_000_000 / 2
    assert result["totals"] == [whole * n for n in range(4)]


def test_a_reference_as_an_argument_stands_for_its_value(submit: Submit) -> None:
    text = HEAD + (
        "@distribute_task()\ndef add(a, b):\n    return a + b\n"
        "first = add(1, 2)\n"
        "save_result({'sum': get(add(first, 10)), 'nested': get(add([first], [4]))})\n"
    )
    assert submit(text).result(timeout=300) == {"sum": 13, "nested": [3, 4]}


def test_waiting_no_longer_than_asked(submit: Submit) -> None:
    text = HEAD + (
        "import time\n"
        "from qiskit_serverless import get_refs_by_status\n"
        "@distribute_task()\ndef pause(seconds):\n    time.sleep(seconds)\n    return seconds\n"
        "slow, quick = pause(600), pause(0)\n"
        "done, pending = get_refs_by_status([slow, quick], num_returns=1)\n"
        "late = 'no error'\n"
        "try:\n    get(slow, timeout=0.1)\nexcept TimeoutError as error:\n    late = str(error)\n"
        "save_result({'done': [get(ref) for ref in done], 'pending': len(pending), 'late': late})\n"
    )
    result = submit(text).result(timeout=300)
    assert result["done"] == [0]
    assert result["pending"] == 1
    assert "1 of 1" in result["late"]


def test_what_a_task_prints_is_in_the_jobs_log(submit: Submit) -> None:
    text = HEAD + (
        "@distribute_task()\ndef speak(n):\n    print(f'task {n} speaks')\n"
        "get([speak(n) for n in range(3)])\nprint('the driver ends')\n"
    )
    job = submit(text)
    job.result(timeout=300)
    log = job.logs()
    assert all(f"task {n} speaks" in log for n in range(3))
    assert "the driver ends" in log


def test_an_argument_that_cannot_travel_is_named(submit: Submit) -> None:
    text = HEAD + (
        "import threading\n"
        "@distribute_task()\ndef use(lock):\n    return 1\n"
        "try:\n    use(threading.Lock())\nexcept TypeError as error:\n    save_result({'text': str(error)})\n"
    )
    assert "use()" in submit(text).result(timeout=300)["text"]


def test_a_task_that_exits_or_returns_what_cannot_travel_is_an_error_of_that_task(submit: Submit) -> None:
    text = HEAD + (
        "import sys\n"
        "@distribute_task()\ndef leave():\n    sys.exit(0)\n"
        "@distribute_task()\ndef generate():\n    return (n for n in range(3))\n"
        "@distribute_task()\ndef outer():\n    return get(leave())\n"
        "told = []\n"
        "for task in (leave, generate, outer):\n"
        "    try:\n        get(task())\n    except Exception as error:\n"
        "        told.append(f'{type(error).__name__}: {error}')\n"
        "save_result(told)\n"
    )
    exited, returned, nested = submit(text).result(timeout=300)
    for told in (exited, nested):
        assert told.startswith("TaskError")
        assert "SystemExit: 0" in told
    assert "what task generate() returned" in returned


def test_references_run_without_the_driver_wherever_they_are_among_the_arguments(submit: Submit) -> None:
    text = HEAD + (
        "import time\n"
        "@distribute_task()\ndef pause():\n    time.sleep(600)\n    return 0\n"
        "@distribute_task()\ndef add(*numbers, more=None):\n"
        "    more = more or {}\n    return sum(numbers) + sum(more.get('list', [])) + more.get('one', 0)\n"
        "unknown = add(pause(), 1).outcome is None\n"
        "value = add(1)\n"
        "for _ in range(20):\n    value = add(value, 1)\n"
        "parts = [add(n) for n in range(4)]\n"
        "both = add(value, more={'list': parts, 'one': value})\n"
        "save_result({'unknown': unknown, 'value': get(value), 'both': get(both), 'again': get(add(value, value))})\n"
    )
    assert submit(text).result(timeout=300) == {"unknown": True, "value": 21, "both": 48, "again": 42}


def test_a_failed_input_fails_what_needs_it_in_the_same_way(submit: Submit) -> None:
    text = HEAD + (
        "@distribute_task()\ndef odd(n):\n    raise ValueError(f'{n} is odd')\n"
        "@distribute_task()\ndef add(values):\n    return sum(values)\n"
        "first = odd(3)\n"
        "late = add([add([first, 1]), 2])\n"
        "told = []\n"
        "for ref in (late, first, add([first])):\n"
        "    try:\n        get(ref)\n    except ValueError as error:\n"
        "        told.append([str(error), len(error.__notes__)])\n"
        "save_result(told)\n"
    )
    assert submit(text).result(timeout=300) == [["3 is odd", 1]] * 3


def test_thousands_of_one_call_and_values_in_the_form_they_were_asked_for(submit: Submit) -> None:
    text = HEAD + (
        "@distribute_task()\ndef add(a, b, plus=0):\n    return a + b + plus\n"
        "many = add.map(range(2000), range(2000), plus=1)\n"
        "form = get({'a': [many[0], (many[1],)], 'b': {'c': many[2]}, 'd': []})\n"
        "save_result({'many': get(many), 'form': form})\n"
    )
    result = submit(text).result(timeout=300)
    assert result["many"] == [2 * n + 1 for n in range(2000)]
    assert result["form"] == {"a": [1, [3]], "b": {"c": 5}, "d": []}


def test_waiting_for_some(submit: Submit) -> None:
    text = HEAD + (
        "import time\nfrom qonduit import wait\n"
        "@distribute_task()\ndef pause(seconds):\n    time.sleep(seconds)\n    return seconds\n"
        "@distribute_task()\ndef fail():\n    raise ValueError('no')\n"
        "slow, others = pause(600), [pause(0), fail(), pause(0)]\n"
        "done, pending = wait([slow, *others], num_returns=3)\n"
        "none, all_of_them = wait([slow], timeout=0)\n"
        "save_result({'done': len(done), 'pending': pending == [slow], 'none': len(none), 'all': len(all_of_them)})\n"
    )
    assert submit(text).result(timeout=300) == {"done": 3, "pending": True, "none": 0, "all": 1}


def test_tasks_can_be_awaited(submit: Submit) -> None:
    text = HEAD + (
        "import asyncio\n"
        "@distribute_task()\ndef halve(n):\n    if n % 2:\n        raise ValueError(f'{n} is odd')\n    return n // 2\n"
        "async def main():\n"
        "    values = await asyncio.gather(*(halve(n) for n in range(6)), return_exceptions=True)\n"
        "    return [value if isinstance(value, int) else str(value) for value in values] + [await halve(12)]\n"
        "save_result(asyncio.run(main()))\n"
    )
    assert submit(text).result(timeout=300) == [0, "1 is odd", 1, "3 is odd", 2, "5 is odd", 6]


def test_a_task_without_retries_is_lost_with_its_executor(submit: Submit) -> None:
    text = HEAD + (
        "import os, signal\nfrom qonduit import TaskLostError\n"
        "@distribute_task(max_retries=0)\ndef die():\n    os.kill(os.getpid(), signal.SIGKILL)\n"
        "try:\n    get(die())\nexcept TaskLostError as error:\n    save_result(str(error))\n"
    )
    assert "task die lost its executor once" in submit(text).result(timeout=300)


def test_libraries_in_a_task_start_as_many_threads_as_it_has_cpus(submit: Submit) -> None:
    text = HEAD + (
        "import os\n"
        "NAMES = ['RAYON_NUM_THREADS', 'OMP_NUM_THREADS', 'OPENBLAS_NUM_THREADS', 'QISKIT_NUM_PROCS']\n"
        "def settings():\n    return [os.environ.get(name) for name in NAMES] + [os.environ.get('QISKIT_PARALLEL')]\n"
        "few = distribute_task(target={'cpu': 0.5})(settings)\n"
        "several = distribute_task(target={'cpu': 3})(settings)\n"
        "save_result(get([few(), several()]))\n"
    )
    assert submit(text).result(timeout=300) == [["1"] * 4 + ["FALSE"], ["3"] * 4 + [None]]


def test_tasks_are_seen_with_their_states_times_and_cost(submit: Submit) -> None:
    text = HEAD + (
        "import time\n"
        "@distribute_task(target={'cpu': 1, 'mem': 200 * 2**20}, name='burn it')\n"
        "def burn(seconds):\n"
        "    print('burning')\n    kept = bytearray(50 * 2**20)\n"
        "    end = time.process_time() + seconds\n    while time.process_time() < end:\n        pass\n"
        "    return len(kept)\n"
        "@distribute_task()\ndef fail(n):\n    print(f'fails at {n}')\n    raise ValueError(f'no {n}')\n"
        "good, bad = [burn(0.3), burn(0.1)], [fail(1), fail(2)]\n"
        "get(good)\n"
        "for ref in bad:\n    try:\n        get(ref)\n    except ValueError:\n        pass\n"
        "save_result('done')\n"
    )
    job = submit(text)
    assert job.result(timeout=300) == "done"
    tasks = job.tasks()
    assert [(task.number, task.name, task.state, task.attempt) for task in tasks] == [
        (0, "burn it", "DONE", 1),
        (1, "burn it", "DONE", 1),
        (2, "fail", "ERROR", 1),
        (3, "fail", "ERROR", 1),
    ]
    assert tasks.counts == {"DONE": 2, "ERROR": 2}
    first = tasks[0]
    assert first.cpu_s >= 0.29
    assert first.run_s >= 0.29
    assert 50 * 2**20 < first.peak_mem_bytes < 200 * 2**20
    assert (first.cpu, first.mem_bytes) == (1, 200 * 2**20)
    for task in tasks:
        assert task.worker
        assert task.queued is not None
        assert task.started is not None
        assert task.ended is not None
        assert task.queued <= task.started <= task.ended
    assert [task.number for task in job.tasks("ERROR")] == [2, 3]
    assert job.tasks("ERROR")[0].error_text.endswith("ValueError: no 1")
    assert job.logs(task=0) == "[task 0 burn it] burning\n"
    assert job.logs(task="fail").splitlines() in (
        ["[task 2 fail] fails at 1", "[task 3 fail] fails at 2"],
        ["[task 3 fail] fails at 2", "[task 2 fail] fails at 1"],
    )
