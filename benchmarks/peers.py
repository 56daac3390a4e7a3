"""The bundle in the package beside OpenVINO, which runs the same weights in an environment of its own.

    python -m benchmarks.peers

Every contestant is a process of its own, pinned to the same processors once it has loaded; they take turns on
the example photos, in a new order each time. The search is kiloword's in all of them, so that what differs is
what runs the graphs. OpenVINO gets them in float32, in our int8, and in the int8 that its own tool (NNCF)
makes of float32; attention is written out, which it runs faster than the operator. build/peers/openvino is
made once.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import click

from benchmarks.checkpoints import find_checkpoint
from benchmarks.imported import PEERS, Case, measured_rows, start
from benchmarks.machine import REPOSITORY, write_result
from kiloword.runtime.bundle import DEFAULT_BUNDLE

WORKER = REPOSITORY / "benchmarks" / "peers_worker.py"
PHOTOS = REPOSITORY / "examples" / "photos"
BUNDLES = PEERS / "bundles"
PYTHON = PEERS / "openvino" / "bin" / "python"
OPENVINO = ("openvino==2026.4.1", "nncf==3.4.0")
"""What the peer's environment gets besides this environment's versions of what kiloword's runtime needs."""
RUNTIME = ("numpy", "pillow", "tokenizers")
CASES: tuple[Case, ...] = ((1, 1), (1, 3), (8, 1))


@dataclass(frozen=True)
class Peer:
    """How one contestant is started."""

    python: Path
    kind: str
    """As in `benchmarks/peers_worker.py`."""
    bundle: Path


PEERS_BY_NAME: Mapping[str, Peer] = {
    "kiloword int8": Peer(Path(sys.executable), "kiloword", DEFAULT_BUNDLE),
    "OpenVINO, our int8": Peer(PYTHON, "openvino", BUNDLES / "int8"),
    "OpenVINO, its own int8": Peer(PYTHON, "nncf", BUNDLES / "fp32"),
    "OpenVINO fp32": Peer(PYTHON, "openvino", BUNDLES / "fp32"),
}


def make_environment() -> None:
    """OpenVINO in an environment of its own, unless it is there."""
    if not PYTHON.exists():
        subprocess.run([sys.executable, "-m", "venv", str(PEERS / "openvino")], check=True)
        same = [f"{name}=={metadata.version(name)}" for name in RUNTIME]
        subprocess.run([str(PYTHON), "-m", "pip", "install", "--quiet", *OPENVINO, *same], check=True)


def make_bundles(variables: Mapping[str, str]) -> None:
    """The bundles with attention written out, and what NNCF makes of the one in float32."""
    from kiloword.export.export import export_bundle

    for source in (find_checkpoint(), DEFAULT_BUNDLE):
        export_bundle(source, BUNDLES, plain_attention=True, calibration=PHOTOS)
    BUNDLES.joinpath("fp32-nncf").mkdir(exist_ok=True)
    command = [str(PYTHON), str(WORKER), "quantize", str(BUNDLES / "fp32"), str(PHOTOS)]
    subprocess.run(command, check=True, env=dict(variables))


@click.command()
@click.option("--threads", default=1, show_default=True)
@click.option("--rounds", default=24, show_default=True, help="Calls of each contestant in each case.")
@click.option("--prepare", "only_prepare", is_flag=True, help="Make environment and bundles, and no more.")
@click.option("--output", type=click.Path(path_type=Path), help="The result file.")
def main(threads: int, rounds: int, only_prepare: bool, output: Path | None) -> None:
    """Measure milliseconds for a photo, load time and memory of the bundle in the package and of OpenVINO."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "kiloword").symlink_to(REPOSITORY)  # the peer's environment does not have it
        variables = {**os.environ, "PYTHONPATH": folder}
        if only_prepare or not list(BUNDLES.glob("fp32-nncf/*.xml")):
            make_environment()
            make_bundles(variables)
        if only_prepare:
            return
        contestants = [
            start(name, peer.python, peer.kind, peer.bundle, threads, WORKER, variables)
            for name, peer in PEERS_BY_NAME.items()
        ]
        rows = measured_rows(contestants, CASES, rounds, threads)
    for row in rows:
        click.echo(
            f"batch {row['batch_size']}  beams {row['num_beams']}  {row['variant']:24} "
            f"{row['wall_ms']['median']:8.2f} ms  {row['times_as_fast_as']}"
        )
    told = {"threads": threads, "rounds": rounds, "peers": OPENVINO}
    click.echo(f"wrote {write_result('peers', told, rows, output)}", err=True)


if __name__ == "__main__":
    main()
