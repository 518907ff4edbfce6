"""Which methods are compared."""

from __future__ import annotations

import pytest
import torch

import jdframework as jd

from jd_plugin_report.contestants import contestants, settings_by_method


def test_every_unusable_name_is_reported_at_once() -> None:
    with pytest.raises(jd.JDError) as raised:
        contestants(["sum", "upgrd", "no-such-thing", "constant", "autojac"])
    sentences = str(raised.value).splitlines()
    assert len(sentences) == 4
    assert "upgrd" in sentences[0]
    assert "did you mean 'upgrad'" in sentences[0]
    assert "no-such-thing" in sentences[1]
    assert "constant needs the setting 'weights'" in sentences[2]
    assert "autojac" in sentences[3]


def test_a_name_is_taken_once_in_any_spelling_and_the_order_stays() -> None:
    found = contestants(["UPGrad", "IMTL_L", "up-grad", "imtl.l"])
    assert [contestant.name for contestant in found] == ["upgrad", "imtl-l"]


def test_a_scalarizer_that_learns_needs_no_settings() -> None:
    (uw,) = contestants(["uw"])
    assert (uw.kind, uw.settings) == ("scalarizer", {})


def test_a_name_of_two_kinds_is_what_a_descent_makes_of_it() -> None:
    (found,) = contestants(["sum"])
    assert found.kind == jd.Descent(torch.nn.Linear(1, 1), "sum").method.kind == "scalarizer"


def test_no_name_at_all_is_refused() -> None:
    with pytest.raises(jd.JDError, match="no method was given"):
        contestants([])


def test_settings_are_given_by_name_in_any_spelling() -> None:
    (found,) = contestants(["cagrad"], {"CA_Grad": {"c": 0.4}})
    assert found.settings == {"c": 0.4}


def test_settings_for_a_method_that_is_not_there_are_refused() -> None:
    with pytest.raises(jd.JDError, match="settings are given for 'uw'"):
        contestants(["sum"], {"uw": {}})


def test_settings_on_the_command_line_are_json_by_method() -> None:
    given = settings_by_method('{"constant": {"weights": [0.7, 0.3]}}')
    (found,) = contestants(["constant"], given)
    assert found.settings == {"weights": [0.7, 0.3]}
    for wrong in ("weights", "[1]", '{"constant": 1}'):
        with pytest.raises(jd.JDError, match=r"--settings is n.*as in --settings '\{\"constant\""):
            settings_by_method(wrong)
