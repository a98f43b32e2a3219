"""Greedy and beam search on imported weights, token for token against Transformers' `generate` on 200 inputs."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

import theirs  # noqa: E402  (it imports both)

from transformer import families  # noqa: E402
from transformer.inference import search  # noqa: E402
from transformer.interop import huggingface  # noqa: E402

INPUTS, NEW, LONGEST, BEAMS = 200, 16, 8, 4
TIE = 1e-4
# model -> spread of its weights, seed, factor on the row of the end, added to its logit: so that some outputs end by
# themselves, some do not, and they differ.
MODELS = {
    "t5": (0.8, 0, 10.0, 0.0),
    "t5 1.1": (0.6, 1, 3.5, 0.0),
    "bart scaled": (0.3, 3, 2.0, 4.2),
    "marian": (0.4, 0, 2.0, 0.0),
    "gpt2": (0.8, 0, 3.0, 0.0),
    "llama": (0.4, 1, 4.0, 0.0),
    **dict.fromkeys(("mistral", "qwen2", "qwen3", "phi3", "olmo2", "smollm3", "opt"), (0.6, 0, 3.0, 0.0)),
    **dict.fromkeys(("gemma", "gemma3", "mt5", "umt5"), (0.6, 0, 3.0, 0.0)),
    "gemma2": (0.3, 0, 3.0, 0.0),
    "gpt_neox": (0.3, 1, 8.0, 0.0),
    "pegasus": (0.5, 5, 8.0, 2.0),
    "mbart": (0.3, 2, 3.0, 2.0),
    "m2m_100": (0.6, 0, 3.0, 0.0),
}
WAYS = {
    "greedy": {"num_beams": 1},
    "beam": {"num_beams": BEAMS, "length_penalty": 0.0, "early_stopping": "never"},
    "beam with a length penalty": {"num_beams": BEAMS, "length_penalty": 1.0, "early_stopping": "never"},
    "beam with a great length penalty": {"num_beams": BEAMS, "length_penalty": 1.5, "early_stopping": False},
    "beam, likely": {"num_beams": BEAMS, "length_penalty": 1.0, "early_stopping": False},
    "beam, filled": {"num_beams": BEAMS, "length_penalty": 1.0, "early_stopping": True},
}
STOPPING = {"never": "bound", False: "likely", True: "filled"}


def make(name):
    """A model that ends now and then: what the end's row says of a state is more than what others say."""
    more = {
        "t5": {"num_decoder_layers": 2},
        "umt5": {"num_decoder_layers": 2},
        "marian": {"encoder_layers": 2},
        "mbart": {"encoder_layers": 3},
        "m2m_100": {"decoder_start_token_id": 0},  # after the end, from which it starts, it would end again
    }  # their cache is as deep as the encoder
    spread, seed, factor, added = MODELS[name]
    model = theirs.make(name, spread, seed, **more.get(name, {}))
    with torch.no_grad():
        model.get_output_embeddings().weight[model.config.eos_token_id] *= factor
        if added:
            model.final_logits_bias[0, model.config.eos_token_id] += added
    if name == "marian":
        model.generation_config.bad_words_ids = [[model.config.pad_token_id]]
        model.generation_config.renormalize_logits = True
    return model


@functools.cache
def prepared(name):
    """Their model, ours, 200 inputs; on the left side of a decoder's prompt there is padding."""
    import tempfile

    model = make(name)
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        found = huggingface.read_model(folder)
    source, seen = theirs.batch(INPUTS, seed=3, longest=LONGEST)
    if not model.config.is_encoder_decoder:
        source, seen = source[:, ::-1].copy(), seen[:, ::-1].copy()
    return model, found, source, seen, jax.jit(functools.partial(ours, found), static_argnames=("beams", "stopping"))


def ours(found, params, source, seen, alpha, beams, stopping):
    model = families.FAMILIES[found.config.family].model(found.config, found.data_info)
    apply = functools.partial(model.apply, {"params": params})
    rows, memory, start_B = INPUTS * beams, None, jnp.full(INPUTS, found.data_info.start)
    if found.config.family == "decoder_only":
        prompt_R, seen_R = (jnp.repeat(each, beams, axis=0) for each in (source, seen))
        cache = apply(None, LONGEST + NEW, rows, method="start")
        cache, start_B = apply(prompt_R[:, :-1], cache, None, seen_R[:, :-1] > 0, method="step")[1], source[:, -1]
    else:
        memory = apply(source, None, seen, method="encode")
        cache = apply(memory, NEW, rows, method="start")

    def step(tokens, cache):
        return apply(tokens, cache, memory, method="step")

    how = {"form": "power", "stopping": stopping, "force_end": found.config.search.force_end}
    rule = search.make_rule(NEW, found.data_info.end, beams, alpha, **how)
    return search.find(rule, step, cache, start_B, jnp.full(INPUTS, NEW))


# Each model and each way at least once.
SAMPLE = [
    ("t5", "greedy"),
    ("t5", "beam, filled"),
    ("t5 1.1", "beam with a length penalty"),
    ("bart scaled", "beam, likely"),
    ("marian", "beam"),
    ("gpt2", "greedy"),
    ("gpt2", "beam, filled"),
    ("mistral", "greedy"),
    ("mbart", "beam, filled"),
]


@pytest.mark.parametrize(
    ("name", "way"), small.some(itertools.product(MODELS, WAYS), *SAMPLE, others=pytest.mark.thorough), ids=str
)
def test_outputs_are_theirs_token_for_token(name, way):
    model, found, source, seen, call = prepared(name)
    asked = WAYS[way]
    arrays = (jnp.asarray(source, jnp.int32), jnp.asarray(seen, jnp.int32))
    how = {"beams": asked["num_beams"], "stopping": STOPPING[asked.get("early_stopping", False)]}
    mine = jax.device_get(call(found.params, *arrays, asked.get("length_penalty", 0.0), **how))
    said = model.generate(
        torch.tensor(np.where(seen > 0, source, found.data_info.pad)),
        attention_mask=torch.tensor(seen),
        max_new_tokens=NEW,
        do_sample=False,
        pad_token_id=found.data_info.pad,
        output_logits=True,
        output_scores=True,
        return_dict_in_generate=True,
        **asked,
    )
    first = 1 if model.config.is_encoder_decoder else LONGEST
    wanted = [cut(row[first:], found.data_info.end) for row in said.sequences.tolist()]
    outputs = [row[0, :n].tolist() for row, [n] in zip(mine.tokens_BxNxL, mine.lengths_BxN, strict=True)]
    if found.config.search.force_end:
        assert all(row[-1] == found.data_info.end for row in outputs)
    ended = np.mean([row[-1] == found.data_info.end and len(row) < NEW for row in wanted])
    least = 0.04 if asked.get("length_penalty") else 0.3  # long outputs are better then
    assert least <= ended and len(set(map(tuple, wanted))) >= INPUTS / 16
    assert ended < 1 or asked["num_beams"] > 1  # a beam search may prefer outputs that end, for all inputs
    print(f"{name}, {way}: {ended:.0%} end by themselves")
    different = [row for row in range(INPUTS) if outputs[row] != wanted[row]]
    for row in different:
        gap = (
            abs(mine.scores_BxN[row, 0] - float(said.sequences_scores[row]))
            if "beam" in way
            else first_gap(said, row, outputs[row], wanted[row])
        )
        print(f"input {row}: {outputs[row]} and {wanted[row]}, {gap} apart")
        assert gap <= TIE
    assert len(different) <= INPUTS / 100


def cut(tokens, end):
    """A row of `generate` up to its end, or the limit."""
    return tokens[: tokens.index(end) + 1] if end in tokens else tokens[:NEW]


def first_gap(said, row, output, wanted):
    """How far apart the two likeliest tokens are where greedy outputs part."""
    place = next(n for n, (a, b) in enumerate(zip(output, wanted, strict=False)) if a != b)
    best = torch.log_softmax(said.logits[place][row].float(), dim=-1).topk(2).values
    return float(best[0] - best[1])
