"""README and docs: every command, option, job file, key, file and module that they name is one that exists."""

from __future__ import annotations

import ast
import re
import shlex
import textwrap
from pathlib import Path

import click
import pytest
import yaml

from jobs.cli.main import cli
from jobs.job_file.read import check_fields
from tests.support.advice import KEYS, options_of
from tests.support.command import run

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")])
FENCE = re.compile(r"^( *)```(\w+)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
HERE_DOCUMENT = re.compile(r"<<'EOF'\n(.*?)^EOF$", re.MULTILINE | re.DOTALL)

# Programs that are not ours. What they are given is not checked beyond the files of this project that it names.
OTHERS = {
    *(
        "apt-get",
        "aws",
        "base64",
        "bash",
        "cat",
        "docker",
        "git",
        "kubectl",
        "mkdir",
        "mkdocs",
        "openssl",
        "pip",
        "pre-commit",
    ),
    *("pytest", "python3", "ray", "sha256sum"),
    *(".", "cd", "done", "export", "for", "sleep"),
}
FOLDERS = ("actors", "benchmarks", "deploy", "docs", "examples", "jobs", "tests", "workflows")
_ENDING = r"(?:[\w-]+\.(?:json|yaml|parquet|png|py|md)|(?=`))"  # of a file, or of a folder in backticks
FILE = re.compile(rf"(?<![\w/.-])(?:{'|'.join(FOLDERS)})(?:/[\w.-]+)*/{_ENDING}")
INLINE_CODE = re.compile(r"`([^`\n]+)`")
MODULE = re.compile(r"(?<![\w/.-])(?:actors|benchmarks|examples|jobs|tests|workflows)(?:\.\w+)+(?![\w/])")
KEY = re.compile(r"(?<![\w/.-])(?:images|judge|model|sampling|schedule|storage|workers)\.\w+")


def blocks(language: str) -> list[tuple[str, str]]:
    """The fenced blocks of all pages, each with its page."""
    return [
        (str(page.relative_to(ROOT)), textwrap.dedent(block))
        for page in PAGES
        for _indent, fence, block in FENCE.findall(page.read_text(encoding="utf-8"))
        if fence == language
    ]


def commands(block: str) -> list[list[str]]:
    """The simple commands of a shell block as words; comments, redirections and here-documents are cut off."""
    found = []
    for line in HERE_DOCUMENT.sub("", block).replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars=";&|<>()")
        lexer.commenters, lexer.whitespace_split = "#", True
        command: list[str] = []
        for word in [*lexer, ";"]:
            if set(word) <= set(";&|()"):
                found.append(command)
                command = []
            elif word not in ("do", "then"):
                command.append(word)
    return [command[: command.index("<<") if "<<" in command else None] for command in found if command]


def parse(words: list[str]) -> None:
    """Hold the arguments of `janus-batch` against the command line itself. Raises click.ClickException."""
    verb, *arguments = words
    command = cli.get_command(click.Context(cli), verb)
    if command is None:
        raise click.UsageError(f"no verb {verb}")
    command.make_context(verb, arguments)


OUR_COMMANDS = [
    pytest.param(words[1:], id=f"{page}: {' '.join(words[1:])}"[:90])
    for page, block in blocks("sh")
    for words in commands(block)
    if words[0] == "janus-batch"
]
JOB_FILES = [pytest.param(page, block, id=page) for page, block in blocks("yaml") if "prompts:" in block] + [
    pytest.param("docs/schedule.md", block, id="docs/schedule.md: a trial")
    for page, shell in blocks("sh")
    for block in HERE_DOCUMENT.findall(shell)
]
EXAMPLES = sorted((ROOT / "examples").rglob("*.yaml"))


def test_the_pages_hold_commands_and_job_files() -> None:
    assert len(OUR_COMMANDS) >= 20
    assert len(JOB_FILES) >= 3


@pytest.mark.parametrize("words", OUR_COMMANDS)
def test_a_command_of_the_docs_is_one_the_program_takes(words: list[str]) -> None:
    parse(words)


@pytest.mark.parametrize("words", [["rendr", "JOB.yaml"], ["render", "JOB.yaml", "--adress"], ["export", "OUT"]])
def test_a_command_it_does_not_take_is_found(words: list[str]) -> None:
    with pytest.raises(click.UsageError):
        parse(words)


def test_every_other_program_is_a_known_one() -> None:
    programs = {words[0] for _page, block in blocks("sh") for words in commands(block)}
    assert programs - OTHERS <= {"janus-batch", "python"}


@pytest.mark.parametrize(("page", "block"), JOB_FILES)
def test_a_job_file_of_the_docs_is_valid(page: str, block: str) -> None:
    check_fields(yaml.safe_load(block))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_job_file_of_the_examples_is_valid(path: Path) -> None:
    check_fields(yaml.safe_load(path.read_text(encoding="utf-8")))


each_page = pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))


@each_page
def test_every_file_and_folder_that_a_page_names_exists(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert [name for name in FILE.findall(text) if not (ROOT / name).exists()] == []


@each_page
def test_every_module_that_a_page_names_exists(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert [name for name in MODULE.findall(text) if not is_module(name)] == []


def is_module(name: str) -> bool:
    """Whether a dotted name is a module or package of this project, or a top-level name in one."""
    path = ROOT.joinpath(*name.split("."))
    if path.is_dir() or path.with_suffix(".py").is_file():
        return True
    source = path.parent.with_suffix(".py")
    tree = ast.parse(source.read_text(encoding="utf-8")) if source.is_file() else ast.Module([], [])
    return path.name in {getattr(node, "name", "") for node in tree.body}


def test_a_module_that_does_not_exist_is_found() -> None:
    assert [is_module(name) for name in ("jobs.cli.main", "jobs", "actors.noise.derive_seed")] == [True] * 3
    assert [is_module(name) for name in ("jobs.clie", "actors.noise.nothing", "nothing.at.all")] == [False] * 3


@each_page
def test_every_key_of_a_job_file_that_a_page_names_exists(page: Path) -> None:
    codes = INLINE_CODE.findall(page.read_text(encoding="utf-8"))
    named = {key for code in codes for key in KEY.findall(code) if not key.endswith((".py", ".md"))}
    assert sorted(named - KEYS) == []


@each_page
def test_every_option_of_ours_that_a_page_names_exists(page: Path) -> None:
    codes = INLINE_CODE.findall(page.read_text(encoding="utf-8"))
    ours = [code.split() for code in codes if code.startswith("janus-batch ")]
    wrong = [
        f"{verb}: {option}"
        for _program, verb, *words in (words for words in ours if len(words) > 1)
        for option in (None, *(word.partition("=")[0] for word in words if word.startswith("-")))
        if option not in options_of(verb)
    ]
    assert wrong == []


@pytest.mark.slow
def test_the_commands_of_the_docs_work_one_after_the_other(tmp_path: Path) -> None:
    out, export, state = tmp_path / "out", tmp_path / "export", tmp_path / "schedule.sqlite"
    settings = [f"output={out}", "model.checkpoint=toy", "sampling.cfg_weight=[1,2]", "workers.max=1"]
    changes = [word for setting in settings for word in ("--set", setting)]
    for words in (
        ["plan", "examples/quickstart.yaml", *changes],
        ["render", "examples/quickstart.yaml", *changes],
        ["status", out],
        ["verify", out, "--replay", "10"],
        ["replay", out, "shapes-03_0_w2", "--to", tmp_path / "image.png"],
        ["init", tmp_path / "job.yaml"],
        ["plan", tmp_path / "job.yaml"],
        ["report", out],
        ["export", out, export, "--layout", "imagefolder"],
        ["retry-rejected", out],
        ["doctor", "tests/data/janus-tiny"],
        ["schedule", "examples/nightly.yaml", "--list", "--state", state],
        ["schedule", "examples/nightly.yaml", "--to", "cron"],
        ["schedule", "examples/nightly.yaml", "--to", "kuberay", "--image", "registry.example.com/janus-batch:0.1.0"],
        [
            "schedule",
            "examples/quickstart.yaml",
            "--once",
            "--state",
            state,
            *changes,
            "--set",
            "schedule.cron=0 2 * * *",
        ],
    ):
        result = run(*words)
        assert result.returncode == 0, f"{words}\n{result.stdout}\n{result.stderr}"
    assert (out / "report.html").exists()
    assert (export / "README.md").exists()
