"""What an import refuses, before anything is exported."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("onnxscript")

from kiloword.commands.import_ import STYLES  # noqa: E402
from kiloword.export.importing import bundle  # noqa: E402
from kiloword.export.importing.bundle import Options, import_bundle  # noqa: E402
from kiloword.export.importing.florence2 import PROMPTS  # noqa: E402
from kiloword.export.importing.foreign import Request  # noqa: E402
from kiloword.export.importing.registry import FAMILIES, load_foreign  # noqa: E402
from kiloword.export.importing.source import find_checkpoint, licence_of, read_config  # noqa: E402
from kiloword.runtime.errors import ConfigError, ExportError  # noqa: E402
from tests import foreign  # noqa: E402

pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning"
)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    return foreign.make_vision_encoder_decoder(folder / "whole", foreign.vit, foreign.gpt2)


def copied(checkpoint: Path, target: Path) -> Path:
    target.mkdir()
    for file in checkpoint.iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    return target


def edit(path: Path, **values: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **values}), encoding="utf-8")


def test_styles_are_the_same_everywhere() -> None:
    """The command line writes them out, so that `--help` need not import torch."""
    assert tuple(PROMPTS) == STYLES


def test_an_unknown_architecture_is_refused_with_those_that_are_known(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"architectures": ["LlavaForConditionalGeneration"]}')
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(ExportError) as caught:
        import_bundle(str(tmp_path), tmp_path / "out")
    assert all(name in str(caught.value) for name in (*FAMILIES, "swin", "roberta", "Llava"))
    assert not (tmp_path / "out").exists()


def test_unknown_parts_are_refused(checkpoint: Path, tmp_path: Path) -> None:
    config = dict(read_config(checkpoint))
    config["encoder"] = {**config["encoder"], "model_type": "dinov2"}
    with pytest.raises(ExportError, match=r"vit, deit, beit, swin.*dinov2"):
        load_foreign(config, Request(checkpoint))


def test_a_pickle_is_refused_unless_allowed(tmp_path: Path) -> None:
    folder = foreign.make_vision_encoder_decoder(tmp_path / "old", foreign.vit, foreign.gpt2, safe=False)
    with pytest.raises(ExportError, match=r"pickle.*--allow-pickle"):
        find_checkpoint(str(folder), allow_pickle=False)
    assert find_checkpoint(str(folder), allow_pickle=True) == folder
    loaded = load_foreign(read_config(folder), Request(folder, allow_pickle=True))
    assert loaded.decoder.vocab_size == foreign.VOCABULARY


class _Evil:
    """Writes a file when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return Path.touch, (self.target,)


def test_code_in_an_allowed_pickle_is_not_run(checkpoint: Path, tmp_path: Path) -> None:
    """Plain unpickling runs it, as the first lines show."""
    proof = tmp_path / "it ran"
    pickle.loads(pickle.dumps(_Evil(proof)))
    assert proof.exists()
    proof.unlink()
    folder = copied(checkpoint, tmp_path / "evil")
    (folder / "model.safetensors").unlink()
    torch.save({"weight": _Evil(proof)}, folder / "pytorch_model.bin")
    with pytest.raises(ExportError, match="more than tensors"):
        load_foreign(read_config(folder), Request(folder, allow_pickle=True))
    assert not proof.exists()


def test_code_in_a_checkpoint_is_not_run(checkpoint: Path, tmp_path: Path) -> None:
    """`auto_map` names classes in files of the checkpoint; `trust_remote_code` would import them."""
    folder, proof = copied(checkpoint, tmp_path / "own"), tmp_path / "it ran"
    (folder / "mine.py").write_text(f"open({str(proof)!r}, 'w')\nclass C: pass\n", encoding="utf-8")
    for name in ("config.json", "preprocessor_config.json", "tokenizer_config.json"):
        edit(folder / name, auto_map={"AutoConfig": "mine.C", "AutoTokenizer": ["mine.C", "mine.C"]})
    load_foreign(read_config(folder), Request(folder))
    assert not proof.exists()


def test_missing_weights_are_refused(checkpoint: Path, tmp_path: Path) -> None:
    """Transformers would put random numbers in their place."""
    from safetensors.torch import load_file, save_file

    folder = copied(checkpoint, tmp_path / "part")
    weights = load_file(folder / "model.safetensors")
    del weights[next(name for name in weights if "crossattention.q_attn.weight" in name)]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ExportError, match=r"lacks weights.*q_attn"):
        load_foreign(read_config(folder), Request(folder))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda weight: weight[:7].clone(), "other shapes than its config.json"),
        (lambda weight: weight * torch.nan, "no numbers.*decoder.transformer.wpe.weight"),
    ],
)
def test_weights_that_do_not_fit_or_are_no_numbers(
    checkpoint: Path, tmp_path: Path, change: Any, said: str
) -> None:
    from safetensors.torch import load_file, save_file

    folder = copied(checkpoint, tmp_path / "odd")
    weights = load_file(folder / "model.safetensors")
    weights["decoder.transformer.wpe.weight"] = change(weights["decoder.transformer.wpe.weight"])
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ExportError, match=said):
        load_foreign(read_config(folder), Request(folder))


def test_what_is_too_large_for_a_file_is_refused_first(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The exporter would work for minutes and fail with a message of protobuf."""
    loaded = load_foreign(read_config(checkpoint), Request(checkpoint))
    bundle.check_sizes(loaded)
    monkeypatch.setattr(bundle, "MOST_BYTES", 50_000)
    with pytest.raises(ExportError, match=r"encoder.onnx would be too large"):
        bundle.check_sizes(loaded)


def test_a_damaged_file_is_one_line(checkpoint: Path, tmp_path: Path) -> None:
    folder = copied(checkpoint, tmp_path / "damaged")
    (folder / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(ExportError, match="cannot load") as caught:
        load_foreign(read_config(folder), Request(folder))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("setting", "value"),
    [("repetition_penalty", 1.3), ("eos_token_id", [2, 5]), ("bad_words_ids", [[5, 6]])],
)
def test_settings_that_the_search_does_not_know_are_refused(
    checkpoint: Path, tmp_path: Path, setting: str, value: Any
) -> None:
    folder = copied(checkpoint, tmp_path / "set")
    edit(folder / "generation_config.json", **{setting: value})
    with pytest.raises(ExportError, match=setting):
        load_foreign(read_config(folder), Request(folder))


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"do_resize": False}, "no resizing"),
        ({"image_processor_type": "DonutImageProcessor"}, "do_thumbnail"),
        (
            {
                "image_processor_type": "LevitImageProcessor",
                "size": {"shortest_edge": 32},
                "crop_size": {"height": 32, "width": 32},
            },
            "LevitImageProcessor.* apart",
        ),
        ({"size": {"shortest_edge": 32}, "do_center_crop": False}, "different sizes"),
    ],
)
def test_processors_that_do_something_else_are_refused(
    checkpoint: Path, tmp_path: Path, values: dict[str, Any], named: str
) -> None:
    folder = copied(checkpoint, tmp_path / "pixels")
    edit(folder / "preprocessor_config.json", **values)
    with pytest.raises(ExportError, match=named):
        load_foreign(read_config(folder), Request(folder))


@pytest.mark.parametrize(
    ("file", "values", "said"),
    [
        ("preprocessor_config.json", {"resample": 9}, "resample is not known.*found 9"),
        ("preprocessor_config.json", {"image_std": [0, 1, 1]}, "divides by 0"),
        ("preprocessor_config.json", {"image_std": [float("nan"), 1, 1]}, "image_std is no number.*nan"),
        ("preprocessor_config.json", {"image_mean": [0.5]}, "image_mean is not one of three colours"),
        ("preprocessor_config.json", {"image_mean": None}, "own image processor fails"),
        ("preprocessor_config.json", {"rescale_factor": "1/255"}, "rescale_factor is no number"),
        ("preprocessor_config.json", {"size": {"height": 99_999, "width": 99_999}}, "size cannot be used"),
        ("preprocessor_config.json", {"image_processor_type": "Nope"}, "image processor cannot be loaded"),
        ("generation_config.json", {"num_beams": "four"}, "cannot be used.*four"),
        ("generation_config.json", {"forced_eos_token_id": 999}, "forced token.*found 999"),
        ("generation_config.json", {"eos_token_id": 999}, "last token is not in the vocabulary.*1 and 999"),
        ("generation_config.json", {"decoder_start_token_id": [1]}, r"no single first.*\[1\] and"),
        ("generation_config.json", {"suppress_tokens": [2]}, "the end of the sequence"),
        ("generation_config.json", {"dola_layers": "low"}, "dola_layers"),
        ("config.json", {"encoder": "vit"}, "cannot be used"),
        ("config.json", {"architectures": 3}, "not known.*found 3"),
        ("config.json", {"architectures": ["BlipForConditionalGeneration"]}, "transformers cannot load it"),
    ],
)
def test_odd_values_are_one_line(
    checkpoint: Path, tmp_path: Path, file: str, values: dict[str, Any], said: str
) -> None:
    """Each of these once ended with a traceback."""
    folder = copied(checkpoint, tmp_path / "odd")
    edit(folder / file, **values)
    with pytest.raises(ExportError, match=said) as caught:
        load_foreign(read_config(folder), Request(folder))
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    "values",
    [
        {"do_pad": True, "size_divisor": 32},  # pictures of one size need none
        {"do_center_crop": True, "crop_size": {"height": 32, "width": 32}, "crop_pct": 0.9},
        {"do_normalize": False, "image_std": None},
        {"rescale_factor": 1.0},  # numbers up to 509, rounded as such numbers are
        {"do_rescale": False, "image_mean": [123.7, 116.3, 103.5], "image_std": [58.4, 57.1, 57.4]},
    ],
)
def test_what_a_processor_does_counts_and_not_its_switches(
    checkpoint: Path, tmp_path: Path, values: dict[str, Any]
) -> None:
    """The import compares with the processor itself."""
    folder = copied(checkpoint, tmp_path / "switches")
    edit(folder / "preprocessor_config.json", image_processor_type="BlipImageProcessor", **values)
    load_foreign(read_config(folder), Request(folder))


def test_ids_that_no_caption_depends_on_may_be_out_of_range(checkpoint: Path, tmp_path: Path) -> None:
    """Some checkpoints have -1 where they mean none."""
    folder = copied(checkpoint, tmp_path / "ids")
    edit(folder / "generation_config.json", pad_token_id=-1, bos_token_id=999)
    tokens = load_foreign(read_config(folder), Request(folder)).tokens
    assert (tokens.pad_token_id, tokens.bos_token_id) == (foreign.EOS, foreign.BOS)


def _half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:30])


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _deep(path: Path) -> None:
    path.write_text("[" * 5000 + "]" * 5000, encoding="utf-8")


def _dangling(path: Path) -> None:
    path.unlink()
    path.symlink_to("not here")


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("damage", [_half, _empty, _deep, _dangling, _folder])
@pytest.mark.parametrize("name", ["generation_config.json", "tokenizer_config.json", "tokenizer.json"])
def test_settings_that_cannot_be_read_are_refused(
    checkpoint: Path, tmp_path: Path, name: str, damage: Any
) -> None:
    """Transformers takes its defaults in their place, for some of these without a word."""
    folder = copied(checkpoint, tmp_path / "damaged")
    damage(folder / name)
    with pytest.raises(ExportError, match=name) as caught:
        load_foreign(read_config(folder), Request(folder))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("encoder", "size", "grid", "leading"),
    [
        (lambda: foreign.vit_of((24, 40), (8, 4)), (24, 40), (3, 10), 1),
        (lambda: foreign.swin_of(36), (36, 36), (5, 5), 0),  # 9 x 9 patches, padded, then halved
    ],
    ids=["oblong patches", "odd Swin"],
)
def test_the_grid_of_image_tokens(
    tmp_path: Path, encoder: Any, size: tuple[int, int], grid: tuple[int, int], leading: int
) -> None:
    """Counted by hand; explain draws its maps with it."""
    sides = {"height": size[0], "width": size[1]}
    processor = transformers.ViTImageProcessor(size=sides)
    folder = foreign.make_vision_encoder_decoder(
        tmp_path / "made", encoder, foreign.gpt2, processor=processor
    )
    attention = load_foreign(read_config(folder), Request(folder)).attention
    assert attention is not None
    assert (attention.grid_height, attention.grid_width) == grid
    assert attention.leading_tokens == leading


def test_positions_that_transformers_dropped_are_refused(tmp_path: Path) -> None:
    """It would load such a checkpoint without a word, and write nonsense."""
    folder = foreign.make_vision_encoder_decoder(tmp_path / "relative", foreign.vit, foreign.bert)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config["decoder"]["position_embedding_type"] = "relative_key"
    edit(folder / "config.json", **config)
    with pytest.raises(ExportError, match=r"kind of positions.*relative_key"):
        load_foreign(read_config(folder), Request(folder))


def test_weights_that_nobody_reads_are_told(
    checkpoint: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Such as those of an adapter; but not the constants that older versions stored."""
    from safetensors.torch import load_file, save_file

    folder = copied(checkpoint, tmp_path / "more")
    weights = load_file(folder / "model.safetensors")
    weights["decoder.transformer.h.0.attn.masked_bias"] = torch.zeros(1)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    load_foreign(read_config(folder), Request(folder))
    assert "no use for" not in caplog.text
    weights["decoder.transformer.h.0.attn.c_attn.lora_A"] = torch.zeros(2, 2)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    load_foreign(read_config(folder), Request(folder))
    assert "no use for 1 tensors of the checkpoint: decoder.transformer.h.0.attn.c_attn.lora_A" in caplog.text


def test_a_checkpoint_chooses_no_kernel(checkpoint: Path, tmp_path: Path) -> None:
    """Transformers would fetch this one from the hub and run it, where `kernels` is installed."""
    folder = copied(checkpoint, tmp_path / "kernel")
    edit(folder / "config.json", attn_implementation="somebody/attention")
    load_foreign(read_config(folder), Request(folder))


def test_captions_longer_than_the_decoder_are_refused_before_the_export(
    checkpoint: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"max_new_tokens: expected 40 or fewer.*found 100"):
        import_bundle(str(checkpoint), tmp_path / "out", Options(max_new_tokens=100))
    assert not (tmp_path / "out").exists()


def test_a_crop_larger_than_what_is_left_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    """CLIP's processor would pad with black."""
    folder = copied(checkpoint, tmp_path / "crop")
    crop = {"crop_size": {"height": 32, "width": 32}, "do_center_crop": True}
    name = "CLIPImageProcessor"
    edit(folder / "preprocessor_config.json", size={"shortest_edge": 20}, image_processor_type=name, **crop)
    with pytest.raises(ExportError, match="from an edge of 20"):
        load_foreign(read_config(folder), Request(folder))


def test_suppressed_tokens_outside_of_the_vocabulary_are_nothing(checkpoint: Path, tmp_path: Path) -> None:
    """Transformers passes over them, too."""
    folder = copied(checkpoint, tmp_path / "suppressed")
    edit(folder / "generation_config.json", suppress_tokens=[-1, 5, 99_999])
    assert load_foreign(read_config(folder), Request(folder)).tokens.suppressed_token_ids == (5,)


def test_weights_in_several_files(checkpoint: Path, tmp_path: Path) -> None:
    """As transformers saves large checkpoints; one file that is missing is named."""
    from safetensors.torch import load_file
    from transformers import VisionEncoderDecoderModel

    folder = copied(checkpoint, tmp_path / "parts")
    (folder / "model.safetensors").unlink()
    VisionEncoderDecoderModel.from_pretrained(checkpoint).save_pretrained(folder, max_shard_size="30KB")
    parts = sorted(folder.glob("model-*.safetensors"))
    assert len(parts) > 3
    loaded = load_foreign(read_config(folder), Request(folder)).decoder.words.weight
    assert torch.equal(loaded, load_file(checkpoint / "model.safetensors")["decoder.transformer.wte.weight"])
    parts[1].unlink()
    with pytest.raises(ExportError, match=parts[1].name):
        load_foreign(read_config(folder), Request(folder))


def test_a_style_is_for_florence_alone(checkpoint: Path) -> None:
    with pytest.raises(ExportError, match="--style detailed is not for"):
        load_foreign(read_config(checkpoint), Request(checkpoint, style="detailed"))


def test_florence_in_its_first_format_is_refused(tmp_path: Path) -> None:
    """That of microsoft/Florence-2-base: code of its own, and other names of its weights."""
    config = {"architectures": ["Florence2ForConditionalGeneration"], "vision_config": {"dim_embed": [128]}}
    with pytest.raises(ExportError, match="florence-community/Florence-2-base"):
        load_foreign(config, Request(tmp_path))


def test_an_unreachable_hub_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    def fail(*_: Any, **__: Any) -> str:
        raise OSError("Name or service not known")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(ExportError, match=r"hub could not be asked.*not known"):
        find_checkpoint("somebody/captioner", allow_pickle=False)
    with pytest.raises(ExportError, match="no such directory"):
        find_checkpoint("./not/here", allow_pickle=False)


def test_the_hub_is_asked_for_no_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    asked: list[str] = []

    def fetch(name: str, allow_patterns: list[str]) -> str:
        asked.extend(allow_patterns)
        (tmp_path / "model.safetensors").touch()
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    assert find_checkpoint("somebody/captioner", allow_pickle=True) == tmp_path
    assert not [pattern for pattern in asked if pattern.endswith((".py", ".bin", "*"))]


def test_the_licence_is_read_from_the_card(tmp_path: Path) -> None:
    assert licence_of(tmp_path).startswith("unknown")
    (tmp_path / "README.md").write_text("---\ntags:\n- image-to-text\nlicense: apache-2.0\n---\n# A model\n")
    assert licence_of(tmp_path) == "apache-2.0"


def test_what_lies_at_the_target_is_kept(checkpoint: Path, tmp_path: Path) -> None:
    mine = tmp_path / "out" / "fp32" / "thesis.txt"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine", encoding="utf-8")
    with pytest.raises(ExportError, match="will not be replaced"):
        import_bundle(str(checkpoint), tmp_path / "out", Options())
    assert mine.read_text(encoding="utf-8") == "mine"
