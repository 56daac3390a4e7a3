"""Numbers for Prometheus: counters, gauges and histograms, and the text they are read as.

Source: Prometheus text exposition format 0.0.4.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate

MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_SIZES = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0)


class Counter:
    """A number that only grows, one for each combination of label values."""

    def __init__(self, name: str, text: str, labels: tuple[str, ...] = ()) -> None:
        self._name, self._text, self._labels = name, text, labels
        self._lock = threading.Lock()
        self._values: dict[tuple[str, ...], float] = {} if labels else {(): 0.0}

    def add(self, *values: str, amount: float = 1.0) -> None:
        """Count, under these label values."""
        with self._lock:
            self._values[values] = self._values.get(values, 0.0) + amount

    def value(self, *values: str) -> float:
        """What was counted under these label values."""
        return self._values.get(values, 0.0)

    def lines(self) -> Iterator[str]:
        """The text form."""
        yield from _head(self._name, self._text, "counter")
        with self._lock:
            values = sorted(self._values.items())
        for labels, value in values:
            yield f"{self._name}{_labelled(self._labels, labels)} {value:g}"


class Gauge:
    """A number of this moment, read when somebody asks."""

    def __init__(self, name: str, text: str, read: Callable[[], float]) -> None:
        self._name, self._text, self._read = name, text, read

    def lines(self) -> Iterator[str]:
        """The text form."""
        yield from _head(self._name, self._text, "gauge")
        yield f"{self._name} {self._read():.10g}"


class Histogram:
    """How often values fell below each of some bounds."""

    def __init__(self, name: str, text: str, bounds: Sequence[float] = _SECONDS) -> None:
        self._name, self._text, self._bounds = name, text, tuple(bounds)
        self._lock = threading.Lock()
        self._counts = [0] * (len(self._bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        """Count one value."""
        with self._lock:
            self._counts[bisect_left(self._bounds, value)] += 1
            self._sum += value

    def lines(self) -> Iterator[str]:
        """The text form; each bucket counts those below it, too."""
        yield from _head(self._name, self._text, "histogram")
        with self._lock:
            totals, total = list(accumulate(self._counts)), self._sum
        for bound, count in zip((*map(str, self._bounds), "+Inf"), totals, strict=True):
            yield f'{self._name}_bucket{{le="{bound}"}} {count}'
        yield f"{self._name}_sum {total:.6f}"
        yield f"{self._name}_count {totals[-1]}"


class Metrics:
    """All numbers of one server."""

    def __init__(self) -> None:
        self.requests = Counter(
            "kiloword_requests_total", "Answers, by route and status.", ("route", "status")
        )
        self.photos = Counter("kiloword_photos_total", "Photos, by what became of them.", ("result",))
        self.request_seconds = Histogram("kiloword_request_seconds", "From a request's head to its answer.")
        self.caption_seconds = Histogram("kiloword_caption_seconds", "From a whole photo to its caption.")
        self.batch_photos = Histogram("kiloword_batch_photos", "Photos that went through together.", _SIZES)
        self._gauges: list[Gauge] = []

    def add_gauge(self, name: str, text: str, read: Callable[[], float]) -> None:
        """Show one more number of the moment."""
        self._gauges.append(Gauge(name, text, read))

    def text(self) -> str:
        """Everything, as Prometheus reads it."""
        shown: tuple[Counter | Histogram | Gauge, ...] = (
            self.requests,
            self.photos,
            self.request_seconds,
            self.caption_seconds,
            self.batch_photos,
            *self._gauges,
        )
        return "".join(f"{line}\n" for metric in shown for line in metric.lines())


def _head(name: str, text: str, kind: str) -> Iterator[str]:
    yield f"# HELP {name} {text}"
    yield f"# TYPE {name} {kind}"


def _labelled(names: tuple[str, ...], values: tuple[str, ...]) -> str:
    # Values are routes, statuses and words of ours: nothing that a client wrote, so nothing to escape.
    pairs = ",".join(f'{name}="{value}"' for name, value in zip(names, values, strict=True))
    return f"{{{pairs}}}" if pairs else ""
