"""Swaps: every rule on models whose tokens, embeddings or best fills are known."""

import numpy as np
import pytest
import torch
from torch import nn

import topobrain as tb
from topobrain._checks import DataFileError, InputError, UnknownNameError
from topobrain.data.word_sequences import load_sentence_sequences, load_word_runs, tagged_words
from topobrain.integration.candidates import split_marks, token_ids, word_vectors
from topobrain.integration.masked_fills import CONTEXT_WORDS, find_fills, load_masked_reader, masked_texts, whole_words
from topobrain.integration.swaps import RULES, Swaps, make_swaps, single_token_words, words_of
from topobrain.models.gpt import GPT, GPTConfig, wrap_gpt
from topobrain.models.protocol import Recording
from topobrain.models.text_encoder import TextEncoder
from topobrain.models.torch_model import TorchModel
from topobrain.sheet import Sheet
from topobrain.stimuli import StimulusSet

TAGS = {
    **dict.fromkeys(("the", "a"), "at"),
    **dict.fromkeys(("dog", "cat", "cow", "horse", "bird", "hill", "barn", "field"), "nn"),
    **dict.fromkeys(("saw", "chased", "fed", "left"), "vbd"),
    **dict.fromkeys(("small", "old", "big"), "jj"),
    **dict.fromkeys(("on", "in", "under"), "in"),
}
WORDS = list(TAGS)


def word_tokenizer(words, **special):
    """A tokenizer whose tokens are words."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]", pad_token="[PAD]", **special)


def letters_tokenizer():
    """A tokenizer that splits every word: a token a letter, and one a blank."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    pieces = ["<unk>", " ", *"abcdefghijklmnopqrstuvwxyz"]
    tokenizer = Tokenizer(models.WordLevel({piece: i for i, piece in enumerate(pieces)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")


class Embedded(nn.Module):
    """An embedding of tokens, and nothing else."""

    def __init__(self, weight):
        super().__init__()
        self.tokens = nn.Embedding.from_pretrained(torch.as_tensor(weight, dtype=torch.float32))

    def forward(self, input_ids, attention_mask=None):
        return self.tokens(input_ids)


def reader_of(tokenizer, width=4, weight=None, name="planted"):
    if weight is None:
        weight = np.random.default_rng(0).standard_normal((len(tokenizer), width))
    encoder = TextEncoder(tokenizer)
    return TorchModel(name, Embedded(weight), encoder, {"tokens": Sheet.none(len(weight[0]))}, device="cpu")


@pytest.fixture
def model():
    return reader_of(word_tokenizer(["[PAD]", "[UNK]", ",", ".", *WORDS]))


def sequences_of(n=6, n_words=9, seed=0, marks=False, sentence_words=0):
    rng = np.random.default_rng(seed)
    chosen = rng.choice(WORDS, (n, n_words))
    texts = [" ".join(w + "," if marks and i % 3 == 2 else w for i, w in enumerate(row)) for row in chosen]
    tags = [" ".join(TAGS[w] for w in row) for row in chosen]
    return StimulusSet(texts, {"tags": tags, "sentence_words": [sentence_words] * n})


class Plain:
    """A model without a tokenizer: a Model that need not inherit anything."""

    name, sheets = "plain", {"length": Sheet.none(1)}

    def record(self, stimuli, layers):
        lengths = np.array([[[len(word)] for word in text.split()] for text in stimuli], dtype=np.float32)
        return Recording(dict.fromkeys(layers, lengths), np.tile(np.arange(lengths.shape[1]), (len(stimuli), 1)))


# what every rule owes


def masked_reader(width=None):
    """A masked model whose best fills are known: it looks at the next token only, and ranks by a fixed table."""
    tokenizer = word_tokenizer(["[PAD]", "[UNK]", "[MASK]", ",", ".", *WORDS], mask_token="[MASK]")
    n = len(tokenizer)

    class Next(nn.Module):
        def __init__(self):
            super().__init__()
            self.tokens = nn.Embedding(n, n)
            self.register_buffer("table", torch.from_numpy(np.random.default_rng(5).standard_normal((n, n))).float())

        def forward(self, input_ids, attention_mask):
            following = torch.cat([input_ids[:, 1:], torch.zeros_like(input_ids[:, :1])], dim=1)
            last = torch.cat([attention_mask[:, 1:] == 0, torch.ones_like(attention_mask[:, :1], dtype=bool)], dim=1)
            return nn.functional.one_hot(following.masked_fill(last, 0), n).float()

        def logits(self, states):
            return states @ self.table

    return TorchModel("next", Next(), TextEncoder(tokenizer), {"tokens": Sheet.none(n)}, device="cpu")


@pytest.mark.parametrize("rule", RULES)
def test_every_position_gets_another_word_and_keeps_its_marks(model, rule):
    sequences = sequences_of(n=20, marks=True)
    masked = masked_reader() if rule in ("probable", "improbable") else None
    swaps = make_swaps(model, sequences, rule, masked_model=masked, candidates=[*WORDS, "Dog", "THE"])
    assert swaps.words.shape == swaps.originals.shape == swaps.fallback.shape == (20, 9)
    for written, swap in zip(swaps.originals.ravel(), swaps.words.ravel(), strict=True):
        assert split_marks(written)[1].lower() != split_marks(swap)[1].lower()
        assert split_marks(written)[2] == split_marks(swap)[2]
    assert len(set(swaps.words.ravel())) > 5


@pytest.mark.parametrize("rule", RULES)
def test_seeds_and_the_global_generator(model, rule):
    masked = masked_reader() if rule in ("probable", "improbable") else None
    state = torch.get_rng_state(), str(np.random.mtrand._rand.get_state())
    one, same, other = (
        make_swaps(model, sequences_of(), rule, masked_model=masked, candidates=WORDS, seed=seed) for seed in (1, 1, 2)
    )
    assert one.digest() == same.digest() != other.digest()
    assert (one.words == same.words).all()
    assert torch.equal(torch.get_rng_state(), state[0])
    assert str(np.random.mtrand._rand.get_state()) == state[1]
    assert (one.seed, one.rule) == (1, rule)


def test_texts_are_the_sequence_with_one_word_swapped(model):
    sequences = sequences_of(marks=True)
    swaps = make_swaps(model, sequences, "random")
    for row, text in enumerate(sequences.texts):
        texts = swaps.texts(row)
        assert len(texts) == 9
        for position, shown in enumerate(texts):
            differs = [i for i, (a, b) in enumerate(zip(text.split(), shown.split(), strict=True)) if a != b]
            assert differs == [position]
            assert shown.split()[position] == swaps.words[row, position]


def test_the_table_of_swaps(model):
    swaps = make_swaps(model, sequences_of(n=2), "random")
    frame = swaps.to_frame()
    assert list(frame.columns) == ["sequence", "position", "word", "swap", "fallback"]
    assert len(frame) == 18
    row = frame[(frame["sequence"] == 1) & (frame["position"] == 3)].iloc[0]
    assert (row["word"], row["swap"]) == (swaps.originals[1, 3], swaps.words[1, 3])


def test_a_digest_covers_words_and_swaps(model):
    swaps = make_swaps(model, sequences_of(), "random")
    words, originals = swaps.words.copy(), swaps.originals.copy()
    words[0, 0] = originals[0, 0] = "other"
    assert Swaps(words, swaps.originals, "random", 0, swaps.fallback).digest() != swaps.digest()
    assert Swaps(swaps.words, originals, "random", 0, swaps.fallback).digest() != swaps.digest()
    assert Swaps(swaps.words, swaps.originals, "mine", 9, swaps.fallback).digest() == swaps.digest()


def test_random_swaps_are_any_candidate(model):
    sequences = StimulusSet(["dog " * 40] * 100)
    swaps = make_swaps(model, sequences, "random", candidates=WORDS)
    counts = np.array([(swaps.words == word).sum() for word in WORDS if word != "dog"])
    expected = 4000 / 19
    assert ((counts - expected) ** 2 / expected).sum() < 42.3  # chi squared, 18 degrees of freedom, p = .001


# same tag


def test_same_tag_swaps_have_the_tag(model):
    swaps = make_swaps(model, sequences_of(n=40, n_words=12), "same-tag")
    known = {tag for tag in TAGS.values() if list(TAGS.values()).count(tag) >= 5}
    for word, swap, fallback in zip(swaps.originals.ravel(), swaps.words.ravel(), swaps.fallback.ravel(), strict=True):
        assert not fallback
        # tags with fewer than five words share their words with the other rare tags
        assert (TAGS[word] == TAGS[swap]) if TAGS[word] in known else TAGS[swap] not in known


def test_a_tag_without_another_word_falls_back(model):
    sequences = StimulusSet(["dog saw cat the"], {"tags": ["nn vbd nn at"]})
    swaps = make_swaps(model, sequences, "same-tag", candidates=["dog", "hill", "barn", "cow", "field"])
    # dog is the only candidate whose tag is known, so its tag is rare, and all rare tags share it
    assert swaps.fallback.tolist() == [[True, False, False, False]]
    assert swaps.words[0, 1:].tolist() == ["dog"] * 3
    sequences.provenance["source"] = "template"
    swaps = make_swaps(model, sequences, "same-tag", candidates=["dog", "cat", "cow", "horse", "bird"])
    assert swaps.fallback.tolist() == [[False, True, False, True]]


def test_same_tag_on_the_template_language():
    sequences = load_sentence_sequences(n=30, source="template", punctuation=True)
    swaps = make_swaps(Plain(), sequences, "same-tag", seed=4)
    known = tagged_words("template")
    tags = np.array([row.split() for row in sequences.column("tags")])
    for tag, swap in zip(tags.ravel(), swaps.words.ravel(), strict=True):
        if len(known[tag]) >= 5:
            assert split_marks(swap)[1] in known[tag]
        else:
            assert any(split_marks(swap)[1] in words for words in known.values() if len(words) < 5)
    assert not swaps.fallback.any()
    assert swaps.provenance["sequences"] == sequences.digest()


# tokens


def test_single_tokens_of_gpt2_are_those_behind_a_blank(real_data):
    from topobrain.models.gpt2_tokenizer import load_gpt2_bpe

    tokenizer = load_gpt2_bpe()
    module = GPT(GPTConfig.tiny(len(tokenizer), width=16, n_layers=1, n_heads=1))
    gpt = wrap_gpt("tiny GPT", module, tokenizer, device="cpu")
    words = [*sorted(tagged_words("template")["nn"]), "antidisestablishmentarianism", "zyzzyva"]
    expected = [len(tokenizer.backend_tokenizer.encode(" " + word).ids) == 1 for word in words]
    assert single_token_words(gpt, words).tolist() == expected
    assert 0 < sum(expected) < len(words)
    allowed = [word for word, one in zip(words, expected, strict=True) if one]
    sequences = StimulusSet([" ".join(allowed[:12]), " ".join(allowed[12:24])], {"tags": ["nn " * 12] * 2})
    sequences.provenance["source"] = "template"
    for rule in ("random", "same-tag", "embedding"):
        swaps = make_swaps(gpt, sequences, rule)
        assert single_token_words(gpt, swaps.words.ravel().tolist()).all()


def test_words_of_several_tokens_are_swapped_for_as_many(real_data):
    model = tb.load_model("stories260k")
    sequences = load_word_runs(n=4, n_words=20, source="template")
    n_tokens = len(model.encode([sequences.texts[0]]).word[0])
    for rule in ("random", "same-tag", "embedding"):
        swaps = make_swaps(model, sequences, rule)
        found = model.encode(swaps.texts(0)[1:]).word  # the first word has no blank before it
        assert (found >= 0).sum(axis=1).tolist() == [(found[0] >= 0).sum()] * 19
        assert found.shape[1] == n_tokens


def test_a_tokenizer_that_splits_every_word():
    model = reader_of(letters_tokenizer())
    assert not single_token_words(model, ["cat", "dog"]).any()
    sequences = StimulusSet(["cat the dog", "big cow fed"])
    swaps = make_swaps(model, sequences, "random")
    assert {len(word) for word in swaps.words.ravel()} == {3}
    with pytest.raises(
        InputError, match=r"cuts 'horse' into 6 tokens, and none of the 3 candidates it knows .* has as many"
    ):
        make_swaps(model, ["cat the horse"], "random")


def test_tokens_behind_a_blank_agree_with_characters(real_data):
    model = tb.load_model("stories260k")
    words = sorted(tagged_words("template")["vbd"])
    inputs, number = model.encode([f"a {word}" for word in words])
    expected = [inputs["input_ids"][i].numpy()[number[i] == 1].tolist() for i in range(len(words))]
    assert token_ids(model.encode, words) == expected


def test_words_outside_the_vocabulary(model):
    sequences = ["the zebra saw the zebra", "the dog, saw a gnu"]
    with pytest.raises(InputError, match=r"2 words of the sequences \(3 of 10 positions\) are not in.*: gnu, zebra\."):
        make_swaps(model, sequences, "random", candidates=WORDS)
    kept = make_swaps(model, sequences, "random", candidates=[*WORDS, "emu"], unknown="keep")
    assert "emu" not in kept.words
    assert not single_token_words(model, ["zebra"])[0]
    assert single_token_words(model, ["dog"])[0]


def test_a_model_without_tokenizer_takes_every_word():
    assert single_token_words(Plain(), ["anything", "goes"]).all()
    swaps = make_swaps(Plain(), ["any word goes", "in this model"], "random")
    assert swaps.words.shape == (2, 3)
    with pytest.raises(InputError, match="'plain' has no input embeddings"):
        make_swaps(Plain(), ["any word goes"], "embedding")


# embedding distance


def line_model(n=40):
    """Words on a line: the mean absolute difference of two is the difference of their numbers."""
    words = ["w" + "abcdefghij"[i // 10] + "abcdefghij"[i % 10] for i in range(n)]
    tokenizer = word_tokenizer(["[PAD]", "[UNK]", *words])
    weight = np.tile(np.arange(-2.0, n)[:, None], (1, 3))
    return reader_of(tokenizer, weight=weight), words


def test_embedding_swaps_are_at_the_distance_asked_for():
    model, words = line_model()
    sequences = [" ".join(words)] * 50
    swaps = make_swaps(model, sequences, "embedding", distance=(10, 2.5))
    numbers = {word: i for i, word in enumerate(words)}
    apart = np.array(
        [abs(numbers[a] - numbers[b]) for a, b in zip(swaps.originals.flat, swaps.words.flat, strict=True)]
    )
    assert set(apart) == {8, 9, 10, 11, 12}
    assert not swaps.fallback.any()
    assert swaps.provenance["distance"] == (10.0, 2.5)
    middle = apart.reshape(50, 40)[:, 15:25].ravel()
    assert (np.bincount(middle)[8:] > 50).all()  # even over the window: 100 each of 500


def test_words_too_far_from_all_take_the_nearest_to_the_window():
    model, words = line_model()
    swaps = make_swaps(model, [" ".join(words)], "embedding", distance=(30, 0.4))
    numbers = {word: i for i, word in enumerate(words)}
    for i, (swap, fallback) in enumerate(zip(swaps.words[0], swaps.fallback[0], strict=True)):
        possible = {i - 30, i + 30} & set(range(40))
        assert fallback == (not possible)
        assert numbers[swap] in (possible or {0, 39})


def test_the_usual_distance_is_one_that_most_words_have():
    model, words = line_model()
    swaps = make_swaps(model, [" ".join(words)], "embedding")
    centre, half_width = swaps.provenance["distance"]
    assert half_width == pytest.approx(0.024 * centre)
    assert centre < 21  # every word of a line of 40 has one at up to 20
    assert not swaps.fallback.any()


def test_embedding_distances_by_hand(real_data):
    model = tb.load_model("stories260k")
    sequences = load_sentence_sequences(n=3, source="template")
    swaps = make_swaps(model, sequences, "embedding")
    centre, half_width = swaps.provenance["distance"]
    table = model.module.get_input_embeddings().weight.detach().numpy()

    def vector(word):
        inputs, number = model.encode([f"a {word}"])
        return table[inputs["input_ids"][0].numpy()[number[0] == 1]].mean(axis=0)

    for word, swap, fallback in swaps.to_frame()[["word", "swap", "fallback"]].itertuples(index=False):
        apart = np.abs(vector(word) - vector(swap)).mean()
        if not fallback:
            assert abs(apart - centre) <= half_width * (1 + 1e-4)
    assert (~swaps.fallback).mean() > 0
    one = word_vectors(model, ["dog"])[0].numpy()
    np.testing.assert_allclose(one, vector("dog"), rtol=1e-6)


# masked models


def test_probable_and_improbable_fills_of_a_planted_model(model):
    masked = masked_reader()
    sequences = sequences_of(n=30, n_words=8)
    table = masked.module.table.numpy()
    vocabulary = masked.encode.tokenizer.get_vocab()
    for rule in ("probable", "improbable"):
        swaps = make_swaps(model, sequences, rule, masked_model=masked, seed=3)
        assert not swaps.fallback.any()
        seen = []
        for row in range(30):
            for position in range(8):
                following = swaps.originals[row, position + 1] if position < 7 else "[PAD]"
                scores = table[vocabulary[following]]
                own = swaps.originals[row, position]
                ranked = sorted((w for w in WORDS if w != own), key=lambda w: -scores[vocabulary[w]])
                seen.append(ranked.index(swaps.words[row, position]))
        expected = set(range(5)) if rule == "probable" else {len(WORDS) - 3, len(WORDS) - 2}
        assert set(seen) <= expected
        assert swaps.provenance["masked_model"] == "next"
        assert len(set(seen)) == (5 if rule == "probable" else 2)


def test_fills_are_within_the_sentence(model):
    masked = masked_reader()
    # with sentences of two words the second word of each has nothing after it, whatever the next sentence is
    one = make_swaps(model, sequences_of(seed=1, sentence_words=3), "probable", masked_model=masked, seed=0)
    table, vocabulary = masked.module.table.numpy(), masked.encode.tokenizer.get_vocab()
    best = sorted(WORDS, key=lambda w: -table[vocabulary["[PAD]"]][vocabulary[w]])[:6]
    assert set(one.words[:, 2::3].ravel()) <= set(best)
    assert not set(one.words[:, 0::3].ravel()) <= set(best)


def test_context_of_a_masked_word():
    words = np.array([[f"w{i}" for i in range(100)]], dtype=object)
    shown = masked_texts(words, np.array([0]), "<m>")
    assert len(shown) == 100
    assert shown[50].split() == [*words[0, 50 - CONTEXT_WORDS : 50], "<m>", *words[0, 51 : 51 + CONTEXT_WORDS]]
    assert shown[0].split() == ["<m>", *words[0, 1 : 1 + CONTEXT_WORDS]]
    in_sentences = masked_texts(words, np.array([10]), "<m>")
    assert in_sentences[57].split() == [*words[0, 50:57], "<m>", *words[0, 58:60]]


def test_candidates_limit_what_is_filled(model):
    few = ["dog", "cat", "hill"]
    swaps = make_swaps(model, sequences_of(), "probable", masked_model=masked_reader(), candidates=few)
    assert set(swaps.words.ravel()) <= set(few)
    with pytest.raises(
        InputError, match=r"none of the 1 words that may be put is one token of 'next' \(one that is: '\w+'\)"
    ):
        make_swaps(model, sequences_of(), "probable", masked_model=masked_reader(), candidates=["zebra"])


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    """A directory in the format of transformers' masked language models, random weights, WordPiece."""
    from transformers import BertConfig, BertForMaskedLM, BertModel, BertTokenizerFast

    folder = tmp_path_factory.mktemp("masked")
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ",", ".", *WORDS, "##s", "##er", "The", "dog2"]
    (folder / "vocab.txt").write_text("\n".join(pieces))
    tokenizer = BertTokenizerFast(str(folder / "vocab.txt"), do_lower_case=False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = BertConfig(
            vocab_size=len(pieces), hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
            max_position_embeddings=64, initializer_range=1.0,
        )  # fmt: skip
        whole, bare = BertForMaskedLM(config), BertModel(config)
    for name, module in (("whole", whole), ("bare", bare)):
        module.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    return folder


def test_whole_words_of_wordpieces(bert):
    _, words = whole_words(load_masked_reader(bert / "whole"))
    assert sorted(words) == sorted(WORDS)  # no pieces, marks, capitals or digits


def test_fills_are_those_of_transformers_one_by_one(bert):
    from transformers import AutoModelForMaskedLM, AutoTokenizer

    module = AutoModelForMaskedLM.from_pretrained(bert / "whole").eval()
    tokenizer = AutoTokenizer.from_pretrained(bert / "whole")
    words = words_of(sequences_of(n=7, n_words=12, marks=True))
    fills = find_fills(bert / "whole", words, np.array([0, 4, 12, 6, 0, 3, 2]), n=9)
    texts = masked_texts(words, np.array([0, 4, 12, 6, 0, 3, 2]), "[MASK]")
    found = dict(fills.ranked())
    assert sorted(found) == list(range(84))
    ids = tokenizer.convert_tokens_to_ids(fills.words)
    for place, text in enumerate(texts):
        inputs = tokenizer(text, return_tensors="pt")
        with torch.no_grad():
            logits = module(**inputs).logits[0, inputs["input_ids"][0] == tokenizer.mask_token_id][0, ids]
        assert found[place].tolist() == logits.argsort(descending=True)[:9].tolist()


def test_swaps_of_a_masked_model_in_the_format_of_transformers(model, bert):
    swaps = make_swaps(model, sequences_of(), "probable", masked_model=f"hf:{bert / 'whole'}")
    assert set(swaps.words.ravel()) <= set(WORDS)
    assert not swaps.fallback.any()
    assert swaps.provenance["masked_model"].endswith("whole")


def test_a_directory_without_the_head(model, bert):
    with pytest.raises(DataFileError, match="holds no masked language model: its weights lack"):
        make_swaps(model, sequences_of(), "probable", masked_model=bert / "bare")
    with pytest.raises(DataFileError, match=r"is no model directory: expected config\.json"):
        make_swaps(model, sequences_of(), "probable", masked_model=bert)


def test_a_masked_model_of_this_project(tiny_models):
    topoformer = tb.load_model("topoformer-tiny")
    sequences = load_sentence_sequences(n=4, source="template", n_sentences=2, sentence_words=6)
    state = topoformer.module.training
    swaps = make_swaps(topoformer, sequences, "improbable", masked_model=topoformer)
    assert set(swaps.words.ravel()) <= {w for words in tagged_words("template").values() for w in words}
    by_name = make_swaps(topoformer, sequences, "improbable", masked_model="topoformer-tiny")
    assert by_name.digest() == swaps.digest()
    assert topoformer.module.training is state


def causal_model():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        tokenizer = word_tokenizer(["[PAD]", "[UNK]", "[MASK]", *WORDS], mask_token="[MASK]")
        module = GPT(GPTConfig.tiny(len(tokenizer), width=16, n_layers=1, n_heads=1))
    return wrap_gpt("causal", module, tokenizer, device="cpu")


@pytest.mark.parametrize(
    ("masked", "message"),
    [
        (None, "the rule 'probable' needs masked_model="),
        (causal_model, "'causal' does not see what comes after a word"),
        (lambda: reader_of(letters_tokenizer()), "'planted' has no logits of its tokens"),
        (Plain, "masked_model is a Plain that reads no text with a tokenizer"),
    ],
)
def test_what_is_no_masked_model(model, masked, message):
    with pytest.raises(InputError, match=message):
        make_swaps(model, sequences_of(), "probable", masked_model=masked and masked())


def test_a_masked_model_without_a_mask(model):
    planted = masked_reader()
    tokenizer = word_tokenizer(["[PAD]", "[UNK]", *WORDS])
    other = TorchModel("maskless", planted.module, TextEncoder(tokenizer), planted.sheets, device="cpu")
    with pytest.raises(InputError, match="the tokenizer of 'maskless' has no mask token"):
        make_swaps(model, sequences_of(), "probable", masked_model=other)


# bad input


@pytest.mark.parametrize(
    ("sequences", "options", "message"),
    [
        ([], {}, "there is no sequence"),
        (["the dog", "the"], {}, "the sequences have 1 to 2 words: expected equally many"),
        (["the dog", 3], {}, "sequence 1 is a int"),
        (["the dog"], {"rule": "same-tag"}, "needs sequences with a column 'tags'"),
        (
            StimulusSet(["the dog"], {"tags": ["at"]}),
            {"rule": "same-tag"},
            "sequence 's0000' has 1 tags for its 2 words",
        ),
        (["the dog"], {"candidates": "the cat"}, "candidates must be a collection of words"),
        (["the dog"], {"candidates": 5}, "candidates must be a collection of words, got 5"),
        (["the dog"], {"candidates": iter(["big cat"])}, "candidates must be words without white space, got 'big cat'"),
        (None, {}, "swapped in a StimulusSet or a list of texts, got NoneType"),
        (["the dog"], {"candidates": ["big cat"]}, "candidates must be words without white space, got 'big cat'"),
        (["the dog"], {"candidates": []}, "candidates must be words without white space, got none"),
        (["the dog"], {"candidates": ["zebra"]}, "none of the 0 candidates it knows"),
        (["the the"], {}, "cuts 'the' into 1 tokens, and none of the 1 candidates it knows"),
        (["the dog"], {"distance": (1, 0.1)}, "distance belongs to the rule 'embedding'"),
        (["the dog"], {"rule": "embedding", "distance": (0, 1)}, "distance must be"),
        (["the dog"], {"seed": -1}, "seed must be a whole number"),
        (StimulusSet([np.zeros((2, 2, 3), dtype=np.uint8)]), {}, "sequence 0 is a ndarray"),
    ],
)
def test_bad_input(model, sequences, options, message):
    with pytest.raises(InputError, match=message):
        make_swaps(model, sequences, **{"rule": "random", **options})


def test_unknown_names(model):
    with pytest.raises(UnknownNameError, match=r"unknown swap rule 'same_tag'.*Did you mean 'same-tag'"):
        make_swaps(model, sequences_of(), "same_tag")
    with pytest.raises(UnknownNameError, match="Known: raise, keep"):
        make_swaps(model, sequences_of(), unknown="ignore")


def test_swaps_of_ones_own():
    words = np.array([["a", "b"]], dtype=object)
    same = Swaps(words, words, "none", 0, np.zeros((1, 2)))
    assert same.texts(0) == ["a b", "a b"]
    assert len(same) == 1
    with pytest.raises(InputError, match=r"swaps have shape \(1, 2\), originals \(2, 1\)"):
        Swaps(words, words.T, "none", 0, np.zeros((1, 2)))
    with pytest.raises(InputError, match=r"words\[0, 1\] is 'b c': expected one word"):
        Swaps(np.array([["a", "b c"]], dtype=object), words, "none", 0, np.zeros((1, 2)))
    with pytest.raises(InputError, match="words has rows of unequal length"):
        Swaps([["a"], ["b", "c"]], [["a"], ["b", "c"]], "none", 0, [[0], [0, 0]])
    for sequence in (1, 99, -1, "a", 0.0):
        with pytest.raises(InputError, match="these swaps are of 1, 0 to 0"):
            same.texts(sequence)
    assert len({same, same}) == 1


def test_candidates_may_be_any_iterable(model):
    expected = make_swaps(model, ["the dog"], "random", candidates=["cat", "dog", "the"])
    assert (
        make_swaps(model, ["the dog"], "random", candidates=iter(["cat", "dog", "the"])).digest() == expected.digest()
    )


@pytest.mark.parametrize(("words", "message"), [("dog", "got one string"), (3, "got 3"), (["dog", 1], "texts, got 1")])
def test_words_whose_tokens_cannot_be_counted(model, words, message):
    with pytest.raises(InputError, match=message):
        single_token_words(model, words)
