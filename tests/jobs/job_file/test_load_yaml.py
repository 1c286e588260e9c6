"""YAML within bounds: what is read, and what is refused with its line."""

from __future__ import annotations

import pytest

from jobs.job_file.load_yaml import load_yaml

# Each list holds the one before it ten times: 10^29 values in 30 lines.
LAUGHS = "\n".join(["a0: &a0 [x, x, x]", *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 30))])


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a: 1\nb: [x, 2.5, true, null]", {"a": 1, "b": ["x", 2.5, True, None]}),
        ("base: &b {x: 1}\nc: {<<: *b, x: 2}", {"base": {"x": 1}, "c": {"x": 2}}),
        ("a: &a [1]\nb: *a\nc: *a", {"a": [1], "b": [1], "c": [1]}),
        ("a: '2024-01-01'", {"a": "2024-01-01"}),
        (r'{"a": "\ud83e\udd8a x", "\ud83e\udd8a": "\ud83e x"}', {"a": "🦊 x", "🦊": "\ud83e x"}),  # as JSON writes it
        ("a: [0, 0.5, 089, 1_0, 0x10, 00.5]", {"a": [0, 0.5, "089", 10, 16, 0.5]}),
    ],
)
def test_values_are_read(text: str, value: object) -> None:
    assert load_yaml(text) == value


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3", "line 3: duplicate key `a`"),
        ("s: {a: 1, b: {c: 1, c: 1}}", "line 1: duplicate key `c`"),
        ("yes: 1\non: 2", "line 2: duplicate key `on`"),
        ("1: x\n0x1: y", "line 2: duplicate key `0x1`"),
        ("s: &s {a: *s}", "an alias .* inside the value that it repeats"),
        ("s: &s [[*s]]", "an alias .* inside the value that it repeats"),
        (LAUGHS, "more than 10,000 values"),
        ("x: " + "[" * 3000, "more than 20 nested sections and lists"),
        ("x: " + "{a: " * 3000, "more than 20 nested sections and lists"),
        ("a: 010", "line 1: YAML reads a number with a leading zero to base 8"),
        ("a: -1:30", "one with a colon to base 60; write it without"),
        ("a: 1:30.5", "one with a colon to base 60"),
        ("a: !!int abc", "line 1: the value is not of type int"),
        ("a: !!float abc", "the value is not of type float"),
        ("a: !!bool abc", "the value is not of type bool"),
        ("a: 2024-13-45", "YAML reads this value as a date; put it in quotes"),
        ("a: 2024-01-01 99:99:99", "YAML reads this value as a date"),
        ("a: !!timestamp abc", "YAML reads this value as a date"),
        ("a: " + "9" * 5000, "a number of more than 50 digits"),
        ("a: 0x" + "f" * 5000, "a number of more than 50 digits"),
        ("a: !!python/object:os.system x", "a type of value .* that a job file cannot have"),
        ("a: !!binary aGk=", "a type of value .* that a job file cannot have"),
        ("a:\n\tb: 1", "line 2: found character"),
        ("a: [", "line 1: expected"),
        ("? [a]\n: b", "found unhashable key"),
        ("--- a\n--- b", "found another document"),
        ("\x00", "unacceptable character #x0000"),
    ],
)
def test_a_text_out_of_bounds_is_refused_with_its_line(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as refused:
        load_yaml(text)
    assert len(str(refused.value)) < 300


@pytest.mark.parametrize("text", ["a: *hunter2", "a: !hunter2 x", "a: !h!hunter2 x", "a: 'hunter2", "a: {hunter2"])
def test_a_refused_value_is_not_shown(text: str) -> None:
    with pytest.raises(ValueError, match="line 1") as refused:
        load_yaml(text)
    assert "hunter2" not in str(refused.value)
