"""The program's own packages come first, whatever a user's files are called and wherever they lie."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from janus_batch import INTERRUPTED, VERSION
from tests.support.command import ROOT, write_job
from tests.support.named_alike import NAMES, as_folders, as_modules, as_packages
from tests.support.servers.process import dies_with_parent
from tests.support.toy_job import make_job, manifest_of, write_prompts

# What pip writes for the entry point. Python puts its folder first on the search path, then PYTHONPATH.
SCRIPT = "import sys\nfrom janus_batch import main\nif __name__ == '__main__':\n    sys.exit(main())\n"


FORMS = (as_modules, as_packages, as_folders)


@pytest.fixture
def job_file(tmp_path: Path) -> Path:
    prompts = write_prompts(tmp_path / "prompts.parquet", {"prompt": ["a red square", "a blue circle"]})
    return write_job(tmp_path / "job.yaml", prompts, tmp_path / "out", workers={"max": 1})


def run(program: list[str], *arguments: str | Path, cwd: Path, on_path: Path) -> subprocess.CompletedProcess[str]:
    """The program in a user's folder, with another of the user's folders first on PYTHONPATH."""
    environment = {**os.environ, "PYTHONPATH": f"{on_path}{os.pathsep}{ROOT}"}
    command = [*dies_with_parent(), sys.executable, *program, *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300)


@pytest.fixture(params=["script", "file", "module"])
def program(request: pytest.FixtureRequest, tmp_path: Path) -> list[str]:
    """`janus-batch`, `python -P FOLDER/janus_batch.py` and `python -m jobs`."""
    script = tmp_path / "bin" / "janus-batch"
    script.parent.mkdir()
    script.write_text(SCRIPT)
    return {"script": [str(script)], "file": ["-P", f"{ROOT}/janus_batch.py"], "module": ["-m", "jobs"]}[request.param]


def folders(tmp_path: Path) -> tuple[Path, Path]:
    here, on_path = tmp_path / "here", tmp_path / "on-path"
    here.mkdir()
    on_path.mkdir()
    return here, on_path


@pytest.mark.parametrize("form", FORMS)
def test_a_plan_is_made_next_to_files_of_the_same_names(
    form, program: list[str], job_file: Path, tmp_path: Path
) -> None:
    here, on_path = folders(tmp_path)
    names = ("actors", "workflows") if program == ["-m", "jobs"] else NAMES  # Python would run the user's own `jobs`
    form(here, names)
    form(on_path, names)

    answer = run(program, "plan", job_file, cwd=here, on_path=on_path)

    assert answer.returncode == 0, answer.stderr
    assert "2, of which 0 are done" in answer.stdout


def test_a_current_folder_that_was_removed_is_named(tmp_path: Path) -> None:
    command = f'rmdir "$PWD"; exec {sys.executable} -P {ROOT}/janus_batch.py --help'

    answer = subprocess.run(command, shell=True, cwd=tmp_path, capture_output=True, text=True, timeout=60)

    assert (answer.returncode, answer.stdout) == (2, "")
    assert answer.stderr == "janus-batch: the current folder is gone or cannot be read; change to another folder\n"


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize(("form_here", "form_on_path"), [(as_modules, as_packages), (as_packages, as_modules)])
def test_workers_import_the_programs_own_packages(form_here, form_on_path, job_file: Path, tmp_path: Path) -> None:
    here, on_path = folders(tmp_path)
    form_here(here)
    form_on_path(on_path)

    answer = run(["-P", f"{ROOT}/janus_batch.py"], "render", job_file, cwd=here, on_path=on_path)

    assert answer.returncode == 0, answer.stderr
    assert len(manifest_of(make_job("", tmp_path / "out"))) == 2


def test_a_package_that_was_imported_before_is_named(tmp_path: Path) -> None:
    here, _ = folders(tmp_path)
    (here / "actors.py").write_text("")
    first = "import sys, actors, janus_batch\nsys.argv = ['janus-batch', '--version']\njanus_batch.main()"

    answer = run(["-c", first], cwd=here, on_path=here)

    assert answer.returncode == 2
    assert answer.stderr == (
        f"janus-batch: {here.resolve()}/actors.py is in the way of janus-batch's own package `actors`, because it was "
        "imported first; rename it\n"
    )


def test_the_version_is_the_installed_one() -> None:
    assert version("janus-batch") == VERSION


def test_an_older_python_is_refused_with_both_versions(tmp_path: Path) -> None:
    """That of a cluster, for example, which runs the uploaded program."""
    program = "import sys, janus_batch; sys.version_info = (3, 10, 4); janus_batch.main()"
    answer = run(["-c", program], cwd=tmp_path, on_path=tmp_path)

    assert answer.returncode == 2
    assert answer.stderr == f"janus-batch: needs Python 3.11 or later, {sys.executable} is Python 3.10\n"


def test_a_missing_dependency_is_named_without_a_traceback(tmp_path: Path) -> None:
    (tmp_path / "click.py").write_text("raise ModuleNotFoundError(\"No module named 'click'\")\n")
    answer = run(["-m", "jobs"], "--version", cwd=tmp_path, on_path=tmp_path)

    assert (answer.returncode, answer.stderr) == (2, "janus-batch: No module named 'click'\n")


SIGNALS = [signal.SIGINT, signal.SIGTERM]


@pytest.mark.parametrize("number", SIGNALS, ids=["SIGINT", "SIGTERM"])
def test_a_signal_while_the_program_loads_ends_it_with_one_line(number: signal.Signals, tmp_path: Path) -> None:
    (tmp_path / "click.py").write_text(f"import os\nos.kill(os.getpid(), {number.value})\n")

    answer = run(["-m", "jobs"], "--version", cwd=tmp_path, on_path=tmp_path)

    assert (answer.returncode, answer.stdout, answer.stderr) == (1, "", f"{INTERRUPTED}\n")


def run_verb(tmp_path: Path, number: signal.Signals, *lines: str) -> tuple[int, str, str]:
    """The exit code and the output of a verb of these lines, in which `interrupt()` sends the process a signal."""
    program = (
        "import atexit, os, sys, click, janus_batch, jobs.cli.main as main",
        f"def interrupt(kill=os.kill, process=os.getpid()): kill(process, {number.value})",
        "@main.cli.command()",
        "def verb():",
        *(f"    {line}" for line in lines),
        "sys.argv[1:] = ['verb']",
        "janus_batch.main()",
    )
    answer = run(["-c", "\n".join(program)], cwd=tmp_path, on_path=tmp_path)
    return answer.returncode, answer.stdout, answer.stderr


@pytest.mark.parametrize("number", SIGNALS, ids=["SIGINT", "SIGTERM"])
def test_a_signal_ends_a_verb_that_has_not_started_ray_with_one_line(number: signal.Signals, tmp_path: Path) -> None:
    assert run_verb(tmp_path, number, "interrupt()") == (1, "", f"\n{INTERRUPTED}\n")


@pytest.mark.parametrize("number", SIGNALS, ids=["SIGINT", "SIGTERM"])
@pytest.mark.parametrize(
    "when",
    ["atexit.register(interrupt)", "main.at_the_end = type('AtTheEnd', (), {'__del__': lambda self: interrupt()})()"],
    ids=["Ray shuts down", "Python ends"],
)
@pytest.mark.parametrize("code", [0, 1])
def test_a_signal_after_the_result_changes_nothing(
    code: int, when: str, number: signal.Signals, tmp_path: Path
) -> None:
    lines = (when, "sys.stdout.write('the result')", f"sys.exit({code})")

    assert run_verb(tmp_path, number, *lines) == (code, "the result", "")
