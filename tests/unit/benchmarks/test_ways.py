"""Other forms of an operator: each is a graph that runs, over the shapes of the shipped encoder."""

from __future__ import annotations

import pytest

pytest.importorskip("onnx")

from benchmarks import ways

FORMS = [
    pytest.param(form, id=f"{what}: {name}")
    for what, forms in ways._forms().items()
    for name, form in forms.items()
]


@pytest.mark.parametrize("form", FORMS)
def test_every_form_runs(form: ways.Form) -> None:
    """A node that lacks an input, a type or a kernel is an error when the session is made, or here."""
    ways._repeated(form)(0)


def test_forms_of_one_operator_have_one_result() -> None:
    """What is compared ends in the same name: all outputs that are called r are put out, and no others."""
    for forms in ways._forms().values():
        for form in forms.values():
            assert [outputs for *_, outputs, _ in form][-1] == ["r"]
            assert sum("r" in outputs for *_, outputs, _ in form) == 1
