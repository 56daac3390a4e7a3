"""Data sets in every layout, whole and damaged. Expected records are written out by hand beside the files."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from kiloword.runtime.errors import ConfigError
from kiloword.train.datasets import CaptionRecord, load_records


def touch_photos(folder: Path, *names: str) -> None:
    """Only existence counts here; nobody opens the photos."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"\xff\xd8")


def write_lines(path: Path, *lines: str) -> Path:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def captions_by_id(records: tuple[CaptionRecord, ...]) -> dict[str, tuple[str, ...]]:
    return {record.image_id: record.captions for record in records}


@pytest.fixture
def flickr8k(tmp_path: Path) -> Path:
    """Four photos: two to train, one each for dev and test."""
    touch_photos(tmp_path / "Flicker8k_Dataset", "a.jpg", "b.jpg", "c.jpg", "d.jpg")
    captions = [f"{name}.jpg#{k}\tA {name} , number {k} ." for name in "abcd" for k in range(2)]
    write_lines(tmp_path / "Flickr8k.token.txt", *captions)
    write_lines(tmp_path / "Flickr_8k.trainImages.txt", "a.jpg", "b.jpg")
    write_lines(tmp_path / "Flickr_8k.devImages.txt", "c.jpg")
    write_lines(tmp_path / "Flickr_8k.testImages.txt", "d.jpg")
    return tmp_path


@pytest.mark.parametrize(
    ("split", "expected"),
    [
        ("train", ["a.jpg", "b.jpg"]),
        ("dev", ["c.jpg"]),
        ("val", ["c.jpg"]),
        ("Validation", ["c.jpg"]),
        ("test", ["d.jpg"]),
        (None, ["a.jpg", "b.jpg", "c.jpg", "d.jpg"]),
    ],
)
def test_flickr8k_splits_and_their_other_names(
    flickr8k: Path, split: str | None, expected: list[str]
) -> None:
    loaded = load_records(flickr8k, split)
    assert [record.image_id for record in loaded.records] == expected
    assert (loaded.problems, loaded.bad, loaded.total) == ((), 0, 2 * len(expected))


def test_flickr8k_record_has_its_photo_and_all_captions_in_order(flickr8k: Path) -> None:
    assert load_records(flickr8k / "Flickr8k.token.txt", "test").records == (
        CaptionRecord(
            flickr8k / "Flicker8k_Dataset" / "d.jpg", ("A d , number 0 .", "A d , number 1 ."), "d.jpg"
        ),
    )


def test_photo_that_is_in_no_split_and_does_not_exist_is_named_whatever_the_split(flickr8k: Path) -> None:
    """The original distribution has such an entry, `2258277193_586949ec62.jpg.1`."""
    with (flickr8k / "Flickr8k.token.txt").open("a", encoding="utf-8") as stream:
        stream.write("gone.jpg.1#0\tpeople waiting\ngone.jpg.1#1\tmore people\n")
    loaded = load_records(flickr8k, "test", max_bad_fraction=0.5)
    assert len(loaded.records) == 1
    folder = flickr8k / "Flicker8k_Dataset"
    assert loaded.problems == (f"Flickr8k.token.txt:9: no photo 'gone.jpg.1' in {folder}",)
    assert (loaded.bad, loaded.total) == (2, 4)


def test_each_kind_of_bad_flickr8k_line_is_named_with_its_number(flickr8k: Path) -> None:
    with (flickr8k / "Flickr8k.token.txt").open("ab") as stream:
        stream.write(b"no tab here\nd.jpg#x\tnumber is no number\n\xff\xfe#0\tnot UTF-8\nd.jpg#2\t  \n\n")
    loaded = load_records(flickr8k, "test", max_bad_fraction=0.9)
    assert captions_by_id(loaded.records) == {"d.jpg": ("A d , number 0 .", "A d , number 1 .")}
    assert [problem.split(":")[1] for problem in loaded.problems] == ["9", "10", "11", "12"]
    assert [problem.split(": ")[1][:9] for problem in loaded.problems] == [
        "expected ",
        "expected ",
        "not UTF-8",
        "empty cap",
    ]
    assert loaded.bad == 4


def test_listed_photo_without_captions_and_photo_in_two_splits_are_problems(flickr8k: Path) -> None:
    """A photo in train and test would leak; it stays where it was listed first."""
    write_lines(flickr8k / "Flickr_8k.testImages.txt", "d.jpg", "e.jpg", "a.jpg")
    touch_photos(flickr8k / "Flicker8k_Dataset", "e.jpg")
    loaded = load_records(flickr8k, "test", max_bad_fraction=0.9)
    assert [record.image_id for record in loaded.records] == ["d.jpg"]
    assert loaded.problems == (
        "Flickr_8k.testImages.txt:3: 'a.jpg' is in split 'train' already",
        "Flickr8k.token.txt (split test): photo 'e.jpg' has no caption",
    )


def test_too_many_faults_stop_with_the_first_few_named(flickr8k: Path) -> None:
    for name in "abc":
        (flickr8k / "Flicker8k_Dataset" / f"{name}.jpg").unlink()
    with pytest.raises(ConfigError) as caught:
        load_records(flickr8k, None, max_bad_fraction=0.7)
    assert "6 of 8 captions cannot be used" in caught.value.problems[0]
    assert len(caught.value.problems) == 4
    assert len(load_records(flickr8k, None, max_bad_fraction=0.75).records) == 1


def test_faults_that_are_tolerated_are_logged_once(flickr8k: Path, caplog: pytest.LogCaptureFixture) -> None:
    (flickr8k / "Flicker8k_Dataset" / "a.jpg").unlink()
    with caplog.at_level(logging.WARNING, logger="kiloword"):
        load_records(flickr8k, None, max_bad_fraction=0.3)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "2 of 8 captions" in caplog.text


def test_unknown_split_says_which_there_are(flickr8k: Path) -> None:
    with pytest.raises(ConfigError, match="its splits are dev, test, train"):
        load_records(flickr8k, "tset")


def write_coco(folder: Path, captions: list[Any], names: tuple[str, ...] = ("1.jpg", "2.jpg")) -> Path:
    images = [{"id": number, "file_name": name} for number, name in enumerate(names, 1)]
    path = folder / "captions.json"
    path.write_text(json.dumps({"images": images, "annotations": captions}), encoding="utf-8")
    return path


def test_coco_captions_are_grouped_by_photo(tmp_path: Path) -> None:
    touch_photos(tmp_path / "images", "1.jpg", "2.jpg")
    source = write_coco(
        tmp_path,
        [
            {"image_id": 2, "caption": "two"},
            {"image_id": 1, "caption": " one\nline "},
            {"image_id": 2, "caption": "too"},
        ],
    )
    assert captions_by_id(load_records(source, None).records) == {"1": ("one line",), "2": ("two", "too")}


def test_coco_photos_may_lie_elsewhere(tmp_path: Path) -> None:
    touch_photos(tmp_path / "val2017", "1.jpg", "2.jpg")
    (tmp_path / "annotations").mkdir()
    captions = [{"image_id": number, "caption": "x"} for number in (1, 2)]
    source = write_coco(tmp_path / "annotations", captions)
    loaded = load_records(source, None, images=tmp_path / "val2017")
    assert [record.image for record in loaded.records] == [tmp_path / "val2017" / f"{n}.jpg" for n in (1, 2)]
    with pytest.raises(ConfigError, match="not a folder of photos"):
        load_records(source, None, images=tmp_path / "val2018")


def test_coco_faults_are_named(tmp_path: Path) -> None:
    touch_photos(tmp_path / "images", "1.jpg", "2.jpg")
    faults = [{"image_id": 9, "caption": "of nothing"}, {"image_id": 1}, "text", {"caption": "alone"}]
    source = write_coco(tmp_path, [{"image_id": 1, "caption": "good"}, *faults])
    loaded = load_records(source, None, max_bad_fraction=0.9)
    assert captions_by_id(loaded.records) == {"1": ("good",)}
    assert len(loaded.problems) == 5
    assert loaded.problems[-1] == "captions.json images[1]: photo '2.jpg' has no caption"


def test_coco_file_has_no_splits(tmp_path: Path) -> None:
    touch_photos(tmp_path / "images", "1.jpg", "2.jpg")
    source = write_coco(tmp_path, [{"image_id": 1, "caption": "good"}])
    with pytest.raises(ConfigError, match="it has no splits"):
        load_records(source, "test")


def test_karpathy_restval_is_train_and_filepath_is_a_folder(tmp_path: Path) -> None:
    """COCO's file has `filepath` and `restval`; Flickr8k's has neither."""
    touch_photos(tmp_path, "images/val2014/a.jpg", "images/b.jpg", "images/c.jpg")
    images = [
        {"filepath": "val2014", "filename": "a.jpg", "split": "restval", "sentences": [{"raw": "an a"}]},
        {"filename": "b.jpg", "split": "train", "sentences": [{"raw": "a b"}, {"raw": "b again"}]},
        {"filename": "c.jpg", "split": "val", "sentences": [{"raw": "a c"}]},
        {"filename": "c.jpg", "split": "val"},
    ]
    source = tmp_path / "dataset_coco.json"
    source.write_text(json.dumps({"images": images, "dataset": "coco"}), encoding="utf-8")
    loaded = load_records(source, "train", max_bad_fraction=0.5)
    assert captions_by_id(loaded.records) == {"val2014/a.jpg": ("an a",), "b.jpg": ("a b", "b again")}
    assert loaded.problems == ("dataset_coco.json images[3]: expected filename and sentences with raw",)
    assert [record.image_id for record in load_records(source, "dev", max_bad_fraction=0.5).records] == [
        "c.jpg"
    ]


@pytest.mark.parametrize("column", ["file_name", "image", "path"])
@pytest.mark.parametrize("name", ["captions.jsonl", "metadata.jsonl"])
def test_jsonl_with_one_caption_or_a_list_in_a_row(tmp_path: Path, name: str, column: str) -> None:
    """A byte order mark and Windows line ends come from editors; U+2028 inside a caption is no line end."""
    touch_photos(tmp_path, "a.jpg", "sub/ü.jpg")
    rows = [
        {column: "a.jpg", "caption": "first"},
        {column: "sub/ü.jpg", "captions": ["eins\u2028zwei", "drei"]},
        {column: "a.jpg", "text": "second"},
    ]
    text = "\r\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + text.encode())
    loaded = load_records(tmp_path, None)
    assert captions_by_id(loaded.records) == {
        "a.jpg": ("first", "second"),
        "sub/ü.jpg": ("eins zwei", "drei"),
    }
    assert load_records(tmp_path / name, None) == loaded


def test_jsonl_faults_are_named(tmp_path: Path) -> None:
    touch_photos(tmp_path, "a.jpg")
    source = write_lines(
        tmp_path / "captions.jsonl",
        '{"image": "a.jpg", "caption": "good"}',
        '{"image": "a.jpg", "cap',
        '["a.jpg", "list"]',
        '{"image": "a.jpg"}',
        '{"caption": "alone"}',
        '{"image": "a.jpg", "captions": ["x", 3]}',
        r'{"image": "a.jpg", "caption": "half \ud83d"}',
        '{"image": "gone.jpg", "captions": ["x", "y"]}',
    )
    loaded = load_records(source, None, max_bad_fraction=0.95)
    assert captions_by_id(loaded.records) == {"a.jpg": ("good",)}
    assert [problem.split(":")[1] for problem in loaded.problems] == ["2", "3", "4", "5", "6", "7", "8"]
    assert (loaded.bad, loaded.total) == (8, 9)


def test_csv_with_quotes_and_splits(tmp_path: Path) -> None:
    touch_photos(tmp_path / "images", "a.jpg", "b.jpg")
    source = write_lines(
        tmp_path / "captions.csv",
        "image,caption,split",
        'a.jpg,"a dog, running",train',
        "b.jpg,a cat,validation",
        "b.jpg,a dog, running,dev",
        "b.jpg,too few",
    )
    loaded = load_records(tmp_path, "val", max_bad_fraction=0.9)
    assert captions_by_id(loaded.records) == {"b.jpg": ("a cat",)}
    assert [problem.split(":")[1] for problem in loaded.problems] == ["4", "5"]
    trained = load_records(source, "train", max_bad_fraction=0.9)
    assert captions_by_id(trained.records) == {"a.jpg": ("a dog, running",)}


def test_photo_name_that_no_file_system_can_hold_is_just_missing(tmp_path: Path) -> None:
    touch_photos(tmp_path, "a.jpg")
    rows = [{"image": name, "caption": "x"} for name in ("a.jpg", "n" * 5000, "nul\0byte")]
    source = write_lines(tmp_path / "captions.jsonl", *map(json.dumps, rows))
    assert len(load_records(source, None, max_bad_fraction=0.9).problems) == 2


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.json", "{", "not valid JSON"),
        ("x.json", "[" * 100_000, "nested too deeply"),
        ("x.json", "[]", "an object with 'images'"),
        ("x.json", '{"images": {}}', "expected a list under 'images'"),
        ("x.json", '{"images": []}', "no photo in it"),
        ("x.csv", "a,b\n", "expected a header with"),
        ("x.csv", "", "expected a header with"),
        ("x.jsonl", "", "no photo in it"),
        ("x.txt", "", "an unknown kind of file"),
    ],
)
def test_file_that_is_no_data_set_gets_one_clear_error(
    tmp_path: Path, name: str, content: str, message: str
) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(ConfigError, match=message):
        load_records(tmp_path / name, None)


def test_csv_field_beyond_the_limit_of_the_format_is_an_error_with_its_line(tmp_path: Path) -> None:
    """`csv` refuses fields over 128 KiB: the sign of a quote that is never closed."""
    source = write_lines(tmp_path / "x.csv", "image,caption", 'a.jpg,"' + "x" * 200_000)
    with pytest.raises(ConfigError, match="not CSV"):
        load_records(source, None)


def test_missing_and_empty_folders_say_what_was_expected(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"no data set in this folder; expected one of Flickr8k\.token\.txt"
    ):
        load_records(tmp_path, None)
    with pytest.raises(ConfigError, match=r"expected one of captions\.jsonl"):
        load_records(tmp_path, None, layout="table")
    with pytest.raises(ConfigError, match="no such file or folder"):
        load_records(tmp_path / "nothing", None)
    with pytest.raises(ConfigError, match="cannot be read"):
        load_records(tmp_path / "nothing.json", None)


@pytest.mark.realdata
def test_real_flickr8k_has_its_official_splits_and_its_one_missing_photo(data: Path) -> None:
    """Counts from the data set's own description: 6000/1000/1000 photos of 8091, 5 captions each."""
    folder = data / "flickr8k"
    sizes = {split: len(load_records(folder, split).records) for split in ("train", "dev", "test")}
    assert sizes == {"train": 6000, "dev": 1000, "test": 1000}
    everything = load_records(folder, None)
    assert (len(everything.records), everything.total, everything.bad) == (8091, 8092 * 5, 5)
    assert len(everything.problems) == 1
    assert "2258277193_586949ec62.jpg.1" in everything.problems[0]
    assert all(len(record.captions) == 5 for record in everything.records)


@pytest.mark.realdata
@pytest.mark.parametrize(("name", "photos", "captions"), [("dev", 363, 1815), ("train", 1823, 2588)])
def test_real_coco_files_load_whole(data: Path, name: str, photos: int, captions: int) -> None:
    """Counts from the data's README: 363 photos with 5 captions each, 1,823 photos with 2,588 captions."""
    loaded = load_records(data / "coco" / f"captions_{name}.json", None)
    assert (len(loaded.records), loaded.total, loaded.problems) == (photos, captions, ())
