"""From text to text: sentences a second of a trained translator, against Transformers' `generate` and CTranslate2.

    python -m experiments.benchmarks.translate_text --directory=DIR --workdir=runs/translate_text

DIR has Multi30k, as for experiments/multi30k.py. First a model of the size of train_step.py's, with Marian's architecture, is
trained until it ends sentences at the right length, and exported (the workdir is kept and the next call resumes there). A turn
translates the 1,000 sentences of test_2016_flickr from text to text, with each contender's own pipeline: tokenization, batches
of 64 sentences of similar length, search with the same penalty and limit, detokenization. BLEU and the fraction of lines that
equal ours are printed. With beams, a sentence of ours ends as in Transformers (`search.stopping=likely`), and one of "ours,
filled" as in CTranslate2, as soon as there are enough hypotheses.
"""

import dataclasses
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from experiments.benchmarks import race
from experiments.benchmarks.race import Contender, Times
from experiments.benchmarks.translate import MODEL, converted
from transformer.config import Checkpoint, Config, Data, Evaluate, Search, Train
from transformer.runtime.memory import keep_freed_memory

BATCH, LONGEST, ALPHA = 64, 96, 1.0  # sentences, output tokens, length penalty
TEST = "test_2016_flickr"


def get_config() -> Config:
    """What is trained."""
    return Config(
        model=MODEL,
        data=Data(
            source="text",
            train="train",
            validation="val",
            test=TEST,
            vocabulary="bpe",
            vocabulary_size=10_000,
            batching="bucketed",
            buckets=4,
        ),
        train=Train(steps=600, batch_tokens=2048, learning_rate=1e-3, schedule="linear", warmup_steps=100, evaluate_every=200),
        evaluate=Evaluate(scores=("bleu",), bleu_tokenize="none", average=1),
        search=Search(beam_size=4, length_penalty=ALPHA, penalty_form="power", batch_size=BATCH),
        checkpoint=Checkpoint(every_steps=100),
    )


def by_length(encoded: list[Any]) -> list[list[int]]:
    """Batches of the texts' numbers, the shortest first."""
    order = sorted(range(len(encoded)), key=lambda n: len(encoded[n]))
    return [order[start : start + BATCH] for start in range(0, len(order), BATCH)]


def ours(workdir: str, texts: list[str], beams: int, stopping: str = "likely") -> Callable[[], list[str]]:
    """Translates as `--mode=translate` does."""
    keep_freed_memory()
    from transformer.inference import predict

    settings = {"search.beam_size": str(beams), "search.stopping": stopping}
    translator: Any = predict.load(Path(workdir), settings, "translate")
    return lambda: [outputs[0].text for outputs in translator.translate(texts, scored=False)]


def transformers(folder: str, texts: list[str], beams: int) -> Callable[[], list[str]]:
    """`generate`, with its cache, on batches of sorted sentences."""
    import torch  # pyright: ignore[reportMissingImports]
    from transformers import AutoTokenizer, MarianMTModel  # pyright: ignore[reportMissingImports]

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    model: Any = MarianMTModel.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)

    def turn() -> list[str]:
        outputs = [""] * len(texts)
        for numbers in by_length(tokenizer(texts)["input_ids"]):
            batch = tokenizer([texts[n] for n in numbers], return_tensors="pt", padding=True)
            with torch.inference_mode():
                found = model.generate(
                    **batch,
                    num_beams=beams,
                    do_sample=False,
                    max_new_tokens=LONGEST,
                    length_penalty=ALPHA,
                    early_stopping=False,
                )
            for number, text in zip(numbers, tokenizer.batch_decode(found, skip_special_tokens=True), strict=True):
                outputs[number] = text
        return outputs

    return turn


def ctranslate2(folder: str, texts: list[str], beams: int, kind: str) -> Callable[[], list[str]]:
    """`translate_batch`, which sorts and batches by itself; pieces by sentencepiece, as its guide says."""
    import sentencepiece
    from ctranslate2.converters import transformers as converters  # pyright: ignore[reportMissingImports]

    class Loader(converters.MarianMTLoader):
        """Marian's own begin with a row of zeros and have padding for their last entry: this one has neither."""

        def get_model_spec(self, model: Any) -> Any:
            model.config.normalize_before = model.config.normalize_embedding = False
            return converters.BartLoader.get_model_spec(self, model)

        def set_decoder(self, spec: Any, decoder: Any) -> None:
            converters.BartLoader.set_decoder(self, spec, decoder)

        def set_config(self, config: Any, model: Any, tokenizer: Any) -> None:
            super().set_config(config, model, tokenizer)
            config.decoder_start_token = "<s>"

    converters._MODEL_LOADERS["MarianConfig"] = Loader()
    translator = converted(folder, kind)
    pieces = sentencepiece.SentencePieceProcessor(str(Path(folder) / "source.spm"))

    def turn() -> list[str]:
        tokens = [[*each, "</s>"] for each in pieces.Encode(texts, out_type=str)]
        found = translator.translate_batch(
            tokens,
            beam_size=beams,
            length_penalty=ALPHA,
            max_decoding_length=LONGEST,
            max_batch_size=BATCH,
            return_scores=False,
        )
        return [pieces.DecodePieces(each.hypotheses[0]) for each in found]

    return turn


def launch(*flags: str) -> None:
    """The command line, as a user has it."""
    subprocess.run([sys.executable, str(Path(__file__).parents[2] / "launch.py"), *flags], check=True)


def summarize(times: Times, mine: Times, references: list[str]) -> Times:
    """The times with BLEU, and the fraction of lines that equal ours, instead of outputs."""
    import sacrebleu

    if times.output is None:
        return times
    bleu = sacrebleu.corpus_bleu(times.output, [references], tokenize="none", force=True).score
    same = sum(a == b for a, b in zip(times.output, mine.output, strict=True)) / len(references)
    return dataclasses.replace(times, output={"bleu": round(bleu, 2), "same": same})


def main() -> None:
    """Trains if needed, runs all contenders and prints a table for each beam width."""
    parser = race.arguments(__doc__, rounds=5)
    parser.add_argument("--directory", type=Path, required=True, help="folder of Multi30k")
    parser.add_argument("--workdir", default="runs/translate_text", help="where the model is kept")
    asked = parser.parse_args()
    launch(f"--config={__file__}", f"--config.data.directory={asked.directory}", f"--workdir={asked.workdir}")
    texts, references = (
        (asked.directory / f"{TEST}.{side}").read_text("utf-8").removesuffix("\n").split("\n") for side in ("en", "de")
    )
    with tempfile.TemporaryDirectory() as folder:
        marian = str(Path(folder) / "marian")
        launch("--mode=export", f"--workdir={asked.workdir}", f"--output={marian}")
        for beams in (1, 4):
            work = {"sentences/s": len(texts)}
            contenders = {
                "ours": Contender(ours, (asked.workdir, texts, beams), work),
                **({"ours, filled": Contender(ours, (asked.workdir, texts, beams, "filled"), work)} if beams > 1 else {}),
                "Transformers": Contender(transformers, (marian, texts, beams), work),
                "CTranslate2 fp32": Contender(ctranslate2, (marian, texts, beams, "float32"), work),
                "CTranslate2 int8": Contender(ctranslate2, (marian, texts, beams, "int8"), work),
                race.PEAK: Contender(race.peak, (), {"FLOP/s": race.PEAK_FLOPS}),
            }
            times = race.take_turns(contenders, asked.rounds, 1, asked.threads)
            times = {name: summarize(found, times["ours"], references) for name, found in times.items()}
            way = "greedy" if beams == 1 else f"beam {beams}"
            output = asked.output and f"{asked.output}.{way.replace(' ', '')}.json"
            race.report(f"{len(texts):,} sentences of Multi30k's test, {way}", times, contenders, asked.threads, output)
            for name, found in times.items():
                if found.output:
                    print(f"{name}: {found.output['bleu']} BLEU, {found.output['same']:.1%} of the lines as ours")


if __name__ == "__main__":
    main()
