from __future__ import annotations

import pytest
from packaging.requirements import Requirement
from qonduit_worker.dependencies import DependencyError
from qonduit_worker.dependencies.plan import failure_of, read_plan
from qonduit_worker.dependencies.requirements import digest_of, line_of, parse, unmet


def test_the_same_requirements_in_other_words_are_the_same_environment() -> None:
    one = parse(["NumPy >= 2, <3", "Some_Package[B,a] == 1.0"], direct=False)
    other = parse(["some-package[a,b]==1.0", "numpy<3,>=2", "numpy<3,>=2; python_version > '3'"], direct=False)
    assert [line_of(each) for each in one] == ["numpy<3,>=2", "some-package[a,b]==1.0"]
    assert digest_of(one, "default") == digest_of(other, "default")
    assert digest_of(one, "default") != digest_of(one, "another default")
    assert digest_of(one, "default") != digest_of(one[:1], "default")


def test_what_a_marker_leaves_out_is_not_wanted() -> None:
    assert parse(["nothing; python_version < '3'"], direct=False) == []


def test_only_what_is_certainly_there_is_met() -> None:
    wanted = parse(
        ["numpy>=1", "qiskit[visualization]", "scipy>=9", "absent", "here @ https://a.example/here.whl"], direct=True
    )
    installed = {"numpy": "2.1.0", "qiskit": "2.0", "scipy": "1.0", "here": "1.0"}
    assert [each.name for each in unmet(wanted, installed)] == ["absent", "here", "qiskit", "scipy"]


@pytest.mark.parametrize(
    "text",
    [
        "-r /etc/passwd",
        "--index-url http://a.example",
        "./folder",
        "/a/path/x.whl",
        "https://a.example/x.whl",
        "x @ https://a.example/x.whl",
        "x @ file:///etc",
        "x==1.0\n--index-url http://a.example",
        "x===${UV_INDEX_PASSWORD}",
        "x; sys_platform != '\n-r /etc/passwd'",
        "x; python_version > 'a' and nonsense",
        "what is this?",
    ],
)
def test_what_is_no_plain_requirement_is_refused_by_name(text: str) -> None:
    with pytest.raises(DependencyError) as caught:
        parse(["fine>=1", text], direct=False)
    assert repr(text)[1:5] in str(caught.value)
    assert "fine" not in str(caught.value)


def test_addresses_are_accepted_where_the_operator_says_so_but_no_variables_in_them() -> None:
    (requirement,) = parse(["x @ https://a.example/x-1.0-py3-none-any.whl"], direct=True)
    assert line_of(requirement) == "x @ https://a.example/x-1.0-py3-none-any.whl"
    with pytest.raises(DependencyError, match="not accepted"):
        parse(["x @ https://a.example/${UV_INDEX_PASSWORD}"], direct=True)


def test_a_plan_has_what_is_added_and_what_it_hides() -> None:
    plan = read_plan(
        "Resolved 3 packages in 3ms\nWould install 2 packages\n - numpy==2.4.6\n + numpy==99.0\n"
        " + other==1.0 (from https://a.example/other-1.0-py3-none-any.whl)\n"
    )
    assert plan.lines == ("numpy==99.0", "other @ https://a.example/other-1.0-py3-none-any.whl")
    assert plan.replaced == ("numpy 2.4.6",)
    assert all(Requirement(line) for line in plan.lines)


def test_the_resolvers_message_is_what_it_says_from_the_error_on() -> None:
    said = "Using Python 3.11 environment at: x\nerror: No solution found\n  cause: Because a"
    assert failure_of(said) == "error: No solution found\n  cause: Because a"
