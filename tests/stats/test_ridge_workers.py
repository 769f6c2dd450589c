"""Workers: each on one thread of torch and numpy, whatever happens inside, and the numbers before are put back."""

import threading

import pytest
import torch
from threadpoolctl import threadpool_info, threadpool_limits

from topobrain.stats.ridge import workers
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

    with working(2) as pair:
        assert pair.each(task, range(8)) == [1] * 8
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 3


def test_the_number_is_put_back_after_an_error():
    with pytest.raises(ZeroDivisionError), working(2) as pair:
        pair.each(lambda n: 1 // n, range(3))
    assert torch.get_num_threads() == 3


def test_an_interrupt_on_the_way_in_is_undone(monkeypatch):
    def interrupted(*_):
        monkeypatch.undo()
        raise KeyboardInterrupt

    monkeypatch.setattr(workers, "_set_threads", interrupted)
    with pytest.raises(KeyboardInterrupt), one_thread_each():
        pass
    assert torch.get_num_threads() == 3
    with one_thread_each():  # not taken for a block inside another
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 3


def blas_threads():
    return [library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"]


def test_numpys_products_stay_on_one_thread_and_get_theirs_back():
    with threadpool_limits(limits=2, user_api="blas"):
        before = blas_threads()
        with one_thread_each():
            assert set(blas_threads()) == {1}
        assert blas_threads() == before
        assert max(before) == 2


def test_the_last_of_several_threads_puts_the_numbers_back():
    inside, leave = threading.Event(), threading.Event()

    def other():
        with one_thread_each():
            inside.set()
            leave.wait()

    with threadpool_limits(limits=2, user_api="blas"):
        thread = threading.Thread(target=other)
        try:
            with one_thread_each():
                thread.start()
                assert inside.wait(30)
            assert torch.get_num_threads() == 3
            assert set(blas_threads()) == {1}
        finally:
            leave.set()
            thread.join()
        assert max(blas_threads()) == 2
