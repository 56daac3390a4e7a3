"""What each idea for training is worth: one small baseline, and one difference to it at a time.

Every run is the recipe `ideas` with a few `--set` values, from the same seed, with nearly the same number of
captions; it is judged once, at its end, by greedy CIDEr on validation photos. The baseline with other seeds
says how large a difference must be before it says anything. What is finished is skipped, so the command can
be stopped and started again. `build/ideas/` holds the runs.
"""

from __future__ import annotations

import hashlib
import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from benchmarks.machine import REPOSITORY, write_result
from benchmarks.quality import DATA
from kiloword.runtime.errors import KilowordError
from kiloword.runtime.outputs import write_atomically
from kiloword.train.recipe import Recipe
from kiloword.train.recipe_file import load_recipe

WORK = REPOSITORY / "build" / "ideas"
BASELINE = "baseline"

_FLICKR8K = '{source="flickr8k", split="train", limit=3000}'
# A third of the sentences: the vocabulary of the wider world, and a decoder that has read them once.
_SENTENCES = (
    f'data.train=[{{source="coco/captions_text.txt", limit=40000}}, {_FLICKR8K}]',
    'data.validation=[{source="coco/captions_dev.json"}]',
    "tokenizer.vocab_size=5000",
    "decoder.width=192",
    "decoder.depth=2",
    "decoder.heads=3",
    "decoder.dropout=0.1",
    "stages.0.passes=1",
    "threads=1",
)


@dataclass(frozen=True)
class Idea:
    """One row of the table."""

    name: str
    changes: tuple[str, ...] = ()
    """How its recipe differs from the baseline's, as `--set` says it."""
    vocabulary: bool = False
    """Whether it keeps the vocabulary of a language model that read the sentences."""
    starts: bool = False
    """Whether it also starts from that model's weights."""
    taught: bool = False
    """Whether the captioner in the package, which is larger, adds its caption to people's of each photo."""


_CONCEPTS = ("concepts.words=400", "concepts.best=8", "stages.0.concepts=1.0")
_END_TO_END = (
    'stages=[{{name="frozen encoder", frozen_blocks=12, passes=2, learning_rate=1e-3, batch_size=32, '
    'captions_per_image=2, warmup_steps=50}}, {{name="end to end", passes=1, learning_rate=3e-4, '
    "encoder_learning_rate=1e-4, layer_decay=0.8, batch_size=32, captions_per_image=2, warmup_steps=20, "
    "distillation={distillation}}}]"
)
IDEAS = (
    Idea(BASELINE),
    Idea("baseline, seed 2", ("seed=2",)),
    Idea("baseline, seed 3", ("seed=3",)),
    Idea("concepts", _CONCEPTS),
    Idea("COCO three times", ("data.train.1.repeat=3", "stages.0.passes=1")),
    Idea("COCO left out", (f"data.train=[{_FLICKR8K}]", "stages.0.passes=3")),
    Idea(
        "concepts, and sentences alone",
        (*_CONCEPTS, 'concepts.sentences="coco/captions_text.txt"', "stages.0.sentences=1.0"),
    ),
    Idea("ImageNet classes as tags", ('concepts.source="classes"', "concepts.words=1000", "concepts.best=5")),
    Idea("words of the sentences", vocabulary=True),
    Idea("pre-trained on sentences", vocabulary=True, starts=True),
    Idea("no label smoothing", ("stages.0.label_smoothing=0.0",)),
    Idea("no average of the weights", ("optimizer.average_decay=0.0",)),
    Idea("contrastive 0.2", ("stages.0.contrastive=0.2",)),
    Idea("byte pairs", ('tokenizer.kind="bpe"', "tokenizer.vocab_size=2500")),
    Idea("no mirrored photos", ("stages.0.views=1",)),
    Idea("one caption, twice the passes", ("stages.0.captions_per_image=1", "stages.0.passes=4")),
    Idea("four blocks", ("decoder.depth=4",)),
    Idea("width 256", ("decoder.width=256", "decoder.heads=4")),
    Idea("end to end afterwards", (_END_TO_END.format(distillation=0.0),)),
    Idea("end to end, distilled", (_END_TO_END.format(distillation=0.5),)),
    Idea("taught by a larger captioner", taught=True),
)


def row_of(idea: Idea, overrides: Sequence[str], data: Path, work: Path) -> dict[str, Any]:
    """One idea's row; what an earlier start finished is not done again.

    Args:
        idea: What differs from the baseline.
        overrides: What every run of the table has otherwise than the recipe, as `--set` says it.
        data: Folder with flickr8k/, coco/ and encoders/.
        work: Folder of runs, rows and caches.
    """
    finished = _file_of(idea, overrides, work)
    if finished.is_file():
        row: dict[str, Any] = json.loads(finished.read_text(encoding="utf-8"))
        return {**row, "name": idea.name}
    row = {"name": idea.name, "changes": list(idea.changes), **_facts(_trained(idea, overrides, data, work))}
    with write_atomically(finished) as file:
        json.dump(row, file, indent=1)
    return row


def _file_of(idea: Idea, overrides: Sequence[str], work: Path) -> Path:
    """Where the row of a finished idea is kept."""
    return work / f"row-{_key('ideas', *_choices(idea, overrides))}.json"


def _trained(idea: Idea, overrides: Sequence[str], data: Path, work: Path) -> Path:
    """The checkpoint of an idea, and before it that of the language model where it needs one."""
    places = [f"data.root={json.dumps(str(data))}", f"data.cache={json.dumps(str(work / 'cache'))}"]
    changes = [*overrides, *idea.changes]
    if idea.vocabulary:
        model = _run(load_recipe("language", [*places, *_SENTENCES]), work / _key("language", *_SENTENCES))
        changes += [f"tokenizer.checkpoint={json.dumps(str(model))}"]
        changes += [f"start={json.dumps(str(model))}"] if idea.starts else []
    if idea.taught:
        changes += _taught(load_recipe("ideas", [*places, *changes]), work / "taught")
    return _run(load_recipe("ideas", [*places, *changes]), work / _key("ideas", *_choices(idea, overrides)))


def _taught(recipe: Recipe, folder: Path) -> list[str]:
    """Distillation by sequences: data sets with one caption more of each photo, that of the larger model.

    Source: Kim and Rush, arXiv 1606.07947.
    """
    from kiloword import Captioner
    from kiloword.train.material import load_captions

    tables = []
    with Captioner.load() as teacher:
        for number, item in enumerate(recipe.data.train):
            records, _ = load_captions(item, recipe.data)
            captions = teacher.caption_many([record.image for record in records])
            table = folder / str(number) / "captions.jsonl"
            table.parent.mkdir(parents=True, exist_ok=True)
            with write_atomically(table) as file:
                for record, caption in zip(records, captions, strict=True):
                    texts = [*record.captions, caption.text]
                    file.write(json.dumps({"image": str(record.image.resolve()), "captions": texts}) + "\n")
            tables.append(f"{{source={json.dumps(str(table.parent))}}}")
    return [f"data.train=[{', '.join(tables)}]"]


def _choices(idea: Idea, overrides: Sequence[str]) -> tuple[object, ...]:
    # Keys that came later count only where they are set, or what was finished before would be done again.
    return tuple(overrides), idea.changes, idea.vocabulary, idea.starts, *(["taught"] if idea.taught else [])


def _run(recipe: Recipe, folder: Path) -> Path:
    """Trains to the end, from where an earlier start stopped."""
    from kiloword.train.loop import train

    state = folder / "resume" / "resume.json"
    if state.is_file() and json.loads(state.read_text("utf-8"))["position"]["stage"] == len(recipe.stages):
        return folder / "best"
    return train(recipe, folder, resume=state.is_file())


def _key(recipe: str, *choices: object) -> str:
    """What a run is filed under: the shipped recipe as it is written, and what is changed of it."""
    written = (REPOSITORY / "train" / "recipes" / f"{recipe}.toml").read_text(encoding="utf-8")
    return hashlib.sha256(repr((written, choices)).encode()).hexdigest()[:12]


def _facts(checkpoint: Path) -> dict[str, Any]:
    """What a finished run found, and what it took."""
    from kiloword.train.checkpoint import load_checkpoint

    loaded = load_checkpoint(checkpoint)
    state = json.loads((checkpoint.parent / "resume" / "resume.json").read_text(encoding="utf-8"))
    scores = loaded.training["validation_cider"]
    return {
        **{f"cider_{name}": round(value, 2) for name, value in scores.items()},
        "decoder_parameters": sum(item.numel() for item in loaded.model.decoder.parameters()),
        "vocabulary": loaded.tokenizer.get_vocab_size(),
        "training_seconds": round(state["position"]["seconds"]),
    }


def as_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows for people, as Markdown, with the difference to the mean of the baseline's seeds."""
    of_baseline = [row["cider_mean"] for row in rows if row["name"].startswith(BASELINE)]
    middle = statistics.mean(of_baseline) if of_baseline else 0.0
    sets = [key for key in rows[0] if key.startswith("cider_") and key != "cider_mean"]
    titles = ["Idea", *(key.removeprefix("cider_") for key in sets), "Mean, less the baseline's"]
    lines = [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
    for row in rows:
        cells = [row["name"], *(f"{row[key]:.1f}" for key in sets), f"{row['cider_mean'] - middle:+.1f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


@click.command()
@click.option("--idea", "names", multiple=True, help="Part of an idea's name; by default all.")
@click.option("--set", "overrides", multiple=True, help="As for `kiloword train`, for every run.")
@click.option(
    "--data", type=click.Path(path_type=Path), default=DATA, help="With flickr8k/, coco/, encoders/."
)
@click.option("--work", type=click.Path(path_type=Path), default=WORK, help="Folder for runs and caches.")
@click.option("--output", type=click.Path(path_type=Path), help="The result file.")
@click.option("--finished", is_flag=True, help="Only what earlier starts finished, without any training.")
def main(
    names: tuple[str, ...],
    overrides: tuple[str, ...],
    data: Path,
    work: Path,
    output: Path | None,
    finished: bool,
) -> None:
    """Train and compare the ideas, one after the other; the result file grows with each."""
    chosen = [idea for idea in IDEAS if not names or any(name in idea.name for name in names)]
    if finished:
        chosen = [idea for idea in chosen if _file_of(idea, overrides, work).is_file()]
    if not chosen:
        raise click.UsageError("no such idea" if names else "nothing is finished")
    rows: list[dict[str, Any]] = []
    try:
        for idea in chosen:
            rows.append(row_of(idea, overrides, data, work))
            click.echo(json.dumps(rows[-1]), err=True)
            written = write_result("ideas", {"overrides": list(overrides)}, rows, output)
    except KilowordError as error:
        raise click.ClickException(str(error)) from error
    click.echo(as_table(rows))
    click.echo(f"wrote {written}", err=True)


if __name__ == "__main__":
    main()
