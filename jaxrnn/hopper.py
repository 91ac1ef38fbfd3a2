"""The recurrence of the Elman cell as one GPU kernel per direction, for NVIDIA Hopper.

It is compiled for an H100, and its numbers are those of an interpreter of Hopper kernels on a CPU;
it has not run on an H100.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

ROWS = 64  # examples per block of threads: the height of a Hopper matrix product
COLUMNS = 32  # widths are padded to multiples of it: 128 bytes, a row of a tile in shared memory
WIDEST = 160  # a kernel, states and two inputs of this width fill the shared memory of a block

Combine = Callable[..., jax.Array]


def fits(projected: jax.Array, kernel: jax.Array) -> bool:
    """Whether there is a GPU kernel for these shapes and types, at the precision asked for."""
    known = all(isinstance(size, int) for size in projected.shape)  # unlike in jax.export
    shapes = projected.ndim == 3 and known and kernel.shape[0] <= WIDEST
    config: Any = jax.config
    precise = config.jax_default_matmul_precision not in (None, "default", "tensorfloat32")
    return shapes and not precise and projected.dtype == kernel.dtype == jnp.float32


def scan_states(
    activation: Callable[[jax.Array], jax.Array],
    projected: jax.Array,
    carry: jax.Array,
    kernel: jax.Array,
    **options: Any,
) -> jax.Array:
    """The states that follow from (time, batch, hidden) input projections and a first state."""

    def combine(product: jax.Array, projected: jax.Array) -> jax.Array:
        return activation(product + projected)

    return _recur(combine, carry @ kernel, kernel, projected, **options)


def scan_deltas(
    derivative: Callable[[jax.Array], jax.Array],
    of_last: jax.Array,
    kernel: jax.Array,
    states: jax.Array,
    of_states: jax.Array | None,
    **options: Any,
) -> jax.Array:
    """The gradients at the activation's input of all time steps, from the last to the first."""

    def combine(product: jax.Array, state: jax.Array, *of_state: jax.Array) -> jax.Array:
        return sum(of_state, product) * derivative(state)

    inputs = (states,) if of_states is None else (states, of_states)
    return _recur(combine, of_last, kernel.T, *inputs, reverse=True, **options)


def _recur(
    combine: Combine,
    product: jax.Array,
    matrix: jax.Array,
    *inputs: jax.Array,
    reverse: bool = False,
    interpret: Any = None,
) -> jax.Array:
    r"""Compute :math:`s_t = f(s_{t-1} M, x_t)` for all t, given the first product.

    The rows of a batch don't depend on each other. So each block of threads takes some of them
    through all time steps, with the matrix and the states in its own fast memory, and nothing is
    launched in between. Products are rounded to TF32, which is also XLA's default.

    Args:
      combine: f, of a product and an array of each of the inputs.
      product: (batch, hidden), the product at the first time step.
      matrix: (hidden, hidden).
      inputs: one array or two, (time, batch, hidden).
      reverse: begin with the last time step.
      interpret: parameters for running it on a CPU.

    Source: G. Diamos et al., "Persistent RNNs: stashing recurrent weights on-chip" (2016).
    """
    from jax.experimental.pallas import mosaic_gpu as gpu  # slow to import, and seldom needed

    time, batch, hidden = inputs[0].shape
    rows, width = -(-batch // ROWS) * ROWS, -(-hidden // COLUMNS) * COLUMNS
    pad = partial(_pad, width=width)
    # For TF32, a product reads both its operands along the axis that it sums over. The interpreter
    # knows no transposed operands.
    matrix = pad(matrix if interpret else matrix.T, rows=width)
    tiles = gpu.TilingTransform((8, COLUMNS)), gpu.SwizzleTransform(128)
    block = gpu.SMEM((ROWS, width), jnp.float32, transforms=tiles)
    kernel = gpu.kernel(
        partial(_kernel, combine=combine, reverse=reverse, transposed=not interpret),
        out_type=jax.ShapeDtypeStruct((time, rows, width), jnp.float32),
        scratch_types={
            "matrix": gpu.SMEM((width, width), jnp.float32, transforms=tiles),
            "state": block,
            "blocks": [block] * len(inputs),
            "begun": gpu.Barrier(num_arrivals=2),
            "loaded": gpu.Barrier(num_arrivals=len(inputs)),
        },
        grid=(rows // ROWS,),
        grid_names=("block",),
        interpret=interpret,
    )
    states = kernel(pad(product, rows=rows), matrix, *(pad(array, rows=rows) for array in inputs))
    return states[:, :batch, :hidden]


def _pad(array: jax.Array, *, rows: int, width: int) -> jax.Array:
    """``array`` with zeros after its last two axes, up to these sizes."""
    after = (0, rows - array.shape[-2]), (0, width - array.shape[-1])
    return jnp.pad(array, [(0, 0)] * (array.ndim - 2) + list(after))


def _kernel(
    first: Any,
    matrix_in: Any,
    *inputs_and_states: Any,
    combine: Combine,
    reverse: bool,
    transposed: bool,
    matrix: Any,
    state: Any,
    blocks: Any,
    begun: Any,
    loaded: Any,
) -> None:
    """What one block of threads does, with its rows of the batch."""
    from jax.experimental import pallas
    from jax.experimental.pallas import mosaic_gpu as gpu

    *inputs, states = inputs_and_states
    time = states.shape[0]
    rows = pallas.ds(lax.axis_index("block") * ROWS, ROWS)

    def place(step: Any) -> Any:
        return time - 1 - step if reverse else step

    def load(step: Any) -> None:
        for array, own in zip(inputs, blocks, strict=True):
            gpu.copy_gmem_to_smem(array.at[place(step), rows], own, loaded)

    def multiply(sums: Any) -> jax.Array:
        gpu.wgmma(sums, state, gpu.transpose_ref(matrix, (1, 0)) if transposed else matrix)
        return sums[...]

    def advance(step: jax.Array, product: jax.Array) -> jax.Array:
        gpu.barrier_wait(loaded)
        new = combine(product, *(own[...] for own in blocks))
        gpu.wait_smem_to_gmem(0, wait_read_only=True)  # the state before has been copied
        state[...] = new
        gpu.commit_smem()
        gpu.copy_smem_to_gmem(state, states.at[place(step), rows])
        pallas.when(step + 1 < time)(partial(load, step + 1))
        return pallas.run_scoped(multiply, gpu.ACC(state.shape, jnp.float32))

    gpu.copy_gmem_to_smem(matrix_in, matrix, begun)
    gpu.copy_gmem_to_smem(first.at[rows], state, begun)
    load(0)
    gpu.barrier_wait(begun)
    lax.fori_loop(0, time, advance, state[...])
    gpu.wait_smem_to_gmem(0)
