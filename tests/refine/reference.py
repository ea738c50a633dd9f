"""The algorithm once more: slow, on dense arrays, written down line by line from its description.

Shares nothing with the package but its data types and the encoding of what the tracker is given.
"""

from __future__ import annotations

import numpy as np

from t3dgs_masks import bits, masks
from t3dgs_masks.config import RefineConfig
from t3dgs_masks.types import BoolMask, PromptSource, Proposer, Tracker

Objects = dict[int, dict[int, BoolMask]]  # object_id -> frame_idx -> mask


def slow_components(mask: BoolMask) -> list[list[tuple[int, int]]]:
    """8-connected components by flood fill; (row, column) sorted, by first pixel."""
    height, width = mask.shape
    todo = {(int(r), int(c)) for r, c in np.argwhere(mask)}
    found = []
    for r in range(height):
        for c in range(width):
            if (r, c) not in todo:
                continue
            todo.remove((r, c))
            component, border = [(r, c)], [(r, c)]
            while border:
                y, x = border.pop()
                for pixel in [(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]:
                    if pixel in todo:
                        todo.remove(pixel)
                        component.append(pixel)
                        border.append(pixel)
            found.append(sorted(component))
    return found


def slow_dilate(mask: BoolMask, iterations: int) -> BoolMask:
    """Every iteration sets the four neighbours of every True pixel."""
    for _ in range(iterations):
        grown = mask.copy()
        grown[1:] |= mask[:-1]
        grown[:-1] |= mask[1:]
        grown[:, 1:] |= mask[:, :-1]
        grown[:, :-1] |= mask[:, 1:]
        mask = grown
    return mask


class ReferenceRefine:
    def __init__(
        self,
        num_frames: int,
        height: int,
        width: int,
        prompts: PromptSource | None,
        proposer: Proposer,
        tracker: Tracker,
        config: RefineConfig,
    ) -> None:
        self.shape = (height, width)
        self.prompts = prompts
        self.proposer = proposer
        self.tracker = tracker
        self.config = config
        self.num_frames = num_frames
        n = config.num_iterations
        self.last = num_frames - 1 if n is None else min(n, num_frames - 1)
        self.objects: Objects = {}
        self.fresh_id = 1
        self.scores: dict[int, float | None] = {}
        self.kept: set[int] = set()

    def run(self) -> None:
        seed = self.find_seed()
        if seed is None:
            return
        self.forward(seed)
        self.backward()
        self.final()
        self.filter()

    # -- points and proposals

    def points(self, t: int, side: int) -> list[tuple[float, float]]:
        height, width = self.shape
        if self.prompts is None:
            cells = [(i + 0.5) / side for i in range(side)]
            return [(x * width, y * height) for y in cells for x in cells]
        rng = np.random.default_rng([self.config.seed, t])
        points = []
        for component in slow_components(self.prompts[t].coarse):
            n = max(10, int(0.01 * len(component)))
            if len(component) >= n:
                for i in rng.choice(len(component), size=n, replace=False):
                    row, column = component[i]
                    points.append((column, row))
        return points

    def proposals(self, t: int, tracked: list[BoolMask] | None, side: int) -> list[BoolMask]:
        points = self.points(t, side)
        if tracked:
            union = np.zeros(self.shape, dtype=bool)
            for mask in tracked:
                union = union | mask
            union = slow_dilate(union, 10)
            points = [(x, y) for x, y in points if not union[int(y), int(x)]]
        if not points:
            return []
        found = self.proposer.propose(t, np.array(points, dtype=np.float32))
        found_masks = [p.mask for p in found if p.mask.sum() > 0]
        if self.prompts is None:
            return found_masks
        coarse = self.prompts[t].coarse
        lambda_ref = self.config.min_proposal_coverage
        return [m for m in found_masks if (coarse & m).sum() / m.sum() > lambda_ref]

    def find_seed(self) -> int | None:
        for t in range(self.last + 1):
            for mask in self.proposals(t, None, self.config.start_points_per_side):
                self.append(t, mask)
            if self.objects:
                return t
        return None

    def append(self, t: int, mask: BoolMask) -> None:
        self.objects[self.fresh_id] = {t: mask}
        self.fresh_id += 1

    # -- helpers on the state

    def at(self, t: int) -> dict[int, BoolMask]:
        return {k: self.objects[k][t] for k in sorted(self.objects) if t in self.objects[k]}

    def merge(self, found: dict[int, BoolMask]) -> bool:
        """Merge among the given masks of one frame; effect on all frames."""
        ids = sorted(found)
        linked = {
            (a, b)
            for a in ids
            for b in ids
            if a != b
            and (found[a] & found[b]).sum() / (found[a] | found[b]).sum() > self.config.merge_iou
        }
        group_of = {k: k for k in ids}
        for _ in ids:  # lowest label floods each connected component
            for a, b in sorted(linked):
                group_of[a] = group_of[b] = min(group_of[a], group_of[b])
        for k in ids:
            if group_of[k] == k:
                continue
            kept = self.objects[group_of[k]]
            for t, mask in self.objects.pop(k).items():
                kept[t] = kept[t] | mask if t in kept else mask
        return bool(linked)

    def start(self, frames: list[int], t: int, reverse: bool):
        self.tracker.forget()
        for f in sorted(frames):
            for k, mask in self.at(f).items():
                self.tracker.condition(f, k, masks.encode(mask))
        return self.tracker.propagate(t, reverse=reverse)

    def take(self, stream) -> dict[int, BoolMask]:
        found = {o.object_id: bits.unpack(o.mask) for o in next(stream).objects}
        return {object_id: mask for object_id, mask in found.items() if mask.sum() > 0}

    def unite(self, t: int, found: dict[int, BoolMask]) -> None:
        for k, mask in found.items():
            held = self.objects[k].get(t)
            self.objects[k][t] = mask if held is None else held | mask

    # -- the passes

    def forward(self, seed: int) -> None:
        flagged, stream = True, None
        for t in range(seed + 1, self.last + 1):
            if flagged:
                held = [f for f in range(t - 1, -1, -1) if self.at(f)]
                stream = self.start(held[: self.config.max_conditioning_frames], t, False)
                flagged = False
            found = self.take(stream)
            self.unite(t, found)
            flagged |= self.merge(found)
            new = self.proposals(t, list(self.at(t).values()), self.config.prompt_points_per_side)
            for mask in new:
                self.append(t, mask)
                flagged = True

    def backward(self) -> None:
        flagged, stream = True, None
        for t in range(self.last - 1, -1, -1):
            if flagged:
                held = [f for f in range(t + 1, self.last + 1) if self.at(f)]
                if not held:
                    continue
                stream = self.start(held[: self.config.max_conditioning_frames], t, True)
                flagged = False
            found = self.take(stream)
            flagged |= any(k not in found for k in self.at(t))
            self.unite(t, found)
            flagged |= self.merge(self.at(t))

    def final(self) -> None:
        for t in range(self.last + 1):
            held = [f for f in range(self.last + 1) if f != t and self.at(f)]
            held.sort(key=lambda f: (abs(f - t), f))
            if not held:
                continue
            found = self.take(self.start(held[: self.config.max_conditioning_frames], t, False))
            self.unite(t, found)
            self.merge(self.at(t))

    # -- the filter

    def filter(self) -> None:
        for k, track in self.objects.items():
            if self.prompts is None:
                self.scores[k] = None
                self.kept.add(k)
                continue
            score = self.scores[k] = self.score(track)
            if score > self.config.filter_threshold:
                self.kept.add(k)

    def score(self, track: dict[int, BoolMask]) -> float:
        assert self.prompts is not None
        largest = max(int(m.sum()) for m in track.values())
        terms, terms_without = [], []
        for t, m in track.items():
            prompt = self.prompts[t]
            overlap = int((prompt.coarse & m).sum())
            if not overlap / int(m.sum()) > self.config.min_scoring_coverage:
                continue
            terms_without.append(overlap / largest)
            if prompt.residual is not None:
                d = prompt.residual.astype(np.float64)
                terms.append(d[m].mean() * overlap / largest)
        if not terms_without:
            return 0.0
        return float(np.mean(terms or terms_without))

    def transient(self, t: int) -> BoolMask:
        result = np.zeros(self.shape, dtype=bool)
        for k in self.kept:
            result = result | self.objects[k].get(t, np.zeros(self.shape, dtype=bool))
        return result
