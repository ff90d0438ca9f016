"""The provider's REST, through the session, the accounts and the URLs of qiskit-ibm-runtime.

What the package does on its own is left out where it would cost money or leak: it repeats a POST on 5xx (each may be a
job), and it sends the API key itself where the identity service fails.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from enum import Enum, auto
from typing import TYPE_CHECKING, Any, Final

from ibm_cloud_sdk_core import ApiException
from qiskit_ibm_runtime.accounts import Account as RuntimeAccount
from qiskit_ibm_runtime.accounts.exceptions import InvalidAccountError
from qiskit_ibm_runtime.api.exceptions import RequestsApiError
from qiskit_ibm_runtime.api.session import RetrySession
from qiskit_ibm_runtime.api.utils import default_runtime_url_resolver
from qiskit_ibm_runtime.exceptions import IBMNotAuthorizedError
from requests import ConnectTimeout, PreparedRequest, RequestException, Response
from requests.adapters import HTTPAdapter
from requests.auth import AuthBase
from urllib3.exceptions import NewConnectionError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qonduit_qpu_broker.ibm.accounts import Account

API_VERSION = "2026-04-15"
"""For what the broker asks on its own behalf; what a program submitted goes with the program's version."""
_CONNECT_S = 5.0
_THREADS = 4
_LONGEST_RETRY_S = 3600.0
_UNAUTHORIZED = 401
_NOT_FOUND = 404
_TOO_MANY = 429
_SERVER_ERROR = 500
_TEXT_LIMIT = 2000


class UpstreamError(Exception):
    """The provider did not do what it was asked.

    Attributes:
        status: Of the answer; 0 where there was none.
        code: The provider's own number for it.
        sent: Whether the request may have been carried out all the same.
        retry_after_s: How long it said to wait.
    """

    def __init__(
        self, message: str, *, status: int = 0, code: int = 0, sent: bool = True, retry_after_s: float | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.sent = sent
        self.retry_after_s = retry_after_s

    @property
    def refused(self) -> bool:
        """Whether the credentials are not accepted."""
        return self.status == _UNAUTHORIZED

    @property
    def missing(self) -> bool:
        """Whether there is no such thing."""
        return self.status == _NOT_FOUND

    @property
    def throttled(self) -> bool:
        """Whether it was too much for now."""
        return self.status == _TOO_MANY

    @property
    def fault(self) -> bool:
        """Whether the provider or the network is at fault, so that a later try may do."""
        return self.status == 0 or self.status >= _SERVER_ERROR

    @property
    def ambiguous(self) -> bool:
        """Whether nobody knows if it was carried out."""
        return self.sent and self.fault


MOCKS_TOO: Final = (("include_mocks", "True"),)
"""Without it a list leaves out mock devices, and the jobs on them; the client writes it so."""


class Lane(Enum):
    """What may hold each other up: slow results and large bodies are not to keep a cancel or a close waiting."""

    CONTROL = auto()
    SUBMIT = auto()
    RESULTS = auto()


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer."""

    body: bytes

    def json(self) -> dict[str, Any]:
        """Return its document; UpstreamError if it is none."""
        try:
            document = json.loads(self.body)
        except ValueError:
            document = None
        if not isinstance(document, dict):
            raise UpstreamError("The provider's answer is not a JSON object.")
        return document


class Rest:
    """One instance of one account.

    Blocking calls run on threads of its own, each with a session of its own: one is not safe to share.
    """

    def __init__(self, account: Account, crn: str) -> None:
        self.crn = crn
        self._account = _runtime_account(account, crn)
        self._base = default_runtime_url_resolver(account.url, crn)
        self._auth = _TokenAuth(self._account)
        self._threads = {
            lane: ThreadPoolExecutor(_THREADS, thread_name_prefix=f"ibm-{account.name}-{lane.name}") for lane in Lane
        }
        self._sessions = threading.local()

    async def call(
        self,
        method: str,
        path: str,
        *,
        query: Sequence[tuple[str, str]] = (),
        body: bytes | None = None,
        api_version: str = "",
        timeout_s: float = 60.0,
        lane: Lane = Lane.CONTROL,
    ) -> Reply:
        """Return the answer to one request, which is sent once; a token that is not accepted is renewed once.

        A caller that is cancelled does not stop a request that is on its way.

        Raises:
            UpstreamError: There was no answer, or one of 400 and above.
        """
        headers = {"IBM-API-Version": api_version or API_VERSION, "Accept": "application/json"}
        if body is not None:
            headers["Content-Type"] = "application/json"
        options = {"params": list(query), "data": body, "headers": headers, "timeout": (_CONNECT_S, timeout_s)}
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads[lane], self._send, method, path, options)

    def close(self, *, drop: bool) -> None:
        """Take nothing more; what waits for a thread is dropped, or finished."""
        for threads in self._threads.values():
            threads.shutdown(wait=False, cancel_futures=drop)

    def _send(self, method: str, path: str, options: dict[str, Any]) -> Reply:
        try:
            return self._once(method, path, options)
        except UpstreamError as error:
            if not error.refused:
                raise
        self._auth.renew()  # A 401 was not carried out: it is safe to send again.
        return self._once(method, path, options)

    def _once(self, method: str, path: str, options: dict[str, Any]) -> Reply:
        session = self._session()
        try:
            answer = session.request(method, path, **{**options, "headers": dict(options["headers"])})
        except (RequestsApiError, IBMNotAuthorizedError) as error:
            raise _translated(error.__cause__ or error.__context__, str(error)) from None
        except UpstreamError:
            raise
        except RequestException as error:
            raise _translated(error, str(error)) from None
        except Exception as error:
            raise UpstreamError(f"The request failed: {type(error).__name__}: {error}") from error
        return Reply(answer.content)

    def _session(self) -> RetrySession:
        session: RetrySession | None = getattr(self._sessions, "session", None)
        if session is None:
            session = RetrySession(self._base, auth=self._auth)
            for scheme in ("http://", "https://"):
                session.mount(scheme, HTTPAdapter(max_retries=0))
            self._sessions.session = session
        return session


class _TokenAuth(AuthBase):
    """Attaches a token; shared by all threads of an instance."""

    def __init__(self, account: RuntimeAccount) -> None:
        self._account = account
        self._lock = threading.Lock()
        self._tokens = account.get_auth_handler().tm

    def __call__(self, request: PreparedRequest) -> PreparedRequest:
        with self._lock:
            try:
                token = self._tokens.get_token()
            except ApiException as error:
                message = f"The identity service gave no token: {error.message}"
                raise UpstreamError(message, status=_identity_status(error), sent=False) from None
            except Exception as error:  # noqa: BLE001 -- also a token that is none.
                reason = type(error).__name__
                raise UpstreamError(f"The identity service can't be used ({reason}).", sent=False) from None
        request.headers["Service-CRN"] = self._account.instance
        request.headers["Authorization"] = f"Bearer {token}"
        return request

    def renew(self) -> None:
        """Forget the token."""
        with self._lock:
            self._tokens = self._account.get_auth_handler().tm


def instances_of(account: Account) -> list[tuple[str, str]]:
    """Return the (CRN, name) of all instances that an account may use; blocking.

    Raises:
        UpstreamError: The account is not accepted, or the search can't be reached.
    """
    try:
        found = _runtime_account(account, "").list_instances()
    except Exception as error:  # noqa: BLE001 -- three services are asked, each with errors of its own.
        cause = error.__cause__ if isinstance(error, InvalidAccountError) else error
        status = _identity_status(cause) if isinstance(cause, ApiException) else 0
        raise UpstreamError(f"The instances can't be listed: {error}", status=status, sent=False) from None
    return [(str(one["crn"]), str(one["name"])) for one in found]


def _identity_status(error: ApiException) -> int:
    """Return what an answer of the identity service means for those who need a token."""
    code = error.status_code or 0
    refused = 400 <= code < _SERVER_ERROR and code != _TOO_MANY  # noqa: PLR2004 -- 4xx.
    return _UNAUTHORIZED if refused else _TOO_MANY if code == _TOO_MANY else 0


def _runtime_account(account: Account, crn: str) -> RuntimeAccount:
    return RuntimeAccount.create_account(
        channel="ibm_quantum_platform", token=account.token.get_secret_value(), url=account.url, instance=crn
    )


def _translated(cause: BaseException | None, text: str) -> UpstreamError:
    answer = getattr(cause, "response", None)
    if not isinstance(answer, Response):
        inner = getattr(cause.args[0] if cause is not None and cause.args else None, "reason", None)
        sent = not isinstance(cause, ConnectTimeout) and not isinstance(inner, NewConnectionError)
        return UpstreamError(f"The provider can't be reached: {text[:_TEXT_LIMIT]}", sent=sent)
    message, code = _wording(answer)
    return UpstreamError(
        message, status=answer.status_code, code=code, retry_after_s=_seconds(answer.headers.get("Retry-After"))
    )


def _wording(answer: Response) -> tuple[str, int]:
    """Return the provider's own words and code."""
    try:
        (first, *_) = answer.json()["errors"]
        return f"{first['message']} {first.get('solution') or ''}".strip(), int(first.get("code") or 0)
    except (ValueError, KeyError, TypeError):
        return f"HTTP {answer.status_code}: {answer.text[:_TEXT_LIMIT]}".strip(), 0


def _seconds(text: str | None) -> float | None:
    """Return a Retry-After, which is in seconds or a date."""
    if text is None:
        return None
    try:
        seconds = float(text)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(text).timestamp() - time.time()
        except ValueError:
            return None
    return min(_LONGEST_RETRY_S, max(0.0, seconds)) if seconds == seconds else None  # noqa: PLR0124 -- not a number.
