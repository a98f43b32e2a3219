"""A model that is read onto a mesh: each device has its part, and the host's memory never holds the whole of it."""

import json
import tempfile
import tracemalloc
from pathlib import Path

import jax
import numpy as np
import pytest
import safetensors.numpy
import simulated

from transformer.config import Parallel
from transformer.interop import huggingface
from transformer.models import axes
from transformer.runtime.devices import Runtime

LAYERS, WIDTH, INNER, ENTRIES, HEADS = 16, 128, 512, 1000, 8
FIELDS = {
    "model_type": "llama",
    "vocab_size": ENTRIES,
    "hidden_size": WIDTH,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "intermediate_size": INNER,
    "tie_word_embeddings": False,
}


def write(folder: Path) -> int:
    """A Llama of drawn weights in bfloat16 and several files; returns the number of its parameters."""
    draw, shapes = np.random.default_rng(0), {"model.embed_tokens.weight": (ENTRIES, WIDTH), "lm_head.weight": (ENTRIES, WIDTH)}
    shapes["model.norm.weight"] = (WIDTH,)
    for layer in range(LAYERS):
        name = f"model.layers.{layer}"
        shapes |= {f"{name}.self_attn.{each}_proj.weight": (WIDTH, WIDTH) for each in "qkvo"}
        shapes |= {f"{name}.mlp.{each}_proj.weight": (INNER, WIDTH) for each in ("gate", "up")}
        shapes |= {f"{name}.mlp.down_proj.weight": (WIDTH, INNER)}
        shapes |= {f"{name}.{each}_layernorm.weight": (WIDTH,) for each in ("input", "post_attention")}
    tensors = {name: draw.normal(0, 0.02, shape).astype(jax.numpy.bfloat16) for name, shape in shapes.items()}
    names, places = sorted(tensors), {}
    for number in range(3):
        file = f"model-{number}.safetensors"
        safetensors.numpy.save_file({name: tensors[name] for name in names[number::3]}, folder / file, {"format": "pt"})
        places |= dict.fromkeys(names[number::3], file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    (folder / "config.json").write_text(json.dumps(FIELDS))
    return sum(tensor.size for tensor in tensors.values())


def on_eight() -> dict:
    parallel = Parallel("mesh", fsdp=2, tensor=2)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        size = write(folder)
        whole = huggingface.read_model(folder).params

        def place(config, shapes):
            return Runtime(parallel, axes=axes.of_model(config.model)).shardings(shapes)

        tracemalloc.start()
        params = huggingface.read_model(folder, place).params
        held, peak = tracemalloc.get_traced_memory()  # devices of a CPU hold arrays of NumPy, which are counted too
        tracemalloc.stop()
    leaves = jax.tree.leaves(params)
    equal = jax.tree.map(lambda a, b: bool(np.array_equal(a, b)), params, whole)
    return {
        "equal": all(jax.tree.leaves(equal)),
        "beside": (peak - held) / (4 * size),
        "share": sum(x.addressable_data(0).size for x in leaves) / sum(x.size for x in leaves),
    }


@pytest.mark.slow
def test_a_large_model_is_read_part_by_part():
    found = simulated.eight(__file__)
    assert found["equal"]
    assert found["share"] < 0.3  # of a mesh that cuts parameters in four
    assert found["beside"] < 0.15  # of the bytes of all parameters in fp32; the largest tensor has 0.04 of them


if __name__ == "__main__":
    print(json.dumps(on_eight()))
