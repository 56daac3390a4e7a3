"""Words stay while the scene does. The sequences are written by hand, as a captioner wobbles."""

from __future__ import annotations

import pytest

from kiloword.runtime.stabilise import Stabiliser, content_words, similarity


def shown_after(stabiliser: Stabiliser, *texts: str, cut: bool = False) -> list[str | None]:
    """What is on show after each caption."""
    shown = []
    for number, text in enumerate(texts):
        stabiliser.update(text, cut=cut, at_s=float(number))
        shown.append(stabiliser.text)
    return shown


def test_the_first_caption_is_shown_at_once() -> None:
    assert shown_after(Stabiliser(), "a dog") == ["a dog"]


def test_the_same_in_other_words_never_changes_anything() -> None:
    wobble = (
        "a dog runs in the grass",
        "the dog running through grass",
        "dogs run on a grass",
        "a dog in the grass runs",
    )
    stabiliser = Stabiliser()
    assert set(shown_after(stabiliser, *wobble)) == {wobble[0]}
    assert not stabiliser.unsure


def test_one_caption_that_disagrees_changes_nothing() -> None:
    texts = ("a dog on grass", "a cat on a sofa", "a dog on grass", "a man with a hat", "a dog on grass")
    assert set(shown_after(Stabiliser(), *texts)) == {"a dog on grass"}


def test_two_that_agree_do() -> None:
    stabiliser = Stabiliser()
    shown = shown_after(stabiliser, "a dog on grass", "a cat sits on a sofa", "a cat sitting on a sofa")
    assert shown == ["a dog on grass", "a dog on grass", "a cat sitting on a sofa"]
    assert stabiliser.since_s == 1.0  # it became true when it was first said


def test_what_is_nearly_the_same_must_be_said_three_times() -> None:
    dog, ball = "a brown dog runs on grass", "a brown dog runs on grass with a ball"
    assert shown_after(Stabiliser(), dog, ball, ball, ball) == [dog, dog, dog, ball]


def test_two_that_disagree_with_each_other_change_nothing() -> None:
    assert shown_after(Stabiliser(), "a dog", "a cat", "a horse", "a bird", "a tree")[-1] == "a dog"


def test_a_cut_is_believed_at_once() -> None:
    stabiliser = Stabiliser()
    stabiliser.update("a dog on grass", cut=True, at_s=0.0)
    assert stabiliser.update("a cat on a sofa", cut=True, at_s=4.5)
    assert (stabiliser.text, stabiliser.since_s) == ("a cat on a sofa", 4.5)
    assert not stabiliser.update("the cat is on the sofa", cut=True, at_s=9.0)  # but says nothing new


def test_unsure_until_it_is_settled() -> None:
    stabiliser = Stabiliser()
    assert not stabiliser.unsure
    shown_after(stabiliser, "a dog", "a cat")
    assert stabiliser.unsure
    shown_after(stabiliser, "a dog")
    assert not stabiliser.unsure
    shown_after(stabiliser, "a cat", "a cat")
    assert not stabiliser.unsure


def test_an_empty_caption_is_an_opinion_too() -> None:
    assert shown_after(Stabiliser(), "", "a dog", "a dog") == ["", "", "a dog"]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("two dogs are running", "two dogs run"),
        ("a man rides a wave", "the man is riding waves"),
        ("A woman sits.", "a woman sitting"),
        ("la mujer está sentada", "La mujer está sentada."),
    ],
)
def test_the_same_words(one: str, other: str) -> None:
    assert content_words(one) == content_words(other)


def test_numbers_and_kinds_are_meaning() -> None:
    assert content_words("two dogs") != content_words("three dogs")
    assert similarity("a man riding a wave", "a man riding a horse") == pytest.approx(2 / 3)


def test_a_language_without_spaces() -> None:
    """Otherwise two sentences that differ in one sign would have nothing in common."""
    one, other = "一只棕色的狗在绿色的草地上奔跑着", "一只棕色的狗在绿色的草地上奔跑"
    assert similarity(one, other) > 0.9
    assert similarity(one, "两个穿红衣服的女人坐在长椅上聊天") < 0.3
