"""What a user may do wrong, in every mode: the command, what is there before, and what the one line names.

Of flags, settings and data alone more is in tests/test_launch.py. Places and what spoils them are places.py's.
"""

import dataclasses
import gzip
import json
from collections.abc import Sequence
from pathlib import Path

from places import Prepare, a_folder, as_it_is, cut, edited, file, locked, together, without


@dataclasses.dataclass(frozen=True)
class Bad:
    """`command` is run in a copy of the place that `spoil` was let at; `says`: what its line holds (thing, place, remedy).

    `more_lines`: lines about successful steps precede the error.
    """

    place: str
    spoil: Prepare
    command: str
    says: Sequence[str]
    stdin: bytes = b"ab\n"
    more_lines: bool = False


def deep(pairs: int = 20_000) -> str:
    return "[" * pairs


def safetensors(header: dict, content: bytes = b"") -> bytes:
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + content


def index(value: dict) -> Prepare:
    return together(without("theirs/model.safetensors"), file("theirs/model.safetensors.index.json", json.dumps(value)))


def squad(question: dict) -> str:
    return json.dumps({"data": [{"paragraphs": [{"context": "a b", "qas": [{"id": "q", "question": "b?"} | question]}]}]})


def every(pattern: str, content: str | None) -> Prepare:
    """All files of the workdir that match a pattern get this content or, if it is None, are deleted."""

    def prepare(folder) -> None:
        for path in [*(folder / "run").rglob(pattern)]:
            path.write_text(content) if content is not None else path.unlink()

    return prepare


CHARACTERS, DATA_INFO, INDEX = "run/vocabulary/joint.characters.json", "run/data_info.json", "model.safetensors.index.json"
EXPERIMENT = "from transformer.config import *\n\ndef get_config():\n    return "
NEW, AGAIN = "--workdir=new", "--config.train.steps=151"
TRANSLATE, IMPORT = "--mode=translate", "--mode=import --source=theirs --workdir=new"
STUDY = Path(__file__).parents[2] / "experiments" / "ablations" / "attention_scale.py"
REPORT = f"--mode=report --config={STUDY}"
ENCODER = "--config.family=encoder_only --config.data.batching=bucketed"
LABELS = f"{NEW} {ENCODER} --config.objective.kind=classify --config.data.source=tsv"
TAGS = f"{NEW} {ENCODER} --config.objective.kind=tag --config.data.source=conll"
ANSWERS = f"{NEW} {ENCODER} --config.objective.kind=answer --config.data.source=squad"
MASKS = f"{NEW} {ENCODER} --config.objective.kind=masked_lm --config.data.source=documents"

BAD: dict[str, Bad] = {
    # --- experiment files and settings ---------------------------------------------------------------------------------
    "a folder as experiment": Bad("data", as_it_is, "--config=data", ["--config=data: there is no such file"]),
    "an experiment that is no Python": Bad(
        "data", file("mine.json", "{}"), "--config=mine.json", ["--config=mine.json: it is not a Python file", ".py"]
    ),
    "an experiment with bytes": Bad("data", file("mine.py", b"\0\xff"), "--config=mine.py", ["--config=mine.py: SyntaxError"]),
    "an experiment that does not parse": Bad(
        "data", file("mine.py", "def get_config(:\n"), "--config=mine.py", ["--config=mine.py", "SyntaxError", "line 1"]
    ),
    "a number as section": Bad(
        "data", file("mine.py", EXPERIMENT + "Config(model=3)"), "--config=mine.py", ["config.model is 3: expected a Model"]
    ),
    "no section": Bad(
        "data", file("mine.py", EXPERIMENT + "Config(data=None)"), "--config=mine.py", ["config.data is None: expected a Data"]
    ),
    "another section": Bad(
        "data",
        file("mine.py", EXPERIMENT + "Config(model=Model(recurrent=Train()))"),
        "--config=mine.py --mode=describe",
        ["config.model.recurrent is Train(", "expected a Recurrent"],
    ),
    "a setting of another type": Bad(
        "data",
        file("mine.py", EXPERIMENT + "Config(model=Model(num_heads='3'))"),
        "--config=mine.py --mode=describe",
        ["config.model.num_heads is '3': expected int"],
    ),
    "a number that no counter holds": Bad(
        "data",
        as_it_is,
        f"{NEW} --config.train.steps=9999999999",
        ["config.train.steps is 9999999999: must be at most 2147483647"],
    ),
    "a seed that no key holds": Bad(
        "data", as_it_is, f"{NEW} --config.train.seed=4294967296", ["train.seed is 4294967296", "at most"]
    ),
    "infinite minutes": Bad("data", as_it_is, f"{NEW} --config.train.max_minutes=inf", ["max_minutes is inf: expected float"]),
    "a vocabulary too large": Bad(
        "data",
        as_it_is,
        f"{NEW} --config.data.vocabulary=bpe --config.data.vocabulary_size=99999999999",
        ["config.data.vocabulary_size is 99999999999: must be at most"],
    ),
    "a name too long": Bad(
        "data", as_it_is, f"--workdir={'a' * 300}", ["--workdir=aaa", "File name too long", "choose another"]
    ),
    "an argument that is not UTF-8": Bad(
        "gpt2", as_it_is, "--mode=generate --prompt=a\udcff", ["'--prompt=a\\udcff'", "UTF-8"]
    ),
    "a mesh of more devices": Bad("data", as_it_is, f"{NEW} --config.parallel.fsdp=64", ["config.parallel.fsdp 64", "devices"]),
    "copies that are to be cut": Bad(
        "data",
        as_it_is,
        f"{NEW} --config.parallel.mode=pmap --config.parallel.tensor=2",
        ["config.parallel.tensor 2", "config.parallel.mode is pmap"],
    ),
    # --- data ----------------------------------------------------------------------------------------------------------
    "a folder too long": Bad(
        "data",
        as_it_is,
        f"{NEW} --config.data.directory={'a' * 300}",
        ["/train.en: cannot be read (File name too long)", "set"],
    ),
    "data in a bucket": Bad(
        "data", as_it_is, f"{NEW} --config.data.directory=gs://a/b", ["directory gs://a/b: ", "mount the bucket"]
    ),
    "a workdir in a bucket": Bad("data", as_it_is, "--workdir=gs://a/b", ["--workdir=gs://a/b: ", "mount the bucket"]),
    "a file as the data's folder": Bad(
        "data", as_it_is, f"{NEW} --config.data.directory=tiny.py", ["tiny.py/train.en", "config.data.directory"]
    ),
    "a folder as data": Bad(
        "data", a_folder("data/train.en"), NEW, ["data/train.en: there is no such file", "config.data.train"]
    ),
    "data that may not be read": Bad(
        "data", locked("data/test.de", 0), NEW, ["data/test.de: cannot be read: Permission denied"]
    ),
    "UTF-16": Bad(
        "data", file("data/train.en", "ab\n".encode("utf-16")), NEW, ["train.en: line 1 is not UTF-8 (byte 0xff)", "iconv"]
    ),
    "half of a .gz": Bad(
        "data",
        together(without("data/train.en"), file("data/train.en.gz", gzip.compress(b"ab\ncd\n" * 99)[:-9])),
        NEW,
        ["train.en.gz: cannot be read: Compressed file ended"],
    ),
    "no .gz inside": Bad(
        "data",
        together(without("data/train.en"), file("data/train.en.gz", "ab\n")),
        NEW,
        ["train.en.gz: cannot be read: Not a gzip"],
    ),
    "lines that do not pair": Bad(
        "data", file("data/validation.en", "a\n"), NEW, ["validation.en has 1 line", "validation.de has 20", "line n"]
    ),
    "an empty slice": Bad(
        "data", as_it_is, f"{NEW} --config.data.test=test[0%:1%]", ["config.data.test test[0%:1%]", "none of the 12"]
    ),
    "a mixture without rates": Bad(
        "data", as_it_is, f"{NEW} --config.data.mixture=a", ["config.data.mixture a: expected NAME:RATE"]
    ),
    "TSV without tabs": Bad(
        "data", file("data/train.tsv", "yes a\n"), LABELS, ["train.tsv: line 1 has 1 field", "label TAB text"]
    ),
    "TSV with an empty label": Bad(
        "data", file("data/train.tsv", "\ta\n"), LABELS, ["train.tsv: line 1: the label is empty; fill"]
    ),
    "TSV with a pair at times": Bad(
        "data", file("data/train.tsv", "y\ta\nn\ta\tb\n"), LABELS, ["line 2 has 3 fields, line 1 has 2"]
    ),
    "CoNLL of one column": Bad(
        "data", file("data/train.conll", "a\n"), TAGS, ["train.conll: line 1 has one column; expected a token"]
    ),
    "CoNLL of other columns": Bad("data", file("data/train.conll", "a x O\nb O\n"), TAGS, ["line 2 has 2 columns", "have 3"]),
    "CoNLL without a sentence": Bad(
        "data", file("data/train.conll", "\n\n"), TAGS, ["config.data.train train: the file has no example"]
    ),
    "SQuAD that is no JSON": Bad("data", file("data/train.json", "{"), ANSWERS, ["train.json: line 1, column 2: not JSON"]),
    "SQuAD that is a list": Bad("data", file("data/train.json", "[]"), ANSWERS, ["train.json: the file is not an object"]),
    "SQuAD that is deep": Bad("data", file("data/train.json", deep()), ANSWERS, ["train.json: not JSON in SQuAD's format"]),
    "SQuAD of NaN": Bad("data", file("data/train.json", '{"data": NaN}'), ANSWERS, ["train.json: data is not a list"]),
    "SQuAD with half a place": Bad(
        "data",
        file("data/train.json", squad({"answers": [{"text": "b", "answer_start": 2.0}]})),
        ANSWERS,
        ["data[0].paragraphs[0].qas[0].answers[0].answer_start is not a whole number"],
    ),
    "blank documents": Bad("data", file("data/train.txt", " \n\n"), MASKS, ["config.data.train train: the file has no text"]),
    # --- workdirs: to go on, to use --------------------------------------------------------------------------------------
    "a workdir that may not be written": Bad(
        "translator",
        locked("run", 0o500),
        AGAIN,
        ["--workdir=run cannot be made or written (Permission denied)", "permissions"],
    ),
    "settings cut short": Bad(
        "translator", cut("run/config.json"), TRANSLATE, ["run/config.json: damaged, line", "restore the file"]
    ),
    "settings that are a list": Bad(
        "translator", file("run/config.json", "[]"), TRANSLATE, ["run/config.json", "not an object of settings"]
    ),
    "settings that are deep": Bad(
        "translator", file("run/config.json", deep()), TRANSLATE, ["run/config.json: damaged", "recursion"]
    ),
    "settings with NaN": Bad(
        "translator",
        file("run/config.json", '{"train": {"beta1": NaN}}'),
        TRANSLATE,
        ["run/config.json: damaged, NaN is not JSON"],
    ),
    "settings past infinity": Bad(
        "translator",
        file("run/config.json", '{"train": {"beta1": 1e999}}'),
        TRANSLATE,
        ["config.json: train.beta1 is inf, expected float"],
    ),
    "settings in Latin-1": Bad(
        "translator", file("run/config.json", b'{"\xe9": 1}'), TRANSLATE, ["run/config.json: damaged", "utf-8"]
    ),
    "a folder as settings": Bad("translator", a_folder("run/config.json"), TRANSLATE, ["--workdir=run: it has no config.json"]),
    "data information without sizes": Bad(
        "translator", file(DATA_INFO, "{}"), TRANSLATE, ["run/data_info.json: source_size, target_size", "restore"]
    ),
    "data information with a strange end": Bad(
        "translator",
        edited(DATA_INFO, lambda data_info: data_info.update(end=99)),
        TRANSLATE,
        ["run/data_info.json: the end token is 99", "0 to 15"],
    ),
    "data information below zero": Bad(
        "translator",
        edited(DATA_INFO, lambda data_info: data_info.update(source_size=-1)),
        TRANSLATE,
        ["run/data_info.json", "-1 entries", "restore"],
    ),
    "an empty vocabulary": Bad(
        "translator", file(CHARACTERS, "[]"), TRANSLATE, ["run/vocabulary: the vocabulary has 4 entries", "restore"]
    ),
    "a vocabulary of words": Bad(
        "translator", file(CHARACTERS, '["ab", "c"]'), TRANSLATE, ["'joint' cannot be read", "not a list of characters"]
    ),
    "a vocabulary with twins": Bad(
        "translator", file(CHARACTERS, '["a", "a"]'), TRANSLATE, ["'joint' cannot be read", "occurs twice"]
    ),
    "a vocabulary of noise": Bad(
        "translator",
        together(without(CHARACTERS), file("run/vocabulary/joint.model", b"noise")),
        TRANSLATE,
        ["'joint' cannot be read"],
    ),
    "a vocabulary of another kind": Bad(
        "translator",
        together(without(CHARACTERS), file("run/vocabulary/joint.bytes")),
        TRANSLATE,
        ["has 260 entries", "needs 16"],
    ),
    "a vocabulary that is gone": Bad(
        "translator", a_folder("run/vocabulary"), TRANSLATE, ["run/vocabulary: there is no vocabulary 'joint'"]
    ),
    "a record of something else": Bad(
        "translator",
        file("run/record.json", "[1]"),
        AGAIN,
        ["run/record.json: not a list of records; move the file away"],
        more_lines=True,
    ),
    "a file as checkpoints": Bad(
        "translator", file("run/checkpoints"), TRANSLATE, ["run/checkpoints cannot be read (Not a directory)"]
    ),
    "checkpoints with strange manifests": Bad(
        "translator",
        every("manifest.json", "[]"),
        TRANSLATE,
        ["run/checkpoints: no checkpoint is intact", "manifest.json is damaged"],
    ),
    "checkpoints that lack a file": Bad(
        "translator",
        every("_METADATA", None),
        TRANSLATE,
        ["run/checkpoints: no checkpoint is intact", "_METADATA cannot be read"],
    ),
    # --- translate, evaluate, attend, align --------------------------------------------------------------------------------
    "input that ends in an error": Bad(
        "translator", as_it_is, f"{TRANSLATE} --input=/proc/self/mem", ["/proc/self/mem: line 1 cannot be read"]
    ),
    "input that may not be read": Bad(
        "translator",
        together(file("in.txt", "a\n"), locked("in.txt", 0)),
        f"{TRANSLATE} --input=in.txt",
        ["--input=in.txt: Permission"],
    ),
    "input with a name too long": Bad(
        "translator", as_it_is, f"{TRANSLATE} --input={'a' * 300}", ["--input=aaa", "File name too long; name"]
    ),
    "output where nothing may be written": Bad(
        "translator",
        together(a_folder("out"), locked("out", 0o500)),
        f"{TRANSLATE} --output=out/x",
        ["--output=out/x", "Permission denied"],
    ),
    "no beam": Bad(
        "translator", as_it_is, f"{TRANSLATE} --config.search.beam_size=0", ["config.search.beam_size is 0: must be at least 1"]
    ),
    "too few checkpoints to average": Bad(
        "translator",
        as_it_is,
        "--mode=evaluate --config.evaluate.average=9",
        ["evaluate.average 9", "keep_last 2", "lower the first"],
    ),
    "a test split cut short": Bad(
        "translator", file("data/test.en", "a\n"), "--mode=evaluate", ["data/test.en has 1 line", "test.de has 12"]
    ),
    "tokens as a file": Bad(
        "translator", file("run/tokens"), "--mode=evaluate", ["run/tokens/test-", "cannot write the tokens"]
    ),
    "attention of nothing": Bad("translator", as_it_is, "--mode=attend", ["--mode=attend needs --source='a sentence'"]),
    "a comparison of one run": Bad("translator", as_it_is, "--mode=compare", ["--mode=compare needs --workdir=A,B"]),
    "words that nobody aligned": Bad("translator", as_it_is, "--mode=align", ["--mode=align", "number_words", "not text"]),
    "a translator asked for labels": Bad(
        "translator", as_it_is, "--mode=predict", ["--mode=predict", "has the modes train, evaluate"]
    ),
    # --- generate, predict --------------------------------------------------------------------------------------------------
    "a prompt longer than positions": Bad(
        "gpt2", as_it_is, f"--mode=generate --prompt={'the.cat' * 30}", ["the prompt has", "20 positions", "shorten it"]
    ),
    "a prompt that is not UTF-8": Bad(
        "gpt2", as_it_is, "--mode=generate", ["stdin: line 1 is not UTF-8", "iconv"], stdin=b"\xe9"
    ),
    "a seed below zero": Bad("gpt2", as_it_is, "--mode=generate --prompt=a --seed=-1", ["--seed=-1", "see --help"]),
    "no temperature": Bad(
        "gpt2", as_it_is, "--mode=generate --config.search.temperature=-1", ["temperature is -1.0: must be at least 0"]
    ),
    "a generator asked to translate": Bad(
        "gpt2", as_it_is, TRANSLATE, ["--mode=translate: config.family decoder_only", "evaluate, generate"]
    ),
    "too many fields": Bad("bert", as_it_is, "--mode=predict", ["line 2 has 3 fields", "text TAB pair"], stdin=b"a\na\tb\tc\n"),
    "a pair at times": Bad(
        "bert", as_it_is, "--mode=predict", ["line 2 has the fields text, pair; line 1", "give all"], stdin=b"a\na\tb\n"
    ),
    # --- import, export -----------------------------------------------------------------------------------------------------
    "a file to import": Bad(
        "gpt2", as_it_is, "--mode=import --source=tiny.py --workdir=new", ["tiny.py: there is no such folder", "wants"]
    ),
    "an import into a run": Bad(
        "gpt2", as_it_is, "--mode=import --source=theirs", ["--workdir=run: it exists already", "choose another"]
    ),
    "an import without weights": Bad(
        "gpt2", without("theirs/model.safetensors"), IMPORT, ["theirs: there is no model.safetensors"]
    ),
    "an import without a tokenizer": Bad(
        "gpt2", without("theirs/tokenizer.json"), IMPORT, ["theirs: there is no tokenizer; wants"]
    ),
    "a strange model type": Bad(
        "gpt2",
        edited("theirs/config.json", lambda v: v.update(model_type=["gpt2"])),
        IMPORT,
        ["theirs/config.json: model_type is ['gpt2']"],
    ),
    "strange architectures": Bad(
        "gpt2",
        edited("theirs/config.json", lambda v: v.update(architectures={"a": 1})),
        IMPORT,
        ["architectures is {'a': 1}", "only GPT2"],
    ),
    "a model of impossible size": Bad(
        "gpt2",
        edited("theirs/config.json", lambda v: v.update(vocab_size=10**15)),
        IMPORT,
        ["theirs/config.json", "1000000000000000 rows"],
    ),
    "an end that is no entry": Bad(
        "gpt2",
        edited("theirs/config.json", lambda v: v.update(eos_token_id=10**6)),
        IMPORT,
        ["token is 1000000, and the tables have the rows 0 to 299"],
    ),
    "labels without a number": Bad(
        "bert",
        edited("theirs/config.json", lambda v: (v.pop("id2label"), v.update(num_labels="x"))),
        IMPORT,
        ["theirs/config.json: id2label is None, num_labels 'x'", "wants a label for each"],
    ),
    "a tokenizer cut short": Bad(
        "gpt2", cut("theirs/tokenizer.json"), IMPORT, ["theirs: its tokenizer cannot be read", "fetch it again"]
    ),
    "a tokenizer that is deep": Bad(
        "gpt2", file("theirs/tokenizer.json", deep()), IMPORT, ["theirs: its tokenizer cannot be read"]
    ),
    "ids below zero": Bad(
        "marian", file("theirs/vocab.json", '{"<unk>": -1}'), IMPORT, ["theirs: its tokenizer cannot be read", "whole numbers"]
    ),
    "ids that are twins": Bad("marian", file("theirs/vocab.json", '{"<unk>": 0, "a": 0}'), IMPORT, ["distinct whole numbers"]),
    "tensors cut short": Bad(
        "gpt2", cut("theirs/model.safetensors"), IMPORT, ["theirs/model.safetensors: damaged", "fetch it again"]
    ),
    "a tensor of impossible size": Bad(
        "gpt2",
        file(
            "theirs/model.safetensors",
            safetensors({"x": {"dtype": "F32", "shape": [2**40, 2**40], "data_offsets": [0, 4]}}, b"abcd"),
        ),
        IMPORT,
        ["theirs/model.safetensors: damaged", "overflow"],
    ),
    "a header of impossible size": Bad(
        "gpt2",
        file("theirs/model.safetensors", (2**62).to_bytes(8, "little") + b"{}"),
        IMPORT,
        ["theirs/model.safetensors: damaged"],
    ),
    "a shard in another folder": Bad(
        "gpt2",
        index({"weight_map": {"x": "../run/config.json"}}),
        IMPORT,
        [f"theirs/{INDEX}: it names the file ../run/config.json", "fetch"],
    ),
    "a shard by a whole path": Bad(
        "gpt2", index({"weight_map": {"x": "/etc/passwd"}}), IMPORT, ["it names the file /etc/passwd, which"]
    ),
    "a shard with a name too long": Bad(
        "gpt2", index({"weight_map": {"x": "x" * 300}}), IMPORT, ["it names the file xxx", "fetch it"]
    ),
    "an index that is deep": Bad(
        "gpt2", together(index({}), file(f"theirs/{INDEX}", deep())), IMPORT, [f"theirs/{INDEX}: cannot be read"]
    ),
    "other sizes than the weights": Bad(
        "gpt2",
        as_it_is,
        f"{IMPORT} --config.model.num_decoder_layers=1",
        ["num_decoder_layers: 3 -> 1", "belong to the weights"],
    ),
    "an export without a place": Bad("gpt2", as_it_is, "--mode=export", ["--mode=export needs --output=FOLDER"]),
    "an export into a full folder": Bad(
        "gpt2", as_it_is, "--mode=export --output=data", ["data: it is there already and not empty", "choose"]
    ),
    "an export into a file": Bad(
        "gpt2", as_it_is, "--mode=export --output=tiny.py/x", ["--output=tiny.py/x", "another --output"]
    ),
    "an export of what they have not": Bad(
        "translator", as_it_is, "--mode=export --output=new", ["config.model.positions rotary", "cannot be written"]
    ),
    # --- ablate, report, describe -----------------------------------------------------------------------------------------
    "an experiment as a study": Bad(
        "data", as_it_is, "--mode=ablate", ["--config=tiny.py", "get_study()", "it is an experiment"]
    ),
    "a study that is none": Bad(
        "data",
        file("s.py", "def get_study():\n    pass\n"),
        "--mode=ablate --config=s.py",
        ["--config=s.py: get_study() returned NoneType"],
    ),
    "a report without results": Bad("data", as_it_is, REPORT, ["run/results.csv: there is no such file", "--mode=ablate"]),
    "results that are a folder": Bad("data", a_folder("run/results.csv"), REPORT, ["run/results.csv: there is no such file"]),
    "results of no run": Bad("data", file("run/results.csv"), REPORT, ["results.csv: it has no run of the study yet"]),
    "results of another study": Bad(
        "data",
        file("run/results.csv", "part,arm,seed\nstudy,four heads,0\n"),
        REPORT,
        ["run/results.csv, line 2: the study has no arm 'four heads'", "is --config the study's file?"],
    ),
    "results with a column gone": Bad(
        "data",
        file("run/results.csv", "part,arm,seed,status\nstudy,d_k 64,0,finished\n"),
        REPORT,
        ["run/results.csv, line 2: it has no 'validation/nll (best)'", "--mode=ablate makes the file again"],
    ),
    "results that are no text": Bad(
        "data", file("run/results.csv", b"\xff\xfe\n"), REPORT, ["run/results.csv: damaged", "--mode=ablate"]
    ),
    "no workers": Bad("data", as_it_is, "--mode=ablate --workers=0", ["--workers=0", "see --help"]),
    "a check of a model that is none": Bad(
        "data",
        as_it_is,
        "--mode=check --config.model.num_heads=5",
        ["config.model.d_model 32 is not divisible", "num_heads 5"],
    ),
    "the cost of a model that is none": Bad(
        "data",
        as_it_is,
        "--mode=describe --config.model.num_heads=5",
        ["config.model.d_model 32 is not divisible", "num_heads 5"],
    ),
}
