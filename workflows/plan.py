"""The plan: which row ranges of which prompt files remain to be rendered, cut into shards.

It is made from the footers of the prompt files and the names of the committed parts. No prompt row is read.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from actors.errors import InputError
from workflows.prompt_files.formats import names_with_same_ids
from workflows.prompt_files.ids import file_label, name_hash
from workflows.prompts import PromptFile

_SHARD_ID = re.compile(r".*-(?P<file>[0-9a-f]{12})-(?P<version>[0-9a-f]{8})-(?P<start>\d{9,})-(?P<stop>\d{9,})$")
_PART_ID = re.compile(r"(?P<shard>.+)\.retry-(?P<retry>\d+)$")
_PART_OF_FILE = re.compile(r"\w+/(?P<part>[^/]*-[0-9a-f]{12}-[0-9a-f]{8}-\d{9,}-\d{9,}(\.retry-\d+)?)[./]")


class SourceChangedError(InputError):
    """A prompt file changed after some of its rows were rendered into this output."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Shard:
    """Rows `start` to `stop` of one prompt file: the unit of dispatch, of retry and of commit.

    `retry` is 0 for the first rendering, which renders all their images. Retry 1, 2, ... (`retry-rejected`) renders
    the `num_rejected` images that the shard's last part rejected. With `is_repair`, these are the images that
    `verify --repair` took out of the manifest, and no others.
    """

    file: PromptFile
    start: int
    stop: int
    retry: int = 0
    num_rejected: int = 0
    is_repair: bool = False

    @property
    def id(self) -> str:
        """`<file stem>-<hash of its name>-<its version>-<start>-<stop>`, followed by `.retry-<number>` for retries.

        It depends on this file and range alone, so other files can be added to a job.
        """
        shard_id = f"{file_label(self.file.name)}-{self.file.version}-{self.start:09d}-{self.stop:09d}"
        return part_id(shard_id, self.retry)

    @property
    def num_rows(self) -> int:
        return self.stop - self.start

    def num_images(self, images_per_row: int) -> int:
        """An upper bound for the number of images: a row with a weight of its own is not swept."""
        return self.num_rejected if self.retry else self.num_rows * images_per_row


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """The prompt files of a job and the row ranges that are committed: file name -> sorted (start, stop).

    `repairs` are committed shards of which some images are to be re-rendered, see `workflows.output.repairs`.
    """

    files: tuple[PromptFile, ...]
    committed: dict[str, list[tuple[int, int]]]
    shard_rows: int
    repairs: tuple[Shard, ...] = ()

    @property
    def num_rows(self) -> int:
        return sum(file.num_rows for file in self.files)

    @property
    def num_rows_in_files(self) -> int | None:
        """All rows of the prompt files, selected or not; None if not all of them were read."""
        if any(file.is_cut for file in self.files):
            return None
        return sum(file.num_rows if file.num_file_rows is None else file.num_file_rows for file in self.files)

    @property
    def num_rows_committed(self) -> int:
        """Committed rows of the files as they are now. A row in two overlapping shards counts once."""
        return self.num_rows - sum(stop - start for file in self.files for start, stop in self._gaps(file))

    def num_images(self, images_per_row: int) -> int:
        """Images that the prompt files ask for at most: a row with its own weight is not swept."""
        return self.num_rows * images_per_row

    def num_images_committed(self, images_per_row: int) -> int:
        """Images that the committed rows ask for at most, without those to repair."""
        return self.num_rows_committed * images_per_row - self.num_images_to_repair

    def num_images_remaining(self, images_per_row: int) -> int:
        """Images that are left to render at most."""
        return self.num_rows_remaining * images_per_row + self.num_images_to_repair

    @property
    def num_images_to_repair(self) -> int:
        return sum(shard.num_rejected for shard in self.repairs)

    @property
    def num_rows_remaining(self) -> int:
        return self.num_rows - self.num_rows_committed

    @property
    def num_shards_remaining(self) -> int:
        gaps = (gap for file in self.files for gap in self._gaps(file))
        return len(self.repairs) + sum(-(-(stop - start) // self.shard_rows) for start, stop in gaps)

    def remaining_shards(self) -> Iterator[Shard]:
        """The shards that are not committed, one at a time, so that memory does not grow with their number."""
        yield from self.repairs
        for file in self.files:
            for gap_start, gap_stop in self._gaps(file):
                for start in range(gap_start, gap_stop, self.shard_rows):
                    yield Shard(file=file, start=start, stop=min(start + self.shard_rows, gap_stop))

    def is_committed(self, file: PromptFile, position: int) -> bool:
        """Whether a row is committed, given its position among the rows of the file to render."""
        ranges = self.committed.get(file.name, [])
        index = bisect_right(ranges, position, key=lambda start_stop: start_stop[0]) - 1
        return index >= 0 and position < ranges[index][1]

    def _gaps(self, file: PromptFile) -> Iterator[tuple[int, int]]:
        """The row ranges of a file that are not committed."""
        position = 0
        for start, stop in [*self.committed.get(file.name, []), (file.num_rows, file.num_rows)]:
            if position < start:
                yield position, start
            position = max(position, stop)


@dataclass(frozen=True, kw_only=True, slots=True)
class RetryPlan:
    """The shards with rejected images to retry. The dispatch loop reads it like a `Plan`."""

    shards: tuple[Shard, ...]

    def num_images(self, images_per_row: int) -> int:
        """The rejected images, which this plan retries."""
        return sum(shard.num_images(images_per_row) for shard in self.shards)

    def num_images_committed(self, images_per_row: int) -> int:
        return 0

    @property
    def num_shards_remaining(self) -> int:
        return len(self.shards)

    def remaining_shards(self) -> Iterator[Shard]:
        return iter(self.shards)


def make_plan(files: Iterable[PromptFile], committed_shards: Iterable[str], shard_rows: int) -> Plan:
    """Subtract committed shards, given by their ids, from the files. Raises SourceChangedError for a changed file."""
    files = tuple(files)
    by_hash = {name_hash(file.name): file for file in files}
    committed: dict[str, list[tuple[int, int]]] = defaultdict(list)
    gone: dict[tuple[str, str], int] = defaultdict(int)
    for shard_id in committed_shards:
        match = _SHARD_ID.match(shard_id)
        if match is None:
            continue
        if match["file"] not in by_hash:  # of a prompt file that was removed since: its images stay
            key = match["file"], match["version"]
            gone[key] = max(gone[key], int(match["stop"]))
            continue
        file = by_hash[match["file"]]
        if match["version"] != file.version:
            raise SourceChangedError(
                f"prompts: {file.url} was changed after rows of it were rendered into this output (its version was "
                f"{match['version']}, now {file.version}). Put the old file back, give the new rows a file of their "
                "own, or render into another output folder. An output whose versions come from modification times, as "
                "before 2026-11-26, cannot be resumed"
            )
        committed[file.name].append((int(match["start"]), int(match["stop"])))
    _check_none_is_renamed((file for file in files if gone and file.name not in committed), gone)
    return Plan(files=files, committed={name: sorted(r) for name, r in committed.items()}, shard_rows=shard_rows)


def _check_none_is_renamed(files: Iterable[PromptFile], gone: dict[tuple[str, str], int]) -> None:
    """Raise SourceChangedError for a file without committed rows that were rendered from a file which is `gone`.

    `gone`: (hash of its name, version) -> its last committed row.
    """
    last_rows = {version: row for (_, version), row in gone.items()}
    for file in files:
        names = {name_hash(name): name for name in names_with_same_ids(file.name)}
        renamed = next((names[name] for name, _ in gone if name in names), None)
        if renamed is not None or last_rows.get(file.version, file.num_rows + 1) <= file.num_rows:
            what = f"the ids of the rows of {renamed}" if renamed else "the content of a file with another name"
            raise SourceChangedError(
                f"prompts: {file.url} has {what}, which was rendered into this output and is gone. A file with a new "
                "name is re-rendered: give it its old name and format, or render into another output folder"
            )


def shard_of(files: Iterable[PromptFile], shard_id: str, *, retry: int) -> Shard | None:
    """A retry of a committed shard; None if its prompt file was removed. `make_plan` refuses a changed file."""
    match = _SHARD_ID.match(shard_id)
    by_hash = {name_hash(file.name): file for file in files}
    if match is None or match["file"] not in by_hash:
        return None
    return Shard(file=by_hash[match["file"]], start=int(match["start"]), stop=int(match["stop"]), retry=retry)


def part_id(shard_id: str, retry: int) -> str:
    """The id of a part of the manifest: the shard's id, followed by the number of the retry."""
    return f"{shard_id}.retry-{retry}" if retry else shard_id


def split_part_id(part: str) -> tuple[str, int]:
    """The shard id and the retry number (0: the shard's own part) in the id of a part."""
    match = _PART_ID.match(part)
    return (match["shard"], int(match["retry"])) if match else (part, 0)


def is_part_id(text: str) -> bool:
    """Whether a text is the id of a part: other programs put files next to the manifest's."""
    return _SHARD_ID.match(split_part_id(text)[0]) is not None


def part_of_file(name: str) -> str | None:
    """The id of the part that a file of an output was written for, by any attempt; None for other files."""
    match = _PART_OF_FILE.match(name)
    return match["part"] if match else None


def row_range(part: str) -> tuple[int, int]:
    """The rows (start, stop) in the id of a shard or of one of its parts."""
    shard_id, _ = split_part_id(part)
    match = _SHARD_ID.match(shard_id)
    if match is None:
        raise ValueError(f"a shard id must end in -<hash>-<version>-<start>-<stop>, got {shard_id!r}")
    return int(match["start"]), int(match["stop"])
