"""The network alone: padding is invisible, order does not matter, and it depends on what it should."""

from __future__ import annotations

import pytest
import torch

from laconic.errors import LaconicError
from laconic.judges.network import ABSENT, EncoderBatch, EncoderConfig, EncoderNetwork

SMALL = EncoderConfig(
    given=6, vocabulary=20, embedding=8, tokens=7, width=16, layers=2, heads=2, pools=2, encoding=8, hidden=8
)


def network(shape: EncoderConfig = SMALL) -> EncoderNetwork:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return EncoderNetwork(shape).eval()


def inputs(rows: int = 3, length: int = 5, seed: int = 0) -> EncoderBatch:
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(20, (rows, length), generator=generator)
    before = torch.randint(ABSENT, 20, (rows, length), generator=generator)
    return EncoderBatch(tokens, before, torch.randn(rows, length, 6, generator=generator))


def padded(given: EncoderBatch, by: int, junk: float = 9.0) -> EncoderBatch:
    rows = len(given.tokens)
    blank = torch.full((rows, by), ABSENT)
    assert given.given is not None
    more = torch.full((rows, by, given.given.shape[2]), junk)
    return EncoderBatch(
        torch.cat([given.tokens, blank], 1), torch.cat([given.before, blank], 1), torch.cat([given.given, more], 1)
    )


def test_padding_is_invisible() -> None:
    net, plain = network(), inputs()
    torch.testing.assert_close(net.encode(padded(plain, 2)), net.encode(plain))


def test_rows_do_not_see_each_other() -> None:
    net, both = network(), inputs(rows=3)
    assert both.given is not None
    alone = [
        net.encode(EncoderBatch(both.tokens[i : i + 1], both.before[i : i + 1], both.given[i : i + 1]))
        for i in range(3)
    ]
    torch.testing.assert_close(torch.cat(alone), net.encode(both))


def test_an_empty_excerpt_has_an_encoding() -> None:
    blank = torch.full((2, 1), ABSENT)
    found = network().encode(EncoderBatch(blank, blank, torch.zeros(2, 1, 6)))
    assert torch.isfinite(found).all()
    assert torch.equal(found[0], found[1])


@pytest.mark.parametrize("field", ["tokens", "before", "given"])
def test_everything_given_is_read(field: str) -> None:
    net, some = network(), inputs()
    changed = {name: getattr(some, name).clone() for name in ("tokens", "before", "given")}
    changed[field][:, 2] = 3 if field != "given" else 1.0
    assert not torch.allclose(net.encode(EncoderBatch(**changed)), net.encode(some))


def test_the_order_of_tokens_is_read() -> None:
    net, some = network(), inputs()
    assert some.given is not None
    turned = EncoderBatch(some.tokens.flip(1), some.before.flip(1), some.given.flip(1))
    assert not torch.allclose(net.encode(turned), net.encode(some))


def test_comparison_is_symmetric_to_the_last_bit() -> None:
    net = network()
    a, b = net.encode(inputs(seed=1)), net.encode(inputs(seed=2))
    assert torch.equal(net.compare(a, b), net.compare(b, a))
    assert not torch.allclose(net.compare(a, b), net.compare(a, a))


@pytest.mark.parametrize(("given", "vocabulary"), [(0, 20), (6, 0)])
def test_either_source_alone_will_do(given: int, vocabulary: int) -> None:
    net = network(EncoderConfig(given=given, vocabulary=vocabulary, embedding=8, tokens=7, width=16, heads=2))
    some = inputs()
    found = net.encode(some if given else EncoderBatch(some.tokens, some.before))
    assert found.shape == (3, 64)
    assert not torch.allclose(found[0], found[1])


def test_more_tokens_than_it_has_places_for_are_refused() -> None:
    with pytest.raises(LaconicError, match="8 tokens; this network reads at most 7"):
        network().encode(inputs(length=8))


@pytest.mark.parametrize(
    ("field", "value"),
    [("width", 0), ("layers", 0), ("tokens", 0), ("given", -1), ("heads", 1.5), ("dropout", 1.0), ("heads", 3)],
)
def test_sizes_out_of_range_are_refused(field: str, value: float) -> None:
    with pytest.raises(LaconicError, match=str(value)):
        EncoderConfig(**{"vocabulary": 5, field: value})  # type: ignore[arg-type]


def test_nothing_to_read_is_refused() -> None:
    with pytest.raises(LaconicError, match="given and vocabulary are both 0"):
        EncoderConfig()
