"""The command line of the project, run in this process on a job file that the test changes."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import pytest
import yaml

from jobs.cli.main import main


class Command:
    """The command line, run in this process."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self._monkeypatch, self._capsys = folder, monkeypatch, capsys
        self.job_file, self.fields = folder / "job.yaml", {}

    def write(self, **fields: object) -> None:
        """The job file, with changes to what it held before."""
        self.fields = {**self.fields, **fields}
        self.job_file.write_text(yaml.safe_dump(self.fields))

    def __call__(self, *arguments: str) -> tuple[int, str, str]:
        """The exit code, standard output and standard error."""
        self._monkeypatch.setattr(sys, "argv", ["janus-batch", *arguments])
        handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        with pytest.raises(SystemExit) as exit_:
            main()
        for number, handler in handlers.items():
            signal.signal(number, handler)
        return (exit_.value.code or 0, *self._capsys.readouterr())
