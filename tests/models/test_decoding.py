"""Contrastive decoding: acceptance checks of arXiv 2409.05923; numbers computed by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from pushforward.models.decoding import (
    contrast,
    jensen_shannon,
    lame_prompt,
    std_threshold_of,
    uscd_scores,
)
from pushforward.models.language import InContextBayesLM


def f(x: Any) -> Tensor:
    return torch.tensor(x, dtype=torch.float64)


STANDARD, LAME = f([2.0, 1.8, 0.5, -1.0, -3.0]), f([2.5, 0.5, 0.5, -1.0, 0.0])


def test_a_row() -> None:
    p, q = STANDARD.softmax(0), LAME.softmax(0)
    expected = f([0.47655676, 0.39017168, 0.10633419, 0.02372636, 0.00321101])
    torch.testing.assert_close(p, expected, rtol=0, atol=1e-8)
    assert float(p.std()) == pytest.approx(0.2186438269, abs=1e-9)
    found = uscd_scores(STANDARD, LAME, std_threshold=0.25)
    assert bool(found.contrasted)
    wanted = f([-math.inf, -1.13422934, -3.27458846, -math.inf, -math.inf])
    torch.testing.assert_close(found.scores, wanted, rtol=0, atol=1e-7)
    assert int(found.scores.argmax()) == 1
    assert float(jensen_shannon(p, q)) == pytest.approx(0.0750739012, abs=1e-9)
    sure = uscd_scores(6 * STANDARD, LAME, std_threshold=0.25)
    assert not bool(sure.contrasted)
    torch.testing.assert_close(sure.scores, (6 * STANDARD).log_softmax(0))


def test_thresholds() -> None:
    assert std_threshold_of(0.392, 32_000) == pytest.approx(0.00349992, abs=1e-8)
    assert std_threshold_of(0.8, 32_000) == pytest.approx(0.00499998, abs=1e-8)
    assert std_threshold_of(0.392, 64) == pytest.approx(0.07729299, abs=1e-8)
    p = torch.randn(50, dtype=torch.float64).softmax(0)
    assert std_threshold_of(float((p**2).sum()), 50) == pytest.approx(float(p.std()), abs=1e-12)
    for c in (0.21, 0.39, 0.6):  # both forms of a threshold decide alike
        by_std = uscd_scores(STANDARD, LAME, std_threshold=std_threshold_of(c, 5))
        by_squares = uscd_scores(STANDARD, LAME, collision_threshold=c)
        assert torch.equal(by_std.contrasted, by_squares.contrasted)


def test_limits() -> None:
    none = uscd_scores(STANDARD, LAME, alpha=0.0, eta=0.0)
    torch.testing.assert_close(none.scores, STANDARD.log_softmax(0))
    same = uscd_scores(STANDARD, STANDARD, alpha=1.0)
    torch.testing.assert_close(same.scores, STANDARD.log_softmax(0))
    assert bool(same.fallback)
    assert not bool(same.contrasted)


def test_properties_of_random_rows() -> None:
    generator = torch.Generator().manual_seed(0)
    standard, lame = (torch.randn(200, 30, generator=generator).double() for _ in range(2))
    about = {"collision_threshold": 1.0}
    found = uscd_scores(standard, lame, **about)
    p, q = standard.softmax(-1), lame.softmax(-1)
    out = found.scores.softmax(-1)
    gone = (p < 1 / 3 / 30) | (p - 0.7 * q <= 0)
    assert bool((out[gone] == 0).all())
    more = uscd_scores(standard, lame, alpha=0.9, **about).scores
    both = torch.isfinite(more)
    assert bool((more[both] <= found.scores[both]).all())
    alone = torch.stack(
        [uscd_scores(s, m, **about).scores for s, m in zip(standard, lame, strict=True)]
    )
    torch.testing.assert_close(alone, found.scores)


def test_padding_gets_no_mass() -> None:
    padded = [torch.cat([x, f([9.0, 9.0])]) for x in (STANDARD, LAME)]
    found = uscd_scores(padded[0], padded[1], vocab_size=5, std_threshold=0.25)
    plain = uscd_scores(STANDARD, LAME, std_threshold=0.25)
    torch.testing.assert_close(found.scores[:5], plain.scores)
    assert bool(torch.isneginf(found.scores[5:]).all())


PRIOR = f([0.6] + [0.4 / 9] * 9)


def predicted(examples: list[tuple[int, int]], query: int, rho: float) -> Tensor:
    """The next token [y] after some examples of a shift modulo ten, which a model infers."""
    ids = torch.tensor([[*(token for pair in examples for token in pair), query]])
    return InContextBayesLM(PRIOR, rho)(ids)[0, -1].exp()


def test_the_model_by_hand() -> None:
    """Two examples of the shift 3, by Bayes' rule; a question may be anything."""
    out = InContextBayesLM(PRIOR, 0.5)(torch.tensor([[2, 5, 4, 7, 1]])).exp()
    weights = PRIOR * (0.05 + 0.5 * f([c == 3 for c in range(10)])) ** 2
    weights = weights / weights.sum()
    answer = 0.05 + 0.5 * weights.roll(1)
    torch.testing.assert_close(out[0, -1], answer, rtol=0, atol=1e-12)
    torch.testing.assert_close(out[0, 1], torch.full((10,), 0.1).double())


def test_a_habit_is_overcome_by_one_example() -> None:
    p, q = predicted([(2, 5)], 4, 0.3), predicted([], 4, 0.3)
    assert [round(float(p[i]), 4) for i in (0, 4, 7)] == [0.0812, 0.2212, 0.1292]
    assert [round(float(q[i]), 5) for i in (0, 4)] == [0.08333, 0.25]
    found = uscd_scores(p.log(), q.log(), collision_threshold=0.2)
    assert int(p.argmax()) == 4
    assert int(found.scores.argmax()) == 7
    assert float(found.scores[7]) == pytest.approx(-2.646955, abs=1e-6)
    assert float(found.scores[4]) == pytest.approx(-3.074775, abs=1e-6)


def accuracy(rho: float, examples: int, alpha: float) -> tuple[float, float]:
    """Of greedy and of contrastive answers, over all shifts, examples and queries."""
    greedy, contrastive = [], []
    for c in range(10):
        for x in range(10):
            shown = [((x + k) % 10, (x + k + c) % 10) for k in range(examples)]
            for query in range(10):
                p, q = predicted(shown, query, rho).log(), predicted([], query, rho).log()
                found = uscd_scores(p, q, alpha=alpha, collision_threshold=0.2)
                right = (query + c) % 10
                greedy.append(int(p.argmax()) == right)
                contrastive.append(int(found.scores.argmax()) == right)
    return sum(greedy) / 1000, sum(contrastive) / 1000


def test_all_shifts() -> None:
    assert accuracy(0.3, 1, 0.7) == (0.10, 1.00)
    assert accuracy(0.3, 1, 1.0) == (0.10, 1.00)
    assert accuracy(0.3, 1, 0.3) == (0.10, 0.10)
    assert accuracy(0.3, 2, 0.7) == (1.00, 1.00)


def test_certain_rows_are_left_alone() -> None:
    for c in range(10):
        p, q = predicted([(1, (1 + c) % 10), (3, (3 + c) % 10)], 4, 0.6), predicted([], 4, 0.6)
        found = uscd_scores(p.log(), q.log(), collision_threshold=0.2)
        assert not bool(found.contrasted)


def test_the_weight_of_jensen_and_shannon() -> None:
    alpha = 0.0750739012 / math.log(2)
    expected = uscd_scores(STANDARD, LAME, alpha=alpha, std_threshold=0.25)
    found = uscd_scores(STANDARD, LAME, alpha="js", std_threshold=0.25)
    torch.testing.assert_close(found.scores, expected.scores, rtol=0, atol=1e-8)


def test_as_a_distribution() -> None:
    found = contrast(STANDARD, LAME, std_threshold=0.25)
    expected = f([0, 0.89475, 0.10525, 0, 0])
    torch.testing.assert_close(found.probs, expected, rtol=0, atol=1e-4)
    assert float(found.log_prob(torch.tensor(0))) == -math.inf
    assert set(found.sample((100,)).tolist()) <= {1, 2}


def test_half_precision() -> None:
    generator = torch.Generator().manual_seed(1)
    standard, lame = (3 * torch.randn(1000, 40, generator=generator) for _ in range(2))
    wide = uscd_scores(standard, lame).scores
    half = uscd_scores(standard.bfloat16(), lame.bfloat16()).scores
    assert half.dtype == torch.float32
    exact = uscd_scores(standard.bfloat16().float(), lame.bfloat16().float()).scores
    assert torch.equal(half.argmax(-1), exact.argmax(-1))
    top = wide.topk(2).values
    clear = top[:, 0] - top[:, 1] > 0.3
    assert float((half.argmax(-1) == wide.argmax(-1))[clear].double().mean()) > 0.95


PROMPT = '''def add(a, b):
    """Add two numbers.

    Both are integers.

    >>> add(1, 2)
    3
    >>> add(2, 2)
    4
    """
'''


def test_lame_prompts() -> None:
    found = lame_prompt(PROMPT)
    assert ">>>" not in found
    assert "    3" not in found
    assert "def add(a, b):" in found
    assert "Both are integers." in found
    assert found.rstrip().endswith('"""')
    assert lame_prompt(found) == found
    assert lame_prompt("q: 1\na: 2\n\nq: 3\na:", "fewshot") == "q: 3\na:"
    assert lame_prompt("abc", str.upper) == "ABC"
    with pytest.raises(ValueError, match="style"):
        lame_prompt("abc", "other")  # type: ignore[arg-type]


def test_bad_input() -> None:
    cases: list[tuple[dict[str, Any], type[Exception], str]] = [
        ({"alpha": -0.1}, ValueError, "not negative"),
        ({"eta": -0.1}, ValueError, "not negative"),
        ({"alpha": None}, TypeError, "numbers"),
        ({"collision_threshold": 0.2}, ValueError, "collision probability"),
        ({"collision_threshold": 1.1}, ValueError, "collision probability"),
        ({"collision_threshold": 0.3, "std_threshold": 0.1}, ValueError, "one threshold"),
        ({"vocab_size": 6}, ValueError, "2 to 5 tokens"),
    ]
    for settings, error, text in cases:
        with pytest.raises(error, match=text):
            uscd_scores(STANDARD, LAME, **settings)
    with pytest.raises(ValueError, match="differ"):
        uscd_scores(STANDARD, LAME[:4])
    with pytest.raises(TypeError, match="floating point"):
        uscd_scores(STANDARD.long(), LAME.long())
    broken = STANDARD.clone()
    broken[0] = math.nan
    assert not bool(uscd_scores(STANDARD, broken).contrasted)
