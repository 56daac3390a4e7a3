"""`kiloword doctor`'s facts: what is read from made files, a leak made on purpose, what is called best."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kiloword import Bundle, Captioner
from kiloword.runtime import doctor
from kiloword.runtime.allocator import memory_given_back
from kiloword.runtime.doctor import LeakCheck, Speed, check_leak, diagnose, tune
from kiloword.runtime.machine import memory_bytes, memory_limit_bytes, processor
from kiloword.runtime.provider_trial import made_picture, try_provider
from tests.bundles import Kind

CPUINFO = """processor\t: 0
model name\t: Made Processor 3000
flags\t\t: fpu sse avx2 {}
"""


def made_machine(root: Path, flags: str = "", meminfo: str = "", limit: str = "") -> Path:
    (root / "proc").mkdir()
    (root / "proc" / "cpuinfo").write_text(CPUINFO.format(flags))
    (root / "proc" / "meminfo").write_text(meminfo)
    (root / "sys/fs/cgroup").mkdir(parents=True)
    (root / "sys/fs/cgroup/memory.max").write_text(limit)
    return root


@pytest.mark.parametrize(
    ("flags", "instructions", "exact", "advice"),
    [
        ("avx512f avx512_vnni", ("AVX2", "AVX-512", "AVX-512 VNNI"), True, "full speed"),
        ("avx_vnni", ("AVX2", "AVX-VNNI"), True, "full speed"),
        ("avx512f", ("AVX2", "AVX-512"), False, "16 bits"),
        ("", ("AVX2",), False, "16 bits"),
    ],
)
def test_instructions(
    tmp_path: Path, flags: str, instructions: tuple[str, ...], exact: bool, advice: str
) -> None:
    """Names as Linux writes them for Cascade Lake, Alder Lake, Skylake-X and Haswell."""
    found = processor(made_machine(tmp_path, flags))
    assert found.name == "Made Processor 3000"
    assert found.instructions == instructions
    assert found.multiplies_bytes is exact
    assert advice in found.int8_advice


def test_this_processor() -> None:
    """Without /proc numpy's own detection answers; on Linux both must agree about AVX2."""
    assert ("AVX2" in processor().instructions) == ("AVX2" in processor(Path("/nowhere")).instructions)


def test_memory(tmp_path: Path) -> None:
    root = made_machine(tmp_path, meminfo="MemTotal:  1000 kB\nMemAvailable:  400 kB\n", limit="512000\n")
    assert memory_bytes(root) == (1_024_000, 409_600)
    assert memory_limit_bytes(root) == 512_000
    (root / "sys/fs/cgroup/memory.max").write_text("max\n")
    assert memory_limit_bytes(root) is None


def test_memory_is_given_back() -> None:
    """Blocks below glibc's usual limit, every other one freed: their holes would stay with the process."""
    before = doctor.resident_bytes()
    if before is None:
        pytest.skip("this system does not tell")
    with memory_given_back():
        blocks = [bytearray(b"x" * (200 << 10)) for _ in range(600)]
        del blocks[::2]
    after = doctor.resident_bytes()
    assert after is not None
    assert after - before < 75 << 20
    assert len(blocks) == 300


def test_a_healthy_bundle(bundles: dict[Kind, Bundle], monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything is measured, and nothing is found."""
    monkeypatch.setattr(doctor, "LEAK_CAPTIONS", 20)
    said: list[str] = []
    found = diagnose(bundles["transformer"].directory, said.append)
    assert found.problems == ()
    assert found.bundle is not None
    assert (found.bundle.name, found.bundle.precision) == ("tiny", "fp32")
    cpu = next(one for one in found.providers if one.name == "cpu")
    assert (cpu.there, cpu.loads, cpu.same_caption) == (True, True, True)
    missing = next(one for one in found.providers if not one.there)
    assert "comes with onnxruntime" in missing.note
    assert found.tuning is not None
    assert {one.batch_size for one in found.tuning.measured} == {1, 4, 8}
    assert found.tuning.one_photo.batch_size == 1
    assert found.variants is not None
    assert found.variants.measured[0].directory == str(bundles["transformer"].directory)
    assert said == ["bundle", "providers", "memory over 20 captions", "threads and batch sizes", "recipes"]


def test_a_damaged_bundle_is_named(own_bundle: Bundle) -> None:
    """The rest of the page is there all the same, tried with the bundle in the package."""
    own_bundle.decoder_path.write_bytes(b"other bytes")
    found = diagnose(own_bundle.directory, lambda _: None)
    assert found.bundle is None
    assert next(one.name for one in found.providers if one.loads and one.same_caption) == "cpu"
    assert found.leak is not None
    assert found.leak.captions > 0
    assert not found.leak.leaks
    assert (found.tuning, found.variants) == (None, None)
    (problem,) = found.problems
    assert "decoder.onnx: was changed or damaged" in problem
    assert found.cores.threads >= 1
    assert found.versions["onnxruntime"]


def test_nothing_can_be_tried(own_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the bundle that is asked for nor the one in the package: both are named, once each."""
    monkeypatch.setattr("kiloword.runtime.bundle.DEFAULT_BUNDLE", own_bundle.directory)
    own_bundle.decoder_path.write_bytes(b"other bytes")
    assert len(diagnose(None, lambda _: None).problems) == 1
    found = diagnose(own_bundle.directory / "nowhere", lambda _: None)
    assert ["decoder.onnx" in one for one in found.problems] == [False, True]
    assert ["nowhere" in one for one in found.problems] == [True, False]
    assert found.providers == ()


def test_memory_that_grows_is_found(bundles: dict[Kind, Bundle], monkeypatch: pytest.MonkeyPatch) -> None:
    """A megabyte is kept for each caption, and written to, so that it is really there."""
    if doctor.resident_bytes() is None:
        pytest.skip("this system does not tell")
    hoard: list[bytearray] = []
    real = Captioner.caption_pixels

    def leaking(self: Captioner, pixels: Any, **settings: Any) -> Any:
        hoard.append(bytearray(b"x" * (1 << 20)))
        return real(self, pixels, **settings)

    monkeypatch.setattr(Captioner, "caption_pixels", leaking)
    found = check_leak(bundles["recurrent"].directory, captions=60)
    assert found.leaks
    assert found.growth_bytes is not None
    assert found.growth_bytes > 50 << 20


def test_what_counts_as_a_leak() -> None:
    assert not LeakCheck(200, 3 << 20).leaks
    assert LeakCheck(200, 30 << 20).leaks
    assert not LeakCheck(200, None).leaks
    assert LeakCheck(50, 10 << 20).leaks


def test_the_best_is_the_least_that_is_as_fast() -> None:
    """2 % more speed is not worth a second thread or a larger batch; 20 % is."""
    speeds = [Speed(1, 1, 10.0), Speed(2, 1, 9.8), Speed(1, 8, 8.0), Speed(2, 8, 6.0), Speed(2, 4, 6.1)]
    assert doctor._soonest(speeds) == Speed(1, 1, 10.0)
    assert doctor._most(speeds) == Speed(2, 4, 6.1)


def test_tuning_tries_every_setting(bundles: dict[Kind, Bundle]) -> None:
    found = tune(bundles["image_prefix"].directory, most_threads=2)
    assert {(one.threads, one.batch_size) for one in found.measured} == {
        (threads, size) for threads in (1, 2) for size in (1, 4, 8)
    }
    assert all(one.ms_per_photo > 0 for one in found.measured)


def test_a_provider_is_tried_in_a_process_of_its_own(bundles: dict[Kind, Bundle]) -> None:
    directory = bundles["transformer"].directory
    with Captioner.load(directory, provider="cpu") as captioner:
        image = captioner.bundle.manifest.image
        picture = made_picture(image.height, image.width)
        (expected,) = captioner.caption_pixels(picture[None], num_beams=1)
    assert try_provider(directory, "cpu", timeout_s=300).token_ids == expected.token_ids
    missing = try_provider(directory, "directml", timeout_s=300)
    assert not missing.loads
    assert "onnxruntime-directml" in missing.problem
    late = try_provider(directory, "cpu", timeout_s=0.001)
    assert late.problem == "not ready after 0.001 s"


def test_two_onnxruntimes_are_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    """pip installs both without a word, and they overwrite each other's files."""
    monkeypatch.setattr(doctor, "_versions", lambda: {"onnxruntime": "1", "onnxruntime-gpu": "1"})
    assert doctor._twice_installed() == [
        "onnxruntime and onnxruntime-gpu are both installed and overwrite each other: keep one"
    ]
