"""Which answers of object stores are tried again, and which are the user's to mend."""

import pytest

from synthclone.gen import retry


class StoreError(Exception):
    """An answer as botocore gives it (`response` is a dictionary) or httpx (an object with a status)."""

    def __init__(self, status, code=None):
        super().__init__(f"{status} {code}")
        self.status = status
        if code:
            self.response = {"ResponseMetadata": {"HTTPStatusCode": status}, "Error": {"Code": code}}


@pytest.mark.parametrize(
    "answer",
    [
        StoreError(403, "RequestTimeTooSkewed"),
        StoreError(503, "SlowDown"),
        StoreError(409),  # Hugging Face: another commit is under way
        StoreError(412),  # Hugging Face: a commit has come between
        StoreError(429),
        StoreError(500),
    ],
    ids=str,
)
@pytest.mark.parametrize("wrapped", [False, True], ids=["bare", "as s3fs wraps it"])
def test_passing_answers_are_tried_again(monkeypatch, answer, wrapped):
    monkeypatch.setattr(retry, "BASE_S", 0.0)
    tries = []

    def action():
        tries.append(1)
        if len(tries) < 3:
            if wrapped:
                raise (PermissionError if answer.status == 403 else OSError)(str(answer)) from answer
            raise answer
        return "done"

    assert retry.persist(action, "write s3://b/a") == "done" and len(tries) == 3


@pytest.mark.parametrize("answer", [StoreError(403, "AccessDenied"), StoreError(401), PermissionError("no")], ids=str)
def test_denied_access_is_not(answer):
    tries = []

    def action():
        tries.append(1)
        raise answer

    with pytest.raises(ValueError, match="cannot write s3://b/a: access denied"):
        retry.persist(action, "write s3://b/a")
    assert len(tries) == 1
