from __future__ import annotations

import pytest
from ibm_cloud_sdk_core import ApiException
from qonduit_qpu_broker.ibm import rest
from qonduit_qpu_broker.ibm.accounts import Account
from requests import PreparedRequest


@pytest.mark.parametrize(
    ("code", "refused", "throttled", "fault"),
    [(400, True, False, False), (401, True, False, False), (429, False, True, False), (503, False, False, True)],
)
def test_what_the_identity_service_says_is_not_taken_for_something_else(
    monkeypatch: pytest.MonkeyPatch, *, code: int, refused: bool, throttled: bool, fault: bool
) -> None:
    def answer(_self: object) -> str:
        raise ApiException(code, message="No.")

    monkeypatch.setattr("ibm_cloud_sdk_core.IAMTokenManager.get_token", answer)
    account = Account(name="lab", token="key")
    auth = rest._TokenAuth(rest._runtime_account(account, "crn:v1:bluemix:public:quantum-computing:us-east:a/1:2::"))
    with pytest.raises(rest.UpstreamError) as caught:
        auth(PreparedRequest())
    error = caught.value
    assert (error.refused, error.throttled, error.fault, error.ambiguous) == (refused, throttled, fault, False)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [(None, None), ("7", 7.0), ("-3", 0.0), ("1e9", 3600.0), ("inf", 3600.0), ("nan", None), ("soon", None)],
)
def test_a_time_to_wait_is_bounded_whatever_it_says(header: str | None, seconds: float | None) -> None:
    assert rest._seconds(header) == seconds


def test_a_time_to_wait_may_be_a_date() -> None:
    assert rest._seconds("Wed, 21 Oct 2015 07:28:00 GMT") == 0.0
