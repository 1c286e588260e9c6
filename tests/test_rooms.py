"""The rules of the three rooms: who may import whom, what loads torch, how large a folder may get.

The import rules are contracts of import-linter, in pyproject.toml; `lint-imports` prints the chain that breaks one.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.support.rooms import HEAVY, Project

ROOT = Path(__file__).parents[1]
MAX_ENTRIES = 18  # modules and packages in one folder

# The files that know Ray: the cluster, its guests and its actors, Ray's errors, the path of one shard, the metrics, and
# the client of Ray's job server.
RAY_FILES = (
    *(
        f"workflows/dispatch/{name}.py"
        for name in (
            "actor",
            "cluster",
            "failures",
            "embedded/guest",
            "metrics",
            "part_actors",
            "ray_start",
            "side_task",
            "steps",
        )
    ),
    "jobs/submit/job_server.py",
)


@pytest.fixture(scope="module")
def project() -> Project:
    return Project(ROOT)


def test_the_rooms_are_read(project: Project) -> None:
    assert {"actors/request.py", "workflows/plan.py", "jobs/cli/main.py"} <= {
        str(source.path) for source in project.rooms
    }


def test_the_import_contracts_hold() -> None:
    """In a process of its own: import-linter disables the loggers of the process that it runs in."""
    program = "from importlinter.cli import lint_imports; raise SystemExit(lint_imports(no_cache=True, no_logo=True))"
    checked = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)

    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_the_rooms_import_no_other_folder(project: Project) -> None:
    assert project.imports_of_other_folders() == []


def test_no_folder_is_a_drawer(project: Project) -> None:
    assert project.crowded_folders(MAX_ENTRIES) == []


def test_workflows_lists_its_contents_in_the_order_of_the_data() -> None:
    """The docstring of the package is its table of contents; import-linter enforces the same order."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    layers = next(contract["layers"] for contract in contracts if contract.get("containers") == ["workflows"])
    listed = re.findall(r"^(\w+)  ", (ROOT / "workflows/__init__.py").read_text(), flags=re.MULTILINE)

    assert listed == layers[::-1]


@pytest.mark.parametrize("package", HEAVY)
def test_only_actors_import(project: Project, package: str) -> None:
    assert project.imports_outside(package, ("actors",)) == []


def test_importing_a_module_of_jobs_or_workflows_loads_nothing_heavy(project: Project) -> None:
    assert project.heavy_at_import_time(("workflows", "jobs")) == []


@pytest.mark.parametrize("module", ["fcntl", "grp", "pty", "pwd", "readline", "resource", "syslog", "termios", "tty"])
def test_nothing_that_only_unix_has_is_imported(project: Project, module: str) -> None:
    assert project.imports_outside(module, ()) == []


def test_ray_is_named_in_a_few_files_only(project: Project) -> None:
    assert project.imports_outside("ray", RAY_FILES) == []


def test_packages_hold_a_docstring_and_nothing_else(project: Project) -> None:
    assert project.packages_that_do_something() == []


def test_no_file_has_the_name_of_a_standard_module(project: Project) -> None:
    assert project.names_of_standard_modules() == []


def test_no_checkpoint_runs_code(project: Project) -> None:
    assert project.code_from_checkpoints() == []


@pytest.mark.parametrize(
    ("check", "files", "broken"),
    [
        (Project.imports_of_other_folders, {"workflows/a.py": "from . import b"}, "workflows/a.py:1 imports "),
        (Project.imports_of_other_folders, {"jobs/a.py": "import tests.support"}, "jobs/a.py:1 imports tests.support"),
        (
            lambda project: project.crowded_folders(1),
            {"jobs/__init__.py": "", "jobs/a.py": "", "jobs/b/__init__.py": "", "jobs/b/c.py": ""},
            "jobs has 2 entries, allowed are 1",
        ),
        (
            lambda project: project.imports_outside("torch", ("actors",)),
            {"jobs/a.py": "if TYPE_CHECKING:\n    from torch import nn", "actors/a.py": "import torch"},
            "jobs/a.py:2 imports torch",
        ),
        (
            lambda project: project.imports_outside("ray", ("workflows/dispatch/cluster.py",)),
            {"workflows/dispatch/cluster.py": "import ray", "workflows/cluster2.py": "import ray.exceptions"},
            "workflows/cluster2.py:1 imports ray.exceptions",
        ),
        (
            lambda project: project.heavy_at_import_time(("jobs",)),
            {
                "jobs/a.py": "from workflows import b",
                "workflows/b.py": "try:\n    import actors.c\nexcept ImportError:\n    raise",
                "actors/c.py": "class C:\n    from torch import nn",
            },
            "jobs.a -> workflows.b -> actors.c -> torch",
        ),
        (Project.packages_that_do_something, {"jobs/__init__.py": '"""Jobs."""\nVERSION = 1'}, "jobs/__init__.py"),
        (Project.names_of_standard_modules, {"workflows/queue.py": ""}, "workflows/queue.py"),
        (
            Project.code_from_checkpoints,
            {"actors/a.py": "torch.load(f, weights_only=False)"},
            "actors/a.py:1 calls torch.load without weights_only=True",
        ),
        (
            Project.code_from_checkpoints,
            {"benchmarks/a.py": "AutoModel.from_pretrained(x, trust_remote_code=True)"},
            "benchmarks/a.py:1 passes trust_remote_code",
        ),
    ],
)
def test_a_broken_rule_is_found(tmp_path: Path, check, files: dict[str, str], broken: str) -> None:
    write(tmp_path, files)

    assert broken in check(Project(tmp_path))


def test_what_runs_later_or_never_is_not_loaded_at_import_time(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "jobs/a.py": "if TYPE_CHECKING:\n    from actors import b\ndef f():\n    import actors.b",
            "actors/b.py": "import torch",
        },
    )

    assert Project(tmp_path).heavy_at_import_time(("jobs",)) == []
    assert Project(tmp_path).heavy_at_import_time(("actors",)) == ["actors.b -> torch"]


def test_help_loads_neither_torch_nor_ray() -> None:
    assert not {*HEAVY, "ray"} & loaded_by("--help")


@pytest.mark.parametrize("checkpoint", ["toy", str(ROOT / "tests/data/janus-tiny")])
def test_plan_loads_neither_torch_nor_ray(tmp_path: Path, checkpoint: str) -> None:
    pq.write_table(pa.table({"prompt": ["a red square", "a blue circle"]}), tmp_path / "prompts.parquet")
    job = tmp_path / "job.yaml"
    job.write_text(
        f"name: rooms\nprompts: {tmp_path}/prompts.parquet\noutput: {tmp_path}/renders\n"
        f"model: {{checkpoint: {checkpoint}}}\n"
    )

    loaded = loaded_by("plan", str(job))

    assert "pyarrow" in loaded
    assert not {*HEAVY, "ray"} & loaded


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


def loaded_by(*arguments: str) -> set[str]:
    """The packages that `janus-batch ARGUMENTS` imports, as Python itself lists them."""
    command = [sys.executable, "-X", "importtime", "-m", "jobs", *arguments]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    timings = [line for line in result.stderr.splitlines() if line.startswith("import time:")]
    return {line.rsplit("|", 1)[1].strip().split(".")[0] for line in timings}
