"""The site shows formulas, roles and examples of our docstrings as they are meant."""

from __future__ import annotations

from inspect import cleandoc

import pytest
from markdown import Markdown

from rest_docstrings import markdown, with_formulas


def test_a_formula_becomes_mathml() -> None:
    text = markdown("Before.\n\n.. math::\n    a = G^{-1} b\n\nAfter.\n")
    before, formula, after = text.strip().split("\n\n")
    assert (before, after) == ("Before.", "After.")
    assert formula.startswith('<div class="formula"><math ')
    assert 'display="block"' in formula
    assert "<mi>G</mi>" in formula


def test_a_formula_on_one_line_does_not_swallow_the_next_paragraph() -> None:
    text = markdown(".. math:: a = w\n\n:param w: weights")
    assert text.endswith(":param w: weights")
    assert "<mi>w</mi>" in text


@pytest.mark.parametrize(
    ("rest", "expected"),
    [
        (":func:`register`", "`register`"),
        (":class:`~jdframework.Descent`", "`jdframework.Descent`"),
        (":py:meth:`Descent.backward`", "`Descent.backward`"),
        ("``G = J Jᵀ``", "``G = J Jᵀ``"),
    ],
)
def test_a_role_becomes_code(rest: str, expected: str) -> None:
    assert markdown(f"See {rest}.") == f"See {expected}."


def test_a_formula_in_a_sentence_stays_in_it() -> None:
    text = markdown("It is :math:`\\log L_i` here.")
    assert text.startswith('It is <span class="formula"><math ')
    assert text.endswith("</math></span> here.")


def test_a_formula_at_the_start_of_a_line_does_not_end_the_paragraph() -> None:
    html = Markdown(extensions=["md_in_html"]).convert(markdown("With\n:math:`w` on\nit."))
    assert html.startswith("<p>With")
    assert html.count("<p>") == 1


def test_an_example_becomes_a_block_before_the_fields() -> None:
    text = markdown(
        cleandoc(
            """
            Adds.

            :param a: One,
                and more of it.
            :return: The sum.

            >>> f(
            ...     1
            ... )
            2
            """
        )
    )
    assert text == (
        "Adds.\n\n\n\n```pycon\n>>> f(\n...     1\n... )\n2\n```\n\n"
        ":param a: One,\n    and more of it.\n:return: The sum."
    )


def test_a_formula_may_go_on_in_the_next_line_but_not_in_the_next_paragraph() -> None:
    assert "<mi>a</mi>" in with_formulas("of $a\n+ b$ each")
    assert with_formulas("5 $a\n\nand b$ each") == "5 $a\n\nand b$ each"
