"""What the server refuses before it costs anything: sizes, numbers, times."""

from __future__ import annotations

from dataclasses import dataclass, fields

from kiloword.runtime.errors import ConfigError

MIB = 1 << 20


@dataclass(frozen=True)
class ServeLimits:
    """Bounds of one server; memory is at most about ``max_waiting`` photos of ``max_photo_bytes``."""

    max_body_bytes: int = 64 * MIB
    """Most bytes of one request's body."""
    max_photo_bytes: int = 32 * MIB
    """Most bytes of one encoded photo."""
    max_photos: int = 64
    """Most photos in one request."""
    max_pixels: int = 64_000_000
    """Most pixels of one photo, by its header, before anything is decoded."""
    max_waiting: int = 128
    """Most photos that are being received, wait or are being captioned; beyond it the answer is 503."""
    max_beams: int = 8
    """Most beams that a request may ask for: beams multiply the work."""
    max_new_tokens: int = 256
    """Most tokens that a request may ask for, where the bundle itself has no bound."""
    batch_size: int = 8
    """Photos that go through the model together."""
    lanes: int = 1
    """Batches in the model at the same time."""
    photos_per_second: float | None = None
    """Photos that one address may send in a second, on average; None: any number."""
    body_timeout_s: float = 20.0
    """Time in which a request's head, and then its body, must have arrived."""
    answer_timeout_s: float = 60.0
    """Time from the whole body to the whole answer."""
    stop_timeout_s: float = 10.0
    """How long requests that run may go on when the server is told to stop."""

    def __post_init__(self) -> None:
        values = {one.name: getattr(self, one.name) for one in fields(self)}
        problems = [
            f"{name}: expected more than 0, found {value}"
            for name, value in values.items()
            if value is not None and not value > 0
        ]
        if self.max_photos > self.max_waiting:
            problems.append(
                f"max_photos: expected at most max_waiting, {self.max_waiting}, found {self.max_photos}"
            )
        if problems:
            raise ConfigError(problems)
