from __future__ import annotations

import pytest

from perception.cli import main


@pytest.fixture
def fails(capfd, tmp_path, monkeypatch):
    """Run a command that must fail, and return its message."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str, code: int) -> str:
        assert main(list(arguments)) == code
        error = capfd.readouterr().err
        assert "Traceback" not in error
        assert error.count("perception: ") == 1
        return error.split("perception: ", 1)[1]

    return run
