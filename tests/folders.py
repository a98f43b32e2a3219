"""Folders of Transformers, written without it: names and shapes of tensors are those of its classes.

Letters: V rows of the table, D width, F inner width, A all heads' width, P positions."""

import json
import random

import numpy as np
import safetensors.numpy
import sentencepiece
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

D, F, P, HEADS, ENCODER, DECODER = 12, 16, 20, 3, 2, 3
SENTENCE = "the small big old cat dog bird sees hears likes a house tree 12 um Größe über naïve"
WORDS = SENTENCE.split()
TEXTS = [" ".join(random.Random(n).choices(WORDS, k=6)) for n in range(200)]


def _attention(name, out, width=D, bias=True):
    result = {f"{name}.{part}.weight": (width, D) for part in out[:3]} | {f"{name}.{out[3]}.weight": (D, width)}
    return result | ({f"{name}.{part}.bias": (D if part == out[3] else width,) for part in out} if bias else {})


def _dense(name, inputs, outputs):
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def _norm(name):
    return {f"{name}.weight": (D,), f"{name}.bias": (D,)}


def bart(V, tied=True, positions=True, embedding_norm=True, target=None):
    names = ("q_proj", "k_proj", "v_proj", "out_proj")
    result = {"final_logits_bias": (1, target or V)}
    for stack, layers in (("encoder", ENCODER), ("decoder", DECODER)):
        top = f"model.{stack}"
        result |= {f"{top}.embed_positions.weight": (P + 2, D)} if positions else {}
        result |= _norm(f"{top}.layernorm_embedding") if embedding_norm else {}
        for n in range(layers):
            layer = f"{top}.layers.{n}"
            result |= _attention(f"{layer}.self_attn", names) | _norm(f"{layer}.self_attn_layer_norm")
            result |= _dense(f"{layer}.fc1", D, F) | _dense(f"{layer}.fc2", F, D) | _norm(f"{layer}.final_layer_norm")
            if stack == "decoder":
                result |= _attention(f"{layer}.encoder_attn", names) | _norm(f"{layer}.encoder_attn_layer_norm")
    if tied and not target:
        return result | {"model.shared.weight": (V, D)}
    tables = {"model.encoder.embed_tokens.weight": (V, D), "model.decoder.embed_tokens.weight": (target or V, D)}
    return result | tables | ({} if tied else {"lm_head.weight": (V, D)})


def marian(V, tied=True, target=None):
    return bart(V, tied, False, False, target)


def t5(V, tied=True, gated=False):
    result = {"shared.weight": (V, D)} | ({} if tied else {"lm_head.weight": (V, D)})
    for stack, layers in (("encoder", ENCODER), ("decoder", DECODER)):
        result[f"{stack}.final_layer_norm.weight"] = (D,)
        result[f"{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"] = (32, HEADS)
        for n in range(layers):
            layer, last = f"{stack}.block.{n}.layer", 1 if stack == "encoder" else 2
            result |= {f"{layer}.{k}.layer_norm.weight": (D,) for k in range(last + 1)}
            result |= _attention(f"{layer}.0.SelfAttention", "qkvo", 5 * HEADS, bias=False)
            if stack == "decoder":
                result |= _attention(f"{layer}.1.EncDecAttention", "qkvo", 5 * HEADS, bias=False)
            for inner in ("wi_0", "wi_1") if gated else ("wi",):
                result[f"{layer}.{last}.DenseReluDense.{inner}.weight"] = (F, D)
            result[f"{layer}.{last}.DenseReluDense.wo.weight"] = (D, F)
    return result


def bert(V, head="MaskedLM", tied=True, labels=3):
    names = ("self.query", "self.key", "self.value", "output.dense")
    result = {"bert.embeddings.word_embeddings.weight": (V, D), "bert.embeddings.position_embeddings.weight": (P, D)}
    result |= {"bert.embeddings.token_type_embeddings.weight": (2, D)} | _norm("bert.embeddings.LayerNorm")
    for n in range(ENCODER):
        layer = f"bert.encoder.layer.{n}"
        result |= _attention(f"{layer}.attention", names) | _norm(f"{layer}.attention.output.LayerNorm")
        result |= _dense(f"{layer}.intermediate.dense", D, F) | _dense(f"{layer}.output.dense", F, D)
        result |= _norm(f"{layer}.output.LayerNorm")
    if head in ("PreTraining", "MaskedLM"):
        result |= _dense("cls.predictions.transform.dense", D, D) | _norm("cls.predictions.transform.LayerNorm")
        result |= {"cls.predictions.bias": (V,)} if tied else _dense("cls.predictions.decoder", D, V)
    if head in ("PreTraining", "SequenceClassification", "Model"):
        result |= _dense("bert.pooler.dense", D, D)
    last = {"PreTraining": ("cls.seq_relationship", 2), "QuestionAnswering": ("qa_outputs", 2)}
    last |= {"SequenceClassification": ("classifier", labels), "TokenClassification": ("classifier", labels)}
    if head in last:
        name, size = last[head]
        result |= _dense(name, D, size)
    return {n.removeprefix("bert."): shape for n, shape in result.items()} if head == "Model" else result


def gpt2(V, tied=True):
    result = {"transformer.wte.weight": (V, D), "transformer.wpe.weight": (P, D)} | _norm("transformer.ln_f")
    for n in range(DECODER):
        layer = f"transformer.h.{n}"
        result |= _norm(f"{layer}.ln_1") | _norm(f"{layer}.ln_2")
        sizes = {"attn.c_attn": (D, 3 * D), "attn.c_proj": (D, D), "mlp.c_fc": (D, F), "mlp.c_proj": (F, D)}
        for name, (inputs, outputs) in sizes.items():  # these are not turned
            result |= {f"{layer}.{name}.weight": (inputs, outputs), f"{layer}.{name}.bias": (outputs,)}
    return result | ({} if tied else {"lm_head.weight": (V, D)})


BERT_FIELDS = {
    "model_type": "bert",
    "hidden_size": D,
    "num_hidden_layers": ENCODER,
    "num_attention_heads": HEADS,
    "intermediate_size": F,
    "max_position_embeddings": P,
}
GPT2_FIELDS = {"model_type": "gpt2", "n_embd": D, "n_layer": DECODER, "n_head": HEADS, "n_inner": F, "n_positions": P}
BART_FIELDS = {
    "d_model": D,
    "encoder_layers": ENCODER,
    "decoder_layers": DECODER,
    "encoder_attention_heads": HEADS,
    "decoder_attention_heads": HEADS,
    "encoder_ffn_dim": F,
    "decoder_ffn_dim": F,
    "max_position_embeddings": P,
}
T5_FIELDS = {
    "model_type": "t5",
    "d_model": D,
    "d_kv": 5,
    "d_ff": F,
    "num_layers": ENCODER,
    "num_decoder_layers": DECODER,
    "num_heads": HEADS,
    "decoder_start_token_id": 0,
}
LABELS = {"id2label": {"0": "no", "1": "yes", "2": "both"}, "label2id": {"no": 0, "yes": 1, "both": 2}}


def byte_bpe(special, size=300):
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    made.train_from_iterator(
        TEXTS, trainers.BpeTrainer(vocab_size=size, special_tokens=special, initial_alphabet=alphabet, show_progress=False)
    )
    return made


def word_pieces():
    made = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer(lowercase=True)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.decoder = decoders.WordPiece()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    made.train_from_iterator(TEXTS, trainers.WordPieceTrainer(vocab_size=60, special_tokens=special, show_progress=False))
    return made


def between(made, begin, *end):
    """A tokenizer that encloses texts in these tokens; in a pair, the last token is also between the texts."""
    made.post_processor = processors.TemplateProcessing(
        " ".join([begin, "$A", *end]).strip(),
        " ".join([begin, "$A", end[-1], "$B", *end]).strip(),
        special_tokens=[(each, made.token_to_id(each)) for each in (begin, *end) if each],
    )
    return made


def write_old(folder, described):
    """The files that folders had before tokenizer.json existed, written from one."""
    model = described["model"]
    if model["type"] == "WordPiece":
        (folder / "vocab.txt").write_text("\n".join(model["vocab"]) + "\n")
        return
    (folder / "vocab.json").write_text(json.dumps(model["vocab"]))
    merges = [" ".join(merge) if isinstance(merge, list) else merge for merge in model["merges"]]
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n")


def unigram(sentinels=4):
    """T5's: <pad> 0, </s> 1, <unk> 2, pieces, and the sentinels from the end on."""
    letters = sorted({c for text in TEXTS for c in text} - {" "})
    pieces = ["<pad>", "</s>", "<unk>", "\u2581", *("\u2581" + word for word in WORDS[:8]), *letters]
    scores = [0.0, 0.0, 0.0, -2.0, *[-3.0] * 8, *[-4.0] * len(letters)]
    names = [f"<extra_id_{n}>" for n in reversed(range(sentinels))]
    made = Tokenizer(models.Unigram([*zip(pieces, scores, strict=True), *((n, 0.0) for n in names)], unk_id=2))
    made.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()])
    made.decoder = decoders.Metaspace()
    made.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in [*pieces[:3], *names]])
    return made


def pieces(path, texts=TEXTS, size=50, **ids):
    """Writes a sentencepiece file and returns its processor."""
    sentencepiece.SentencePieceTrainer.Train(
        sentence_iterator=iter(texts),
        model_writer=(file := path.open("wb")),
        vocab_size=size,
        hard_vocab_limit=False,
        minloglevel=2,
        **({"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1} | ids),
    )
    file.close()
    return sentencepiece.SentencePieceProcessor(model_file=str(path))


def marian_pair(folder):
    """Writes source.spm, target.spm and vocab.json; returns the number of ids. The pad is the last id, and no id equals that of
    sentencepiece."""
    sides = [
        pieces(folder / f"{side}.spm", TEXTS[k::2], pad_id=-1, eos_id=0, unk_id=1)
        for k, side in enumerate(("source", "target"))
    ]
    known = {side.IdToPiece(n): None for side in reversed(sides) for n in reversed(range(2, side.GetPieceSize()))}
    names = ["</s>", "<unk>", ">>fr<<", *known, "<pad>"]
    (folder / "vocab.json").write_text(json.dumps({name: n for n, name in enumerate(names)}))
    return len(names)


def draw(shapes, seed=0, dtype=np.float32):
    generator = np.random.default_rng(seed)
    return {name: generator.normal(0, 0.5, shape).astype(dtype) for name, shape in shapes.items()}


def make(folder, fields, tensors, tokenizer=None, generation=None):
    folder.mkdir(exist_ok=True, parents=True)
    (folder / "config.json").write_text(json.dumps(fields))
    if generation is not None:
        (folder / "generation_config.json").write_text(json.dumps(generation))
    if tokenizer is not None:
        tokenizer.save(str(folder / "tokenizer.json"))
    safetensors.numpy.save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder
