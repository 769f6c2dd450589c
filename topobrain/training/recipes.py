"""Recipes: frozen configurations of the field's topographic models, in the papers' size and in smaller ones.

The ``paper`` size holds what the papers and their public code state; what is not known of them is said in ``notes``. The
``gpu`` size runs on one large GPU in eight minutes, the ``tiny`` size in minutes on two cores, both on real data of the
store.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

from topobrain._checks import InputError, require_choice, unknown
from topobrain.training.config import TrainingConfig
from topobrain.training.penalties import Penalty
from topobrain.training.vocabularies import Kind

SIZES = ("tiny", "gpu", "paper")
TEXTS_OF_THE_STORE = "imdb-unsup+imdb-train+brown+abc+webtext+movie_reviews+state_union+inaugural"
"""All larger English texts of the store together: about 26 million words."""


@dataclass(frozen=True)
class Recipe:
    """Everything that makes a trained model, as plain values.

    Parameters
    ----------
    name, size
        Name of the recipe, and ``"tiny"``, ``"gpu"`` or ``"paper"``.
    architecture, model
        Of `topobrain.models.architectures`, and fields of its configuration (the vocabulary's size is filled in).
    objective
        ``"causal"``, ``"masked"``, ``"sentences"`` (classification of texts) or ``"images"``.
    corpus
        Name of a corpus or image set, a plain text file, or several joined by ``+``.
    vocabulary, vocab_size
        Kind and size of the tokenizer; see `topobrain.training.vocabularies.make_vocabulary`.
    length
        Tokens a window, or most tokens of a text.
    n_words
        Fewest and most words of a masked training text.
    mask_share
        Share of tokens a masked model predicts.
    max_examples, max_test
        Most training examples, and most examples of the test set that is scored once at the end.
    augment, label_smoothing
        Of image classification.
    training, penalties
        Optimisation, and the topographic losses.
    source, notes
        Where it comes from, and what of it is our choice.
    """

    name: str
    size: str
    architecture: str
    model: Mapping[str, Any]
    objective: Literal["causal", "masked", "sentences", "images"]
    corpus: str
    training: TrainingConfig
    penalties: tuple[Penalty, ...] = ()
    vocabulary: Kind = "bpe"
    vocab_size: int = 4096
    length: int = 64
    n_words: tuple[int, int] = (4, 40)
    mask_share: float = 0.15
    max_examples: int | None = None
    max_test: int | None = None
    augment: bool = True
    label_smoothing: float = 0.0
    source: str = ""
    notes: str = ""
    label: str = field(default="", compare=False)

    @property
    def topographic(self) -> bool:
        """Whether anything in the recipe lays units out: a positive penalty, or a Topoformer's pool or local layer."""
        in_layers = any(self.model.get(part) is not None for part in ("querying", "reweighting"))
        return in_layers or any(penalty.strength > 0 for penalty in self.penalties)

    @property
    def model_name(self) -> str:
        """Name of the trained model."""
        return self.label or f"{self.name}-{self.size}"

    def control(self) -> Recipe:
        """Return the non-topographic twin: same size, data, order and seed; standard attention, penalties of strength 0."""
        model = dict(self.model)
        for part in ("querying", "reweighting"):
            if part in model:
                model[part] = None
        silent = tuple(replace(penalty, strength=0.0, start=0.0) for penalty in self.penalties)
        return replace(self, model=model, penalties=silent, label=f"{self.name}-{self.size}-control")

    def with_strength(self, strength: float) -> Recipe:
        """Return the recipe with another strength (tau) of its penalties.

        Raises
        ------
        InputError
            The recipe has no penalty; its topography is in its layers.
        """
        if not self.penalties:
            raise InputError(
                f"{self.name} has no topographic loss whose strength could be set: its layers are topographic"
            )
        if math.isnan(strength):
            raise InputError("the strength (tau) of a topographic loss is a number of at least 0, got nan")
        stronger = tuple(replace(penalty, strength=strength) for penalty in self.penalties)
        return replace(self, penalties=stronger, label=f"{self.name}-{self.size}-tau{strength:g}")

    def variant(self, name: str) -> Recipe:
        """Return one of a Topoformer's variants (`topobrain.models.topoformer.VARIANTS`).

        Raises
        ------
        InputError
            The recipe is of another architecture.
        UnknownNameError
            No such variant.
        """
        from topobrain.models.topoformer import VARIANTS

        if not self.architecture.startswith("topoformer"):
            raise InputError(f"{self.name} is a {self.architecture}: only Topoformers have variants")
        require_choice("variant", name, tuple(VARIANTS))
        querying, reweighting, signed = VARIANTS[name]
        model = {
            **self.model,
            "querying": self.model["querying"] if querying else None,
            "reweighting": self.model["reweighting"] if reweighting else None,
            "signed": signed,
        }
        return replace(self, model=model, label=f"{self.name}-{self.size}-{name}")

    def with_training(self, **changes: Any) -> Recipe:
        """Return the recipe with other fields of its `TrainingConfig` (``steps``, ``seed``, ...)."""
        return replace(self, training=replace(self.training, **changes))

    def to_dict(self) -> dict[str, Any]:
        """Return the recipe as plain JSON values."""
        same = {
            name: getattr(self, name)
            for name in (
                "name", "size", "architecture", "objective", "corpus", "vocabulary", "vocab_size", "length", "mask_share",
                "max_examples", "max_test", "augment", "label_smoothing", "source", "notes",
            )
        }  # fmt: skip
        plain = {key: list(value) if isinstance(value, tuple) else value for key, value in self.model.items()}
        return {
            **same,
            "model": plain,
            "n_words": list(self.n_words),
            "training": self.training.to_dict(),
            "penalties": [penalty.to_dict() for penalty in self.penalties],
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Recipe:
        """Rebuild a recipe from `to_dict`.

        Raises
        ------
        InputError
            A field that recipes do not have, or one that is missing.
        """
        known = [each.name for each in fields(cls)]
        for name in values:
            if name not in known:
                raise InputError(str(unknown("field of a recipe", name, known)))
        try:
            return cls(
                **{
                    **values,
                    "model": {key: tuple(v) if isinstance(v, list) else v for key, v in values["model"].items()},
                    "n_words": tuple(values["n_words"]),
                    "training": TrainingConfig.from_dict(values["training"]),
                    "penalties": tuple(Penalty(**penalty) for penalty in values["penalties"]),
                }
            )
        except (KeyError, TypeError) as error:
            raise InputError(f"the description of a recipe is not complete: {error}") from None


def list_recipes() -> list[Recipe]:
    """Return every recipe in every size."""
    return list(_RECIPES.values())


def find_recipe(name: str, size: str = "tiny") -> Recipe:
    """Return a recipe.

    Raises
    ------
    UnknownNameError
        No such recipe or size.
    """
    names = list(dict.fromkeys(known for known, _ in _RECIPES))
    if name not in names:
        raise unknown("recipe", name, names)
    require_choice("size", size, SIZES)
    return _RECIPES[name, size]


def _topoformer_imdb() -> list[Recipe]:
    paper = Recipe(
        name="topoformer-imdb", size="paper", architecture="topoformer-classifier", objective="sentences", corpus="imdb",
        model={"width": 400, "ffn_width": 1600, "max_length": 256, "querying": 0.1, "reweighting": 0.3, "signed": False},
        vocabulary="words", vocab_size=100_000, length=256,
        training=TrainingConfig(
            steps=1465, batch_size=256, learning_rate=1e-3, schedule="constant", warm_up=0.0, weight_decay=0.01, clip=0.1,
            evaluate_every=73, checkpoint_every=500, seed=42,
        ),
        source="BinHuraib, Tuckute & Blauch (2024), arXiv 2510.18745 (public configuration)",
        notes="20 epochs. Padding takes no part in attention and mean, unlike in the published code.",
    )  # fmt: skip
    tiny = replace(
        paper, size="tiny", vocab_size=8000, length=64, max_test=5000,
        model={**paper.model, "width": 144, "ffn_width": 288, "max_length": 64},
        training=replace(paper.training, steps=500, batch_size=64, evaluate_every=250, checkpoint_every=100, clip=0.1, seed=0),
        notes="First 64 tokens of each review, 12 x 12 units.",
    )  # fmt: skip
    gpu = replace(
        paper, size="gpu", training=replace(paper.training, mixed_precision="bf16", max_seconds=480.0, seed=0)
    )  # fmt: skip
    return [tiny, gpu, paper]


def _topoformer_bert() -> list[Recipe]:
    paper = Recipe(
        name="topoformer-bert", size="paper", architecture="topoformer-bert", objective="masked",
        corpus="bookcorpus+wikipedia",
        model={
            "width": 784, "n_layers": 16, "ffn_width": 3072, "max_length": 128, "querying": 0.3, "reweighting": 0.3,
            "signed": False,
        },
        vocabulary="wordpiece", vocab_size=32768, length=128, n_words=(4, 200),
        training=TrainingConfig(
            steps=51_240, batch_size=4096, micro_batch=128, ramp_steps=41_865, learning_rate=1e-3, schedule="budget",
            betas=(0.9, 0.98), eps=1e-12, weight_decay=0.01, decayed="matrices", clip=0.5, mixed_precision="fp16",
            max_seconds=12 * 3600.0, evaluate_every=1000, checkpoint_every=1000,
        ),
        source="BinHuraib, Tuckute & Blauch (2024), arXiv 2510.18745 (public configuration)",
        notes="The batch grows linearly in optimiser steps; in the published code it grows linearly in micro-batches. The "
        "corpus is not in the store: give a plain text file.",
    )  # fmt: skip
    tiny = replace(
        paper, size="tiny", corpus="brown", vocab_size=6000, length=32, n_words=(4, 24), max_examples=30_000,
        model={**paper.model, "width": 144, "n_layers": 2, "ffn_width": 576, "max_length": 64},
        training=TrainingConfig(
            steps=800, batch_size=64, learning_rate=1e-3, schedule="budget", betas=(0.9, 0.98), eps=1e-12,
            decayed="matrices", clip=0.5, evaluate_every=200, checkpoint_every=100,
        ),
        notes="Two layers of 12 x 12 units on Brown sentences.",
    )  # fmt: skip
    gpu = replace(
        paper, size="gpu", corpus=TEXTS_OF_THE_STORE,
        training=replace(
            paper.training, steps=100_000, batch_size=512, micro_batch=256, ramp_steps=0, mixed_precision="bf16",
            max_seconds=480.0, evaluate_every=500, checkpoint_every=1000,
        ),
        notes="Eight minutes, on texts of the store.",
    )  # fmt: skip
    return [tiny, gpu, paper]


def _toponet_resnet18() -> list[Recipe]:
    steps_an_epoch = 1_281_167 // 1024
    penalty = Penalty("topoloss", ("layer?.?.conv?",), strength=10.0, factor=(3.0, 3.0))
    paper = Recipe(
        name="toponet-resnet18", size="paper", architecture="resnet", objective="images", corpus="imagenet",
        model={"depth": 18, "n_classes": 1000, "stem": "imagenet", "width": 64, "blur_pool": True, "image_size": 224},
        training=TrainingConfig(
            steps=88 * steps_an_epoch, batch_size=1024, optimiser="sgd", learning_rate=0.5, schedule="linear",
            warm_up=2 / 88, final_share=0.0, weight_decay=5e-5, decayed="matrices", clip=None, mixed_precision="fp16",
            evaluate_every=steps_an_epoch, checkpoint_every=steps_an_epoch,
        ),
        penalties=(penalty,), label_smoothing=0.1,
        source="Deb, Deb & Murty (2025), ICLR, arXiv 2501.16396; rn18-88 of FFCV",
        notes="The down-sampling factors of the paper are not known: 3 is the package's default of that time. Whether "
        "shortcut convolutions count is not known: they do not here. ImageNet is not in the store.",
    )  # fmt: skip
    small = {"n_classes": 10, "stem": "small", "blur_pool": False, "image_size": 32}
    cifar = {"mean": (0.4914, 0.4822, 0.4465), "std": (0.247, 0.2435, 0.2616)}
    tiny = replace(
        paper, size="tiny", corpus="cifar10", model={**paper.model, **small, **cifar, "width": 16}, label_smoothing=0.0,
        max_examples=20_000, max_test=2000,
        training=TrainingConfig(
            steps=400, batch_size=64, optimiser="sgd", learning_rate=0.1, schedule="linear", warm_up=0.1,
            final_share=0.0, weight_decay=5e-4, decayed="matrices", clip=None, evaluate_every=400, checkpoint_every=100,
        ),
        notes="A quarter of the channels, stem for small images, CIFAR-10; factor 2 where a sheet has 16 units (4 x 4).",
        penalties=(replace(penalty, factor=(2.0, 2.0)),),
    )  # fmt: skip
    gpu = replace(
        tiny, size="gpu", model={**tiny.model, "width": 64}, max_examples=None, max_test=None, penalties=(penalty,),
        training=replace(
            tiny.training, steps=9_000, batch_size=256, learning_rate=0.2, mixed_precision="bf16", max_seconds=480.0,
            evaluate_every=500, checkpoint_every=2000,
        ),
        notes="All channels, stem for small images, CIFAR-10.",
    )  # fmt: skip
    return [tiny, gpu, paper]


_TINY_LM = TrainingConfig(
    steps=600, batch_size=32, learning_rate=2e-3, betas=(0.9, 0.95), weight_decay=0.1, decayed="matrices", clip=1.0,
    evaluate_every=200, checkpoint_every=100,
)  # fmt: skip
_GPU_LM: dict[str, Any] = {
    "steps": 100_000, "batch_size": 64, "micro_batch": 64, "warm_up": 0.05, "max_seconds": 480.0, "evaluate_every": 500,
    "checkpoint_every": 1000,
}  # fmt: skip


def _toponet_nanogpt() -> list[Recipe]:
    penalty = Penalty("topoloss", ("blocks.*.mlp.c_fc",), strength=1.0, factor=(3.0, 3.0))
    paper = Recipe(
        name="toponet-nanogpt", size="paper", architecture="gpt", objective="causal", corpus="fineweb-edu-10B",
        model={"width": 768, "n_layers": 12, "n_heads": 12, "context": 1024, "bias": False, "dropout": 0.0},
        vocabulary="gpt2", vocab_size=50304, length=1024,
        training=TrainingConfig(
            steps=20_345, batch_size=480, micro_batch=12, learning_rate=6e-4, final_share=0.1, warm_up=0.035,
            betas=(0.9, 0.95), weight_decay=0.1, decayed="matrices", clip=1.0, mixed_precision="bf16",
            evaluate_every=250, checkpoint_every=1000,
        ),
        penalties=(penalty,),
        source="Deb, Deb & Murty (2025), ICLR, arXiv 2501.16396; NanoGPT",
        notes="Steps, batch and rate are NanoGPT's for 10 billion tokens (not stated in the paper); factor as for the "
        "ResNets. The corpus is not in the store: give a plain text file.",
    )  # fmt: skip
    tiny = replace(
        paper, size="tiny", corpus="brown+wikitext2", vocabulary="bpe", vocab_size=2048, length=64,
        model={**paper.model, "width": 96, "n_layers": 2, "n_heads": 4, "context": 128},
        training=_TINY_LM,
        notes="Two layers; the sheets of the hidden layers are 16 x 24.",
    )  # fmt: skip
    gpu = replace(
        paper, size="gpu", corpus=TEXTS_OF_THE_STORE, length=512,
        training=replace(paper.training, **_GPU_LM), notes="Eight minutes, on texts of the store.",
    )  # fmt: skip
    return [tiny, gpu, paper]


def _topolm() -> list[Recipe]:
    penalty = Penalty(
        "correlation",
        ("blocks.*.attention", "blocks.*.mlp"),
        strength=2.5,
        reduction="sum",
        radius=5,
        n_neighbourhoods=5,
    )
    paper = Recipe(
        name="topolm", size="paper", architecture="gpt", objective="causal", corpus="fineweb-edu-10B",
        model={
            "width": 784, "n_layers": 12, "n_heads": 16, "context": 1024, "bias": False, "dropout": 0.0,
            "positions": "permuted",
        },
        vocabulary="gpt2", vocab_size=50304, length=1024,
        training=TrainingConfig(
            steps=78_000, batch_size=960, micro_batch=48, learning_rate=6e-4, final_share=0.1, warm_up=2000 / 78_000,
            betas=(0.9, 0.95), weight_decay=0.1, decayed="matrices", clip=1.0, mixed_precision="bf16",
            evaluate_every=250, checkpoint_every=250,
        ),
        penalties=(penalty,),
        source="Rathi et al. (2025), TopoLM, ICLR",
        notes="Branch outputs before the residual addition. The corpus is not in the store: give a plain text file.",
    )  # fmt: skip
    tiny = replace(
        paper, size="tiny", corpus="brown+wikitext2", vocabulary="bpe", vocab_size=2048, length=64,
        model={**paper.model, "width": 144, "n_layers": 2, "n_heads": 4, "context": 128},
        training=_TINY_LM,
        penalties=(replace(penalty, radius=4),),
        notes="Two layers, four sheets of 12 x 12, neighbourhoods of 7 x 7.",
    )  # fmt: skip
    gpu = replace(
        paper, size="gpu", corpus=TEXTS_OF_THE_STORE, length=512,
        training=replace(paper.training, **_GPU_LM), notes="Eight minutes, on texts of the store.",
    )  # fmt: skip
    return [tiny, gpu, paper]


_RECIPES = {
    (recipe.name, recipe.size): recipe
    for family in (_topoformer_imdb, _topoformer_bert, _toponet_resnet18, _toponet_nanogpt, _topolm)
    for recipe in family()
}
