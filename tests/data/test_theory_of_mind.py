from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

import topobrain.data as data
from topobrain._checks import DataFileError, InputError, UnknownNameError
from topobrain.data.theory_of_mind import load_theory_of_mind


@pytest.fixture
def stories(store: Path) -> Path:
    """A store with the layout of the public materials: lines broken for a screen, the choice under the statement."""
    folder = store / "theory_of_mind" / "text_files"
    folder.mkdir(parents=True)
    for code, what in (("b", "belief"), ("p", "photo")):
        for item in range(1, 11):
            (folder / f"{item}{code}_story.txt").write_text(f"A {what} number {item} \nis told\nhere.\n")
            (folder / f"{item}{code}_question.txt").write_text(f"It is \nso {item}.\n\nTrue\t\t\tFalse")
    return folder


def test_stories_with_their_questions(stories: Path) -> None:
    stimuli = data.load_stimuli("theory-of-mind")
    assert len(stimuli) == 20
    assert Counter(stimuli.column("condition")) == {"belief": 10, "photo": 10}
    assert stimuli.items[1] == "A belief number 2 is told here.\nTrue or false? It is so 2."
    assert stimuli.ids[9:11] == ["belief-10", "photo-01"]
    assert set(stimuli.column("answer")) == {"none"}
    assert not any("False" in text or "Answer" in text for text in stimuli.items)
    assert stimuli.provenance["access"] == "request"


def test_stories_alone(stories: Path) -> None:
    assert load_theory_of_mind(question=False).items[10] == "A photo number 1 is told here."


@pytest.mark.parametrize("answer", ["True", "False"])
def test_one_answer_for_all(answer: str, stories: Path) -> None:
    stimuli = load_theory_of_mind(answer=answer)
    assert all(text.endswith(f"\nAnswer: {answer}") for text in stimuli.items)
    assert set(stimuli.column("answer")) == {answer}


def test_drawn_answers_come_from_the_seed_and_say_nothing_of_the_condition(stories: Path) -> None:
    draws = [load_theory_of_mind(answer="seeded", seed=seed) for seed in (0, 0, 1, 2, 3)]
    assert draws[0].digest() == draws[1].digest()
    assert len({draw.digest() for draw in draws}) > 2
    for draw in draws:
        both = Counter(zip(draw.column("condition"), draw.column("answer"), strict=True))
        assert both == {(condition, answer): 5 for condition in ("belief", "photo") for answer in ("True", "False")}
        assert all(
            text.endswith(f"Answer: {said}") for text, said in zip(draw.items, draw.column("answer"), strict=True)
        )
    assert draws[2].provenance["seed"] == 1


def test_files_written_on_windows_are_read(stories: Path) -> None:
    (stories / "1b_story.txt").write_bytes(b"Anna\x92s dog\r\nsleeps.")
    assert load_theory_of_mind(question=False).items[0] == "Anna’s dog sleeps."


def test_missing_or_empty_files_are_explained(stories: Path) -> None:
    (stories / "4p_question.txt").unlink()
    with pytest.raises(DataFileError) as caught:
        data.load_stimuli("theory-of-mind")
    message = str(caught.value)
    assert "lacks text_files/4p_question.txt" in message
    assert "must be requested from their authors" in message
    assert "saxelab.mit.edu" in message
    assert "Put the files into" in message
    (stories / "4p_question.txt").write_text(" \n")
    with pytest.raises(InputError, match=r"4p_question.*no text"):
        data.load_stimuli("theory-of-mind")


def test_wrong_options_are_explained(stories: Path) -> None:
    with pytest.raises(UnknownNameError, match=r"unknown answer 'true'\. Did you mean 'True'"):
        load_theory_of_mind(answer="true")
    with pytest.raises(InputError, match=r"answer='True' needs the question it answers"):
        load_theory_of_mind(answer="True", question=False)
