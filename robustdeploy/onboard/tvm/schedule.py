"""Schedule: how the loops of each function run on one core; deterministic, and nothing is tried out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .operators import BORDER, DEPTHWISE, TILE, TILED
from .vectors import Tile, Vectors, lanes_for


class Unfit(Exception):
    """A rule met a function that it is not for."""


def scheduled(tvm: Any, module: Any, vectors: Vectors) -> Any:
    """Return ``module`` with each of its functions scheduled; one that no rule fits stays as it is."""
    for variable, function in list(module.functions.items()):
        if not isinstance(function, tvm.tirx.PrimFunc) or is_scheduled(function):
            continue
        for rule in (_tiled, _depthwise):
            loops = tvm.s_tir.Schedule(tvm.IRModule({"main": function}))
            try:
                rule(loops, vectors)
            # A function that cannot be scheduled runs all the same, only slower.
            except (Unfit, tvm.s_tir.ScheduleError):
                continue
            module.update_func(variable, loops.mod["main"].with_attr("tirx.is_scheduled", True))
            break
    return module


def is_scheduled(function: Any) -> bool:
    """Say whether somebody has scheduled a function: we, or a tuning before."""
    return bool(function.attrs) and "tirx.is_scheduled" in function.attrs


def _tiled(loops: Any, vectors: Vectors) -> None:
    """Sum a tile of places and channels in registers, and let everything that follows read it from there."""
    block, epilogue = _block_and_epilogue(loops, TILED)
    tile = Tile(*(int(size) for size in loops.get(block).annotations[TILE]))
    places, sums = _loops_of(loops, block)
    outer_f, vector, lane = loops.split(places[-1], [None, tile.vectors, tile.lanes])
    outer_x, column = loops.split(places[-2], [None, tile.columns])
    before, inner = list(places[:-2]), [column, vector, lane]
    if len(sums) == 3:  # a convolution: its maps have two dimensions
        outer_y, row = loops.split(before.pop(), [None, tile.rows])
        before, inner = [*before, outer_f, outer_y, outer_x], [row, *inner]
    else:
        before = [*before, outer_f, outer_x]
    loops.reorder(*before, *sums, *inner)
    _finish(loops, block, epilogue, before[-1], sums, inner, tile)


def _depthwise(loops: Any, vectors: Vectors) -> None:
    """Sum some places of one vector of channels in registers."""
    block, epilogue = _block_and_epilogue(loops, DEPTHWISE)
    tile = Tile(*(int(size) for size in loops.get(block).annotations[TILE]))
    (n, y, x, c), sums = _loops_of(loops, block)
    outer_c, lane = loops.split(c, [None, tile.lanes])
    outer_x, column = loops.split(x, [None, tile.columns])
    loops.reorder(n, outer_c, y, outer_x, *sums, column, lane)
    _finish(loops, block, epilogue, outer_x, sums, [column, lane], tile)
    for loop in sums:
        loops.unroll(loop)


def _finish(
    loops: Any, block: Any, epilogue: Any, at: Any, sums: Sequence[Any], inner: Sequence[Any], tile: Tile
) -> None:
    """Bring what follows into the loop ``at``, keep the sums in registers, and write the inner loops out."""
    outer = len(loops.get_loops(block)) - len(sums) - len(inner)
    loops.reverse_compute_at(epilogue, at)
    _write_out(loops, inner)
    own = loops.get_loops(epilogue)[outer:]
    *rest, last = own
    if tile.lanes > 1:
        vector, lane = loops.split(last, [None, tile.lanes])
        own = [*rest, vector, lane]
    _write_out(loops, own)
    # Last: the loops that set the sums to zero are copies of those that add, written out as they are by now.
    loops.decompose_reduction(block, sums[0])


def _write_out(loops: Any, own: Sequence[Any]) -> None:
    *unrolled, lane = own
    for loop in unrolled:
        loops.unroll(loop)
    loops.vectorize(lane)


def _block_and_epilogue(loops: Any, name: str) -> tuple[Any, Any]:
    """Return the block ``name``, which sums, and the one that reads its sums; those between them become part of it."""
    blocks = {loops.get(block).name_hint: block for block in loops.get_child_blocks(loops.get_sblock("root"))}
    if name not in blocks:
        raise Unfit
    block = blocks[name]
    outputs = [loops.get(found).name_hint for found in loops.get_output_blocks("root")]
    for other in blocks:
        if other not in (name, BORDER, *outputs):
            loops.compute_inline(blocks[other])
    if BORDER in blocks:
        _border(loops, blocks[BORDER])
    if outputs == [name]:
        return block, loops.cache_write(block, 0, "local")
    if len(outputs) != 1:
        raise Unfit
    loops.set_scope(block, 0, "local")
    return block, blocks[outputs[0]]


def _border(loops: Any, block: Any) -> None:
    channels = loops.get_loops(block)[-1]
    extent = int(loops.get(channels).extent)
    if (lanes := lanes_for(extent, Vectors(16, 32))) > 1:
        loops.vectorize(loops.split(channels, [None, lanes])[1])


def _loops_of(loops: Any, block: Any) -> tuple[list[Any], list[Any]]:
    """Return the loops over places and those over what is summed."""
    all_loops = loops.get_loops(block)
    kinds = [int(variable.iter_type) for variable in loops.get(block).iter_vars]
    spatial = kinds.count(0)
    if kinds != sorted(kinds) or len(kinds) != len(all_loops):
        raise Unfit
    return all_loops[:spatial], all_loops[spatial:]
