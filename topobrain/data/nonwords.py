"""Nonwords from letter statistics, and the control conditions made of them: nonword strings, word lists, jabberwocky.

Question answered: what is left of a response when meaning, syntax or both are taken out of a sentence? All controls
keep the number of words and every word's length, so that neither length nor letters tell the conditions apart.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache

import numpy as np

from topobrain._checks import InputError
from topobrain.data.lexicon import VOWELS, content_forms, lexicon
from topobrain.stimuli import StimulusSet

LETTERS = "abcdefghijklmnopqrstuvwxyz"
UNIGRAM_SHARE = 0.005
"""Weight of single-letter frequencies beside trigrams: gives one- and two-letter words nonwords at all."""
MAX_TRIES = 500
MAX_REPEATS = 20
"""Nonwords already used that are drawn in a row before one is used again: there are few of one to three letters."""
SHORT_ENGLISH = """
i am as be do go he if is it me no of oh ok or so to up us we all and any are ash bad bag ban bar bat bay bed bee beg
bet bid big bin bit boa bow bun bus but buy can cap car cod cot cow cub cup cut dad day den did die dig dim din dip
don dot dry due dug ear eat egg end era eve eye fan far fat few fin fit fix fly fog for fox fun fur gap gas get got
gun gut guy had ham has hat hen her hid him hip his hit hoe hop hot how hut ice ill ink inn its jam jar jaw jet job
joy key kid kin lab lad lap law lay led leg let lid lie lip lit log lot low mad man map mat may men met mix mob mud
mug nap net nod nor not now nun nut oak oar odd off oil one ore out owe owl own pan pat paw pay pea pen pet pie pig
pin pit pot put rag ran rap rat raw ray red rib rid rim rip rob rod rot row rub rug rum run sad sat saw say sea see
set sew she shy sin sip sir sit six ski sky sly son sow spy sun tan tap tar tea ten tie tin tip toe ton too top toy
try tub two use van vet war was wax way web wet why wig win wit won yes yet you zoo able also area away back ball band
bank barn base bath bead beam bean bear beat beer bell belt best bird bite blow blue boat body bone book boot born
boss both bowl call calm came camp card care cart case cast cave chin chop city clap clay clip club coal coat cold
come cook cool cope core corn cost crop dare date dawn deal dear deep deer deny desk dice dine dish dive dock door
down draw drop drum dull dust each earn east easy edge else even ever face fact fade fail fair fall fame farm fast
fate fear feel fell felt file fill film find fine fire firm fish five flat flow food foot fore form fort four free
from full gain game gate gave gear gift give glad goal goat gold gone good grew grin grow hail hair half hall hand
hang hard harm hate have head heal hear heat held hell help here hero hide high hill hire hold hole home hope horn
host hour huge hunt hurt idea into iron item join jump just keep kept kick kind king kiss knee knew know lace lack
lady laid lake lamb lamp land lane last late lead leaf lean left less life lift like line link lion list live load
loan lock lone long look lord lose loss lost love luck made mail main make male many mark mate meal mean meat meet
mile milk mill mind mine miss mode moon more most move much must name near neck need nest news next nice nine none
nose note oven over pace pack page paid pain pair pale park part pass past path peak pear pick pile pine pink pipe
plan play plot poem poet pole pond pool poor port post pour pray pull pure push race rail rain rank rare rate read
real rest rice rich ride ring rise risk road rock role roll roof room root rope rose rude ruin rule rush safe said
sail salt same sand sang save scar seal seat seed seek seem seen self sell send sent shed ship shoe shop shot show
shut sick side sign silk sing sink site size skin slip slow snow soap sock soft soil sold some song soon sore sort
soul soup star stay step stir stop such suit sure swim tail take tale talk tall tank tape task team tear tell tend
tent term test than that them then they thin this tide till time tiny told tone took tool torn tour town trap tree
trim trip true tube tune turn twin type ugly unit upon used vase vast very view vote wage wait wake walk wall want
warm wash wave weak wear week well went were west what when whip wide wife wild will wind wine wing wire wise wish
with wolf wood wool word wore work worm yard year zone after again black blame bland bread chair chase cheer clean
clear close cloud court cream dance drain dream dress drink earth field fight flame floor force fresh front fruit
glass grain grand grass great green group heart horse house large later light match mount mouse mouth music night
noise other paint paper party place plain plane plant plate point pound pride proud quick quiet rainy reach right
river rough round scale scene score sense shade shape share sharp sheep shine shirt shoot shore short sleep slide
small smart smile smoke snake sound south space speak spend spoil sport stage stain stair stand stare start state
steam steel stick still sting stone store storm story strong stuff style sugar sweet swing table taste teach thank
thing think three throw tower track trade train treat trick truck trust truth under voice waste watch water wheel
white whole woman world worry wound write wrong young
"""
"""Common English words outside the lexicon that letter statistics hit often; no nonword is one of them."""


class LetterModel:
    """Letter trigrams with word boundaries, sampled at an exact word length.

    P(letter | two letters before) is estimated from the given words (each counted once), mixed with single-letter
    frequencies at weight `UNIGRAM_SHARE`. Words of length L are drawn from the chain's distribution *given* that the
    word ends after L letters, so short and long nonwords begin and end like words too.

    Parameters
    ----------
    words
        Lower-case words of the letters a-z.
    """

    def __init__(self, words: Iterable[str]) -> None:
        n = len(LETTERS)
        counts = np.zeros((n + 1, n + 1, n + 1))  # (letter before last, last letter, next); n = boundary
        for word in sorted(set(words)):
            codes = [n, n, *(LETTERS.index(letter) for letter in word), n]
            for first, second, third in zip(codes, codes[1:], codes[2:], strict=False):
                counts[first, second, third] += 1
        seen = counts.sum(axis=(0, 1))
        single = seen / seen.sum()
        total = counts.sum(axis=2, keepdims=True)
        trigram = np.divide(counts, total, out=np.broadcast_to(single, counts.shape).copy(), where=total > 0)
        self.probability: np.ndarray = (1 - UNIGRAM_SHARE) * trigram + UNIGRAM_SHARE * single
        self._ends = [self.probability[:, :, n]]  # P(word ends after exactly k more letters | last two letters)
        self._steps: list[np.ndarray] = []  # cumulative P(next letter | last two letters, k + 1 letters to go)

    def _prepare(self, length: int) -> None:
        """Fill the tables up to a length, by the backward recursion of the chain."""
        n = len(LETTERS)
        while len(self._steps) < length:
            weight = self.probability[:, :, :n] * self._ends[-1][None, :, :n].transpose(0, 1, 2)
            total = weight.sum(axis=2)
            self._ends.append(total)
            self._steps.append(np.cumsum(weight, axis=2) / total[:, :, None])

    def draw(self, length: int, rng: np.random.Generator) -> str:
        """Return one string of exactly ``length`` letters."""
        self._prepare(length)
        first = second = last = len(LETTERS)
        letters = []
        for left in range(length - 1, -1, -1):
            code = int(np.searchsorted(self._steps[left][first, second], rng.random(), side="right"))
            code = min(code, last - 1)
            letters.append(LETTERS[code])
            first, second = second, code
        return "".join(letters)


@lru_cache(maxsize=1)
def letter_model() -> LetterModel:
    """Return the letter model of the lexicon."""
    return LetterModel(lexicon())


@lru_cache(maxsize=1)
def _forbidden() -> frozenset[str]:
    return lexicon() | frozenset(SHORT_ENGLISH.split())


def _nonword(length: int, rng: np.random.Generator, used: set[str], ending: str = "", onset: str = "") -> str:
    """Return a nonword of ``length`` letters, not used before where the length leaves a choice.

    ``ending`` is kept as it is; ``onset`` is ``"vowel"``, ``"consonant"`` or empty.
    """
    model, found, repeats = letter_model(), "", 0
    for _ in range(MAX_TRIES):
        text = model.draw(length - len(ending), rng) + ending
        if text in _forbidden() or (onset and (text[0] in VOWELS) != (onset == "vowel")):
            continue
        found = text
        repeats += text in used
        if text not in used or repeats == MAX_REPEATS:
            break
    if not found:
        raise InputError(f"no nonword of {length} letters was found in {MAX_TRIES} draws")
    used.add(found)
    return found


def stream(seed: int, purpose: str) -> np.random.Generator:
    """Return the random generator of one purpose: different purposes get unrelated draws also at equal seeds."""
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0:
        raise InputError(f"seed must be a whole number of at least 0, got {seed!r}")
    return np.random.default_rng([int(seed), *purpose.encode()])


def _derived(sentences: StimulusSet, texts: Sequence[str], what: str, seed: int) -> StimulusSet:
    """Return a set with new texts and the table of the sentences they were made from."""
    fields = {**sentences.provenance, "made_from": sentences.name, "control": what, "control_seed": int(seed)}
    return StimulusSet(texts, sentences.table.reset_index(), name=f"{sentences.name}-{what}", provenance=fields)


def generate_nonwords(words: Sequence[str], n: int | None = None, *, seed: int) -> list[str]:
    """Return nonwords matched in length to words.

    Parameters
    ----------
    words
        The words to be replaced; nonword ``i`` has as many letters as ``words[i % len(words)]``.
    n
        Number of nonwords; one a word if not given.
    seed
        Seed of the draw.

    Returns
    -------
    list of str
        Lower-case strings; none is a word form of the lexicon or a common short English word. A string returns only
        where its length leaves no other (one and two letters).

    Raises
    ------
    InputError
        No words, an empty word, or a negative count.

    Examples
    --------
    >>> [len(nonword) for nonword in generate_nonwords(["the", "shepherd", "laughs"], seed=0)]
    [3, 8, 6]
    """
    if isinstance(words, str) or not len(words) or not all(words):
        raise InputError(f"nonwords need a list of words to match in length, none of them empty; got {words!r}")
    count = len(words) if n is None else n
    if count < 0:
        raise InputError(f"the number of nonwords must be at least 0, got {count}")
    rng, used = stream(seed, "nonwords"), set[str]()
    return [_nonword(len(words[i % len(words)]), rng, used) for i in range(count)]


def nonword_strings(sentences: StimulusSet, *, seed: int) -> StimulusSet:
    """Return one nonword string a sentence: every word replaced by a nonword of the same length.

    Parameters
    ----------
    sentences
        Texts of words separated by spaces.
    seed
        Seed of the draw.

    Returns
    -------
    StimulusSet
        The strings in the order of the sentences, with the sentences' table.
    """
    rng, used = stream(seed, "nonword strings"), set[str]()
    texts = [" ".join(_nonword(len(word), rng, used) for word in text.split()) for text in sentences.texts]
    return _derived(sentences, texts, "nonword", seed)


def jabberwocky(sentences: StimulusSet, *, seed: int) -> StimulusSet:
    """Return the sentences with every content word replaced by a nonword of the same length and ending.

    Function words stay, and so do regular inflections (-s, -ed, -ly, ...): syntax without meaning. After *a* and *an*
    the nonword begins with a consonant or vowel as the word did. Irregular forms (ate, men) are replaced whole. A word
    unknown to the lexicon counts as a content word without an ending.

    Parameters
    ----------
    sentences
        Sentences of the template language.
    seed
        Seed of the draw.

    Returns
    -------
    StimulusSet
        The jabberwocky sentences in the order of the sentences, with the sentences' table.
    """
    forms, kept = content_forms(), lexicon() - frozenset(content_forms())
    rng, used, texts = stream(seed, "jabberwocky"), set[str](), []
    for text in sentences.texts:
        words = text.split()
        for position, word in enumerate(words):
            if word in kept:
                continue
            before = words[position - 1] if position else ""
            onset = {"a": "consonant", "an": "vowel"}.get(before, "")
            ending = forms[word].suffix if word in forms else ""
            words[position] = _nonword(len(word), rng, used, ending, onset)
        texts.append(" ".join(words))
    return _derived(sentences, texts, "jabberwocky", seed)


def word_lists(sentences: StimulusSet, *, seed: int) -> StimulusSet:
    """Return word lists: the same words, dealt anew over all sentences.

    Words change places only with words of the same length, so that list ``i`` has, position by position, the word
    lengths of sentence ``i``, and the set as a whole has exactly the words of the sentences.

    Parameters
    ----------
    sentences
        Texts of words separated by spaces; more than one.
    seed
        Seed of the draw.

    Returns
    -------
    StimulusSet
        The lists in the order of the sentences, with the sentences' table. No list is one of the sentences, none
        occurs twice.

    Raises
    ------
    InputError
        Too few sentences to form lists that differ from them.
    """
    rng = stream(seed, "word lists")
    split = [text.split() for text in sentences.texts]
    flat = np.array([word for words in split for word in words], dtype=object)
    lengths = np.array([len(word) for word in flat])
    stops = np.cumsum([len(words) for words in split])[:-1]
    for _ in range(MAX_TRIES):
        dealt = flat.copy()
        for length in np.unique(lengths):
            slots = np.flatnonzero(lengths == length)
            dealt[slots] = flat[rng.permutation(slots)]
        texts = [" ".join(words) for words in np.split(dealt, stops)]
        if len(set(texts)) == len(texts) and not set(texts) & set(sentences.texts):
            return _derived(sentences, texts, "word_list", seed)
    raise InputError(
        f"{len(sentences)} sentences hold too few words of equal length to deal new lists from: give more sentences"
    )
