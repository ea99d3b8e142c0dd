"""Recipes: their spelling, and what they refuse."""

from __future__ import annotations

import pytest

from laconic.errors import LaconicError
from laconic.lab.learn.recipe import SelectorRecipe, parse_recipe


def test_parsing() -> None:
    assert parse_recipe("group") == SelectorRecipe()
    assert parse_recipe("layer") == SelectorRecipe("layer")
    given = parse_recipe("layer: features=size+value , target=mean, weighted=false, delay=9, loss=rank, hidden=7")
    assert given == SelectorRecipe("layer", "size+value", "mean", False, 9, "rank", 7)
    assert given.names == ("size", "value")
    assert not given.per_head
    assert SelectorRecipe().per_head
    assert SelectorRecipe().names == ("key", "value")


@pytest.mark.parametrize("recipe", [SelectorRecipe(), SelectorRecipe("layer", "size", loss="squared", rate=0.01)])
def test_a_spec_reads_back(recipe: SelectorRecipe) -> None:
    assert parse_recipe(recipe.spec()) == recipe
    assert "epochs=8" in recipe.spec()


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("best", "recipe 'best' is unknown; expected one of group, layer"),
        (
            "group:depth=3",
            "setting 'depth' of recipe group is unknown; its settings: features, target, weighted, delay",
        ),
        ("group:name=layer", "setting 'name' of recipe group is unknown"),
        ("group:hidden", "'hidden' in recipe 'group:hidden' has no value"),
        ("group:hidden=many", "hidden of recipe group is 'many'; expected a whole number"),
        ("group:hidden=0", "hidden is 0; expected a whole number"),
        ("group:delay=0", "delay is 0"),
        ("group:epochs=-1", "epochs is -1"),
        ("group:rate=0", "rate is 0"),
        ("group:features=key+colour", "features is 'colour'; expected one of key, value, size"),
        ("group:features=key+key", r"features is 'key\+key', which names one twice"),
        ("group:features=", "features is ''"),
        ("group:loss=l2", "loss of recipe group is 'l2'; expected quarter or squared or rank"),
        ("group:target=sum", "target of recipe group is 'sum'; expected largest or mean"),
        ("group:weighted=yes", "weighted of recipe group is 'yes'; expected true or false"),
    ],
)
def test_what_is_refused(spec: str, message: str) -> None:
    with pytest.raises(LaconicError, match=message):
        parse_recipe(spec)
