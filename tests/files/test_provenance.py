"""What a file of predictions says of whoever made it."""

from __future__ import annotations

import os

import pytest

from hermes.aeriel.files._provenance import _user

NOBODY = 54321


@pytest.mark.root
def test_a_user_without_a_name_is_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(variable, raising=False)
    reading, writing = os.pipe()
    if (child := os.fork()) == 0:
        try:
            os.setuid(NOBODY)
            os.write(writing, _user(os.getuid()).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as said:
        assert said.read() == str(NOBODY)
    assert os.waitpid(child, 0)[1] == 0
