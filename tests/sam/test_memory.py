"""The caches against slow references, and the pixels that the network sees."""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from t3dgs_masks.masks import encode
from t3dgs_masks.sam.counters import NetworkCounter
from t3dgs_masks.sam.frame_reader import image_to_tensor
from t3dgs_masks.sam.memory import (
    FrameFeatureCache,
    FrameMemory,
    LruCache,
    MemoryBank,
    StartCache,
    default_cache_bytes,
    default_device_cache_bytes,
)
from tests.sam.scenes import blob_sequence

USES = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 9), st.booleans()), max_size=40)


@given(budget=st.integers(0, 20), most=st.none() | st.integers(1, 4), uses=USES)
def test_lru_cache_like_a_list_in_order_of_use(budget, most, uses):
    cache: LruCache[int, str] = LruCache(budget, len, most)
    kept: list[tuple[int, str]] = []  # least recently used first
    for key, size, is_put in uses:
        known = dict(kept)
        if is_put:
            value = "x" * size
            cache.put(key, value)
            kept = [item for item in kept if item[0] != key] + [(key, value)]
            while len(kept) > 1 and (
                sum(len(v) for _, v in kept) > budget or len(kept) > (most or len(kept))
            ):
                kept.pop(0)
        else:
            assert cache.get(key) == known.get(key)
            if key in known:
                kept = [item for item in kept if item[0] != key] + [(key, known[key])]
        assert len(cache) == len(kept)
        assert cache.used_bytes == sum(len(v) for _, v in kept)
    assert cache.limit(2) == kept[:-2]
    assert cache.used_bytes == sum(len(v) for _, v in kept[-2:])


def test_a_frame_is_encoded_when_first_asked_for_and_again_only_if_dropped(random_sam2, cpu):
    sequence = blob_sequence(3, 1)
    counter = NetworkCounter()
    counter.watch_sam2(random_sam2)
    roomy = FrameFeatureCache(random_sam2, sequence, cpu)
    first = roomy[0]
    for frame_idx in (0, 1, 0, 2, 1, 0):
        roomy[frame_idx]
    assert counter.calls.image_encoder == 3
    one_frame_only = FrameFeatureCache(random_sam2, sequence, cpu, first.num_bytes)
    for frame_idx in (0, 0, 1, 0):
        again = one_frame_only[frame_idx]
    counter.close()
    assert counter.calls.image_encoder == 3 + 3
    assert all(torch.equal(a, b) for a, b in zip(first.levels, again.levels, strict=True))


@example(device_room=3, host_room=3, asked_for=[0, 4, 1, 2, 3, 5, 0, 4])
@given(
    device_room=st.integers(1, 3),
    host_room=st.integers(0, 3),
    asked_for=st.lists(st.integers(0, 5), max_size=20),
)
@settings(
    max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)
def test_what_leaves_the_device_waits_on_the_host(
    random_sam2, cpu, device_room, host_room, asked_for
):
    """With the CPU in the device's role; a frame is encoded anew only if it is in neither place."""
    sequence = blob_sequence(6, 1)
    frame_bytes = FrameFeatureCache(random_sam2, sequence, cpu)[0].num_bytes
    cache = FrameFeatureCache(
        random_sam2, sequence, cpu, host_room * frame_bytes, device_room * frame_bytes
    )
    counter = NetworkCounter()
    counter.watch_sam2(random_sam2)
    on_device: list[int] = []  # least recently used first
    for frame_idx in asked_for:
        known = frame_idx in cache
        assert known or frame_idx not in on_device
        before = counter.calls.image_encoder
        features = cache[frame_idx]
        assert counter.calls.image_encoder - before == (0 if known else 1)
        assert frame_idx in cache
        on_device = [*(t for t in on_device if t != frame_idx), frame_idx][-device_room:]
        assert all(t in cache for t in on_device)
        assert features.num_bytes == frame_bytes
    counter.close()
    # As long as the host has room too, nothing is ever encoded twice.
    if device_room + host_room >= 6 or len(set(asked_for)) <= device_room:
        assert counter.calls.image_encoder == len(set(asked_for))


def test_what_the_device_holds_does_not_grow_with_the_sequence(random_sam2, cpu):
    """With the CPU in the device's role, and no room on the host: what is not on the device is
    encoded anew."""
    sequence = blob_sequence(6, 1)
    cache = FrameFeatureCache(random_sam2, sequence, cpu, 0, 1 << 30, device_frames=2)
    for frame_idx in range(6):
        cache[frame_idx]
    counter = NetworkCounter()
    counter.watch_sam2(random_sam2)
    for frame_idx in (5, 4, 5, 4):
        cache[frame_idx]
    assert counter.calls.image_encoder == 0
    cache[2]
    assert counter.calls.image_encoder == 1
    counter.close()


def test_where_the_device_is_short_of_memory_features_leave_it_and_none_is_lost(random_sam2, cpu):
    """With the CPU in the device's role."""
    cache = FrameFeatureCache(random_sam2, blob_sequence(5, 1), cpu, 1 << 30, 1 << 30)
    counter = NetworkCounter()
    counter.watch_sam2(random_sam2)
    before = [cache[frame_idx] for frame_idx in range(4)]
    assert cache.leave_device()
    assert not cache.leave_device()  # the last one stays
    assert cache[3] is before[3]
    after = [cache[frame_idx] for frame_idx in range(4)]
    assert counter.calls.image_encoder == 4
    cache[4]
    assert not cache.leave_device()  # nor do others gather again
    for one, other in zip(before, after, strict=True):
        assert all(map(torch.equal, one.levels, other.levels))
    counter.close()


def test_nothing_stays_on_a_device_without_memory_of_its_own():
    assert default_device_cache_bytes(torch.device("cpu")) == 0


def test_batches_are_views_of_one_frame(random_sam2, cpu):
    features = FrameFeatureCache(random_sam2, blob_sequence(1, 1), cpu)
    size = random_sam2.image_size
    batched = features.batched(0, 3)
    assert batched.sizes == [(size // s, size // s) for s in (4, 8, 16)]
    assert [feat.shape[1] for feat in batched.vision_feats] == [3, 3, 3]
    assert torch.equal(batched.vision_feats[-1][:, 0], batched.vision_feats[-1][:, 2])


def test_features_are_those_of_the_plain_encoder(random_sam2, cpu):
    """To the bit, for the first frame and for those that reuse its position embedding."""
    sequence = blob_sequence(2, 1)
    features = FrameFeatureCache(random_sam2, sequence, cpu)
    for frame_idx in (0, 1):
        pixels = image_to_tensor(sequence[frame_idx], random_sam2.image_size)
        with torch.inference_mode():
            plain = random_sam2.forward_image(pixels)["backbone_fpn"][-3:]
        assert all(map(torch.equal, features[frame_idx].levels, plain))
    assert "_get_pos_embed" not in vars(random_sam2.image_encoder.trunk)


def test_memories_are_found_by_frame_and_pixels():
    square, dot = np.zeros((2, 8, 8), bool)
    square[2:5, 2:5] = True
    dot[1, 1] = True
    memory = FrameMemory(torch.zeros(1, 4, 2, 2, dtype=torch.bfloat16), torch.zeros(1, 8))
    bank = MemoryBank()
    bank.put(3, (encode(square),), memory)
    assert bank.get(3, (encode(square.copy()),)) is memory
    assert bank.get(4, (encode(square),)) is None
    assert bank.get(3, (encode(dot),)) is None


def test_memories_that_starts_stop_using_are_dropped():
    mask = encode(np.ones((4, 4), bool))
    memory = FrameMemory(torch.zeros(1, 4, 2, 2, dtype=torch.bfloat16))
    bank = MemoryBank(kept_starts=2)
    for frame_idx in range(10):
        bank.begin_start()
        bank.put(frame_idx, mask, memory)
        assert bank.get(0, mask) is not None  # used in every start
        assert len(bank) <= 1 + 2 + 1
    assert bank.get(3, mask) is None
    assert bank.get(9, mask) is memory


@given(st.lists(st.integers(0, 9) | st.none(), max_size=60), st.integers(1, 5))
def test_a_start_cache_holds_what_the_last_starts_used_within_its_budget(steps, budget):
    cache = StartCache(budget, lambda _: 1, kept_starts=2)
    start, used_in = 0, dict[int, int]()
    for key in steps:
        if key is None:
            cache.begin_start()
            start += 1
            continue
        if cache.get(key) is None:
            cache.put(key, str(key))
        used_in.pop(key, None)
        used_in[key] = start
        assert cache.get(key) == str(key)
        recent = [k for k, last in used_in.items() if last >= start - 2]
        assert len(cache) == min(budget, len(recent))
    for key in recent_of(used_in, start - 2, budget):
        assert cache.get(key) == str(key)
    cache.clear()
    assert len(cache) == 0


def recent_of(used_in, oldest, budget):
    """The keys used last, as many as there is room for."""
    return [key for key, last in used_in.items() if last >= oldest][-budget:]


def test_cache_default_is_within_what_the_machine_has():
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert 0 < default_cache_bytes() <= pages // 4


@pytest.mark.parametrize("order", [[0, 1, 2, 3, 4], [4, 3, 2, 1, 0], [0, 3, 4, 1, 0, 2]])
def test_reading_ahead_changes_nothing(random_sam2, cpu, order):
    sequence = blob_sequence(5, 1)
    features = FrameFeatureCache(random_sam2, sequence, cpu)
    for frame_idx in order:
        fresh = FrameFeatureCache(random_sam2, sequence, cpu)[frame_idx]
        ahead = features[frame_idx]
        assert all(torch.equal(a, b) for a, b in zip(ahead.levels, fresh.levels, strict=True))
