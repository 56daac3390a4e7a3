"""The page that captions in the browser alone, held against Python: pixels, tokens, text, trust."""

from __future__ import annotations

import base64
import functools
import json
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from kiloword import Bundle, Captioner, KilowordError, load_bundle
from kiloword.cli import main
from kiloword.runtime.bundle import write_manifest
from kiloword.runtime.images import load_image
from kiloword.runtime.labels import Labeller, LabelSpec
from kiloword.runtime.manifest import ImageSpec
from kiloword.runtime.reliability import picture_features
from kiloword.runtime.web.build import ONNXRUNTIME_WEB, check_for_web, write_web_page
from kiloword.runtime.web.packages import npm_package
from tests.browser import drop, open_browser, open_page, violations
from tests.bundles import Kind, make_tiny_bundle

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

browser_test = pytest.mark.browser
pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def runtime() -> Path:
    """onnxruntime-web, unpacked."""
    try:
        return npm_package("onnxruntime-web", ONNXRUNTIME_WEB, hint="install npm")
    except KilowordError as error:
        pytest.skip(f"no onnxruntime-web: {error}")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with open_browser() as opened:
        yield opened


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *arguments: Any) -> None:
        """Nothing: the tests look at the browser."""


@contextmanager
def hosting(directory: Path) -> Iterator[str]:
    """A static host, which is all that the page needs."""
    handler = functools.partial(_Quiet, directory=str(directory))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, runtime: Path) -> Iterator[str]:
    """The page with the bundle that ships."""
    directory = tmp_path_factory.mktemp("web") / "site"
    write_web_page(load_bundle(), directory, runtime)
    with hosting(directory) as url:
        yield url


@pytest.fixture(scope="module")
def page(browser: Browser, site: str) -> Iterator[Page]:
    """One page whose modules the tests call; the policy is set aside for `evaluate` alone."""
    with open_page(browser, site, bypass_csp=True) as opened:
        yield opened


def as_text(data: bytes) -> str:
    return base64.b64encode(data).decode()


NEAR_TIE = 0.5
BYTES = "const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));"


@browser_test
def test_the_example_photos_get_pythons_tokens(page: Page, photos: Path) -> None:
    """The whole way, the browser's own JPEG decoder included, against the greedy captions of Python.

    None differed where this bundle was made. On other processors a sum of floats may be rounded otherwise
    in its last bit, which int8 turns into a whole step, so that one of eight may leave Python's tokens, and
    only where Python itself found both about as likely.
    """
    paths = sorted(photos.glob("*.jpg"))
    with Captioner.load(provider="cpu", threads=1) as captioner:
        expected = {path.name: list(captioner.caption(path, num_beams=1).token_ids) for path in paths}
        found = tokens_of_the_page(page, paths)
        differing = {name for name in expected if found[name] != expected[name]}
        for name in differing:
            assert nats_between(captioner, photos / name, expected[name], found[name]) < NEAR_TIE
    assert len(differing) <= len(paths) // 8


def tokens_of_the_page(page: Page, paths: list[Path]) -> dict[str, list[int]]:
    return {
        path.name: page.evaluate(
            f"""async (text) => {{ {BYTES}
            const engine = await import("./page/engine.js");
            return (await engine.caption(new Blob([bytes(text)], {{type: "image/jpeg"}}))).token_ids; }}""",
            as_text(path.read_bytes()),
        )
        for path in paths
    }


def nats_between(captioner: Captioner, path: Path, ours: list[int], other: list[int]) -> float:
    """By how much Python prefers its own token to the other one where two captions part."""
    manifest, sessions = captioner.bundle.manifest, captioner._open_sessions()
    shared = next(at for at, (one, two) in enumerate(zip(ours, other, strict=False)) if one != two)
    encoded = sessions.encoder.encode(load_image(path, manifest.image)[None])
    context, state = sessions.decoder.context(encoded), sessions.decoder.initial_state(encoded, 1)
    for token in (*manifest.tokens.prompt_token_ids, *ours[:shared]):
        ids, rows = np.array([[[token]]]), np.zeros((1, 1), np.int64)
        logits, state = sessions.decoder.step(ids, rows, context, state)
    return float(logits[0, 0, ours[shared]] - logits[0, 0, other[shared]])


@browser_test
@pytest.mark.parametrize("resample", ["bicubic", "bilinear", "lanczos", "box"])
@pytest.mark.parametrize("size", [(97, 61), (30, 45), (224, 100), (5, 300), (45, 200), (41, 400)])
def test_pixels_are_pillows(page: Page, size: tuple[int, int], resample: Any) -> None:
    """Every value of a resized random picture, shrunk, enlarged, cut; Pillow is the reference."""
    width, height = size
    picture = np.random.default_rng(5).integers(0, 256, (height, width, 3), dtype=np.uint8)
    specs = [
        ImageSpec(height=48, width=40, resample=resample),
        ImageSpec(32, 24, "shortest_edge_center_crop", shortest_edge=36, resample=resample),
    ]
    for spec in specs:
        found = page.evaluate(
            f"""async ([text, width, height, image]) => {{ {BYTES}
            const {{toPixels}} = await import("./page/resize.js");
            return [...toPixels(bytes(text), width, height, image)]; }}""",
            [as_text(picture.tobytes()), width, height, vars(spec)],
        )
        expected = load_image(Image.fromarray(picture), spec)
        np.testing.assert_array_equal(np.array(found).reshape(expected.shape), expected)


@browser_test
@pytest.mark.parametrize("kind", ["transformer", "recurrent", "image_prefix"])
def test_every_kind_of_decoder_writes_pythons_tokens(page: Page, tmp_path: Path, kind: Kind) -> None:
    """Tiny bundles with random weights: ids, probabilities and attention of the same pixels."""
    bundle = make_tiny_bundle(tmp_path / "bundle", kind=kind)
    image = bundle.manifest.image
    shape = (6, image.height, image.width, 3)
    pixels = np.random.default_rng(2).integers(0, 256, shape, dtype=np.uint8)
    looking = bundle.manifest.attention is not None
    with Captioner.load(bundle.directory, provider="cpu", threads=1) as captioner:
        expected = captioner.caption_pixels(pixels, num_beams=1, attention=looking)
    found = page.evaluate(RUN, [files_of(bundle), as_text(pixels.tobytes()), list(shape)])
    assert [one["ids"] for one in found] == [list(one.token_ids) for one in expected]
    for one, caption in zip(found, expected, strict=True):
        np.testing.assert_allclose(one["logprobs"], caption.token_logprobs, atol=1e-4)
        assert one["text"] == caption.text
        assert bool(one["looks"]) == looking


RUN = f"""async ([files, text, [count, height, width]]) => {{ {BYTES}
  const ort = await import("./vendor/ort.wasm.bundle.min.mjs");
  ort.env.wasm.wasmPaths = new URL("./vendor/", location.href).href;
  ort.env.wasm.numThreads = 1;
  const {{Model}} = await import("./page/search.js");
  const {{Tokenizer}} = await import("./page/tokenizer.js");
  const manifest = JSON.parse(files.manifest);
  const make = (data) => ort.InferenceSession.create(bytes(data), {{executionProviders: ["wasm"]}});
  const model = new Model(ort, manifest, await make(files.encoder), await make(files.decoder));
  const tokenizer = new Tokenizer(JSON.parse(files.tokenizer));
  const pixels = bytes(text);
  const size = height * width * 3;
  const found = [];
  for (let at = 0; at < count; at += 1) {{
    const written = await model.write(await model.encode(pixels.slice(at * size, (at + 1) * size)));
    found.push({{...written, looks: written.looks.length, text: tokenizer.decode(written.ids)}});
  }}
  return found; }}"""


def files_of(bundle: Bundle) -> dict[str, str]:
    return {
        "manifest": (bundle.directory / "bundle.json").read_text(encoding="utf-8"),
        "tokenizer": bundle.tokenizer_path.read_text(encoding="utf-8"),
        "encoder": as_text(bundle.encoder_path.read_bytes()),
        "decoder": as_text(bundle.decoder_path.read_bytes()),
    }


def some_tokenizers() -> dict[str, Tokenizer]:
    """One with each decoder that bundles are made with, its special tokens among the others."""
    pieces = ["<pad>", "<eos>", "a", "dog", "##s", "n't", ".", ",", "▁cat", "▁the", "s", "<0xC3>", "<0xA4>"]
    pieces += ["un", "der</w>", "der"]
    vocabulary = {piece: place for place, piece in enumerate(pieces)}
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    extra = ["Ġa", "Ġdog", "Ã¤", "<pad>", "<eos>"]
    byte_vocabulary = {piece: place for place, piece in enumerate(alphabet + extra)}
    byte_level = Tokenizer(models.BPE(byte_vocabulary, []))
    byte_level.decoder = decoders.ByteLevel()
    made = {"byte level": byte_level}
    for name, decoder in {
        "words": None,
        "word pieces": decoders.WordPiece("##", cleanup=True),
        "metaspace": decoders.Metaspace(),
        "bpe": decoders.BPEDecoder("</w>"),
        "sequence": decoders.Sequence(
            [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
        ),
    }.items():
        made[name] = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
        if decoder is not None:
            made[name].decoder = decoder
    for tokenizer in made.values():
        tokenizer.add_special_tokens(["<pad>", "<eos>"])
    return made


@browser_test
@pytest.mark.parametrize("name", some_tokenizers())
def test_text_is_that_of_the_tokenizers_library(page: Page, name: str) -> None:
    """Two hundred random sequences of ids for each kind of decoder."""
    tokenizer = some_tokenizers()[name]
    random = np.random.default_rng(4)
    count = tokenizer.get_vocab_size()
    sequences = [random.integers(0, count, random.integers(1, 9)).tolist() for _ in range(200)]
    found = page.evaluate(
        """async ([file, sequences]) => {
        const {Tokenizer} = await import("./page/tokenizer.js");
        const tokenizer = new Tokenizer(JSON.parse(file));
        return sequences.map((ids) => tokenizer.decode(ids)); }""",
        [tokenizer.to_str(), sequences],
    )
    assert found == [tokenizer.decode(ids, skip_special_tokens=True).strip() for ids in sequences]


@browser_test
def test_trust_is_measured_on_the_same_numbers(page: Page, photos: Path) -> None:
    """Each statistic of a picture, against Python's."""
    for path in sorted(photos.glob("*.jpg"))[:3]:
        pixels = load_image(path, ImageSpec(height=64, width=48))
        found = page.evaluate(
            f"""async ([text]) => {{ {BYTES}
            const {{pictureFeatures}} = await import("./page/reliability.js");
            return pictureFeatures(bytes(text), 48, 64); }}""",
            [as_text(pixels.tobytes())],
        )
        assert found == pytest.approx(picture_features(pixels), rel=1e-6, abs=1e-9)


@browser_test
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("tokens", [1, 9])
def test_names_are_pythons(page: Page, tmp_path: Path, save: Any, tokens: int) -> None:
    """A random layer over random encodings, stored or compressed: the same names in the same order."""
    random = np.random.default_rng(7)
    layer = {
        "weight": random.integers(-127, 128, (40, 2 * 3 * 4)).astype(np.int8),
        "scale": random.uniform(0.002, 0.02, 40).astype(np.float32),
        "bias": random.normal(size=40).astype(np.float32),
    }
    save(tmp_path / "labels.npz", **layer)
    (tmp_path / "labels.txt").write_text("".join(f"thing {row}, ä\n" for row in range(40)), encoding="utf-8")
    spec = LabelSpec("labels.npz", "labels.txt", output="context", least=0.1)
    labeller = Labeller(spec, tmp_path)
    encodings = random.normal(size=(30, 3, tokens, 4)).astype(np.float32)
    expected = [list(labeller({"context": encoding})) for encoding in encodings]
    assert {len(names) for names in expected} >= {1, 2}
    found = page.evaluate(
        f"""async ([spec, weights, names, text, tokens]) => {{ {BYTES}
        const {{Labeller}} = await import("./page/labels.js");
        const labeller = await Labeller.read(spec, bytes(weights).buffer, names);
        const data = new Float32Array(bytes(text).buffer);
        const size = 12 * tokens;
        return Array.from({{length: data.length / size}}, (_, at) => labeller.name(
            () => ({{data: data.subarray(at * size, (at + 1) * size), dims: [1, 3, tokens, 4]}}))); }}""",
        [
            {"weights": spec.weights, "names": spec.names, "output": "context", "least": 0.1, "most": 3},
            as_text((tmp_path / "labels.npz").read_bytes()),
            (tmp_path / "labels.txt").read_text(encoding="utf-8"),
            as_text(encodings.tobytes()),
            tokens,
        ],
    )
    assert found == expected


@browser_test
def test_a_photo_never_leaves_the_page(browser: Browser, site: str, photos: Path) -> None:
    """With the page's own policy: captioned, explained, and nothing was asked of anybody after loading."""
    with open_page(browser, site) as page:
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        drop(page, photos / "cat.jpg")
        page.locator(".card:not(.busy)").wait_for(timeout=120_000)
        assert "cat" in page.inner_text(".card .caption")
        page.locator(".card .word").nth(1).click()
        page.locator(".picture canvas.shown").wait_for()
        assert [url for url in asked if not url.startswith("blob:")] == []


@browser_test
def test_a_large_bundle_comes_with_its_weights(
    browser: Browser, runtime: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights in files of their own are fetched, checked and used: the same caption as from one file."""
    onnx = pytest.importorskip("onnx")
    from kiloword.export import graph_files

    monkeypatch.setattr(graph_files, "LARGE_BYTES", 0)
    bundle = load_bundle()
    large = shutil.copytree(bundle.directory, tmp_path / "bundle")
    for path in large.glob("*.onnx"):
        graph_files.save_graph(onnx.load(path), path)
    write_web_page(write_manifest(large, bundle.manifest), tmp_path / "site", runtime)
    with hosting(tmp_path / "site") as url, open_page(browser, url, bypass_csp=True) as page:
        found = tokens_of_the_page(page, [photos / "cat.jpg"])
    with Captioner.load(provider="cpu", threads=1) as captioner:
        assert found == {"cat.jpg": list(captioner.caption(photos / "cat.jpg", num_beams=1).token_ids)}


@browser_test
def test_axe_finds_nothing(page: Page) -> None:
    assert violations(page) == []


def test_the_command_writes_a_whole_folder(tmp_path: Path) -> None:
    """With a package that has the right files; what is in them, only a browser asks."""
    package = tmp_path / "package"
    (package / "dist").mkdir(parents=True)
    for name in ("ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm"):
        (package / "dist" / name).write_text(name, encoding="utf-8")
    (package / "package.json").write_text('{"version": "9", "license": "MIT"}', encoding="utf-8")
    bundle = make_tiny_bundle(tmp_path / "bundle").directory
    arguments = ["web", str(bundle), "-o", str(tmp_path / "site"), "--onnxruntime-web", str(package)]
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 0, done.output
    files = {str(path.relative_to(tmp_path / "site")) for path in (tmp_path / "site").rglob("*.*")}
    assert {"index.html", "page/engine.js", "page/worker.js", "bundle/bundle.json"} <= files
    html = (tmp_path / "site" / "index.html").read_text(encoding="utf-8")
    assert "Content-Security-Policy" in html
    assert "http" not in html.replace("http-equiv", "")
    again = CliRunner().invoke(main, arguments)
    assert again.exit_code == 1
    assert "is there already" in again.output


def test_without_npm_it_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    done = CliRunner().invoke(main, ["web", "-o", str(tmp_path / "site")])
    assert done.exit_code == 1
    assert "--onnxruntime-web DIR" in done.output
    assert not (tmp_path / "site").exists()


def test_what_a_browser_cannot_run_is_refused(tmp_path: Path) -> None:
    bundle = make_tiny_bundle(tmp_path / "bundle")
    tokenizer = json.loads(bundle.tokenizer_path.read_text(encoding="utf-8"))
    tokenizer["decoder"] = {"type": "CTC", "pad_token": "x", "word_delimiter_token": "|", "cleanup": True}
    bundle.tokenizer_path.write_text(json.dumps(tokenizer), encoding="utf-8")
    with pytest.raises(KilowordError, match="a decoder of type CTC"):
        check_for_web(bundle)
