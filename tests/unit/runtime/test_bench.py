"""What `kiloword bench` computes: operations, floors, times, and graphs written without the onnx package."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper

from kiloword.runtime.bench.floor import floor_of, nodes_of, operations_of, work_of
from kiloword.runtime.bench.peaks import Peaks
from kiloword.runtime.bench.pictures import LARGE_SIZE, pixels_of, write_large_photos
from kiloword.runtime.bench.processes import measure_processes
from kiloword.runtime.bench.starts import drop_from_cache, loaded_files, measure_starts
from kiloword.runtime.bench.suite import Effort, run_bench
from kiloword.runtime.bench.timing import Sample, paired_ratio, summarize, take_turns
from kiloword.runtime.bench.tiny_graphs import one_operator
from kiloword.runtime.errors import KilowordError
from kiloword.runtime.manifest import ImageSpec
from kiloword.runtime.provider_trial import made_picture, made_pictures
from kiloword.runtime.threads import allowed_cpu_numbers
from tests.bundles import make_tiny_bundle

PEAKS = Peaks(float_gops=1.0, byte_gops=10.0, cache_gbps=4.0, model_gbps=2.0, memory_gbps=1.0)


def test_a_tiny_graph_is_what_the_onnx_package_reads() -> None:
    weights = np.arange(300, dtype=np.float32).reshape(3, 100)
    graph = one_operator("MatMul", {"a": ("float32", (2, 3))}, {"b": weights}, ("float32", (2, 100)))
    model = onnx.load_from_string(graph)
    onnx.checker.check_model(model, full_check=True)
    left = np.random.default_rng(0).random((2, 3), dtype=np.float32)
    (result,) = onnxruntime.InferenceSession(graph).run(None, {"a": left})
    np.testing.assert_allclose(result, left @ weights, rtol=1e-6)


@pytest.mark.parametrize(
    ("operator", "inputs", "outputs", "expected"),
    [
        # One multiplication and one addition for each element of the result and each of the inner axis.
        ("MatMulNBits", [(1, 5, 64), (32, 1, 64), (32, 1)], [(1, 5, 32)], 2 * 5 * 64 * 32),
        ("MatMul", [(2, 3, 5, 64), (2, 3, 64, 7)], [(2, 3, 5, 7)], 2 * 2 * 3 * 5 * 64 * 7),
        ("Conv", [(1, 3, 8, 8), (16, 3, 3, 3), (16,)], [(1, 16, 8, 8)], 2 * 16 * 64 * 27),
        ("QLinearConv", [(1, 3, 8, 8), (), (), (16, 3, 3, 3)], [(1, 16, 8, 8)], 2 * 16 * 64 * 27),
        # Queries times keys, and weights times values: 5 queries, 9 keys, width 64.
        ("Attention", [(1, 5, 64), (1, 9, 64), (1, 9, 64)], [(1, 5, 64)], 2 * 2 * 5 * 9 * 64),
        ("Attention", [(1, 1, 64)] * 3, [(1, 1, 64), (1, 4, 9, 16), (1, 4, 9, 16)], 4 * 9 * 64),
        ("Softmax", [(1, 5, 64)], [(1, 5, 64)], 0),
    ],
)  # fmt: skip
def test_operations(
    operator: str, inputs: list[tuple[int, ...]], outputs: list[tuple[int, ...]], expected: int
) -> None:
    assert operations_of(operator, inputs, outputs) == expected


def test_nodes_and_floor_of_a_graph(tmp_path: Path) -> None:
    """A product of 8 x 64 by 64 x 32 floats and a Relu: all numbers by hand."""
    weights = np.ones((64, 32), dtype=np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["a", "b"], ["c"]), helper.make_node("Relu", ["c"], ["d"])],
        "two",
        [helper.make_tensor_value_info("a", 1, [8, 64])],
        [helper.make_tensor_value_info("d", 1, [8, 32])],
        [onnx.numpy_helper.from_array(weights, "b")],
    )
    path = tmp_path / "two.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9), path)
    nodes = nodes_of(path, {"a": np.ones((8, 64), dtype=np.float32)})
    work = work_of(nodes)
    assert work.operators == {"MatMul": 1, "Relu": 1}
    assert (work.nodes, work.byte_operations, work.float_operations) == (2, 0, 2 * 8 * 64 * 32)
    assert work.weight_bytes == 4 * 64 * 32
    moved = 4 * (8 * 64 + 64 * 32 + 8 * 32) + 4 * 2 * 8 * 32
    assert work.bytes == moved
    floor = floor_of(nodes, PEAKS)
    # The product's operations take longer than its bytes; of Relu only the bytes count.
    assert floor.float_products_ms == pytest.approx(2 * 8 * 64 * 32 / 1e6, abs=1e-4)
    assert floor.others_ms == pytest.approx(4 * 2 * 8 * 32 / 4 / 1e6, abs=1e-4)
    assert floor.byte_products_ms == 0
    assert not list(tmp_path.glob("*.json")), "the profile is gone"


def test_turns_and_ratios() -> None:
    """Every variant is called once in a round, warm-up included; ratios are those of medians."""
    calls: list[tuple[str, int]] = []

    def variant(name: str) -> None:
        calls.append((name, len(calls)))

    taken = take_turns({"a": lambda _: variant("a"), "b": lambda _: variant("b")}, rounds=5, warm_up=1)
    assert [len(samples) for samples in taken.values()] == [5, 5]
    for turn in range(6):
        assert {name for name, at in calls if at // 2 == turn} == {"a", "b"}
    slow, fast = [Sample(30.0, 30.0)] * 3, [Sample(10.0, 20.0)] * 3
    assert paired_ratio(slow, fast) == 3.0
    assert summarize(fast).cpu_median == 20.0


@pytest.mark.parametrize(("warm_up", "rounds"), [(0, 1), (2, 1), (2, 5)])
def test_turns_without_time_still_count_once(warm_up: int, rounds: int) -> None:
    """The warm-up is not cut short, for the first call of a session is no measurement of it."""
    calls: list[int] = []
    taken = take_turns({"a": calls.append}, rounds=rounds, warm_up=warm_up, seconds=0)
    assert calls == list(range(warm_up + 1))
    assert len(taken["a"]) == 1


def test_more_pictures_than_columns() -> None:
    """As many as are asked for, and the first of them is the made one."""
    pictures = made_pictures(8, 4, 6)
    assert pictures.shape == (6, 8, 4, 3)
    assert np.array_equal(pictures[0], made_picture(8, 4))


def test_pictures() -> None:
    spec = ImageSpec(height=32, width=48)
    pictures = pixels_of((), spec)
    assert {picture.shape for picture in pictures} == {(32, 48, 3)}
    assert len({picture.tobytes() for picture in pictures}) == len(pictures)


@pytest.mark.slow
def test_large_photos(tmp_path: Path) -> None:
    from PIL import Image

    paths = write_large_photos(tmp_path, 3)
    assert len({Path(path).read_bytes() for path in paths}) == 3
    with Image.open(paths[0]) as photo:
        assert photo.size == LARGE_SIZE


def test_ratios_are_paired() -> None:
    """One slow moment of the machine that meets both variants must not move the ratio: 2, 2 and 2."""
    theirs = [Sample(ms, ms) for ms in (20.0, 2000.0, 22.0)]
    mine = [Sample(ms, ms) for ms in (10.0, 1000.0, 11.0)]
    assert paired_ratio(theirs, mine) == 2


def test_a_start_takes_what_its_program_takes() -> None:
    """A process that sleeps 50 ms takes at least that, but not of the processor."""
    (found,) = measure_starts(
        {"sleeper": [sys.executable, "-c", "import time; time.sleep(0.05)"]}, 2, cold=False
    )
    assert found.ms.least > 50
    assert found.ms.cpu_median < found.ms.median
    assert found.ms.count == 2


def test_starts() -> None:
    """A process that holds 200 MB more is seen to; one that fails is an error with its last line."""
    small, large = [sys.executable, "-c", "pass"], [sys.executable, "-c", "bytearray(200_000_000)"]
    first, second = measure_starts({"small": small, "large": large}, 1, cold=False)
    assert (first.program, second.program, first.cache) == ("small", "large", "warm")
    assert 180e6 < second.peak_rss_bytes - first.peak_rss_bytes < 220e6
    assert first.peak_rss_bytes < 60e6
    with pytest.raises(KilowordError, match=r"broken"):
        measure_starts({"bad": [sys.executable, "-c", "raise SystemExit('broken')"]}, 1, cold=False)


def test_files_of_a_start() -> None:
    """The graphs, onnxruntime's and numpy's libraries and Python's modules; dropping them harms nothing."""
    files = loaded_files()
    names = {path.name for path in files}
    assert {"encoder.onnx", "bundle.json", "captioner.py"} <= names
    assert any(name.startswith("onnxruntime_pybind11_state") for name in names)
    drop_from_cache(files[:5])


@pytest.mark.slow
def test_all_of_it_with_a_tiny_bundle(tmp_path: Path) -> None:
    """Every figure is there and finite, and what must follow from others does."""
    bundle = make_tiny_bundle(tmp_path / "bundle")
    said: list[str] = []
    effort = Effort(photo_rounds=3, process_rounds=1, folder_photos=2, folder_rounds=1, starts=1)
    found = run_bench(bundle.directory, (), None, effort, said.append)
    assert len(said) == 4
    cases = {(case.what, case.threads): case for case in found.photo.cases}
    counts = {threads for _, threads in cases}
    assert counts >= {1, found.cpus}
    assert {what for what, _ in cases} == {"encoder", "token", "greedy", "3 beams"}
    for (_, threads), case in cases.items():
        assert case.ms.least <= case.ms.median <= case.ms.p95
        assert (case.floor_ms is None) == (threads > 1)
    assert cases["encoder", 1].times_one_thread == 1.0
    photo = found.photo
    assert cases["greedy", 1].floor_ms == pytest.approx(
        photo.encoder_floor.total_ms + photo.tokens_per_caption * photo.step_floor.total_ms,
        rel=0.05,
        abs=2e-3,
    )
    assert [one.processes for one in found.processes][-1] == len(allowed_cpu_numbers())
    assert 0 < found.folder.share_of_allowed < 3
    assert {start.cache for start in found.starts} == {"warm", "cold"}
    assert all(math.isfinite(start.ms.median) for start in found.starts)
    json.dumps(found.photo.peaks.__dict__)


def test_processes_need_a_bundle(tmp_path: Path) -> None:
    """A process that cannot load it ends, and that is said instead of waiting for it."""
    with pytest.raises((KilowordError, BrokenPipeError)):
        measure_processes(tmp_path / "missing", [allowed_cpu_numbers()[0]], 1)
