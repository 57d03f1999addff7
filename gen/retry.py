"""Object stores fail now and then: what to try again, how often, and one clear line for what will not mend itself.

Throttling, 5xx answers, commits that met another's, connections that break and time-outs pass; missing credentials,
buckets and rights do not.
"""

import random
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

T = TypeVar("T")

NO_BUCKET = "there is no such bucket; create it first, or correct the name"
TRIES = 8
BASE_S = 0.1
LONGEST_S = 20.0
TRANSIENT_NAMES = {
    # Of botocore, aiohttp, aiobotocore, httpx, google-auth and fsspec, by name: none of them is surely installed.
    "EndpointConnectionError", "ConnectionClosedError", "ConnectTimeoutError", "ReadTimeoutError", "HTTPClientError",
    "ResponseStreamingError", "IncompleteReadError", "ClientPayloadError", "ServerDisconnectedError", "ResponseParserError",
    "ClientOSError", "ClientConnectorError", "FSTimeoutError", "TransportError", "RemoteProtocolError", "ReadError",
    "ConnectError", "ConnectTimeout", "ReadTimeout", "IncompleteRead", "ChecksumError",
}  # fmt: skip
TRANSIENT_CODES = {
    "SlowDown", "InternalError", "ServiceUnavailable", "RequestTimeout", "RequestTimeTooSkewed", "Throttling",
    "ThrottlingException", "TooManyRequestsException", "BadDigest",
}  # fmt: skip
TRANSIENT_STATUSES = {409, 412, 429}
"""Another's commit came between (Hugging Face), and too many requests; beside these, 500 and over."""
NO_CREDENTIALS = {
    "NoCredentialsError", "PartialCredentialsError", "NoAuthTokenError", "ProfileNotFound", "LocalTokenNotFoundError",
    "DefaultCredentialsError", "CredentialRetrievalError",
}  # fmt: skip


def persist(action: Callable[[], T], what: str) -> T:
    """The result of an action, tried again while it fails for a passing reason: waits double, at random within them.

    Args:
        action: what can be done again without harm.
        what: verb and object for the messages, as "write s3://bucket/file".

    Raises:
        ValueError: credentials, rights or the bucket are missing; the message says what mends it.
        FileNotFoundError: there is no such file.
        FileExistsError: there is one already, and it was not to be replaced.
        OSError: it failed `TRIES` times.
    """
    for attempt in range(1, TRIES + 1):
        try:
            return action()
        except Exception as error:  # each library has errors of its own; what is not known is raised again
            if mend := _mend(error):
                raise ValueError(f"cannot {what}: {mend}") from error
            if isinstance(error, FileNotFoundError | FileExistsError) or not is_transient(error):
                raise
            if attempt == TRIES:
                raise OSError(
                    f"cannot {what}: failed {TRIES} times, last with {type(error).__name__}: {error}; "
                    "run again when the store answers"
                ) from error
            time.sleep(random.uniform(0, min(LONGEST_S, BASE_S * 2**attempt)))  # "full jitter" (AWS, 2015)
    raise AssertionError


def is_transient(error: BaseException) -> bool:
    """Whether the same call may succeed a moment later."""
    for cause in _chain(error):
        if isinstance(cause, ConnectionError | TimeoutError) or type(cause).__name__ in TRANSIENT_NAMES:
            return True
        status, code = _answer(cause)
        if status in TRANSIENT_STATUSES or status >= 500 or code in TRANSIENT_CODES:
            return True
    return False


def _mend(error: BaseException) -> str | None:
    """What the user must do first, or None."""
    if any(_answer(cause)[1] in TRANSIENT_CODES for cause in _chain(error)):
        return None  # RequestTimeTooSkewed comes with status 403, as denied access does
    for cause in _chain(error):
        status, code = _answer(cause)
        if type(cause).__name__ in NO_CREDENTIALS:
            return (
                "no credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY or AWS_PROFILE (s3), run "
                "`gcloud auth application-default login` (gs), or set HF_TOKEN (hf)"
            )
        if code == "NoSuchBucket" or "bucket does not exist" in str(cause):
            return NO_BUCKET
        if isinstance(cause, PermissionError) or status in {401, 403}:
            return f"access denied ({cause}); check the credentials and the bucket's policy"
    return None


def _answer(error: BaseException) -> tuple[int, str]:
    """HTTP status and the store's own code of an error; 0 and "" where it has none."""
    response: Any = getattr(error, "response", None)
    if isinstance(response, dict):
        status = response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        return int(status), str(response.get("Error", {}).get("Code", ""))
    status = getattr(response, "status_code", None) or getattr(error, "status", None) or getattr(error, "code", None)
    return (int(str(status)) if str(status).isdigit() else 0), ""


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error and what caused it."""
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = seen.__cause__ or seen.__context__
