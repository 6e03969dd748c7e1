"""Questions and the instructions around them."""

import time

import pytest

from focus.data.readers.draft import Reason
from focus.data.readers.text import question_of
from focus.data.readers.training import split_options
from focus.data.sample import MARKUP
from tests.support.reading import Read, cell, changed


@pytest.mark.parametrize("question", [
    "According to the guidelines: wash hands first, then what comes next?",
    "Answer the question using a single word or phrase.\nWhat colour is the bus?",
    "Guidelines: wash hands. What comes next?",
    "What does the sign that begins with Guidelines: ask for first?",
    "Is the text tidy? format strictly as the others, or loosely?",
])  # fmt: skip
def test_a_question_that_holds_the_words_of_an_instruction_stays_whole(read, question):
    found = read("visualprobe_train", changed("train.json", cell(0, "problem", f"<image>\n{question}")))
    assert found["doc_0"].question == question


@pytest.mark.parametrize("instruction", [
    "Answer the question using a single word or phrase.",
    "answer with the option's letter from the given choices directly.",
    "Guidelines: look at the image.",
    "Format strictly as: <think>...</think>",
])  # fmt: skip
def test_an_instruction_behind_a_question_is_cut_off(instruction):
    assert question_of(f"<image>\nWhat colour is the bus?\n{instruction}") == "What colour is the bus?"
    assert question_of(f"What colour is the bus? {instruction}") == "What colour is the bus?"


@pytest.mark.parametrize("stored", ["\n" * 60_000 + "x", "Options" + " " * 60_000 + "x\n(A) a\n(B) b", "A)" + " " * 60_000 + "\nB) b"])
def test_many_blanks_cost_no_more_than_reading_them(stored):
    began = time.process_time()
    split_options("What?" + stored)
    split_options(stored)
    assert time.process_time() - began < 5.0  # CPU seconds: a pattern that starts again at every blank takes over ten seconds


def test_an_answer_line_of_cof_is_cut_off_and_one_that_asks_is_not(tmp_path):
    def asked(line: str, folder: str) -> str:
        def change(rows: list[dict]) -> None:
            rows[1]["prompt"][1]["content"] = f"<image> Question: Look at the bus.\n{line}"

        return Read(tmp_path / folder, "cof_rl", changed("train.parquet", change)).samples[1].question

    assert asked("Answer briefly.", "told") == "Look at the bus."
    assert asked("Answer me: which colour is it?", "asks") == "Look at the bus.\nAnswer me: which colour is it?"


@pytest.mark.parametrize("instruction", ["Please answer with the letter only.", "Choose the right one.", "Answer:"])
@pytest.mark.parametrize("options", ["(A) red\n(B) blue", "(A) red (B) blue"])
def test_an_instruction_behind_the_options_is_no_part_of_the_last_one(options, instruction):
    assert split_options(f"What colour is it?\n{options}\n{instruction}") == ("What colour is it?", (("A", "red"), ("B", "blue")))


@pytest.mark.parametrize("text", [
    "See vitamin (A) and (B) contents. Which is larger?",
    "Which is larger, (A) or (B)?",
    "What stands there?\n(A)\n(B)",
])  # fmt: skip
def test_letters_in_brackets_inside_a_sentence_are_no_options(text):
    assert split_options(text) == (text, ())


@pytest.mark.parametrize("query", [
    "How many windows are lit? Select from the following choices. (A) 0 (B) 2 (C) 4 (D) 6",
    "How many windows are lit?\nOptions:\n(A) 0\n(B) 2\n(C) 4\n(D) 6\nPlease select one.",
])  # fmt: skip
def test_zoombench_options_may_stand_in_a_line_or_before_an_instruction(read, query):
    windows = read("zoombench", changed("data/test.parquet", cell(0, "query", query)))["zb_0"]
    assert windows.question == "How many windows are lit?" and windows.options == (("A", "0"), ("B", "2"), ("C", "4"), ("D", "6"))
    assert windows.answers == ("B", "2") and windows.scorer == "letter"


@pytest.mark.parametrize("mark", MARKUP)
def test_a_question_or_an_option_with_the_markup_of_prompts_is_counted_with_file_row_and_key(tmp_path, mark):
    asks = Read(tmp_path / "asks", "visualprobe_train", changed("train.json", cell(1, "problem", f"What does {mark} mean?")))
    shows = Read(tmp_path / "shows", "hrbench4k", changed("hr_bench_4k.parquet", cell(1, "D", f"the word {mark}")))
    for found, place in ((asks, "train.json, row 2, question"), (shows, "hr_bench_4k.parquet, row 2, question")):
        if mark == "<image>" and found is asks:
            assert found["doc_1"].question == "What does  mean?" and not found.dropped  # a tag may stand anywhere in a stored question
        else:
            assert found.dropped == {Reason.MARKUP: 1} and place in found.reading.first[Reason.MARKUP]
