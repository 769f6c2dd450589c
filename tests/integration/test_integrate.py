"""integrate: planted windows come back, real models obey what is exact for them, and bad input is named."""

import numpy as np
import pytest
import torch
import xarray as xr

import topobrain as tb
from topobrain._checks import InputError, UnknownNameError
from topobrain.integration.reading import PrefixReader, Reading, Row, WholeReader
from topobrain.models.gpt import GPT, GPTConfig, wrap_gpt
from topobrain.models.huggingface import wrap_transformer
from topobrain.models.llama2c import load_stories260k
from topobrain.stats.integration_windows import LagWindow, window_curve
from topobrain.testing import KernelModel

QUICK = {"n_bootstrap": 0, "n_null": 0, "held_out_folds": 0}
A, B, C = np.array([0.6, 0.5, 0.7, 0.36]), np.array([1.0, 4.2, 2.0, 0.75]), np.array([0.3, 0.1, 0.26, 0.42])


def kernel(n_words=60):
    return window_curve(A, B, C, np.arange(n_words))


def flips(n_sequences, n_words, *, sentence_words=0, seed=0):
    """Return sequences of ``up`` and ``down`` and swaps of each for the other: of one size everywhere."""
    words = np.random.default_rng(seed).choice(["up", "down"], size=(n_sequences, n_words)).astype(object)
    sequences = tb.StimulusSet(
        [" ".join(row) for row in words], {"sentence_words": [sentence_words] * n_sequences}, name="flips"
    )
    swapped = np.where(words == "up", "down", "up").astype(object)
    return sequences, tb.Swaps(swapped, words, "flip", 0, np.zeros(words.shape, dtype=bool))


def random_words(n_sequences, n_words, seed=0):
    """Return sequences of words that no one has read, and swaps of random size."""
    rng = np.random.default_rng(seed)
    words, other = (
        np.array([[f"{kind}{n}" for n in row] for row in rng.integers(0, 10**9, (n_sequences, n_words))], dtype=object)
        for kind in "wv"
    )
    sequences = tb.StimulusSet([" ".join(row) for row in words], name="random words")
    return sequences, tb.Swaps(other, words, "random", 0, np.zeros(words.shape, dtype=bool))


@pytest.fixture(scope="module")
def stories():
    return load_stories260k(device="cpu")


@pytest.fixture(scope="module")
def runs():
    return tb.load_stimuli("simulated-word-runs", n=5, n_words=16)


class TestPlantedWindows:
    def test_equal_swaps_give_the_kernel_and_its_parameters_back(self):
        sequences, swaps = flips(6, 40)
        found = tb.integrate(KernelModel(kernel()), sequences, swap=swaps, **QUICK)
        assert np.abs(found.data["theta"].values - kernel(21)).max() < 1e-12
        for name, true in (("a", A), ("b", B), ("c", C)):
            assert np.abs(found.data[name].values - true).max() < 1e-6
        assert found.data["r2"].values == pytest.approx(1)
        assert found.causal
        assert found.data["floor"].values == 0

    @pytest.mark.slow
    def test_random_swaps_converge_with_the_number_of_sequences(self):
        errors = []
        for n in (4, 40, 200):
            sequences, swaps = random_words(n, 60, seed=n)
            found = tb.integrate(KernelModel(kernel()), sequences, swap=swaps, **QUICK)
            errors.append(np.abs(found.data["theta"].values - kernel(21))[1:].mean())
        assert errors[0] > 1.5 * errors[1] > 2 * errors[2]
        assert errors[2] < 0.01

    def test_swaps_of_any_size_are_exact_when_divided_by_their_own_size(self):
        sequences, swaps = random_words(4, 40)
        found = tb.integrate(KernelModel(kernel()), sequences, swap=swaps, normalise="swapped", **QUICK)
        assert np.abs(found.data["theta"].values - kernel(21)).max() < 1e-12

    @pytest.mark.parametrize("normalise", ["measured", "swapped"])
    def test_a_kernel_reset_at_sentence_starts_has_the_known_yoking(self, normalise):
        sequences, swaps = flips(4, 60, sentence_words=12)
        model = KernelModel(window_curve([0.6], [1.0], [0.3], np.arange(60)), reset=12)
        found = tb.integrate(model, sequences, swap=swaps, normalise=normalise, **QUICK)
        assert found.data["yoking"].values == pytest.approx(0.137631955191, abs=1e-10)
        steps = found.data["yoking_step"].values[:, 0]
        assert np.flatnonzero(steps > 0.1).tolist() == [12, 24, 36, 48]

    def test_a_kernel_without_reset_has_none(self):
        sequences, swaps = flips(4, 60, sentence_words=12)
        found = tb.integrate(KernelModel(kernel()), sequences, swap=swaps, **QUICK)
        assert np.abs(found.data["yoking"].values).max() < 1e-12

    def test_forms_are_told_apart_on_held_out_sequences(self):
        lags = np.arange(40)
        planted = np.concatenate(
            [
                window_curve([0.8], [1.0], [0.0], lags),
                window_curve([0.8], [1.0], [1.0], lags),
                window_curve([0.6], [1.0], [0.3], lags),
            ],
            axis=1,
        )
        sequences, swaps = random_words(60, 40)
        found = tb.integrate(KernelModel(planted), sequences, swap=swaps, normalise="swapped", n_bootstrap=0, n_null=0)
        assert [str(found.data["form"].values[n]) for n in found.data["best_form"].values] == [
            "exponential", "power", "mixture",
        ]  # fmt: skip

    def test_what_cannot_be_told_is_masked(self):
        lags = np.arange(40)
        planted = np.concatenate(
            [window_curve([0.8], [1.0], [0.0], lags), window_curve([0.8], [1.0], [1.0], lags)], axis=1
        )
        sequences, swaps = flips(6, 40)
        found = tb.integrate(KernelModel(planted), sequences, swap=swaps, n_bootstrap=10, n_null=0)
        assert np.isnan(found.values("units", "a")).tolist() == [True, False]
        assert np.isnan(found.values("units", "b")).tolist() == [False, True]
        assert found.values("units", "c") == pytest.approx([0, 1], abs=1e-6)

    @pytest.mark.slow
    def test_standard_errors_are_those_of_repeated_studies(self):
        found = []
        for seed in range(12):
            sequences, swaps = random_words(12, 30, seed)
            found.append(
                tb.integrate(KernelModel(kernel()), sequences, swap=swaps, max_lag=8, n_bootstrap=40, n_null=0)
            )
        spread = np.std([one.data["theta"].values for one in found], axis=0, ddof=1)[1:].mean()
        told = np.mean([one.data["theta_se"].values for one in found], axis=0)[1:].mean()
        assert 0.75 < told / spread < 1.6

    def test_intervals_of_layers_hold_the_truth_and_shrink_with_sequences(self):
        planted = window_curve(np.full(30, 0.6), np.full(30, 1.0), np.linspace(0.2, 0.4, 30), np.arange(30))
        widths = []
        for n in (8, 80):
            sequences, swaps = random_words(n, 30, seed=n)
            found = tb.integrate(
                KernelModel(planted), sequences, swap=swaps, max_lag=8, max_se=1.0, n_bootstrap=40, n_null=0
            )
            low, high = found.layer_interval("units", "c")
            assert low < 0.3 < high
            widths.append(high - low)
        assert widths[1] < 0.6 * widths[0]
        assert found.layer_interval("units", "c", against="units") == (0, 0)
        assert np.isnan(found.layer_interval("units", "yoking")).all()
        with pytest.raises(UnknownNameError, match="cc"):
            found.layer_interval("units", "cc")

    def test_noisy_curves_are_unknown(self):
        sequences, swaps = random_words(6, 40)
        found = tb.integrate(KernelModel(kernel()), sequences, swap=swaps, n_bootstrap=20, n_null=0)
        noise = np.sqrt((found.data["theta_se"].values[1:] ** 2).mean(axis=0))
        assert (noise > 0.005).any()
        assert np.array_equal(found.data["c_known"].values, noise <= 0.005)
        assert np.array_equal(np.isnan(found.values("units", "c")), noise > 0.005)
        assert np.isfinite(found.values("units", "c", masked=False)).all()

    def test_rounding_is_measured_and_taken_out(self):
        delta = np.zeros((40, 3))
        delta[0] = 1
        sequences, swaps = flips(30, 40)
        found = tb.integrate(KernelModel(delta, noise=2e-4), sequences, swap=swaps, **QUICK)
        assert found.causal
        assert 3e-5 < found.data["floor"].values[0] < 3e-4
        assert found.data["theta"].values[1:].mean() < 4e-5  # 1.4e-4 without the correction

    def test_a_smooth_sheet_of_windows_is_found_and_a_shuffled_one_is_not(self):
        sheet = tb.Sheet.grid(8, 8)
        weight = np.clip(0.5 + 0.3 * np.sin(sheet.x / 2) + 0.1 * sheet.y / 8, 0.1, 0.9)
        sequences, swaps = flips(6, 30)
        order = np.random.default_rng(0).permutation(64)
        for c, smooth in ((weight, True), (weight[order], False)):
            planted = window_curve(np.full(64, 0.6), np.full(64, 1.0), c, np.arange(30))
            found = tb.integrate(
                KernelModel(planted, sheet=sheet), sequences, swap=swaps, max_lag=12, n_bootstrap=4, n_null=199
            )
            told = found.spatial("units", "c")
            assert (told["p_layout"] < 0.01) == smooth
            assert (told["corrected"] > 0.5) == smooth


class TestRealModels:
    def test_reading_on_gives_the_changes_of_reading_whole(self, stories, runs):
        layers, texts = list(stories.sheets), runs.texts
        swaps = tb.make_swaps(stories, runs, "random")
        reading = Reading(stories, layers, texts, LagWindow(16, 5))
        rows = [Row(s, k, swaps.texts(s)[k], True) for s in range(5) for k in range(16)]
        rows += [Row(s, 7, texts[s], False) for s in range(5)]
        whole = {(c.row.sequence, c.row.text): c.values for c in WholeReader(reading).changes(range(5), rows)}
        fast = {(c.row.sequence, c.row.text): c.values for c in PrefixReader(reading).changes(range(5), rows)}
        assert set(whole) == set(fast)
        for key, values in whole.items():
            assert np.abs(values - fast[key]).max() < 1e-4 * max(1.0, float(values.max()))

    def test_cutting_the_swapped_word_alone_is_given_up_where_a_tokenizer_joins_words(self, runs):
        from tokenizers import Tokenizer, models
        from transformers import PreTrainedTokenizerFast

        letters = sorted({letter for text in runs.texts for letter in text})
        joined = [f"{letter} {other}" for letter in "esdnt" for other in "tasb"]
        vocabulary = {
            piece: n
            for n, piece in enumerate(["<pad>", "<unk>", *letters, *(f"{j[0]} " for j in joined[::4]), *joined])
        }
        merges = [(j[0], " ") for j in joined[::4]] + [(f"{j[0]} ", j[2]) for j in joined]
        inner = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, unk_token="<unk>"))
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="<pad>", unk_token="<unk>")
        torch.manual_seed(0)
        model = wrap_gpt("joins", GPT(GPTConfig.tiny(len(vocabulary), context=256)).eval(), tokenizer, device="cpu")
        long = tb.StimulusSet([" ".join(w if len(w) > 2 else f"{w}xyz" for w in t.split()) for t in runs.texts])
        words = np.array([t.split() for t in long.texts], dtype=object)
        swaps = tb.Swaps(np.roll(words, 3, axis=1), words, "roll", 0, np.zeros(words.shape, dtype=bool))
        reading = Reading(model, ["blocks.1"], long.texts, LagWindow(16, 5))
        rows = [Row(s, k, swaps.texts(s)[k], True) for s in range(2) for k in range(16)]
        fast = PrefixReader(reading)
        found = {c.row.text: c.values for c in fast.changes(range(2), rows)}
        assert not fast.spliced
        for change in WholeReader(reading).changes(range(2), rows):
            assert np.allclose(change.values, found[change.row.text], atol=1e-5)

    def test_a_module_that_makes_nothing_of_kept_keys_is_read_whole(self, stories, runs):
        class Forgets(GPT):
            def forward(self, input_ids, attention_mask=None, position_ids=None, past_key_values=None, use_cache=False):
                super().forward(input_ids, position_ids=None, past_key_values=past_key_values if use_cache else None)
                return super().forward(input_ids)

        torch.manual_seed(0)
        tokenizer = stories.encode.tokenizer
        module = Forgets(GPTConfig.tiny(len(tokenizer), context=256)).eval()
        model = wrap_gpt("forgets", module, tokenizer, device="cpu")
        with pytest.warns(UserWarning, match="cannot read on from what it read before"):
            found = tb.integrate(model, runs, max_lag=5, **QUICK)
        plain = GPT(module.config).eval()
        plain.load_state_dict(module.state_dict())
        expected = tb.integrate(wrap_gpt("plain", plain, tokenizer, device="cpu"), runs, max_lag=5, **QUICK)
        assert np.allclose(found.data["theta"], expected.data["theta"], atol=1e-4, equal_nan=True)

    def test_words_of_several_tokens_are_averaged(self, stories, runs):
        swaps = tb.make_swaps(stories, runs, "random")
        row = Row(0, 6, swaps.texts(0)[6], True)
        reading = Reading(stories, ["layers.2"], runs.texts, LagWindow(16, 5))
        (found,) = WholeReader(reading).changes([0], [row])
        values = []
        for text in (runs.texts[0], row.text):
            recording = stories.record([text], ["layers.2"])
            word, states = recording.word[0], recording.values["layers.2"][0].numpy()
            assert (np.bincount(word[word >= 0]) > 1).any()
            values.append(np.stack([states[word == n].mean(axis=0) for n in range(6, 12)]))
        assert np.allclose(found.values, np.abs(values[0] - values[1]), atol=1e-5)

    def test_nothing_before_a_swap_changes_in_a_causal_model(self, stories, runs):
        found = tb.integrate(stories, runs, max_lag=5, **QUICK)
        assert found.causal
        assert max(found.provenance["integrate"]["before_the_swap"]) < 1e-5
        assert found.data["floor"].values.max() < 1e-5
        assert found.lags.tolist() == list(range(6))

    def test_an_embedding_listens_to_its_own_word_only(self, stories, runs):
        found = tb.integrate(stories, runs, layers=["embeddings"], max_lag=5, **QUICK)
        assert np.abs(found.curves("embeddings")[1:]).max() < 1e-6

    @pytest.mark.slow
    def test_a_model_that_reads_ahead_has_lags_on_both_sides_and_no_fit(self, runs):
        model = tb.load_model("topoformer-tiny", weights="untrained")
        found = tb.integrate(model, runs, max_lag=4, n_bootstrap=4, n_null=19)
        assert not found.causal
        assert found.lags.tolist() == list(range(-4, 5))
        last = found.layers[-1]
        curves = found.curves(last)
        assert np.isfinite(curves).all()
        assert (curves[3] > 0).mean() > 0.9
        assert np.isnan(found.values(last, "c", masked=False)).all()
        with pytest.raises(InputError, match="reads the words that come after too"):
            found.require_fitted()

    def test_a_planted_look_ahead_is_measured(self):
        sequences, swaps = flips(6, 30)
        found = tb.integrate(KernelModel(kernel(30), ahead=0.25), sequences, swap=swaps, max_lag=6, **QUICK)
        assert not found.causal
        assert found.data["theta"].sel(lag=-1).values == pytest.approx(0.25)
        assert np.abs(found.data["theta"].sel(lag=slice(-6, -2)).values).max() < 1e-12
        assert found.data["theta"].sel(lag=3).values == pytest.approx(kernel()[3])

    def test_the_size_of_batches_changes_nothing(self, stories, runs):
        swaps = tb.make_swaps(stories, runs, "random")
        few, many = (
            tb.integrate(stories, runs, swap=swaps, max_lag=5, batch_tokens=n, **QUICK).data["theta"].values
            for n in (20, 4096)
        )
        assert np.allclose(few, many, atol=1e-5, equal_nan=True)

    def test_scaling_a_unit_keeps_its_curve(self, stories, runs):
        class Scaled(KernelModel):
            def record(self, stimuli, layers):
                recording = super().record(stimuli, layers)
                return type(recording)(
                    {k: v * np.array([10.0, 1, 1, 1]) for k, v in recording.values.items()}, recording.word
                )

        sequences, swaps = random_words(5, 30)
        plain, scaled = (
            tb.integrate(kind(kernel(30)), sequences, swap=swaps, max_lag=8, **QUICK).data["theta"].values
            for kind in (KernelModel, Scaled)
        )
        assert np.allclose(plain, scaled)

    def test_bf16_is_corrected_for_its_rounding(self, stories, runs):
        swaps = tb.make_swaps(stories, runs, "random")
        with pytest.warns(UserWarning, match="no bfloat16 arithmetic") if _slow_bf16() else _no_warning():
            low = tb.integrate(stories, runs, swap=swaps, max_lag=5, precision="bf16", **QUICK)
        full = tb.integrate(stories, runs, swap=swaps, max_lag=5, **QUICK)
        assert low.data["floor"].values[-1] > 1000 * full.data["floor"].values[-1]
        assert np.nanmedian(np.abs(low.curves("layers.4") - full.curves("layers.4"))) < 0.01

    def test_seeds_repeat_and_differ(self, stories, runs):
        first, again, other = (tb.integrate(stories, runs, max_lag=5, seed=seed, **QUICK) for seed in (0, 0, 1))
        assert first.data["theta"].equals(again.data["theta"])
        assert not first.data["theta"].equals(other.data["theta"])

    def test_a_result_survives_saving(self, stories, runs, tmp_path):
        found = tb.integrate(stories, runs, layers=["layers.0", "layers.3"], max_lag=5, n_bootstrap=4, n_null=19)
        again = tb.load_result(found.save(tmp_path / "windows.nc"))
        assert isinstance(again, tb.Integration)
        xr.testing.assert_identical(found.data.drop_attrs(), again.data.drop_attrs())
        table = again.summary()
        assert table["layer"].tolist() == ["layers.0", "layers.3"]
        assert (table["share_exponential"] + table["share_power"] + table["share_mixture"]).round(6).eq(1).all()
        assert again.provenance["integrate"]["swap"]["rule"] == "same-tag"
        assert again.simulated  # the template language


def _slow_bf16():
    return torch.backends.cpu.get_cpu_capability() == "AVX2"


def _no_warning():
    import contextlib

    return contextlib.nullcontext()


BOUND = 5 * 4 * 4 * (9 * 20 + 30) + 1
"""Bytes of five groups of four units, nine lags, twenty places and thirty words."""


class TestMemory:
    def test_fewer_groups_give_the_same_curves(self):
        sequences, swaps = random_words(12, 30)
        options = {"swap": swaps, "max_lag": 8, **QUICK}
        full = tb.integrate(KernelModel(kernel(30)), sequences, **options)
        small = tb.integrate(KernelModel(kernel(30)), sequences, max_memory=BOUND, **options)
        assert full.provenance["integrate"]["n_groups"] == 12
        assert small.provenance["integrate"]["n_groups"] == 5
        assert np.allclose(full.data["theta"], small.data["theta"], atol=1e-5)

    def test_a_bound_too_small_says_what_would_fit(self):
        sequences, swaps = random_words(12, 30)
        with pytest.raises(InputError, match=r"need .* for 4 groups of sequences, max_memory is .*fewer layers"):
            tb.integrate(KernelModel(kernel(30)), sequences, swap=swaps, max_lag=8, max_memory=2000, **QUICK)

    def test_few_groups_are_warned_of(self):
        sequences, swaps = random_words(12, 30)
        with pytest.warns(UserWarning, match="12 sequences are summed in 5 groups"):
            tb.integrate(KernelModel(kernel(30)), sequences, swap=swaps, max_lag=8, max_memory=BOUND, **QUICK)


class TestBadInput:
    def test_sequences_shorter_than_the_lags(self, stories, runs):
        with pytest.raises(InputError, match="sequences of 16 words are too short for lags up to 20 words"):
            tb.integrate(stories, runs)

    def test_sequences_of_unequal_length(self, stories):
        texts = ["one two three four five six"] * 4 + ["one two three"]
        with pytest.raises(InputError, match="equally many words: most have 6, 's0004' has 3"):
            tb.integrate(stories, tb.StimulusSet(texts), max_lag=3)

    def test_too_few_sequences(self, stories, runs):
        with pytest.raises(InputError, match="3 sequences are too few"):
            tb.integrate(stories, runs.take(range(3)), max_lag=5)

    def test_what_is_no_model(self, runs):
        for given in ("gpt2", None):
            with pytest.raises(InputError, match=r"integrate reads a model, got .*load_model"):
                tb.integrate(given, runs, max_lag=5)

    @pytest.mark.parametrize("words", [6.5, -6, "a", None])
    def test_sentences_of_no_whole_number_of_words(self, stories, words):
        sequences = tb.StimulusSet(["one two three four five six seven eight"] * 5, {"sentence_words": [words] * 5})
        with pytest.raises(InputError, match="sentence_words is a whole number"):
            tb.integrate(stories, sequences, max_lag=4)

    def test_a_model_that_reads_ahead_in_sequences_too_short_for_it(self):
        model = tb.load_model("topoformer-tiny", weights="untrained")
        sequences = tb.load_stimuli("simulated-word-runs", n=5, n_words=40)
        with pytest.raises(InputError, match=r"reads ahead \(before a swapped word, layer .* max_lag=18 would fit"):
            tb.integrate(model, sequences)

    def test_texts_that_are_no_stimulus_set(self, stories):
        with pytest.raises(InputError, match="reads a StimulusSet, got list"):
            tb.integrate(stories, ["a b c"])  # type: ignore[arg-type]

    def test_a_layer_that_does_not_exist(self, stories, runs):
        with pytest.raises(UnknownNameError, match=r"layers\.9"):
            tb.integrate(stories, runs, layers=["layers.9"], max_lag=5)

    def test_swaps_of_other_sequences(self, stories, runs):
        swaps = tb.make_swaps(stories, tb.load_stimuli("simulated-word-runs", n=5, n_words=16, seed=9), "random")
        with pytest.raises(InputError, match="these swaps are for other sequences"):
            tb.integrate(stories, runs, swap=swaps, max_lag=5)
        with pytest.raises(InputError, match="expected 4 of 16"):
            tb.integrate(stories, runs.take(range(4)), swap=swaps, max_lag=5)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"max_lag": 2}, "three parameters"),
            ({"max_lag": 5, "n_bootstrap": 1}, "n_bootstrap is 0 for none"),
            ({"max_lag": 5, "n_null": -1}, "n_null is 0 for none"),
            ({"max_lag": 5, "seed": -1}, "seed is a whole number"),
            ({"max_lag": 5, "normalise": "no"}, "normalise"),
            ({"max_lag": 5, "swap": "same-pos"}, "same-tag"),
            ({"max_lag": 5, "precision": "fp8"}, "precision"),
            ({"max_lag": 5.5}, "max_lag is a whole number"),
            ({"max_lag": 5, "max_se": "x"}, "max_se is a standard error"),
            ({"max_lag": 5, "max_se": -1.0}, "max_se is a standard error"),
            ({"max_lag": 5, "batch_tokens": 0}, "batch_tokens is a whole number"),
            ({"max_lag": 5, "progress": 3}, "progress is a function"),
            ({"max_lag": 5, "layers": 3}, "layers are names of"),
        ],
    )
    def test_options(self, stories, runs, options, message):
        with pytest.raises((InputError, UnknownNameError), match=message):
            tb.integrate(stories, runs, **options)

    def test_a_word_swapped_with_itself_everywhere_changes_nothing(self):
        sequences, swaps = flips(5, 20)
        same = tb.Swaps(swaps.originals, swaps.originals, "none", 0, swaps.fallback)
        with pytest.raises(InputError, match="no swap changes any unit"):
            tb.integrate(KernelModel(kernel(20)), sequences, swap=same, max_lag=5, **QUICK)

    def test_units_that_never_change_are_told_and_have_no_curve(self):
        planted = kernel(20).copy()
        planted[:, 2] = 0
        sequences, swaps = flips(5, 20)
        with pytest.warns(UserWarning, match="1 of 4 units do not change"):
            found = tb.integrate(KernelModel(planted), sequences, swap=swaps, max_lag=5, n_bootstrap=4, n_null=19)
        assert np.isnan(found.curves("units")[:, 2]).all()
        assert not found.data["c_known"].values[2]
        assert found.data["best_form"].values[2] == -1

    def test_a_word_without_a_token_of_its_own(self, runs):
        class Swallows(KernelModel):
            def record(self, stimuli, layers):
                recording = super().record(stimuli, layers)
                word = np.where(recording.word == 3, 2, recording.word)
                return type(recording)(recording.values, word)

        sequences, swaps = flips(5, 20)
        with pytest.raises(InputError, match=r"word 3 \('(up|down)'\) has none"):
            tb.integrate(Swallows(kernel(20)), sequences, swap=swaps, max_lag=5, **QUICK)

    def test_values_that_are_not_finite_are_named(self):
        class Broken(KernelModel):
            def record(self, stimuli, layers):
                recording = super().record(stimuli, layers)
                for values in recording.values.values():
                    values[..., 1] = np.nan
                return recording

        sequences, swaps = flips(5, 20)
        with pytest.raises(InputError, match="layer 'units' of 'planted windows' is not finite"):
            tb.integrate(Broken(kernel(20)), sequences, swap=swaps, max_lag=5, **QUICK)

    def test_sentences_that_do_not_fit(self, stories):
        sequences = tb.StimulusSet(["one two three four five six seven eight"] * 5, {"sentence_words": [3] * 5})
        with pytest.raises(InputError, match="do not divide into sentences of 3"):
            tb.integrate(stories, sequences, max_lag=4)
        sequences = tb.StimulusSet([" ".join(["one"] * 24)] * 5, {"sentence_words": [12] * 5})
        with pytest.raises(InputError, match="needs lags up to 10, max_lag is 5"):
            tb.integrate(stories, sequences, max_lag=5)


def test_a_causal_model_of_the_hub_is_read_as_ours_is(stories, runs):
    from transformers import GPT2Config, GPT2Model

    torch.manual_seed(0)
    config = GPT2Config(vocab_size=len(stories.encode.tokenizer), n_embd=32, n_layer=2, n_head=4, n_positions=128)
    model = wrap_transformer("gpt2", GPT2Model(config).eval(), stories.encode.tokenizer, device="cpu")
    found = tb.integrate(model, runs, max_lag=5, **QUICK)
    assert found.causal
    assert found.data["floor"].values.max() < 1e-4
