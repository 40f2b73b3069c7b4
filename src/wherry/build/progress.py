"""What happens in a build, as events, and the two texts people know: the classic builder's and BuildKit's plain one.

``solve`` calls one function with events; a renderer turns each into text or into the records of the API's stream.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from wherry.build.failures import BuildFailed
from wherry.errors import EngineError
from wherry.ids import short

_UNSAID = 1 << 20  # characters of what a quiet build would have said, told when it fails


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One instruction of one stage.  ``number`` of ``total`` counts over all needed stages, ``place`` of ``places`` what has files in its
    stage (BuildKit's ``[2/4]``; 0: only settings). ``text``: the instruction as written."""

    number: int
    total: int
    stage: str
    place: int
    places: int
    text: str

    @property
    def shown(self) -> str:
        """BuildKit's ``[stage 2/4] RUN ...``."""
        stage = f"{self.stage} " if self.stage else ""
        return f"[{stage}{self.place}/{self.places}] {self.text}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    step: Step


@dataclass(frozen=True, slots=True, kw_only=True)
class Started(Event):
    pass


@dataclass(frozen=True, slots=True, kw_only=True)
class Declared(Event):
    """An ARG before the first FROM: begun and finished at once, with nothing made."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cached(Event):
    """Nothing was done; a `Finished` follows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran(Event):
    """A container was started for the step; ``ended``: it is gone."""

    container_id: str
    ended: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Why(Event):
    """Why the cache could not be used."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Output(Event):
    data: bytes
    stderr: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Pulling(Event):
    """A progress record of the pull of a base image, as Docker streams them."""

    record: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished(Event):
    """``image_id``: what the stage amounts to now; ``last``: the stage is complete; ``empty``: it is ``scratch``, no image yet."""

    image_id: str
    seconds: float
    cached: bool = False
    last: bool = False
    empty: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed(Event):
    error: EngineError


@dataclass(frozen=True, slots=True, kw_only=True)
class Warned:
    """A remark about the Dockerfile; ``line``: the instruction that the classic builder warns of too, since lines in it are empty."""

    message: str
    line: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """The end: the image and its names.  ``unused_args``: given build arguments that no ARG declares."""

    image_id: str
    tags: tuple[str, ...]
    quiet: bool = False
    unused_args: tuple[str, ...] = ()


Happening = Event | Warned | Built
Progress = Callable[[Happening], None]


class ClassicRecords:
    """Events as records of ``POST /build`` (version 1): ``{"stream": ...}``, ``{"aux": {"ID": ...}}``.

    Stages that run at the same time are told one after the other, in the order of the file.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        self.quiet = quiet
        self._held: dict[int, list[Event]] = {}
        self._done: set[int] = set()
        self._head = 1
        self._ran: dict[int, str] = {}
        self._warned = False
        self._unsaid: deque[dict[str, Any]] = deque()
        self._room = _UNSAID

    def records(self, event: Happening) -> Iterator[dict[str, Any]]:
        """The records that can be sent now that ``event`` happened."""
        if isinstance(event, Built):
            yield from self._built(event)
        elif self.quiet:
            self._keep(self._told_aloud(event))
        else:
            yield from self._told_aloud(event)

    def failure(self, error: EngineError) -> Iterator[dict[str, Any]]:
        """The stream's last records when the build fails: when it was to be quiet, all that it did not say, and the error."""
        yield from self._unsaid
        yield error_record(error)

    def _keep(self, records: Iterable[dict[str, Any]]) -> None:
        for record in records:
            self._unsaid.append(record)
            self._room -= len(str(record))
            while self._room < 0:
                self._room += len(str(self._unsaid.popleft()))

    def _told_aloud(self, event: Event | Warned) -> Iterator[dict[str, Any]]:
        if isinstance(event, Warned):
            if event.line:  # the classic builder knows no other check
                yield {"stream": f"[WARNING]: Empty continuation line found in: {event.line}\n"}
                self._warned = True
        else:
            if self._warned:
                yield {"stream": "[WARNING]: Empty continuation lines will become errors in a future release.\n"}
                self._warned = False
            yield from self._ordered(event)

    def _ordered(self, event: Event) -> Iterator[dict[str, Any]]:
        number = event.step.number
        if number != self._head and not isinstance(event, Failed):
            self._held.setdefault(number, []).append(event)
            return
        yield from self._told(event)
        if isinstance(event, Finished | Declared):
            self._head += 1
            yield from self._release()

    def _release(self) -> Iterator[dict[str, Any]]:
        while self._head in self._held:
            events = self._held.pop(self._head)
            for event in events:
                yield from self._told(event)
            if not isinstance(events[-1], Finished):
                return
            self._head += 1

    def _told(self, event: Event) -> Iterator[dict[str, Any]]:
        if isinstance(event, Ran):
            self._ran[event.step.number] = event.container_id
        yield from _classic(event, self._ran.get(event.step.number, ""))

    def _built(self, event: Built) -> Iterator[dict[str, Any]]:
        if self.quiet:
            yield {"stream": f"{event.image_id}\n"}
            return
        if event.unused_args:
            yield {"stream": f"[Warning] One or more build-args [{' '.join(event.unused_args)}] were not consumed\n"}
        yield {"stream": f"Successfully built {short(event.image_id)}\n"}
        for tag in event.tags:
            yield {"stream": f"Successfully tagged {tag}\n"}


def _classic(event: Event, ran: str) -> Iterator[dict[str, Any]]:
    """``ran``: the container of the step, told as removed when the step succeeded."""
    match event:
        case Started(step=step) | Declared(step=step):
            yield {"stream": f"Step {step.number}/{step.total} : {step.text}"}
            yield {"stream": "\n"}
        case Cached():
            yield {"stream": " ---> Using cache\n"}
        case Ran(container_id=ident, ended=False):
            yield {"stream": f" ---> Running in {short(ident)}\n"}
        case Output(data=data):
            yield {"stream": data.decode("utf-8", "replace")}
        case Pulling(record=record):
            yield record
        case Finished(image_id=ident, last=last):
            if ran:
                yield {"stream": f" ---> Removed intermediate container {short(ran)}\n"}
            yield {"stream": f" ---> {'' if event.empty else short(ident)}\n"}
            if last:
                yield {"aux": {"ID": ident}}


def error_record(error: BaseException) -> dict[str, Any]:
    """The stream's last record when a build fails."""
    detail: dict[str, Any] = {"message": str(error)}
    if isinstance(error, BuildFailed) and error.code:
        detail = {"code": error.code, **detail}
    return {"errorDetail": detail, "error": str(error)}


@dataclass(slots=True)
class _Vertex:
    """A line of steps in the plain text."""

    number: int
    began: float
    title: str
    partial: dict[bool, bytes] = field(default_factory=dict)


class PlainText:
    """Events as BuildKit's ``--progress=plain`` prints them: ``#5 [2/4] RUN ...``."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._vertices: dict[int, _Vertex] = {}
        self._next = 1
        self._last = 0
        self._remarks: list[str] = []

    def text(self, event: Happening) -> str:
        """The text to print now, empty for what has none."""
        if isinstance(event, Built):
            return self._built(event)
        if isinstance(event, Warned):
            self._remarks.append(event.message)
            return ""
        if event.step.place == 0 and not isinstance(event, Failed):
            return ""
        return self._of_step(event)

    def _of_step(self, event: Event) -> str:
        vertex, head = self._vertex(event.step)
        mark = f"#{vertex.number} "
        match event:
            case Started():
                body = ""
            case Cached():
                body = f"{mark}CACHED\n"
            case Why(reason=reason):
                body = f"{mark}why: {reason}\n"
            case Output(data=data, stderr=stderr):
                body = self._lines(vertex, data, stderr=stderr)
            case Pulling(record=record):
                body = f"{mark}{_pull_line(record)}\n" if "progressDetail" not in record or not record["progressDetail"] else ""
            case Finished(cached=cached, seconds=seconds):
                body = self._flush(vertex) + ("" if cached else f"{mark}DONE {seconds:.1f}s\n")
            case Failed(error=error):
                body = self._flush(vertex) + f"{mark}ERROR: {error.detail if isinstance(error, BuildFailed) else error}\n"
            case _:
                body = ""
        return head + body

    def _vertex(self, step: Step) -> tuple[_Vertex, str]:
        vertex = self._vertices.get(step.number)
        if vertex is None:
            vertex = self._vertices[step.number] = _Vertex(self._next, self._clock(), step.shown)
            self._next += 1
        elif self._last == vertex.number:
            return vertex, ""
        blank = "\n" if self._last else ""
        self._last = vertex.number
        return vertex, f"{blank}#{vertex.number} {vertex.title}\n"

    def _lines(self, vertex: _Vertex, data: bytes, *, stderr: bool) -> str:
        whole = vertex.partial.pop(stderr, b"") + data
        *lines, rest = whole.split(b"\n")
        if rest:
            vertex.partial[stderr] = rest
        passed = self._clock() - vertex.began
        return "".join(f"#{vertex.number} {passed:.3f} {line.decode('utf-8', 'replace')}\n" for line in lines)

    def _flush(self, vertex: _Vertex) -> str:
        return "".join(self._lines(vertex, b"\n", stderr=stderr) for stderr in list(vertex.partial))

    def _built(self, event: Built) -> str:
        number = self._next
        lines = [f"#{number} exporting to image", f"#{number} writing image {event.image_id} done"]
        lines += [f"#{number} naming to {tag} done" for tag in event.tags]
        lines.append(f"#{number} DONE 0.0s")
        return ("\n" if self._last else "") + "\n".join(lines) + "\n" + self.remarks()

    def remarks(self) -> str:
        """What there is to say of the Dockerfile, at the end."""
        count = len(self._remarks)
        heading = f"\n {count} warning{'s' if count > 1 else ''} found:\n"
        return heading + "".join(f" - {remark}\n" for remark in self._remarks) if count else ""


class PlainRecords:
    """`PlainText` as records of ``POST /build?progress=plain``, a word of ours."""

    def __init__(self) -> None:
        self._text = PlainText()

    def records(self, event: Happening) -> Iterator[dict[str, Any]]:
        """The records that can be sent now that ``event`` happened."""
        if text := self._text.text(event):
            yield {"stream": text}
        if isinstance(event, Built):
            yield {"aux": {"ID": event.image_id}}

    def failure(self, error: EngineError) -> Iterator[dict[str, Any]]:
        """The stream's last records when the build fails."""
        if remarks := self._text.remarks():
            yield {"stream": remarks}
        record = error_record(error)
        record["error"] = record["errorDetail"]["message"] = failure_text(error)
        yield record


def failure_text(error: EngineError) -> str:
    """What BuildKit prints below the steps: the excerpt of the Dockerfile and the last line."""
    if isinstance(error, BuildFailed):
        return f"{error.excerpt}ERROR: failed to build: failed to solve: {error.detail}"
    return f"ERROR: failed to build: failed to solve: {error}"


def _pull_line(record: dict[str, Any]) -> str:
    ident = f"{record['id']}: " if record.get("id") else ""
    return f"{ident}{record.get('status', '')}"
