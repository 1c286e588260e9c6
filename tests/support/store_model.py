"""An object store in memory whose every request waits for a word of what becomes of it: for tests of the commit.

A request is done, refused before it is done, done with its answer lost, lost with its sender, or done much later, once
or twice. The file system below is what `workflows.storage.store.Storage` opens for `modelstore://` URLs.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Any

import fsspec

DONE, FAILS, ANSWER_LOST, KILLED, LATE, TWICE = "done", "fails", "answer lost", "killed", "late", "twice"
FATES = (DONE, FAILS, ANSWER_LOST, KILLED, LATE, TWICE)
WORLDS: dict[str, World] = {}


class Killed(BaseException):
    """The process that made the request is gone."""


class World:
    """One store and the attempts that work on it, of which one at a time takes a step: a request."""

    def __init__(self, name: str) -> None:
        self.objects: dict[str, bytes] = {}
        self.postponed: list[Callable[[], object]] = []  # writes on their way that nobody waits for any more
        self._attempts: list[_Attempt] = []
        WORLDS[name] = self

    def begin(self, work: Callable[[], object]) -> None:
        self._attempts.append(_Attempt(work))

    @property
    def waiting(self) -> list[_Attempt]:
        """The attempts that have not ended, each with a request that waits for its fate."""
        return [attempt for attempt in self._attempts if attempt.is_waiting()]

    def request(self, is_write: bool, do: Callable[[], Any]) -> Any:
        """Called by the file system: wait for the fate of this request, and meet it. Outside attempts, just do it."""
        attempt = next((attempt for attempt in self._attempts if attempt.is_current()), None)
        if attempt is None:
            return do()
        fate = attempt.wait_for_fate()
        if fate == KILLED:
            raise Killed
        if fate == FAILS or (fate == LATE and not is_write):
            raise ConnectionResetError("before it was done")
        if fate == LATE:
            self.postponed.append(do)
            raise ConnectionResetError("and yet it is done later")
        answer = do()
        if fate == TWICE and is_write:
            self.postponed.append(do)
        if fate == ANSWER_LOST:
            raise ConnectionResetError("after it was done")
        return answer


class _Attempt:
    """A thread that stops at each of its requests."""

    def __init__(self, work: Callable[[], object]) -> None:
        self.error: BaseException | None = None
        self._fates: queue.Queue[str] = queue.Queue()
        self._stopped = queue.Queue[bool]()  # True: at a request, False: at its end
        self._state: bool | None = None
        self._thread = threading.Thread(target=self._run, args=(work,), daemon=True)
        self._thread.start()

    def is_waiting(self) -> bool:
        if self._state is None:
            self._state = self._stopped.get(timeout=60)
        return self._state

    def step(self, fate: str) -> None:
        """Let the request meet its fate, and run on to the next request or the end."""
        self._state = None
        self._fates.put(fate)
        self.is_waiting()

    def is_current(self) -> bool:
        return threading.current_thread() is self._thread

    def wait_for_fate(self) -> str:
        self._stopped.put(True)
        return self._fates.get(timeout=60)

    def _run(self, work: Callable[[], object]) -> None:
        try:
            work()
        except (OSError, Killed) as error:
            self.error = error
        except BaseException as error:
            self.error = error
            raise
        finally:
            self._stopped.put(False)


class ModelStore(fsspec.AbstractFileSystem):
    """What `Storage` uses of a file system, over the objects of a world."""

    protocol = "modelstore"
    cachable = False

    def __init__(self, *, world: str, **options: Any) -> None:
        super().__init__(**options)
        self._world = WORLDS[world]

    def cat_file(self, path: str, **_: Any) -> bytes:
        return self._world.request(False, lambda: self._read(path))

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **_: Any) -> None:
        self._world.request(True, lambda: self._write(path, bytes(value), mode))

    def exists(self, path: str, **_: Any) -> bool:
        return self._world.request(False, lambda: self._strip_protocol(path) in self._world.objects)

    def ls(self, path: str, detail: bool = True, **_: Any) -> list[Any]:
        below = {name for name in self._world.objects if name.startswith(f"{self._strip_protocol(path)}/")}
        depth = self._strip_protocol(path).count("/") + 1
        children = {"/".join(name.split("/")[: depth + 1]) for name in below}
        found = [
            {
                "name": name,
                "size": len(self._world.objects.get(name, b"")),
                "type": "file" if name in self._world.objects else "directory",
            }
            for name in sorted(children)
        ]
        return found if detail else [entry["name"] for entry in found]

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        name = self._strip_protocol(path)
        if name in self._world.objects:
            return {"name": name, "size": len(self._world.objects[name]), "type": "file"}
        if any(other.startswith(f"{name}/") for other in self._world.objects):
            return {"name": name, "size": 0, "type": "directory"}
        raise FileNotFoundError(path)

    def rm_file(self, path: str) -> None:
        self._world.objects.pop(self._strip_protocol(path), None)

    def _open(self, path: str, mode: str = "rb", **_: Any) -> Any:
        import io

        return io.BytesIO(self.cat_file(path))

    def _read(self, path: str) -> bytes:
        try:
            return self._world.objects[self._strip_protocol(path)]
        except KeyError as error:
            raise FileNotFoundError(path) from error

    def _write(self, path: str, value: bytes, mode: str) -> None:
        name = self._strip_protocol(path)
        if mode == "create" and name in self._world.objects:
            raise FileExistsError(path)
        self._world.objects[name] = value


fsspec.register_implementation("modelstore", ModelStore, clobber=True)
