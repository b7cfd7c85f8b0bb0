"""The games are played by their rules."""

from __future__ import annotations

import re
from collections import Counter
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .conftest import Example

PHILOSOPHERS = ["Socrates", "Diogenes", "Kant", "Nietzsche", "Wittgenstein"]


def test_telephone(example: Example) -> None:
    """On the telephone each player changes one letter at the most."""
    first, *others, last_but_one, last = example("telephone.py", "--players", "6")
    sentences = [line.split(": ")[1] for line in (first, *others)]
    assert [line.split()[:2] for line in others] == [["player", str(number)] for number in range(2, 7)]
    for said, understood in pairwise(sentences):
        assert len(said) == len(understood)
        assert sum(a != b for a, b in zip(said, understood, strict=True)) <= 1
    assert last_but_one == f"From {sentences[0]!r}"
    assert last == f"  to {sentences[-1]!r}, through 5 connections."


def test_on_the_telephone_the_same_seed_gives_the_same_game(example: Example) -> None:
    games = [example("telephone.py", "--seed", seed) for seed in ("7", "7", "8")]
    assert games[0] == games[1] != games[2]


def test_hot_potato(example: Example) -> None:
    """A hot potato is thrown by who has caught it and all agree where it burns."""
    lines = example("hot_potato.py", "--throws", "30")
    thrown = [re.fullmatch(r" *(\d+): (\w+) throws it at (\w+)", line) for line in lines[:30]]
    throws = [match.groups() for match in thrown if match]
    assert [int(number) for number, _, _ in throws] == list(range(1, 31))
    assert all(thrower != catcher for _, thrower, catcher in throws)
    assert [thrower for _, thrower, _ in throws[1:]] == [catcher for _, _, catcher in throws[:-1]]

    board = {line.split()[0]: int(line.split()[1]) for line in lines[30:-1]}
    assert len(board) == 10
    assert Counter(board) == Counter(catcher for _, _, catcher in throws)
    assert lines[-1] == f"30 catches; all agree that it burns in the hands of {throws[-1][2]}"


def test_a_hot_potato_may_burn_after_one_throw(example: Example) -> None:
    lines = example("hot_potato.py", "--throws", "1")
    assert lines[-1] == f"1 catches; all agree that it burns in the hands of {lines[0].split()[-1]}"


def test_dining_philosophers(example: Example) -> None:
    """Neighbouring philosophers never eat at the same time and nobody starves."""
    *lines, last = example("dining_philosophers.py", "--meals", "8")
    eating: set[int] = set()
    meals = Counter[str]()
    for line in lines:
        name, what, *_ = line.split()
        seat = PHILOSOPHERS.index(name)
        if what == "begins":
            assert not eating & {seat, (seat + 1) % 5, (seat - 1) % 5}, line
            eating.add(seat)
            meals[name] += 1
        else:
            eating.remove(seat)
    assert not eating
    assert meals == dict.fromkeys(PHILOSOPHERS, 8)
    assert last == "Everybody has had 8 meals."


def test_last_words_are_heard_after_an_orderly_end_only(example: Example) -> None:
    lines = example("last_words.py")
    heard = [line for line in lines if " hears " in line]
    assert heard == [
        "Regan hears The King: The crown is yours.",
        "The King hears Cordelia: Cordelia never wanted it.",
        "Edmund hears The King: The crown is yours.",
    ]
    assert "The King has no word for Goneril" in lines
    for listener, speaker in (("Regan", "The King"), ("The King", "Cordelia"), ("Edmund", "The King")):
        hears = next(at for at, line in enumerate(lines) if line.startswith(f"{listener} hears {speaker}"))
        assert hears < lines.index(f"{listener} and {speaker} part: READING")


def test_last_words_tell_both_sides_once_who_has_ended_it(example: Example) -> None:
    parted = [line for line in example("last_words.py") if " part: " in line]
    assert sorted(parted) == sorted(
        [
            "The King and Regan part: USER",
            "Regan and The King part: READING",
            "The King and Goneril part: USER",
            "Goneril and The King part: READING",
            "Cordelia and The King part: SHUTDOWN",
            "The King and Cordelia part: READING",
            "The King and Edmund part: SHUTDOWN",
            "Edmund and The King part: READING",
        ]
    )


def test_a_duel_begins_after_ten_paces_and_bad_manners_are_refused(example: Example) -> None:
    lines = example("fixed_length.py")
    assert re.fullmatch(r"The champion refuses: the opponent was running at pace [3579]\.", lines.pop(2))
    assert lines[:5] == [
        "The champion refuses: the opponent turned round after 6 paces.",
        "The hothead is sent home.",
        "The runner is sent home.",
        "The dawdler is sent home.",
        "The gentleman has walked 10 paces, and turns round.",
    ]
    *shots, falls, wins, last = lines[5:]
    for number, line in enumerate(shots, start=1):
        assert line.startswith(f"The {'gentleman' if number % 2 else 'champion'} fires shot {number}: ")
    loser, winner = ("champion", "gentleman") if len(shots) % 2 else ("gentleman", "champion")
    assert falls == f"The {loser} is hit by shot {len(shots)}, and falls."
    assert wins == f"The {winner} is the last one standing."
    assert last == "3 challengers were refused, 1 of them since the walk took too long."
