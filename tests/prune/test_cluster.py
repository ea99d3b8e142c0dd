"""The clustering against its slow reference, its cap, its seed, and what it refuses."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from laconic.errors import LaconicError
from laconic.prune.cluster import Clustering
from tests.reference import clustering as slow


def run(clustering, newcomers, same):
    placements = []
    for newcomer in newcomers:
        query = clustering.query(newcomer)
        placements.append(clustering.place(query, [same(member, newcomer) for member in query.members]))
    return placements


def table(seed, count):
    """Symmetric probabilities, some of them equal."""
    draw = random.Random(seed)
    p = {(a, b): draw.choice([0.0, 0.2, 0.5, 0.51, 0.8, 1.0, draw.random()]) for a in range(count) for b in range(a)}
    return lambda a, b: p[max(a, b), min(a, b)]


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    count=st.integers(1, 25),
    tau=st.sampled_from([0.0, 0.3, 0.5, 0.75, 1.0]),
    K=st.integers(1, 8),
    K1=st.integers(1, 6),
    similarity=st.sampled_from(["decision", "probability"]),
)
def test_clusters_are_those_of_the_slow_reference(seed, count, tau, K, K1, similarity):
    order = random.Random(seed).sample(range(count), count)
    same = table(seed, count)
    asked = {}
    fast = Clustering(tau, K, K1, seed, similarity)
    for newcomer in order:
        query = fast.query(newcomer)
        parts, start = [], 0
        for size in query.sizes:
            parts.append(query.members[start : start + size])
            start += size
        asked[newcomer] = [tuple(part) for part in parts]
        fast.place(query, [same(member, newcomer) for member in query.members])

    def members(newcomer, inside):
        (part,) = [part for part in asked[newcomer] if part[0] in inside]
        assert set(part) <= set(inside)
        assert len(set(part)) == len(part) == min(K1, len(inside))
        return part

    clusters, left_out = slow.cluster(order, same, tau, K, members, similarity == "decision")
    assert fast.clusters == clusters
    assert fast.left_out == left_out
    for number, inside in enumerate(clusters):
        assert all(fast.of(member) == number for member in inside)
    assert all(fast.of(member) is None for member in left_out)


def test_who_is_compared_depends_on_the_seed_and_on_nothing_else():
    def members(seed):
        clustering = Clustering(K1=3, seed=seed)
        run(clustering, range(12), lambda a, b: 1.0)
        return [clustering.query(newcomer).members for newcomer in (20, 21, 22, 20)]

    first = members(1)
    assert members(1) == first
    assert first[0] == first[3]
    assert len(set(first)) > 1
    assert members(2) != first
    assert all(list(chosen) == sorted(set(chosen)) for chosen in first)


def test_above_tau_means_above():
    same = {(0, 2): 0.9, (1, 2): 0.1}
    clusters = Clustering(tau=0.5, K1=2)
    run(clusters, [0, 1], lambda a, b: 1.0)
    placement = clusters.place(clusters.query(2), [same[0, 2], same[1, 2]])  # one decision of two is not above one half
    assert (placement.cluster, placement.opened, placement.similarity) == (1, True, 0.5)


def test_ties_go_to_the_more_probable_then_to_the_earlier_cluster():
    for third, want in ([0.6, 0.9], 1), ([0.9, 0.6], 0), ([0.7, 0.7], 0):
        clusters = Clustering()
        run(clusters, [0, 1], lambda a, b: 0.0)
        placement = clusters.place(clusters.query(2), third)
        assert (placement.cluster, placement.opened, placement.similarity) == (want, False, third[want])


def test_at_the_cap_a_newcomer_like_nobody_is_left_out():
    clusters = Clustering(K=2)
    placements = run(clusters, [0, 1, 2, 3], lambda a, b: 1.0 if (a, b) == (1, 3) else 0.0)
    assert clusters.clusters == [[0], [1, 3]]
    assert clusters.left_out == [2]
    assert (placements[2].cluster, placements[2].opened, placements[2].similarity) == (None, False, 0.0)


def test_singletons():
    clusters = Clustering(K=2)
    assert clusters.singletons
    run(clusters, [0, 1, 2], lambda a, b: 0.0)
    assert clusters.singletons  # the one left out is in no cluster
    run(clusters, [3], lambda a, b: 1.0)
    assert not clusters.singletons


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"tau": 1.5}, "tau is 1.5; expected a number from 0 to 1"),
        ({"tau": -0.1}, "tau is -0.1"),
        ({"tau": float("nan")}, "tau is nan"),
        ({"tau": True}, "tau is True"),
        ({"K": 0}, "K is 0; expected a whole number of at least 1"),
        ({"K1": 0}, "K1 is 0; expected a whole number of at least 1"),
        ({"K": 2.0}, "K is 2.0"),
        ({"similarity": "cosine"}, "similarity is 'cosine'; expected one of decision, probability"),
    ],
)
def test_settings_out_of_range(wrong, said):
    with pytest.raises(LaconicError, match=said):
        Clustering(**wrong)


def test_wrong_answers_are_refused():
    clusters = Clustering()
    first = clusters.query(0)
    clusters.place(first, [])
    with pytest.raises(LaconicError, match="out of date"):
        clusters.place(first, [])
    with pytest.raises(LaconicError, match="0 has been placed already"):
        clusters.query(0)
    query = clusters.query(1)
    with pytest.raises(LaconicError, match="gave 2 probabilities for 1 pairs; expected one for each"):
        clusters.place(query, [0.5, 0.5])
    for p in (1.2, -0.1, float("nan")):
        with pytest.raises(LaconicError, match=r"gave the probability .*; expected a number from 0 to 1"):
            clusters.place(query, [p])
    assert clusters.clusters == [[0]]
