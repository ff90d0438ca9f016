from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st
from qonduit_qpu_broker.ibm.bodies import prepared

SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
DOCUMENTS = st.dictionaries(st.text() | st.sampled_from(["tags", "cost", "runtime"]), VALUES, max_size=6)
REPLACED = {"runtime", "start_session", "session_time", "cost"}


@given(DOCUMENTS, st.sampled_from([None, 2]), st.sampled_from(["utf-8", "utf-16"]))
def test_fields_are_changed_and_all_else_stays(document: dict[str, object], indent: int | None, encoding: str) -> None:
    body = json.dumps(document, indent=indent).encode(encoding)
    changed = json.loads(prepared(body, {"tags": ["a"], "cost": None}))
    expected = {name: value for name, value in document.items() if name not in REPLACED}
    assert changed == expected | {"tags": ["a"]}


def test_what_a_program_submitted_keeps_its_bytes() -> None:
    params = '{"angles": [1.00, 1e+2, 0.1000000000000000055511151231257827],"s":"\\u00e9 \\/"}'
    body = f' {{"program_id":"sampler" , "params" : {params},\n"tags":["x"]}} '.encode()
    assert params.encode() in prepared(body, {"tags": ["y"]})


def test_of_a_field_given_twice_the_last_counts_as_for_any_reader() -> None:
    assert json.loads(prepared(b'{"backend": "a", "backend": "b"}', {})) == {"backend": "b"}


def test_a_program_names_neither_an_image_nor_a_session_of_its_own() -> None:
    body = b'{"runtime": "other:image", "start_session": true, "session_time": 9, "params": {}}'
    assert json.loads(prepared(body, {"session_id": "s1"})) == {"params": {}, "session_id": "s1"}
