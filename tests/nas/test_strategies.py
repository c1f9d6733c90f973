# SPDX-License-Identifier: MIT
"""The search space, and what each strategy must do beyond the contract that
holds for all of them.
"""

import math
from collections import Counter, deque
from itertools import product
from random import Random

import pytest
import torch
from scipy.stats import chisquare

import metabook as mb
from metabook.nas import controllers
from metabook.nas import space as space_module
from metabook.testing import check_strategy

SPACE = mb.nas.SearchSpace(
    {
        "one": [0, 1, 2, 3],
        "two": ["a", "b", "c", "d"],
        "three": [True, False, None, 2.5],
    }
)

# a new strategy joins by one line
STRATEGIES = {
    "random search": lambda space, seed: mb.nas.RandomSearch(space, seed=seed),
    "evolution": lambda space, seed: mb.nas.RegularizedEvolution(
        space, population=6, sample=3, seed=seed
    ),
    "evolution, defaults": lambda space, seed: mb.nas.RegularizedEvolution(
        space, seed=seed
    ),
    "local search": lambda space, seed: mb.nas.LocalSearch(space, seed=seed),
    "reinforce, lstm": lambda space, seed: mb.nas.Reinforce(
        space, hidden=8, seed=seed
    ),
    "reinforce, independent": lambda space, seed: mb.nas.Reinforce(
        space, controller="independent", entropy=0.1, seed=seed
    ),
}


@pytest.fixture(params=STRATEGIES)
def make(request):
    return STRATEGIES[request.param]


# --- the contract, and the contract's own test ---


def test_every_strategy_keeps_the_contract(make):
    check_strategy(make)


class Leaves(mb.nas.RandomSearch):
    def ask(self):
        return (*super().ask()[:-1], "z")


class Lists(mb.nas.RandomSearch):
    def ask(self):
        return list(super().ask())


class Global(mb.nas.RandomSearch):
    def ask(self):
        torch.rand(1)
        return super().ask()


class Unseeded(mb.nas.RandomSearch):
    def __init__(self, space, seed):
        super().__init__(space)
        self.rng = Random()


class Deaf(mb.nas.RandomSearch):
    def __init__(self, space, seed):
        super().__init__(space)


class Forgetful(mb.nas.LocalSearch):
    def state_dict(self):
        return super().state_dict() | {"untried": []}


class Shared(mb.nas.RegularizedEvolution):
    def __init__(self, space, seed):
        super().__init__(space, population=4, sample=2, seed=seed)

    def state_dict(self):
        return super().state_dict() | {"population": self.population}


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (Leaves, "which is not in"),
        (Lists, "plain tuple"),
        (Global, "global random state"),
        (Unseeded, "same seed"),
        (Deaf, "the seed changes nothing"),
        (Forgetful, "proposes something else"),
        (Shared, "proposes something else"),
    ],
)
def test_the_contract_finds_a_broken_strategy(broken, message):
    with pytest.raises(AssertionError, match=message):
        check_strategy(broken)


# --- the space ---


def test_a_space_lists_each_architecture_once():
    listed = list(SPACE)
    assert len(SPACE) == len(listed) == len(set(listed)) == 64
    assert all(arch in SPACE for arch in listed)
    assert listed[1] == (0, "a", False)


@pytest.mark.parametrize(
    "arch",
    [(0, "a"), (0, "a", False, 1), (9, "a", False), [0, "a", False], None],
)
def test_what_is_not_an_architecture_is_not_in_the_space(arch):
    assert arch not in SPACE


def test_random_architectures_are_uniform():
    rng = Random(0)
    limited = mb.nas.SearchSpace(
        SPACE.decisions, constraint=lambda a: a[0] != 0
    )
    for space, size in ((SPACE, 64), (limited, 48)):
        counts = Counter(space.random(rng) for _ in range(6400))
        assert len(counts) == size == len(space)
        assert chisquare(list(counts.values())).pvalue > 0.001


def hamming(a, b):
    return sum(x != y for x, y in zip(a, b, strict=True))


def constraint(arch):
    return arch[0] != 0 or arch[1] == "a"


@pytest.mark.parametrize("limit", [None, constraint])
def test_a_mutation_changes_exactly_one_decision_and_reaches_every_neighbour(
    limit,
):
    space = mb.nas.SearchSpace(SPACE.decisions, constraint=limit)
    rng = Random(0)
    parent = (1, "b", None)
    children = Counter(space.mutate(parent, rng) for _ in range(1000))
    assert all(
        hamming(parent, child) == 1 and child in space for child in children
    )
    expected = {arch for arch in space if hamming(parent, arch) == 1}
    assert set(children) == expected == set(space.neighbours(parent))
    by_decision = [
        sum(n for child, n in children.items() if child[d] != parent[d])
        for d in range(3)
    ]
    # a decision is drawn first, then its choice
    assert chisquare(by_decision).pvalue > 0.001


def test_a_decision_with_a_single_choice_is_never_mutated():
    space = mb.nas.SearchSpace({"fixed": ["a"], "free": [1, 2]})
    assert {space.mutate(("a", 1), Random(i)) for i in range(20)} == {("a", 2)}


def test_a_constraint_that_nothing_meets_is_given_up_soon(make, monkeypatch):
    monkeypatch.setattr(space_module, "TRIES", 1000)
    asked = []
    space = mb.nas.SearchSpace(
        {str(i): [0, 1] for i in range(30)}, constraint=asked.append
    )
    with pytest.raises(
        ValueError, match=r"none of 1,000 .*meets the constraint"
    ):
        make(space, 0).ask()
    assert len(asked) <= 1000


def test_an_architecture_without_neighbours_cannot_be_mutated():
    parity = mb.nas.SearchSpace(
        {"a": [0, 1], "b": [0, 1]}, constraint=lambda a: a[0] == a[1]
    )
    for space, arch in (
        (parity, (0, 0)),
        (mb.nas.SearchSpace({"a": [1]}), (1,)),
    ):
        with pytest.raises(
            ValueError, match=r"cannot be mutated.*RandomSearch"
        ):
            space.mutate(arch, Random(0))


@pytest.mark.parametrize(
    ("decisions", "error", "message"),
    [
        ({"a": []}, ValueError, "'a' has the choices \\[\\]"),
        ({"a": "conv"}, ValueError, "'a' has the choices 'conv'"),
        ({"a": [1, 2, 1]}, ValueError, "a choice twice"),
        ({"a": [torch.nn.ReLU]}, TypeError, "a choice is a name or a number"),
        ({}, ValueError, "a mapping of at least one name"),
        (["conv", "skip"], ValueError, "a mapping of at least one name"),
    ],
)
def test_decisions_that_make_no_space_are_refused(decisions, error, message):
    with pytest.raises(error, match=message):
        mb.nas.SearchSpace(decisions)


def test_a_space_too_large_to_count_can_still_be_searched():
    space = mb.nas.SearchSpace({str(i): range(10) for i in range(30)})
    with pytest.raises(OverflowError, match=r"1\.0e\+30 combinations"):
        len(space)
    assert space.random(Random(0)) in space


def test_allowed_choices_are_those_that_can_be_completed():
    space = mb.nas.SearchSpace(
        SPACE.decisions, constraint=lambda a: a[0] == 3 and a[2] is None
    )
    assert space.allowed(()) == (3,)
    assert space.allowed((3,)) == ("a", "b", "c", "d")
    assert space.allowed((3, "b")) == (None,)
    assert SPACE.allowed(()) == (0, 1, 2, 3)


# --- evolution ---


class Scripted:
    """Stands for a random generator: gives the numbers that it was given."""

    def __init__(self, *values):
        self.values = deque(values)

    def random(self):
        return self.values.popleft()


def test_evolution_follows_a_trace_computed_by_hand():
    space = mb.nas.SearchSpace({"a": [0, 1], "b": [0, 1]})
    strategy = mb.nas.RegularizedEvolution(space, population=4, sample=2)

    def cycle(score, *values):
        strategy.rng = Scripted(*values)
        arch = strategy.ask()
        assert not strategy.rng.values, "it drew fewer numbers"
        strategy.tell(arch, score)
        return arch

    # four random ones: positions 0 to 3
    assert [
        cycle(s, x, y)
        for s, x, y in (
            (1, 0.1, 0.1),
            (4, 0.1, 0.9),
            (2, 0.9, 0.1),
            (3, 0.9, 0.9),
        )
    ] == [
        (0, 0),
        (0, 1),
        (1, 0),
        (1, 1),
    ]
    # positions 1 (score 4) and 3 (score 3) compete: 1 wins; decision 0 changes.
    # The oldest, position 0, dies
    assert cycle(0, 0.3, 0.8, 0.1, 0.5) == (1, 1)
    assert strategy.population == [
        (0, (1, 1)),
        (4, (0, 1)),
        (2, (1, 0)),
        (3, (1, 1)),
    ]
    # position 0 twice, with replacement: the worst has a child; position 1, the
    # best of all, dies of age
    assert cycle(5, 0.2, 0.0, 0.9, 0.5) == (1, 0)
    assert strategy.population == [
        (0, (1, 1)),
        (5, (1, 0)),
        (2, (1, 0)),
        (3, (1, 1)),
    ]
    # a failure takes the place of the oldest as well, and loses every
    # tournament
    assert cycle(None, 0.5, 0.3, 0.0, 0.5) == (0, 0)
    assert strategy.population[2] == (-math.inf, (0, 0))
    assert cycle(1, 0.6, 0.8, 0.0, 0.5) == (0, 1)
    assert strategy.parent == (1, 1)
    assert [score for score, _ in strategy.population] == [0, 5, -math.inf, 1]


def algorithm_1(space, evaluate, population, sample, cycles, rng):
    """Real et al., line by line."""
    alive, history = deque(), []
    while len(alive) < population:
        arch = space.random(rng)
        alive.append((evaluate(arch), arch))
        history.append(arch)
    while len(history) < cycles:
        candidates = []
        while len(candidates) < sample:
            # stays in the population
            candidates.append(alive[int(rng.random() * len(alive))])
        parent = max(candidates, key=lambda individual: individual[0])[1]
        child = space.mutate(parent, rng)
        alive.append((evaluate(child), child))
        history.append(child)
        alive.popleft()
    return history


def test_evolution_is_algorithm_1(monkeypatch):
    def evaluate(arch):
        return arch[0] + len(str(arch[2]))

    # the twin keeps the oldest on the left; the ring keeps each at its place:
    # the same up to where counting starts
    class Rolled(mb.nas.RegularizedEvolution):
        def ask(self):
            self.population = (
                self.population[self.oldest :] + self.population[: self.oldest]
            )
            self.oldest = 0
            return super().ask()

    strategy, history = Rolled(SPACE, population=7, sample=3, seed=5), []
    for _ in range(300):
        history.append(strategy.ask())
        strategy.tell(history[-1], evaluate(history[-1]))
    assert history == algorithm_1(SPACE, evaluate, 7, 3, 300, Random(5))


def test_the_best_individual_dies_of_age():
    strategy = mb.nas.RegularizedEvolution(
        SPACE, population=5, sample=2, seed=0
    )
    for step in range(50):
        # one outstanding individual
        strategy.tell(strategy.ask(), 100.0 if step == 7 else 1.0)
        assert len(strategy.population) == min(step + 1, 5)
        assert (100.0 in [score for score, _ in strategy.population]) == (
            7 <= step < 12
        )


def test_the_first_generation_is_random_and_the_later_ones_are_not():
    strategy = mb.nas.RegularizedEvolution(
        SPACE, population=5, sample=2, seed=0
    )
    for step in range(20):
        arch = strategy.ask()
        assert (strategy.parent is None) == (step < 5)
        assert strategy.parent is None or hamming(strategy.parent, arch) == 1
        strategy.tell(arch, 1.0)


@pytest.mark.parametrize("value", [0, -3, 2.5])
@pytest.mark.parametrize("name", ["population", "sample"])
def test_a_population_of_nobody_is_refused(name, value):
    with pytest.raises(
        ValueError, match=f"{name} is {value}; it must be an integer from 1"
    ):
        mb.nas.RegularizedEvolution(SPACE, **{name: value})


@pytest.mark.parametrize("seed", [0.9, -1, "0", None])
def test_a_seed_that_python_would_bend_is_refused(make, seed):
    """random.Random takes -1 for 1, and anything that has a hash."""
    with pytest.raises(ValueError, match="it must be an integer from 0"):
        make(SPACE, seed)


def test_settings_are_given_by_name():
    for strategy in (
        mb.nas.RandomSearch,
        mb.nas.LocalSearch,
        mb.nas.RegularizedEvolution,
        mb.nas.Reinforce,
    ):
        with pytest.raises(TypeError, match="positional argument"):
            strategy(SPACE, 0)


# --- local search ---


def test_local_search_climbs_to_a_summit_and_starts_again():
    strategy = mb.nas.LocalSearch(SPACE, seed=0)
    best, starts, proposals = -math.inf, 0, []
    for _ in range(64):
        here = strategy.centre
        arch = strategy.ask()
        if strategy.starts:
            starts += 1
            best = -math.inf
        else:
            assert hamming(arch, here[1]) == 1
        proposals.append(arch)
        score = SPACE.choices[1].index(arch[1]) - arch[0]
        strategy.tell(arch, score)
        best = max(best, score)
        assert strategy.centre[0] == best
    assert starts > 1
    assert max(SPACE.choices[1].index(a[1]) - a[0] for a in proposals) == 3


def test_local_search_does_not_wander_among_equals():
    strategy = mb.nas.LocalSearch(SPACE, seed=0)
    start = strategy.ask()
    strategy.tell(start, 1.0)
    tried = [strategy.ask() for _ in range(9)]
    for arch in tried:
        strategy.tell(arch, 1.0)
    assert set(tried) == set(SPACE.neighbours(start))
    assert strategy.centre == (1.0, start)


def test_a_start_that_is_told_during_a_climb_does_not_end_it():
    strategy = mb.nas.LocalSearch(SPACE, seed=0)
    # in flight together
    first, second, third = (strategy.ask() for _ in range(3))
    for arch, score in ((first, 5.0), (second, 1.0)):
        strategy.tell(arch, score)
    assert strategy.centre == (5.0, first)
    strategy.tell(third, 6.0)
    assert strategy.centre == (6.0, third)


def test_local_search_tries_no_neighbour_twice():
    # the last decision changes nothing
    space = mb.nas.SearchSpace(
        SPACE.decisions, canonical=lambda a: (*a[:2], True)
    )
    strategy = mb.nas.LocalSearch(space, seed=0)
    seen = set()
    for _ in range(100):
        arch = strategy.ask()
        assert strategy.starts or space.canonical(arch) not in seen
        seen.add(space.canonical(arch))
        strategy.tell(arch, float(arch[0]))


# --- REINFORCE ---

REWARD = {arch: math.sin(3 * i) + 2 for i, arch in enumerate(SPACE)}
CONTROLLERS = ["lstm", "independent"]
ODD = mb.nas.SearchSpace(
    {"a": [0, 1, 2], "b": [0, 1], "c": [0, 1, 2, 3]},
    constraint=lambda a: sum(a) % 2 == 1,
)


def scattered(controller, space=SPACE, **options):
    """A controller whose probabilities are far from equal."""
    strategy = mb.nas.Reinforce(
        space, controller=controller, hidden=5, **options
    )
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in strategy.controller.parameters():
            p += 0.7 * torch.randn(p.shape, generator=generator, dtype=p.dtype)
    return strategy


def gradient(strategy):
    return torch.cat(
        [p.grad.flatten() for p in strategy.controller.parameters()]
    )


def estimate(strategy, arch, advantage, entropy=0.0):
    strategy.controller.backward(arch, advantage, entropy)
    return gradient(strategy).clone()


def exact_gradient(strategy):
    """Of the expected reward, by listing all architectures."""
    controller = strategy.controller
    controller.zero_grad()
    log_p = [
        controller.log_p(arch[:-1])[0].gather(1, controller.columns(arch)).sum()
        for arch in SPACE
    ]
    (
        torch.stack(log_p).exp() * torch.tensor(list(REWARD.values()))
    ).sum().backward()
    return gradient(strategy).clone()


@pytest.mark.parametrize("controller", CONTROLLERS)
@pytest.mark.parametrize("space", [SPACE, ODD], ids=["free", "constrained"])
def test_the_controllers_probabilities_are_a_distribution_over_the_space(
    controller, space
):
    strategy = scattered(controller, space)
    p = {
        arch: math.exp(strategy.log_prob(arch))
        for arch in product(*space.choices)
    }
    assert math.isclose(sum(p.values()), 1, rel_tol=1e-9)
    assert all((p[arch] > 0) == (arch in space) for arch in p)
    arch = next(iter(space))
    by_steps = math.prod(
        strategy.probabilities(arch[:d])[arch[d]] for d in range(len(arch))
    )
    assert math.isclose(p[arch], by_steps, rel_tol=1e-9)
    # and it samples from that distribution
    counts = Counter(strategy.ask() for _ in range(1500))
    likely = [arch for arch in space if 1500 * p[arch] > 5]
    observed = [counts[a] for a in likely]
    expected = [1500 * p[a] for a in likely]
    observed.append(1500 - sum(observed))
    expected.append(1500 - sum(expected))
    if expected[-1] < 5:
        observed[-2:], expected[-2:] = (
            [sum(observed[-2:])],
            [sum(expected[-2:])],
        )
    assert chisquare(observed, expected).pvalue > 0.001
    assert set(counts) <= set(space)


@pytest.mark.parametrize("controller", CONTROLLERS)
@pytest.mark.parametrize("baseline", [0.0, 2.0, -50.0])
def test_the_estimators_expectation_is_the_gradient_whatever_the_baseline(
    controller, baseline
):
    strategy = scattered(controller)
    mean = sum(
        math.exp(strategy.log_prob(arch))
        * estimate(strategy, arch, r - baseline)
        for arch, r in REWARD.items()
    )
    assert torch.allclose(mean, exact_gradient(strategy), atol=1e-9)


@pytest.mark.parametrize("controller", CONTROLLERS)
def test_the_mean_over_proposals_is_the_gradient_within_three_standard_errors(
    controller,
):
    strategy, n = scattered(controller, seed=3), 700
    samples = torch.stack(
        [
            estimate(strategy, arch, REWARD[arch] - 2)
            for arch in (strategy.ask() for _ in range(n))
        ]
    )
    exact = exact_gradient(strategy)
    if controller == "lstm":  # of its many weights, look along the gradient
        samples, exact = samples @ exact[:, None], (exact @ exact)[None]
    error = (samples.mean(dim=0) - exact) / (samples.std(dim=0) / math.sqrt(n))
    assert error.abs().max() < 3


def test_a_baseline_lowers_the_variance_where_scores_are_far_from_zero():
    strategy = scattered("independent")

    def variance(baseline):
        p = torch.tensor([math.exp(strategy.log_prob(arch)) for arch in SPACE])
        g = torch.stack(
            [
                estimate(strategy, arch, 90 + r - baseline)
                for arch, r in REWARD.items()
            ]
        )
        mean = (p[:, None] * g).sum(dim=0)
        return float((p[:, None] * (g - mean) ** 2).sum())

    assert variance(92.0) < variance(0.0) / 1000


@pytest.mark.parametrize("space", [SPACE, ODD], ids=["free", "constrained"])
def test_the_written_gradient_equals_autograds(space):
    strategy = scattered("independent", space)
    for arch in list(space)[::5]:
        by_hand = estimate(strategy, arch, 1.7, entropy=0.3)
        controllers.Controller.backward(strategy.controller, arch, 1.7, 0.3)
        assert torch.allclose(by_hand, gradient(strategy), atol=1e-12)


@pytest.mark.parametrize("space", [SPACE, ODD], ids=["free", "constrained"])
def test_plain_numbers_follow_torch_through_a_whole_search(space, monkeypatch):
    def search():
        strategy = mb.nas.Reinforce(
            space, controller="independent", entropy=0.1, seed=2
        )
        proposals = []
        for _ in range(300):
            proposals.append(strategy.ask())
            strategy.tell(
                proposals[-1],
                math.sin(
                    len(str(proposals[-1])) + 2 * len(str(proposals[-1][2]))
                ),
            )
        return proposals, strategy.controller.table.detach()

    found, table = search()
    for name in ("draw", "backward"):
        monkeypatch.setattr(
            controllers.IndependentController,
            name,
            getattr(controllers.Controller, name),
        )
    expected, by_torch = search()
    assert found == expected
    assert torch.allclose(table, by_torch, atol=1e-9)


@pytest.mark.filterwarnings("ignore:Converting a tensor")
def test_the_baseline_is_that_of_the_scores_before(monkeypatch):
    strategy, advantages = (
        mb.nas.Reinforce(SPACE, controller="independent", decay=0.9),
        [],
    )
    monkeypatch.setattr(
        strategy.controller,
        "backward",
        lambda arch, advantage, entropy: advantages.append(advantage),
    )
    monkeypatch.setattr(strategy.optimizer, "step", lambda: None)
    for score in (1.0, 3.0, None, 2.0):
        strategy.tell(strategy.ask(), score)
    # a failure counts as the worst, 1
    assert advantages == pytest.approx([2.0, 1.0 - 1.2, 2.0 - 1.18])
    strategy.tell(strategy.ask(), torch.tensor(2.0, requires_grad=True))
    # nothing that a gradient could pass through
    assert type(strategy.baseline) is type(advantages[-1]) is float


@pytest.mark.parametrize("controller", CONTROLLERS)
def test_every_choice_begins_equally_likely(controller):
    strategy = mb.nas.Reinforce(SPACE, controller=controller)
    for prefix in ((), (2,), (2, "c")):
        assert list(strategy.probabilities(prefix).values()) == pytest.approx(
            [0.25] * 4
        )
    assert strategy.log_prob((0, "a", None)) == pytest.approx(-math.log(64))


@pytest.mark.parametrize("controller", CONTROLLERS)
def test_of_two_arms_the_better_one_is_found(controller):
    bandit = mb.nas.SearchSpace({"arm": ["good", "bad"]})
    for seed in range(3):
        strategy = mb.nas.Reinforce(bandit, controller=controller, seed=seed)
        rng = Random(seed)
        for _ in range(300):
            arch = strategy.ask()
            strategy.tell(
                arch, rng.gauss(1.0 if arch == ("good",) else 0.0, 0.5)
            )
        assert strategy.probabilities()["good"] > 0.95


def entropy_of(strategy, space):
    return -sum(
        math.exp(lp) * lp for lp in (strategy.log_prob(arch) for arch in space)
    )


@pytest.mark.parametrize("controller", CONTROLLERS)
def test_an_entropy_bonus_keeps_the_entropy_higher(controller):
    def final(entropy):
        strategy = mb.nas.Reinforce(
            SPACE, controller=controller, entropy=entropy, hidden=8
        )
        for _ in range(150):
            arch = strategy.ask()
            strategy.tell(arch, float(arch[0] == 2) + float(arch[1] == "b"))
        return entropy_of(strategy, SPACE)

    plain, bonus = final(0.0), final(0.5)
    assert plain < bonus - 0.5
    assert bonus < math.log(64)


def test_a_recurrent_controller_learns_that_one_choice_depends_on_another():
    """The score is 1 where the choices differ. With entropy weighed by 0.6 the
    best of all distributions puts 0.84 on such pairs; two independent choices
    do best undecided, at 0.5 (their entropy costs more than the score gains).
    """
    space = mb.nas.SearchSpace({"a": [0, 1], "b": [0, 1]})

    def right(controller, lr, seed):
        strategy = mb.nas.Reinforce(
            space, controller=controller, lr=lr, entropy=0.6, seed=seed
        )
        for _ in range(500):
            arch = strategy.ask()
            strategy.tell(arch, float(arch[0] != arch[1]))
        return math.exp(strategy.log_prob((0, 1))) + math.exp(
            strategy.log_prob((1, 0))
        )

    lstm = [right("lstm", 0.01, seed) for seed in range(3)]
    independent = [right("independent", 0.05, seed) for seed in range(3)]
    assert min(lstm) > max(independent)
    assert sum(lstm) / 3 > 0.75
    assert sum(independent) / 3 < 0.6


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"controller": "transformer"}, "choose 'lstm' or 'independent'"),
        ({"decay": 1.0}, "below 1"),
        ({"lr": -0.1}, "lr is -0.1; it must be positive"),
        ({"lr": math.nan}, "lr is nan"),
        ({"entropy": -1.0}, "as the weight of a bonus it is at least 0"),
        ({"hidden": 0}, "hidden is 0; it must be an integer from 1"),
    ],
)
def test_a_setting_that_makes_no_sense_is_named(options, message):
    with pytest.raises(ValueError, match=message):
        mb.nas.Reinforce(SPACE, **options)
