"""What users read of hostile receivers is what the corpus holds."""

from tests.hostile.corpus import CORPUS
from tests.hostile.page import PAGE, written


def test_the_page_is_the_one_that_the_corpus_makes() -> None:
    assert PAGE.read_text() == written(), "write it anew: make docs"


def test_no_two_receivers_have_one_name_or_one_row() -> None:
    assert len({each.name for each in CORPUS}) == len({each.does for each in CORPUS}) == len(CORPUS)
