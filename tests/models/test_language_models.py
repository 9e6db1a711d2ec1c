"""Small language models, and contrastive decoding through ``transformers`` (arXiv 2409.05923)."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel, LogitsProcessorList

from pushforward.models.decoding import uscd_scores
from pushforward.models.language import CausalAttention, InContextBayesLM, TinyLM, generate
from pushforward.models.uscd_processor import USCDLogitsProcessor
from pushforward.nn.normalisation import L1LayerNorm

V = 64


def gpt() -> Any:
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=V, n_layer=2, n_embd=32, n_head=2, n_positions=64, bos_token_id=0,
        eos_token_id=None, initializer_range=0.5,
    )  # fmt: skip
    return GPT2LMHeadModel(config).eval()


def tokens(rows: int, n: int, seed: int = 1) -> Tensor:
    return torch.randint(1, V, (rows, n), generator=torch.Generator().manual_seed(seed))


ABOUT: dict[str, Any] = {"do_sample": False, "max_new_tokens": 8, "pad_token_id": 0}


def run(model: Any, ids: Tensor, processor: Any = None, **about: Any) -> Tensor:
    given = {} if processor is None else {"logits_processor": LogitsProcessorList([processor])}
    mask = torch.ones_like(ids)
    out: Tensor = model.generate(ids, attention_mask=mask, **ABOUT, **given, **about)
    return out


def by_hand(model: Any, ids: Tensor, lame: Tensor, **settings: Any) -> Tensor:
    """Greedy decoding without a cache."""
    with torch.no_grad():
        for _ in range(8):
            pair = (model(each).logits[:, -1] for each in (ids, lame))
            token = uscd_scores(*pair, **settings).scores.argmax(-1, keepdim=True)
            ids, lame = torch.cat([ids, token], 1), torch.cat([lame, token], 1)
    return ids


def test_generation_is_the_loop_by_hand() -> None:
    model, ids, lame = gpt(), tokens(3, 10), tokens(3, 4, seed=2)
    settings = {"alpha": 0.7, "eta": 0.1, "collision_threshold": 0.9}
    processor = USCDLogitsProcessor(model, lame, **settings)
    found = run(model, ids, processor)
    assert torch.equal(found, by_hand(model, ids, lame, **settings))
    assert not torch.equal(found, run(model, ids))
    assert processor.stats.steps == 8 and processor.stats.rows == 24
    assert 0 < processor.stats.contrast_rate <= 1
    processor.reset()
    assert torch.equal(run(model, ids, processor), found)


def test_without_a_contrast_it_is_greedy() -> None:
    model, ids, lame = gpt(), tokens(3, 10), tokens(1, 4, seed=2)
    processor = USCDLogitsProcessor(model, lame, alpha=0.0, eta=0.0)
    assert torch.equal(run(model, ids, processor), run(model, ids))


def test_padding_of_the_lame_prompt() -> None:
    """A prompt with padding on its left is the prompt without it."""
    model, ids, lame = gpt(), tokens(2, 6), tokens(2, 4, seed=2)
    padded = torch.cat([torch.zeros(2, 3, dtype=torch.long), lame], 1)
    mask = (torch.arange(7) >= 3).long().expand(2, 7)
    settings = {"eta": 0.1, "collision_threshold": 0.9}
    first = run(model, ids, USCDLogitsProcessor(model, lame, **settings))
    second = run(model, ids, USCDLogitsProcessor(model, padded, mask, **settings))
    assert torch.equal(first, second)


def test_finished_rows_are_not_counted() -> None:
    model, ids = gpt(), tokens(1, 5)
    third = int(run(model, ids)[0, 7])
    model.generation_config.eos_token_id = third
    processor = USCDLogitsProcessor(model, ids, alpha=0.0, eta=0.0)
    two = torch.cat([ids, tokens(1, 5, seed=9)])
    run(model, two, processor)
    assert processor.stats.rows < 2 * processor.stats.steps


def test_copied_weights_give_the_same_tokens() -> None:
    """TinyLM has GPT-2's form, but for the form of GELU, which is set here."""
    model, ids = gpt(), tokens(2, 6)
    tiny = TinyLM(V, 32, 2, 2, 64)
    source = model.transformer
    with torch.no_grad():
        tiny.tokens.weight.copy_(source.wte.weight)
        tiny.places.weight.copy_(source.wpe.weight)
        tiny.head.weight.copy_(model.lm_head.weight)
        tiny.norm.load_state_dict(source.ln_f.state_dict())
        for block, other in zip(tiny.blocks, source.h, strict=True):
            block.first.load_state_dict(other.ln_1.state_dict())
            block.second.load_state_dict(other.ln_2.state_dict())
            for mine, theirs in (
                (block.attention.into, other.attn.c_attn),
                (block.attention.out, other.attn.c_proj),
                (block.mixing[0], other.mlp.c_fc),
                (block.mixing[2], other.mlp.c_proj),
            ):
                mine.weight.copy_(theirs.weight.T)
                mine.bias.copy_(theirs.bias)
            block.mixing[1] = torch.nn.GELU("tanh")
    torch.testing.assert_close(tiny(ids), model(ids).logits, rtol=1e-4, atol=1e-4)
    settings = {"eta": 0.1, "collision_threshold": 0.9}
    lame = tokens(2, 4, seed=2)
    with pytest.warns(UserWarning, match="no cache"):
        found = tiny.generate(ids, 8, [USCDLogitsProcessor(tiny, lame, **settings)])
    assert torch.equal(found, run(model, ids, USCDLogitsProcessor(model, lame, **settings)))


def test_certain_steps_are_greedy() -> None:
    """With reliable answers and two examples the model is certain of every answer."""
    prior = torch.tensor([0.6] + [0.4 / 9] * 9, dtype=torch.float64)
    model = InContextBayesLM(prior, 0.6)
    ids = torch.tensor([[1, 1 + c, 3, 3 + c, 4] for c in range(6)])
    processor = USCDLogitsProcessor(model, torch.tensor([[4]]), collision_threshold=0.2)
    with pytest.warns(UserWarning, match="no cache"):
        found = generate(model, ids, 1, [processor])
    assert torch.equal(found, generate(model, ids, 1))
    assert processor.stats.contrast_rate == 0


def test_layers_of_the_tiny_model_may_be_others() -> None:
    torch.manual_seed(0)
    model = TinyLM(10, 8, 1, 2, 6, norm=L1LayerNorm, attention=CausalAttention)
    ids = torch.randint(10, (2, 6))
    assert model(ids).shape == (2, 6, 10)
    changed = ids.clone()
    changed[:, 4] = (changed[:, 4] + 1) % 10
    torch.testing.assert_close(model(ids)[:, :4], model(changed)[:, :4])
    drawn = model.generate(
        ids[:, :2], 3, sampler=lambda s: torch.multinomial(s.softmax(-1), 1)[:, 0]
    )
    assert drawn.shape == (2, 5)


def test_bad_input() -> None:
    model, ids = gpt(), tokens(3, 10)
    with pytest.raises(ValueError, match="lame prompt is empty"):
        USCDLogitsProcessor(model, ids[:, :0])
    with pytest.raises(ValueError, match="2 lame prompts do not fit 3 rows"):
        run(model, ids, USCDLogitsProcessor(model, ids[:2]))
    processor = USCDLogitsProcessor(model, ids[:, :3])
    run(model, ids, processor)
    with pytest.raises(RuntimeError, match=r"reset\(\)"):
        run(model, ids, processor)
    with pytest.raises((ValueError, NotImplementedError, RuntimeError), match=r"beam search|reset"):
        run(model, ids, USCDLogitsProcessor(model, ids[:1, :3]), num_beams=3)
    moved = USCDLogitsProcessor(model, ids[:1, :3])
    scores = torch.zeros(3, V)
    moved(ids, scores)
    with pytest.raises(NotImplementedError, match="beam search"):
        moved(torch.cat([ids.flip(0), ids[:, :1]], 1), scores)
    model.config.is_encoder_decoder = True
    with pytest.raises(NotImplementedError, match="encoder"):
        USCDLogitsProcessor(model, ids)
    with pytest.raises(ValueError, match="65 tokens are more than 64"):
        TinyLM()(torch.zeros(1, 65, dtype=torch.long))
    with pytest.raises(ValueError, match="3 heads do not divide"):
        TinyLM(num_heads=3)
    with pytest.raises(ValueError, match="rho"):
        InContextBayesLM(torch.ones(2) / 2, 1.5)
    padded = USCDLogitsProcessor(TinyLM(), ids, torch.zeros_like(ids))
    with pytest.raises(ValueError, match="no padding"):
        padded(ids, scores)
