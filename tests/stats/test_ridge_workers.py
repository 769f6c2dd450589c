"""Workers: each on one thread of torch, whatever happens inside, and the number before is put back."""

import pytest
import torch

from topobrain.stats.ridge.workers import one_thread_each, working


@pytest.fixture(autouse=True)
def three_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def test_a_block_inside_another_changes_nothing():
    with one_thread_each():
        with one_thread_each():
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 3


def test_workers_stay_on_one_thread_after_a_block_of_their_own():
    def task(_):
        with one_thread_each():
            pass
        return torch.get_num_threads()

    with working(2) as workers:
        assert workers.each(task, range(8)) == [1] * 8
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 3


def test_the_number_is_put_back_after_an_error():
    with pytest.raises(ZeroDivisionError), working(2) as workers:
        workers.each(lambda n: 1 // n, range(3))
    assert torch.get_num_threads() == 3
