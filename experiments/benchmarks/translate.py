"""Decoding: greedy and beam 4, against Transformers' `generate` and CTranslate2, fp32 and int8, with the same random weights.

    python -m experiments.benchmarks.translate

64 sentences of 24 tokens, 32 output tokens each (the end is never likely), d_model 256, 4 heads, 3+3 layers, d_ff 1024, 58,101
entries (opus-mt-en-de has as many). The weights are written by `transformer.interop` as a Marian folder, which both others
read. Inputs and outputs are ids: tokenisers are not timed. The benchmark prints whether all outputs are the same.
"""

import json
import os
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from experiments.benchmarks import race
from experiments.benchmarks.race import Contender
from transformer.components.norms import LayerNorm
from transformer.components.positions import Sinusoidal
from transformer.config import Config, Data, DataInfo, Model
from transformer.config import Search as SearchSettings
from transformer.runtime.memory import keep_freed_memory

B, S, L, V = 64, 24, 32, 58_101
NAMES = ["</s>", "<unk>", *(f"t{n}" for n in range(2, V - 1)), "<pad>"]  # of entries, by id
DATA_INFO = DataInfo(source_size=V, target_size=V - 1, source_rows=V, target_rows=V, pad=V - 1, start=V - 1, end=0, unknown=1)
MODEL = Model(
    num_encoder_layers=3,
    num_decoder_layers=3,
    d_model=256,
    d_ff=1024,
    num_heads=4,
    unroll=3,
    positions=Sinusoidal(layout="halves", size=512),
    norm=LayerNorm(epsilon=1e-5),
    tying="three_way",
    logits_bias=True,
)


def config(beams: int) -> Config:
    """The search's form of length penalty is the one that all three have."""
    search = SearchSettings(beam_size=beams, length_penalty=1.0, penalty_form="power", batch_size=B, max_extra=L - S)
    return Config(model=MODEL, data=Data(batching="bucketed"), search=search)


def sentences() -> list[list[int]]:
    """Ids, the end included."""
    import numpy as np

    ids = np.random.default_rng(0).integers(2, V - 1, (B, S - 1))
    return [[*map(int, row), DATA_INFO.end] for row in ids]


def write(folder: Path) -> None:
    """A Marian folder of random weights: the ends' logits are far below the others; what outputs start with has zeros for its
    embedding, as in every model of Marian's, which CTranslate2 counts on."""
    import sentencepiece

    from transformer import families
    from transformer.data.objectives import Translate
    from transformer.interop import huggingface

    made = families.FAMILIES["encoder_decoder"].model(config(1), DATA_INFO)
    params = families.init_params(made, Translate(S, L), seed=0)
    params["logits"]["bias"] = params["logits"]["bias"].at[DATA_INFO.end].add(-1e4)
    table = params["target_embedding"]["table"]
    params["target_embedding"]["table"] = table.at[DATA_INFO.start].set(0)
    huggingface.write(folder, config(1), DATA_INFO, params, {})
    # A tokenizer for converters that need one.
    for name in ("source", "target"):
        with (folder / f"{name}.spm").open("wb") as file:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=iter(["a b c d e f g"] * 20), model_writer=file, vocab_size=12, minloglevel=2
            )
    (folder / "vocab.json").write_text(json.dumps({name: n for n, name in enumerate(NAMES)}))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "MarianTokenizer"}))


def digest(rows: list[list[int]]) -> int:
    """A hash of the outputs: equal ids, equal number."""
    return zlib.crc32(repr([[int(i) for i in row] for row in rows]).encode())


def ours(folder: str, beams: int) -> Callable[[], int]:
    """The search that `--mode=translate` uses, which like the others is asked for no scores."""
    keep_freed_memory()
    import jax

    from transformer import families
    from transformer.inference.decoding import Search
    from transformer.interop import huggingface

    imported = huggingface.read_model(folder)
    asked = config(beams)
    params, ids = jax.device_put(imported.params), sentences()
    search = Search(families.FAMILIES["encoder_decoder"].model(asked, DATA_INFO), asked, DATA_INFO)

    def turn() -> int:
        found = sorted(search(params, ids, scored=False), key=lambda each: each[0])
        return digest([list(each.tokens_BxNxL[0, :L]) for _, each in found])

    return turn


def transformers(folder: str, beams: int) -> Callable[[], int]:
    """`generate`, with its cache."""
    import torch  # pyright: ignore[reportMissingImports]
    from transformers import MarianMTModel  # pyright: ignore[reportMissingImports]

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    model: Any = MarianMTModel.from_pretrained(folder).eval()
    ids = torch.tensor(sentences())

    def turn() -> int:
        with torch.inference_mode():
            found = model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                num_beams=beams,
                do_sample=False,
                max_new_tokens=L,
                forced_eos_token_id=None,
            )
        return digest(found[:, 1:].tolist())

    return turn


def converted(folder: str, kind: str) -> Any:
    """CTranslate2's translator of a Marian folder."""
    import ctranslate2  # pyright: ignore[reportMissingImports]

    with tempfile.TemporaryDirectory() as made:
        ctranslate2.converters.TransformersConverter(folder).convert(made, force=True)
        threads = int(os.environ["OMP_NUM_THREADS"])
        return ctranslate2.Translator(made, compute_type=kind, inter_threads=1, intra_threads=threads)


def ctranslate2(folder: str, beams: int, kind: str) -> Callable[[], int]:
    """`translate_batch`, all sentences in one batch."""
    translator = converted(folder, kind)
    texts = [[NAMES[i] for i in row] for row in sentences()]
    ids = {name: n for n, name in enumerate(NAMES)}

    def turn() -> int:
        found = translator.translate_batch(
            texts, beam_size=beams, length_penalty=1.0, max_decoding_length=L, max_batch_size=0, return_scores=False
        )
        return digest([[ids[name] for name in each.hypotheses[0]] for each in found])

    return turn


def main() -> None:
    """Races them and prints a table for each width of the beam."""
    asked = race.arguments(__doc__).parse_args()
    with tempfile.TemporaryDirectory() as folder:
        marian = Path(folder) / "marian"
        write(marian)
        for beams in (1, 4):
            work = {"output tokens/s": B * L}
            contenders = {
                "ours": Contender(ours, (str(marian), beams), work),
                "Transformers": Contender(transformers, (str(marian), beams), work),
                "CTranslate2 fp32": Contender(ctranslate2, (str(marian), beams, "float32"), work),
                "CTranslate2 int8": Contender(ctranslate2, (str(marian), beams, "int8"), work),
                race.PEAK: Contender(race.peak, (), {"FLOP/s": race.PEAK_FLOPS}),
            }
            times = race.take_turns(contenders, asked.rounds, 2, asked.threads)
            title = f"{B} sentences of {S} tokens, {L} output tokens, {'greedy' if beams == 1 else f'beam {beams}'}"
            output = asked.output and f"{asked.output}.{'greedy' if beams == 1 else f'beam{beams}'}.json"
            race.report(title, times, contenders, asked.threads, output)
            same = [name for name in times if times[name].output is not None and times[name].output == times["ours"].output]
            print(f"the same tokens as ours: {', '.join(same[1:]) or 'none'}\n")


if __name__ == "__main__":
    main()
