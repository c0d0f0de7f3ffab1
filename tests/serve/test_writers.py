"""A user is warned of others who can change what a server runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from hermes.aeriel.serve._writers import warn_of_writers


@pytest.mark.parametrize(
    ("mode", "warning"),
    [
        (0o777, "every user of this machine can write the model repository"),
        (0o775, "all users of its group can write the model repository"),
        (0o770, "all users of its group can write the model repository"),
        (0o755, None),
        (0o1757, None),
    ],
)
def test_others_who_can_write_are_warned_of(
    mode: int, warning: str | None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    models = tmp_path / "models"
    models.mkdir()
    models.chmod(mode)
    warn_of_writers(models, "model repository")
    expected = [] if warning is None else [f"{warning} {models}"]
    assert caplog.messages == expected


def test_a_url_has_rules_of_its_own(caplog: pytest.LogCaptureFixture) -> None:
    warn_of_writers(Path("s3://bucket/models"), "model repository")
    assert caplog.messages == []
