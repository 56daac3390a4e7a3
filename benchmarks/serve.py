"""The server against the batch pipeline: photos a second with the same bundle, photos and threads.

Both caption the same files, the pipeline from a list and the server for clients that each wait for an answer
before they ask again. They take many short turns, by turns one and the other first, and each turn is compared
with its neighbour: what else the host does is as unkind to one as to the other, and a turn that it spoilt is
one of many, whose median counts. The clients run on the same processors as the server, which is part of what
is measured. Processor time for each photo, which a busy host changes less, stands beside it.
"""

from __future__ import annotations

import http.client
import itertools
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click

from benchmarks.machine import REPOSITORY, pin_to_cpus, quantile, shown_path, summarize, write_result

_NUMBERS = itertools.count()
PHOTOS = REPOSITORY / "examples" / "photos"


@dataclass
class Load:
    """What the clients of one round saw."""

    latencies_ms: list[float] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    seconds: float = 0.0
    cpu_s: float = 0.0
    """Processor time of the server alone, without the clients; 0 where /proc does not tell."""

    @property
    def photos_per_second(self) -> float:
        """Captions in the time of the round."""
        return len(self.latencies_ms) / self.seconds


@dataclass
class Piped:
    """What one round of the batch pipeline did."""

    photos: int
    seconds: float
    cpu_s: float

    @property
    def photos_per_second(self) -> float:
        """Captions in the time of the round."""
        return self.photos / self.seconds


@contextmanager
def serving(options: Sequence[str]) -> Iterator[tuple[str, int]]:
    """A server in a process of its own: its URL and its number."""
    command = [sys.executable, "-m", "kiloword.cli", "serve", "--port", "0", *options]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, encoding="utf-8")
    if process.stderr is None:
        raise click.ClickException("the server has no stderr")
    with process.stderr as said:
        line = said.readline()
        found = re.search(r"http://\S+", line)
        try:
            if found is None:
                raise click.ClickException(f"the server did not start: {line}{said.read()}")
            yield found[0], process.pid
        finally:
            process.send_signal(signal.SIGINT)
            process.wait()


def processor_seconds(pid: int) -> float:
    """What a process has used so far; 0 where there is no /proc."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def ask_for(url: str, pid: int, photos: Sequence[bytes], clients: int, seconds: float) -> Load:
    """Let clients ask for captions, each again as soon as it has an answer."""
    load, used = Load(), processor_seconds(pid)
    started = time.perf_counter()
    stop = started + seconds
    threads = [
        threading.Thread(target=_client, args=(url, [*photos[number % len(photos) :], *photos], stop, load))
        for number in range(clients)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    load.seconds = time.perf_counter() - started
    load.cpu_s = processor_seconds(pid) - used
    return load


def _client(url: str, photos: Sequence[bytes], stop: float, load: Load) -> None:
    address = urlsplit(url)
    connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=120)
    for photo in itertools.cycle(photos):
        began = time.perf_counter()
        if began >= stop:
            break
        try:
            body = distinct(photo, next(_NUMBERS))
            connection.request("POST", "/v1/captions", body, {"Content-Type": "image/jpeg"})
            response = connection.getresponse()
            answer = response.read()
        except (OSError, http.client.HTTPException) as error:
            load.errors.append(repr(error))
            connection.close()
            continue
        if response.status == 200:
            load.latencies_ms.append(1e3 * (time.perf_counter() - began))
        else:
            load.errors.append(f"{response.status} {answer[:200]!r}")
    connection.close()


def run_pipeline(
    captioner: Any, photos: Sequence[bytes], options: Any, folder: Path, seconds: float
) -> Piped:
    """A round of the batch pipeline, as `kiloword caption` runs it for a folder.

    The pipeline captions equal contents once. Every photo is therefore made another file, and one that did
    not go through the model all the same ends the benchmark.
    """
    from kiloword.runtime.pipeline import Pipeline

    started, used = time.perf_counter(), time.process_time()
    stop = started + seconds

    def written() -> Iterator[str]:
        for number in itertools.count():
            if time.perf_counter() >= stop:
                return
            path = folder / f"{number}.jpg"
            path.write_bytes(distinct(photos[number % len(photos)], number))
            yield str(path)

    count = 0
    with Pipeline(captioner, written(), options) as pipeline:
        for results in pipeline:
            for done in results:
                if not done.fresh or done.outcome.caption is None:
                    raise click.ClickException(f"{done.path} did not go through the model")
                Path(done.path).unlink()
                count += 1
    return Piped(count, time.perf_counter() - started, time.process_time() - used)


def distinct(photo: bytes, number: int) -> bytes:
    """The same picture as another file: a JPEG with a number in a comment."""
    comment = f"{number:012}".encode()
    return photo[:2] + b"\xff\xfe" + (len(comment) + 2).to_bytes(2, "big") + comment + photo[2:]


def summary(name: str, piped: Sequence[Piped], loads: Sequence[Load]) -> dict[str, Any]:
    """One record of all rounds."""
    ratios = sorted(
        load.photos_per_second / one.photos_per_second for load, one in zip(loads, piped, strict=True)
    )
    served = sum(len(load.latencies_ms) for load in loads)
    return {
        "bundle": name,
        "pipeline_photos_per_second": [round(one.photos_per_second, 2) for one in piped],
        "server_photos_per_second": [round(load.photos_per_second, 2) for load in loads],
        "server_to_pipeline": round(quantile(ratios, 0.5), 3),
        "server_to_pipeline_quartiles": [round(quantile(ratios, share), 3) for share in (0.25, 0.75)],
        "pipeline_cpu_ms_per_photo": round(
            1e3 * sum(p.cpu_s for p in piped) / sum(p.photos for p in piped), 2
        ),
        "server_cpu_ms_per_photo": round(1e3 * sum(load.cpu_s for load in loads) / served, 2),
        "latency_ms": summarize([latency for load in loads for latency in load.latencies_ms]),
        "photos_served": served,
        "errors": sum(len(load.errors) for load in loads),
    }


@click.command()
@click.option("--bundle", type=click.Path(path_type=Path), help="A bundle other than the one that ships.")
@click.option("--clients", default=8, show_default=True, help="Clients that ask at the same time.")
@click.option("--seconds", default=5.0, show_default=True, help="Length of a round of each.")
@click.option("--rounds", default=12, show_default=True, help="Rounds of each, in turn.")
@click.option("--batch-size", default=8, show_default=True, help="Photos that go through together, in both.")
@click.option("--threads", type=int, help="Threads of the model, in both.  [default: all that are allowed]")
@click.option("--cpus", type=int, help="Keep everything, clients included, on this many processors.")
@click.option("--output", type=click.Path(path_type=Path), help="The result file.")
def main(
    bundle: Path | None,
    clients: int,
    seconds: float,
    rounds: int,
    batch_size: int,
    threads: int | None,
    cpus: int | None,
    output: Path | None,
) -> None:
    """Measure the server's throughput beside the batch pipeline's; any error is a failure."""
    from kiloword import Captioner
    from kiloword.runtime.pipeline import PipelineOptions, plan_lanes

    if cpus is not None:
        pin_to_cpus(cpus)
    photos = [path.read_bytes() for path in sorted(PHOTOS.glob("*.jpg"))]
    lanes, lane_threads = plan_lanes(threads)
    piping = PipelineOptions(batch_size, threads=threads, lanes=lanes)
    options = ["--batch-size", str(batch_size)]
    options += [] if threads is None else ["--threads", str(threads)]
    options += [] if bundle is None else ["--bundle", str(bundle)]
    piped: list[Piped] = []
    loads: list[Load] = []
    with (
        tempfile.TemporaryDirectory() as folder,
        Captioner.load(bundle, threads=lane_threads) as captioner,
        serving(options) as (url, pid),
    ):

        def pipe(length: float = seconds) -> Piped:
            return run_pipeline(captioner, photos, piping, Path(folder), length)

        def serve(length: float = seconds) -> Load:
            return ask_for(url, pid, photos, clients, length)

        pipe(1.0)
        serve(1.0)
        for number in range(rounds):
            if number % 2 == 0:
                piped.append(pipe())
                loads.append(serve())
            else:
                loads.append(serve())
                piped.append(pipe())
        name = captioner.bundle.name
    errors = [error for load in loads for error in load.errors]
    row = summary(name, piped, loads)
    settings = {
        "clients": clients,
        "seconds": seconds,
        "rounds": rounds,
        "batch_size": batch_size,
        "threads": threads,
        "lanes": lanes,
        "cpus": cpus,
        "bundle": None if bundle is None else shown_path(bundle),
    }
    click.echo(
        f"pipeline {row['pipeline_photos_per_second']}, server {row['server_photos_per_second']} photos/s"
    )
    click.echo(
        f"server / pipeline {row['server_to_pipeline']} {row['server_to_pipeline_quartiles']}, "
        f"processor ms a photo {row['server_cpu_ms_per_photo']} / {row['pipeline_cpu_ms_per_photo']}, "
        f"{len(errors)} errors"
    )
    click.echo(f"wrote {write_result('serve', settings, [row], output)}", err=True)
    if errors:
        raise click.ClickException(f"{len(errors)} errors, the first: {errors[0]}")


if __name__ == "__main__":
    main()
