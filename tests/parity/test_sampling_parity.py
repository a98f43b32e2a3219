"""Warpers, one by one and in their order, against those of Transformers' `generate`."""

import jax.numpy as jnp
import numpy as np
import pytest

from transformer.inference import sampling

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

LOGITS = np.random.default_rng(0).normal(0, 3, (64, 50)).astype(np.float32)
FED = np.random.default_rng(1).integers(0, 50, (64, 12))


def said(fed_BxT, size):
    result = np.zeros((len(fed_BxT), size), bool)
    np.put_along_axis(result, np.asarray(fed_BxT), True, axis=1)
    return jnp.asarray(result)


def theirs(name, *arguments):
    return getattr(transformers, name)(*arguments)(torch.tensor(FED), torch.tensor(LOGITS)).numpy()


@pytest.mark.parametrize("value", [0.6, 1.0, 1.3, 4.0])
def test_repetition_penalty(value):
    found = sampling.penalize_repetition(jnp.asarray(LOGITS), said(FED, 50), value)
    np.testing.assert_allclose(found, theirs("RepetitionPenaltyLogitsProcessor", value), rtol=1e-6)


@pytest.mark.parametrize("value", [1, 2, 7, 50, 80])
def test_top_k(value):
    np.testing.assert_array_equal(sampling.keep_top_k(jnp.asarray(LOGITS), value), theirs("TopKLogitsWarper", value))


@pytest.mark.parametrize("value", [0.01, 0.3, 0.7, 0.95, 0.999])
def test_top_p(value):
    np.testing.assert_array_equal(sampling.keep_top_p(jnp.asarray(LOGITS), value), theirs("TopPLogitsWarper", value))


@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": 0.7},
        {"repetition_penalty": 1.4, "temperature": 1.5, "top_k": 9},
        {"temperature": 0.3, "top_p": 0.8},
        {"repetition_penalty": 1.3, "temperature": 1.7, "top_k": 12, "top_p": 0.6},
    ],
)
def test_order_of_generate(settings):
    """`generate` tells the logits before and after its processors at each step that it takes."""
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=30, n_positions=32, n_embd=16, n_layer=1, n_head=2, initializer_range=1.0, bos_token_id=0, eos_token_id=29
    )
    model = transformers.GPT2LMHeadModel(config).eval()
    prompt = torch.tensor([[3, 4, 5], [9, 9, 9], [1, 2, 1]])
    asked = {"top_k": 0, "top_p": 1.0, **settings}
    result = model.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        do_sample=True,
        max_new_tokens=8,
        return_dict_in_generate=True,
        output_logits=True,
        output_scores=True,
        pad_token_id=29,
        **asked,
    )
    warp = sampling.Warp(**settings)
    excluded = 0
    for n, (logits, scores) in enumerate(zip(result.logits, result.scores, strict=True)):
        fed = result.sequences[:, : 3 + n].numpy()
        found = np.asarray(sampling.warp_logits(jnp.asarray(logits.numpy()), said(fed, 30), warp))
        np.testing.assert_allclose(found, scores.numpy(), rtol=1e-5)
        excluded += np.isneginf(found).sum()
    assert (excluded > 0) == ("top_k" in settings or "top_p" in settings)
