"""Loading the graphs: providers, names, threads, and what onnxruntime says when it fails."""

from __future__ import annotations

import logging
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from kiloword import Bundle, BundleError, ConfigError, KilowordError, ProviderError, load_bundle
from kiloword.runtime import providers, sessions
from kiloword.runtime.bundle import write_manifest
from kiloword.runtime.providers import available_providers
from kiloword.runtime.sessions import load_sessions
from tests.bundles import Kind


def test_cpu_is_what_runs(bundle: Bundle) -> None:
    """Asked for, available, loaded, and reported."""
    assert "cpu" in available_providers()
    assert load_sessions(bundle, "cpu", 1).provider == "cpu"


@pytest.mark.parametrize("count", [1, 2, 3, 8])
def test_many_pictures_are_as_each_alone(bundle: Bundle, count: int) -> None:
    """Whatever the processor computes at once, each picture's encoding is its own, to the bit."""
    shape = (count, bundle.manifest.image.height, bundle.manifest.image.width, 3)
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    encoder = load_sessions(bundle, "cpu", 1).encoder
    alone = [encoder.encode(pixels[index : index + 1]) for index in range(count)]
    together = encoder.encode(pixels[:, ::-1, ::-1][:, ::-1, ::-1])  # an array that is not in one piece
    for name, values in together.items():
        assert np.array_equal(values, np.concatenate([one[name] for one in alone])), name


def test_a_failure_among_many_pictures_names_the_file(
    bundles: dict[Kind, Bundle], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The later pieces of a batch fail as the first one does."""
    bundle = bundles["transformer"]
    encoder = load_sessions(bundle, "cpu", 1).encoder

    def fail(*_: Any) -> None:
        raise RuntimeError("no room\nfor it")

    monkeypatch.setattr(onnxruntime.InferenceSession, "run_with_iobinding", fail)
    shape = (3, bundle.manifest.image.height, bundle.manifest.image.width, 3)
    with pytest.raises(KilowordError) as caught:
        encoder.encode(np.zeros(shape, np.uint8))
    assert "no room" in str(caught.value)
    assert str(bundle.encoder_path) in str(caught.value)


def test_unknown_provider(bundles: dict[Kind, Bundle]) -> None:
    with pytest.raises(ProviderError) as caught:
        load_sessions(bundles["transformer"], "gpu")
    message = str(caught.value)
    assert "unknown provider 'gpu'" in message
    assert "expected one of auto, cpu, cuda" in message
    assert "available here: " in message


@pytest.mark.parametrize(
    ("provider", "package"),
    [("cuda", "onnxruntime-gpu"), ("openvino", "onnxruntime-openvino"), ("directml", "onnxruntime-directml")],
)
def test_provider_that_is_not_there(
    bundles: dict[Kind, Bundle], monkeypatch: pytest.MonkeyPatch, provider: str, package: str
) -> None:
    """No silent fallback to the processor; the message names the package."""
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(ProviderError) as caught:
        load_sessions(bundles["transformer"], provider)
    message = str(caught.value)
    assert f"expected {providers.PROVIDERS[provider].onnxruntime_name}, found available here: cpu" in message
    assert f"install {package}" in message


def pretend_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """An onnxruntime that offers CUDA and then quietly runs on the processor, as it does without a driver."""
    monkeypatch.setattr(
        onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"]
    )
    real = onnxruntime.InferenceSession

    def session(path: Any, *, sess_options: Any, providers: list[str], enable_fallback: int) -> Any:
        assert enable_fallback == 0
        return real(path, sess_options=sess_options, providers=["CPUExecutionProvider"])

    monkeypatch.setattr(onnxruntime, "InferenceSession", session)


def test_provider_that_does_not_load(bundles: dict[Kind, Bundle], monkeypatch: pytest.MonkeyPatch) -> None:
    """What was asked for is compared with what runs (microsoft/onnxruntime#23372)."""
    pretend_cuda(monkeypatch)
    with pytest.raises(ProviderError, match="expected CUDAExecutionProvider, found CPUExecutionProvider"):
        load_sessions(bundles["transformer"], "cuda", 1)


def test_auto_says_what_it_took(
    bundles: dict[Kind, Bundle], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """CUDA is there, does not load, is named, and the processor is taken."""
    pretend_cuda(monkeypatch)
    with caplog.at_level(logging.INFO, logger="kiloword"):
        assert load_sessions(bundles["transformer"], "auto", 1).provider == "cpu"
    assert "provider cuda is there but does not load" in caplog.text
    assert "provider auto took cpu, 1 threads" in caplog.text


@pytest.mark.parametrize(("taken", "said"), [("cuda", "provider auto took cuda, 1 threads"), ("cpu", "")])
def test_a_device_that_nobody_named_is_always_said(
    own_bundle: Bundle,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    taken: str,
    said: str,
) -> None:
    """At the level of warnings, which all commands show; the processor is what everybody expects."""
    monkeypatch.setattr(providers, "available_providers", lambda: [taken])
    monkeypatch.setattr(
        sessions, "_load_on", lambda _bundle, provider, _threads: SimpleNamespace(provider=provider)
    )
    manifest = replace(own_bundle.manifest, precision="fp32", checked_providers=("cpu", "cuda"))
    load_sessions(replace(own_bundle, manifest=manifest), "auto", 1)
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == (
        [said] if said else []
    )


def test_auto_keeps_int8_on_the_processor(
    own_bundle: Bundle, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pretend_cuda(monkeypatch)
    bundle = replace(own_bundle, manifest=replace(own_bundle.manifest, precision="int8"))
    with caplog.at_level(logging.INFO, logger="kiloword"):
        assert load_sessions(bundle, "auto", 1).provider == "cpu"
    assert "cuda" not in caplog.text


@pytest.mark.parametrize(
    ("precision", "checked", "said"),
    [
        ("int8", ("cpu",), "int8 was made for the processor"),
        ("fp16", ("cpu",), "checked on cpu, not on cuda; kiloword export --check-on cuda"),
        ("fp16", ("cpu", "cuda"), ""),
        ("fp32", (), ""),
    ],
)
def test_what_a_bundle_was_not_checked_on_is_said(
    own_bundle: Bundle,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    precision: Any,
    checked: tuple[str, ...],
    said: str,
) -> None:
    """On a device that is pretended: int8 points to fp16, and a bundle names where it was compared."""
    monkeypatch.setattr(sessions, "_load_on", lambda bundle, provider, threads: provider)
    manifest = replace(own_bundle.manifest, precision=precision, checked_providers=checked)
    load_sessions(replace(own_bundle, manifest=manifest), "cuda", 1)
    assert said in caplog.text
    assert bool(caplog.text) == bool(said)


def test_options(bundles: dict[Kind, Bundle], monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads as given, one operator at a time, no spinning, all optimizations, only errors logged."""
    options = sessions.session_options(3)
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (3, 1)
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"
    assert options.graph_optimization_level == onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    assert options.log_severity_level == 3
    monkeypatch.setattr(sessions, "default_threads", lambda: 2)
    seen: list[int] = []

    def spy(count: int) -> onnxruntime.SessionOptions:
        seen.append(count)
        return options

    monkeypatch.setattr(sessions, "session_options", spy)
    load_sessions(bundles["transformer"], "cpu")
    assert seen == [2, 2]


def test_no_threads(bundles: dict[Kind, Bundle]) -> None:
    with pytest.raises(ConfigError, match="threads: expected 1 or more, found 0"):
        load_sessions(bundles["transformer"], "cpu", 0)


def rewritten(bundle: Bundle, decoder: bytes) -> Bundle:
    """The bundle with another decoder file, hashes and all."""
    bundle.decoder_path.write_bytes(decoder)
    write_manifest(bundle.directory, bundle.manifest)
    return load_bundle(bundle.directory)


def test_graph_that_is_no_graph(own_bundle: Bundle) -> None:
    """Hashes right, content wrong: onnxruntime's complaint becomes one line with the path."""
    with pytest.raises(BundleError) as caught:
        load_sessions(rewritten(own_bundle, b"no graph"), "cpu", 1)
    message = str(caught.value)
    assert message.startswith(f"{own_bundle.decoder_path}: does not load; expected a graph for CPU")
    assert "\n" not in message


def test_graph_of_another_manifest(own_bundle: Bundle) -> None:
    """Names are compared at load, not discovered at the first caption."""
    model = onnx.load(own_bundle.decoder_path)
    model.graph.output.pop()
    with pytest.raises(
        BundleError, match="the graph's outputs are not those of the manifest; expected cross_"
    ):
        load_sessions(rewritten(own_bundle, model.SerializeToString()), "cpu", 1)


def test_failure_while_running(bundles: dict[Kind, Bundle]) -> None:
    """Pixels of the wrong size reach the graph: an error of ours that names the file, not onnxruntime's."""
    bundle = bundles["transformer"]
    encoder = load_sessions(bundle, "cpu", 1).encoder
    with pytest.raises(KilowordError, match="onnxruntime failed while running it") as caught:
        encoder.encode(np.zeros((1, 3, 3, 3), dtype=np.uint8))
    assert caught.value.path == str(bundle.encoder_path)


def test_first_state(bundles: dict[Kind, Bundle]) -> None:
    """The encoder's where it gives one; else zeros, or nothing at all for a cache."""
    shapes = {}
    for kind, bundle in bundles.items():
        loaded = load_sessions(bundle, "cpu", 1)
        encoded = loaded.encoder.encode(np.zeros((3, 16, 16, 3), dtype=np.uint8))
        state = loaded.decoder.initial_state(encoded, 3)
        shapes[kind] = {name: value.shape for name, value in state.items()}
        assert loaded.decoder.token_by_token is (kind == "recurrent")
    assert shapes["recurrent"] == {"hidden": (3, 16), "cell": (3, 16)}
    assert set(shapes["transformer"].values()) == {(3, 2, 0, 8)}
    assert set(shapes["image_prefix"].values()) == {(3, 2, 4, 8)}


def test_only_needed_outputs_are_computed(bundles: dict[Kind, Bundle]) -> None:
    """Attention weights are there for pictures of where it looked, and cost nothing when nobody asks."""
    bundle = bundles["transformer"]
    asked: list[list[str]] = []

    def run(names: list[str], _: Any) -> list[Any]:
        asked.append(names)
        return [np.zeros((1, 1, 30), dtype=np.float32)] * len(names)

    fake: Any = SimpleNamespace(run=run)
    decoder = sessions.DecoderSession(fake, bundle.manifest.decoder, bundle.decoder_path)
    decoder.step(np.zeros((1, 1, 1), dtype=np.int64), np.zeros((1, 1), dtype=np.int64), {}, {})
    assert "cross_attention" not in asked[0]
    assert asked[0][0] == "logits"
