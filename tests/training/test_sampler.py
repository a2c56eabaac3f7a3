from itertools import islice

import numpy as np

from transunet.training.sampler import Batches


def indices(batch):
    return [key.sample for key in batch]


def test_an_epoch_visits_every_slice_once_and_its_last_batch_is_smaller():
    batches = Batches(samples=10, batch_size=4, seed=1)
    epoch = [batches.batch(step) for step in range(batches.per_epoch)]
    assert [len(batch) for batch in epoch] == [4, 4, 2]
    assert sorted(index for batch in epoch for index in indices(batch)) == list(range(10))


def test_epochs_differ_and_draws_are_unique():
    batches = Batches(samples=30, batch_size=5, seed=1)
    assert indices(batches.batch(0)) != indices(batches.batch(6))
    draws = [key.draw for step in range(12) for key in batches.batch(step)]
    assert len(set(draws)) == len(draws)


def test_starting_anywhere_goes_on_as_if_never_stopped():
    whole = list(islice(Batches(samples=11, batch_size=4, seed=3), 12))
    resumed = list(islice(Batches(samples=11, batch_size=4, seed=3, start=5), 7))
    assert resumed == whole[5:]


def test_processes_share_each_batch():
    alone = Batches(samples=11, batch_size=4, seed=3)
    shares = [list(islice(Batches(11, 4, 3, part=(rank, 2)), 6)) for rank in range(2)]
    for step, (first, second) in enumerate(zip(*shares, strict=True)):
        assert sorted(first + second) == sorted(alone.batch(step))
        assert abs(len(first) - len(second)) <= 1


def test_processes_share_each_piece_of_a_batch():
    shares = [next(iter(Batches(11, 11, 3, part=(rank, 2), accumulate=3))) for rank in range(2)]
    whole = Batches(11, 11, 3).batch(0)
    for piece, first, second in zip(
        np.array_split(whole, 3),
        np.array_split(shares[0], 3),
        np.array_split(shares[1], 3),
        strict=True,
    ):
        assert sorted(piece.tolist()) == sorted([*first.tolist(), *second.tolist()])


def test_foreground_is_drawn_by_class_and_as_often_as_asked():
    rare, common, absent = np.array([7]), np.arange(50), np.array([], dtype=int)
    by_class = {1: rare, 2: common, 5: absent}
    batches = Batches(1000, 50, 3, foreground=0.5, indices_by_class=by_class)
    drawn = np.concatenate([indices(batches.batch(step)) for step in range(100)])
    keys = [key for step in range(100) for key in batches.batch(step)]
    assert all(key.sample in by_class[key.wanted_class] for key in keys if key.wanted_class)
    assert 0.22 < np.mean(drawn == 7) < 0.28
    assert 0.25 < np.mean(drawn < 50) - 0.25 < 0.31
    assert batches.batch(17) == Batches(
        1000, 50, 3, foreground=0.5, indices_by_class={1: rare, 2: common}
    ).batch(17)
