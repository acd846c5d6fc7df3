"""Signatures name every keyword: `help`, `inspect` and completion look there."""

import dataclasses
import inspect
import pydoc

import pytest

import ssd_mining as sm
from ssd_mining import mining_rule
from ssd_mining.matching.rule import MatchingFields

SELECTION, BATCH = (set(each.__annotations__) for each in (mining_rule.Selection, mining_rule.BatchKeywords))
NAMED = {
    "mine_hard_negatives": SELECTION | BATCH,
    "mine_logits": SELECTION | BATCH,
    "hard_negative_mask": SELECTION | BATCH,
    "negative_quota": SELECTION,
    "confidence_loss": SELECTION | BATCH,
    "multibox_loss": SELECTION | BATCH,
    "ratio_sweep": SELECTION | BATCH,
    "top_losses": SELECTION | BATCH,
    "class_table": SELECTION | BATCH,
    "level_table": SELECTION | BATCH,
    "LossAnalysis": SELECTION,
    "match_anchors": set(MatchingFields.__annotations__),
}


def defaults(spec):
    return {field.name: field.default for field in dataclasses.fields(spec)}


@pytest.mark.parametrize("name", NAMED)
def test_a_function_shows_the_keywords_that_it_takes_and_their_defaults(name):
    parameters = inspect.signature(getattr(sm, name)).parameters
    assert set(parameters) >= NAMED[name]
    known = defaults(sm.Matching if name == "match_anchors" else sm.Mining)
    for keyword in NAMED[name]:
        shown = parameters[keyword]
        assert (shown.kind, shown.default) == (shown.KEYWORD_ONLY, known.get(keyword))
    assert not any(each.kind is each.VAR_KEYWORD for each in parameters.values())


def test_no_public_function_hides_its_keywords():
    for name in sm.__all__:
        public = getattr(sm, name)
        callables = [public, *vars(public).values()] if inspect.isclass(public) else [public]
        for each in filter(inspect.isfunction, callables):
            hidden = [p for p in inspect.signature(each).parameters.values() if "Unpack" in str(p.annotation)]
            assert hidden == [], name


def test_help_shows_them_as_they_are_written():
    page = pydoc.render_doc(sm.mine_hard_negatives, renderer=pydoc.plaintext)
    assert "min_negatives_when: 'MinNegativesWhen' = 'always'" in page
    assert "valid: 'ArrayLike | None' = None" in page
    assert "neg_pos_ratio: 'float' = 3.0" in pydoc.render_doc(sm.LossAnalysis, renderer=pydoc.plaintext)


def test_a_keyword_that_is_shown_is_taken_with_its_default():
    arrays = [[9.0, 0.1, 0.3]], [[1, 0, 0]]
    shown = defaults(sm.Mining) | {"background": 0}
    assert sm.hard_negative_mask(*arrays, **shown).tolist() == [[False, True, True]]
