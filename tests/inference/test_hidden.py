"""The nats of a target if words of its source are hidden, and the attention while the target is generated."""

import numpy as np
import small
import trained

PAIRS = [("abcdef", "ABCDEF"), ("fa", "FAA")]


def test_without_hidden_tokens_nll_is_that_of_the_logits():
    used = trained.translator()
    nats = used.target_nll(PAIRS)
    for (_, target), found, logits in zip(PAIRS, nats, used.logits(*zip(*PAIRS, strict=True)), strict=True):
        ids = used.target_vocabulary.encode(target)
        wanted = np.log(np.exp(logits).sum(axis=-1)) - logits[np.arange(len(logits)), [*ids, used.data_info.end]]
        np.testing.assert_allclose(found, wanted[:-1], atol=1e-4)


def test_tokens_hidden_from_encoder_and_attention_have_no_effect():
    used = trained.translator()
    [found] = used.target_nll([("abcdef", "AB")], [[3, 4, 5]], encoder=True)
    # Positions are the places left of it, so what is cut off at the end but for the end itself is not there at all.
    source = np.array([[*used.source_vocabulary.encode("abc"), used.data_info.end]])
    batch = {"source": source, "source_positions": np.array([[0, 1, 2, 6]]), "inputs": np.array([used._inputs(["AB"])[0]])}
    logits = np.asarray(small.apply(used.model, {"params": used.params}, batch))[0]
    ids = used.target_vocabulary.encode("AB")
    wanted = np.log(np.exp(logits).sum(axis=-1))[:2] - logits[np.arange(2), ids]
    np.testing.assert_allclose(found, wanted, atol=1e-4)


def test_tokens_hidden_from_attention_only_still_affect_the_encoder():
    used = trained.translator()
    plain, attention, encoder = (
        used.target_nll([("abcdef", "ABCDEF")], hidden, deep)[0]
        for hidden, deep in ((None, False), ([[2]], False), ([[2]], True))
    )
    assert np.abs(plain - attention).max() > 1e-3 and np.abs(attention - encoder).max() > 1e-3


def test_weights_are_those_of_the_attention_maps():
    used = trained.translator()
    found, lengths = used.weights(PAIRS)
    assert list(lengths) == [7, 3]  # the end is read too
    for row, (source, target) in enumerate(PAIRS):
        maps = {m.name.removesuffix(" attention").replace(" ", "/"): m.weights_LxHxTxS for m in used.attention(source, target)}
        assert maps.keys() == found.keys() == {"encoder/self", "decoder/self", "decoder/cross"}
        for place, alone in maps.items():
            np.testing.assert_allclose(found[place][:, row, :, : alone.shape[2], : alone.shape[3]], alone, atol=1e-5)
